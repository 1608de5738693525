"""Bright spots of an image: where they are, to a fraction of a pixel."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

BOX = 5  # pixels: a spot's brightness is summed and its centroid taken over BOX x BOX
SURROUND = 25  # pixels: edge of the region that gives the local background
SIGNIFICANCE = 6.0  # a box this many standard deviations above the local background is a spot


class Spots(NamedTuple):
    """fast, slow (n,) in pixels, the outer corner of the panel's first pixel at (0, 0); significance (n,) in standard
    deviations; panel (n,) where there are many; brightest first."""

    fast: np.ndarray
    slow: np.ndarray
    significance: np.ndarray
    panel: np.ndarray | None = None


def find_spots_on_panels(photons: np.ndarray, trusted: np.ndarray) -> Spots:
    """`find_spots` on every panel of a stack (panels, slow, fast); of an image (slow, fast), just that."""
    if photons.ndim == 2:
        return find_spots(photons, trusted)
    each = [find_spots(*panel) for panel in zip(photons, trusted, strict=True)]
    numbers = np.repeat(np.arange(len(each)), [len(spots.fast) for spots in each])
    fast, slow, significance = (np.concatenate(part) for part in zip(*(spots[:3] for spots in each), strict=True))
    order = np.argsort(-significance, kind="stable")
    return Spots(fast[order], slow[order], significance[order], numbers[order])


def find_spots(photons: np.ndarray, trusted: np.ndarray) -> Spots:
    """Local maxima of the counts (slow, fast) that stand out of the counting noise of their surroundings."""
    background = local_background(photons, trusted)
    excess = np.where(trusted, photons - background, 0.0)
    box_sum = ndimage.uniform_filter(excess, BOX, mode="constant") * BOX**2
    noise = np.sqrt(np.maximum(background, 0.05) * BOX**2)
    significance = box_sum / noise
    peaks = (box_sum == ndimage.maximum_filter(box_sum, BOX)) & (significance > SIGNIFICANCE) & trusted
    slow, fast = np.nonzero(peaks)
    order = np.argsort(-significance[slow, fast], kind="stable")
    slow, fast = slow[order], fast[order]
    centre_slow, centre_fast = _centroids(np.maximum(excess, 0), slow, fast)
    return Spots(centre_fast, centre_slow, significance[slow, fast])


def local_background(photons: np.ndarray, trusted: np.ndarray) -> np.ndarray:
    """Mean counts round every pixel, trusted pixels only, what stands out left out in a second and third pass."""
    use = trusted.copy()
    values = np.where(trusted, photons, 0.0)
    for _ in range(3):
        weight = ndimage.uniform_filter(use.astype(float), SURROUND, mode="reflect")
        mean = ndimage.uniform_filter(np.where(use, values, 0.0), SURROUND, mode="reflect") / np.maximum(weight, 1e-6)
        use = trusted & (values <= mean + 3 * np.sqrt(np.maximum(mean, 0.05)) + 1)
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
