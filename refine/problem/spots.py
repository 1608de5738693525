"""Bright spots of an image: where they are, to a fraction of a pixel."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from refine.model.observation import Observation
from refine.parameters.parameter import Model

BOX = 5  # pixels: a spot's brightness is summed and its centroid taken over BOX x BOX
SURROUND = 25  # pixels: edge of the region that gives the local background
SIGNIFICANCE = 6.0  # a box this many standard deviations above the local background is a spot
LEAST = 0.05  # photons: a local background below it counts as this
SHARP = 0.6  # pixels: narrower spots may lie in a single one
SPIKE = 0.1  # less of its brightness than this outside one pixel, to a standard deviation: no optics makes such a spot


class Spots(NamedTuple):
    """fast, slow (n,) in pixels, the outer corner of the panel's first pixel at (0, 0); significance (n,) in standard
    deviations; excess (n, BOX, BOX) photons above the local background in the box round each, and variance, that of the
    background; panel (n,) where there are many; brightest first."""

    fast: np.ndarray
    slow: np.ndarray
    significance: np.ndarray
    excess: np.ndarray
    variance: np.ndarray
    panel: np.ndarray | None = None

    @property
    def place(self) -> tuple[np.ndarray, ...]:
        """The indices of their pixels in an image (slow, fast) or a stack (panels, slow, fast)."""
        inside = (self.slow.astype(int), self.fast.astype(int))
        return inside if self.panel is None else (self.panel, *inside)

    def brightest(self, count: int) -> "Spots":
        """At most so many."""
        fast, slow, significance, excess, variance = (part[:count] for part in self[:5])
        return Spots(fast, slow, significance, excess, variance, None if self.panel is None else self.panel[:count])


def find_spots(
    photons: np.ndarray, trusted: np.ndarray, readout_variance: np.ndarray | float = 0.0, sharp: bool = False
) -> Spots:
    """Local maxima of the counts, (slow, fast) or (panels, slow, fast), that stand out of the noise of their
    surroundings: that of counting, and of readout, in photons^2 a pixel, of a shape that broadcasts. Single bright
    pixels, hot ones or cosmic rays, are left out, unless spots are so `sharp` that they may be real."""
    background = local_background(photons, trusted, readout_variance)
    excess, box = np.where(trusted, photons - background, 0.0), across(BOX, photons)
    box_sum = ndimage.uniform_filter(excess, box, mode="constant") * BOX**2
    noise = np.sqrt((np.maximum(background, LEAST) + readout_variance) * BOX**2)
    significance = box_sum / noise
    peaks = (box_sum == ndimage.maximum_filter(box_sum, box)) & (significance > SIGNIFICANCE) & trusted
    if not sharp:
        peaks &= box_sum - ndimage.maximum_filter(excess, box) > SPIKE * box_sum + noise
    found = np.nonzero(peaks)
    order = np.argsort(-significance[found], kind="stable")
    place = tuple(part[order] for part in found)
    slow, fast = _centroids(np.maximum(excess, 0), place)
    boxes = boxes_round(excess, place), boxes_round(np.maximum(background, LEAST) + readout_variance, place)
    return Spots(fast, slow, significance[place], *boxes, place[0] if photons.ndim > 2 else None)


def across(size: int, image: np.ndarray) -> tuple[int, ...]:
    """The shape of a square of `size` pixels on one panel of an image (slow, fast) or a stack (panels, slow, fast)."""
    return (1,) * (image.ndim - 2) + (size, size)


def readout_by_pixel(observation: Observation) -> np.ndarray:
    """Readout variance in photons^2, in a shape that broadcasts with the image or stack."""
    variance = observation.readout_variance.cpu().numpy()
    return variance.reshape(-1, 1, 1) if variance.ndim else variance


def observed_spots(observation: Observation, expected: Model) -> Spots:
    """The spots of an observed image of roughly an expected crystal."""
    photons, trusted = (part.cpu().numpy() for part in (observation.photons, observation.trusted))
    return find_spots(photons, trusted, readout_by_pixel(observation), spot_width(expected) < SHARP)


def spot_width(model: Model) -> float:
    """Width of a reflection on the detector in pixels, that of the crystal's shortest edge: distance times
    wavelength / (N a), the first zero of the lattice transform."""
    crystal, experiment = model
    detector = experiment.detector
    angle = experiment.beam.wavelength / (crystal.cells * crystal.cell[:3]).min()
    return float(angle * detector.distance / detector.pixel_size)


def local_background(
    photons: np.ndarray, trusted: np.ndarray, readout_variance: np.ndarray | float = 0.0
) -> np.ndarray:
    """Mean counts round every pixel of its panel, trusted pixels only, what stands out left out in a second and third
    pass."""
    use, box = trusted.copy(), across(SURROUND, photons)
    values = np.where(trusted, photons, 0.0)
    for _ in range(3):
        weight = ndimage.uniform_filter(use.astype(float), box, mode="reflect")
        mean = ndimage.uniform_filter(np.where(use, values, 0.0), box, mode="reflect") / np.maximum(weight, 1e-6)
        use = trusted & (values <= mean + 3 * np.sqrt(np.maximum(mean, LEAST) + readout_variance) + 1)
    return mean


def boxes_round(image: np.ndarray, place: tuple[np.ndarray, ...]) -> np.ndarray:
    """The values (n, BOX, BOX) of an image or stack round the pixels at `place`, 0 outside its panel."""
    half = BOX // 2
    *panel, slow, fast = (part[:, None, None] for part in place)
    padded = np.pad(image, [(0, 0)] * len(panel) + [(half, half)] * 2)
    offsets = np.arange(BOX)
    return padded[(*panel, slow + offsets[:, None], fast + offsets)]


def _centroids(excess: np.ndarray, place: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Centres of brightness (n,) slow, (n,) fast of the boxes round the given pixels."""
    boxes, offsets = boxes_round(excess, place), np.arange(BOX) - BOX // 2
    total, (slow, fast) = np.maximum(boxes.sum((1, 2)), 1e-12), place[-2:]
    return slow + 0.5 + (boxes.sum(2) @ offsets) / total, fast + 0.5 + (boxes.sum(1) @ offsets) / total
