"""Bright spots of an image: where they are, to a fraction of a pixel."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from refine.model.observation import Observation
from refine.parameters.parameter import Model

BOX = 5  # pixels: a spot's brightness is summed and its centroid taken over BOX x BOX
SURROUND = 25  # pixels: edge of the region that gives the local background
SIGNIFICANCE = 6.0  # a box this many standard deviations above the local background is a spot
SHARP = 0.6  # pixels: narrower spots may lie in a single one
SPIKE = 0.1  # less of its brightness than this outside one pixel, to a standard deviation: no optics makes such a spot


class Spots(NamedTuple):
    """fast, slow (n,) in pixels, the outer corner of the first pixel at (0, 0); significance (n,) in standard
    deviations; brightest first."""

    fast: np.ndarray
    slow: np.ndarray
    significance: np.ndarray


def find_spots(photons: np.ndarray, trusted: np.ndarray, readout_variance: float = 0.0, sharp: bool = False) -> Spots:
    """Local maxima of the counts (slow, fast) that stand out of the noise of their surroundings: that of counting,
    and of readout, in photons^2 a pixel. Single bright pixels, hot ones or cosmic rays, are left out, unless spots
    are so `sharp` that they may be real."""
    background = local_background(photons, trusted, readout_variance)
    excess = np.where(trusted, photons - background, 0.0)
    box_sum = ndimage.uniform_filter(excess, BOX, mode="constant") * BOX**2
    noise = np.sqrt((np.maximum(background, 0.05) + readout_variance) * BOX**2)
    significance = box_sum / noise
    peaks = (box_sum == ndimage.maximum_filter(box_sum, BOX)) & (significance > SIGNIFICANCE) & trusted
    if not sharp:
        peaks &= box_sum - ndimage.maximum_filter(excess, BOX) > SPIKE * box_sum + noise
    slow, fast = np.nonzero(peaks)
    order = np.argsort(-significance[slow, fast], kind="stable")
    slow, fast = slow[order], fast[order]
    centre_slow, centre_fast = _centroids(np.maximum(excess, 0), slow, fast)
    return Spots(centre_fast, centre_slow, significance[slow, fast])


def observed_spots(observation: Observation, expected: Model) -> Spots:
    """The spots of an observed image of roughly an expected crystal."""
    photons, trusted = (part.cpu().numpy() for part in (observation.photons, observation.trusted))
    return find_spots(photons, trusted, float(observation.readout_variance), spot_width(expected) < SHARP)


def spot_width(model: Model) -> float:
    """Width of a reflection on the detector in pixels, that of the crystal's shortest edge: distance times
    wavelength / (N a), the first zero of the lattice transform."""
    crystal, experiment = model
    detector = experiment.detector
    angle = experiment.beam.wavelength / (crystal.cells * crystal.cell[:3]).min()
    return float(angle * detector.distance / detector.pixel_size)


def local_background(photons: np.ndarray, trusted: np.ndarray, readout_variance: float = 0.0) -> np.ndarray:
    """Mean counts round every pixel, trusted pixels only, what stands out left out in a second and third pass."""
    use = trusted.copy()
    values = np.where(trusted, photons, 0.0)
    for _ in range(3):
        weight = ndimage.uniform_filter(use.astype(float), SURROUND, mode="reflect")
        mean = ndimage.uniform_filter(np.where(use, values, 0.0), SURROUND, mode="reflect") / np.maximum(weight, 1e-6)
        use = trusted & (values <= mean + 3 * np.sqrt(np.maximum(mean, 0.05) + readout_variance) + 1)
    return mean


def _centroids(excess: np.ndarray, slow: np.ndarray, fast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres of brightness (n,), (n,) of the boxes round the given pixels."""
    half = BOX // 2
    padded = np.pad(excess, half)
    offsets = np.arange(BOX) - half
    boxes = padded[slow[:, None, None] + half + offsets[:, None], fast[:, None, None] + half + offsets]
    total = np.maximum(boxes.sum((1, 2)), 1e-12)
    centre_slow = slow + 0.5 + (boxes.sum(2) @ offsets) / total
    centre_fast = fast + 0.5 + (boxes.sum(1) @ offsets) / total
    return centre_slow, centre_fast
