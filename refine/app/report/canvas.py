"""Panels laid out as they stand, and images made small enough for a page."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine.app.report.source import Array, Compared
from refine.io.experiments import Panel


@dataclass(frozen=True)
class Canvas:
    """Where panels go in one picture: the first panel's axes, pixels from the picture's corner.

    origin (n, 2), fast (n, 2), slow (n, 2): x, y of every panel's first corner and what a step along its axes adds;
    size: width, height.
    """

    origin: Array
    fast: Array
    slow: Array
    size: tuple[int, int]

    def at(self, points: Array, panel: NDArray[np.int64]) -> Array:
        """x, y (n, 2) of fast, slow (n, 2) on panels (n,), in pixels, corners of first pixels at (0, 0)."""
        return np.asarray(self.origin[panel] + points[:, :1] * self.fast[panel] + points[:, 1:] * self.slow[panel])

    def laid_out(self, stack: Array) -> Array:
        """One picture (height, width) of an image, or of a stack (panels, slow, fast), NaN where there is no pixel."""
        if stack.ndim == 2:
            return stack
        picture = np.full(self.size[::-1], np.nan)
        panel, slow, fast = np.indices(stack.shape).reshape(3, -1)
        x, y = self.at(np.stack([fast + 0.5, slow + 0.5], 1), panel).astype(int).T
        picture[y.clip(0, self.size[1] - 1), x.clip(0, self.size[0] - 1)] = stack.ravel()
        return picture


def canvas(panels: tuple[Panel, ...]) -> Canvas:
    """The layout of panels, seen along the normal of the first."""
    first = panels[0]
    axes = np.stack([first.fast, first.slow])  # (2, 3)
    pixel = np.array(first.pixel_size)
    origin = np.stack([axes @ np.asarray(p.origin) for p in panels]) / pixel
    fast = np.stack([axes @ np.asarray(p.fast) * p.pixel_size[0] for p in panels]) / pixel
    slow = np.stack([axes @ np.asarray(p.slow) * p.pixel_size[1] for p in panels]) / pixel
    size = np.array([p.image_size for p in panels], float)
    corners = [origin + a * size[:, :1] * fast + b * size[:, 1:] * slow for a in (0, 1) for b in (0, 1)]
    low, high = np.min(corners, (0, 1)), np.max(corners, (0, 1))
    width, height = (int(x) for x in np.ceil(high - low - 1e-6))
    return Canvas(origin - low, fast, slow, (width, height))


class Picture(NamedTuple):
    """Observed and model photons a pixel and the normalised residual, averaged over `block` x `block` pixels."""

    observed: Array
    model: Array
    residual: Array
    block: int


def picture(compared: Compared, layout: Canvas, longest: int) -> Picture:
    """What a page shows of an image, no side longer than `longest`. NaN where nothing is trusted."""
    variance = np.broadcast_to(np.maximum(compared.model, 1e-3) + compared.readout, compared.model.shape)
    observed, model, variance = (
        layout.laid_out(np.where(compared.trusted, part, np.nan))
        for part in (compared.observed, compared.model, variance)
    )
    block = max(1, -(-max(observed.shape) // longest))
    count = _sums(np.isfinite(observed).astype(float), block)
    sums = [_sums(np.nan_to_num(part), block) for part in (observed, model, variance)]
    count = np.where(count > 0, count, np.nan)
    residual = (sums[0] - sums[1]) / np.sqrt(np.where(sums[2] > 0, sums[2], np.nan))
    return Picture(sums[0] / count, sums[1] / count, residual, block)


def _sums(image: Array, block: int) -> Array:
    """Sums over blocks, the last ones possibly cut."""
    rows, columns = (-(-n // block) for n in image.shape)
    padded = np.pad(image, [(0, rows * block - image.shape[0]), (0, columns * block - image.shape[1])])
    return np.asarray(padded.reshape(rows, block, columns, block).sum((1, 3)))
