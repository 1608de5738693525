"""The detector: one flat panel, placed by the numbers a beamline knows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from refine.model.pixels import Pixels
from refine.physics.panel import PanelFrame, panel_pivoted_on_beam, panel_pivoted_on_sample, panel_rotation


@dataclass(frozen=True)
class Detector:
    """A flat panel of square pixels.

    size: (slow, fast) pixels. pixel_size: () mm. distance: () mm from the sample to the direct-beam spot.
    beam_center: (2,) fast, slow in pixels, the outer corner of the first pixel at (0, 0).
    rotations: (3,) degrees about lab x, y, z; twotheta: () degrees about twotheta_axis, after them.
    fast, slow, beam, twotheta_axis: (3,) unit vectors of the unrotated panel and of the convention.
    pivot: what stays put under rotation, 'beam' (the direct-beam spot) or 'sample'.
    oversample: sub-pixels per pixel edge.
    corner_factors: solid angle and polarisation at the first sub-pixel only, as nanoBragg.c has them.
    """

    size: tuple[int, int]
    pixel_size: Tensor
    distance: Tensor
    beam_center: Tensor
    rotations: Tensor
    twotheta: Tensor
    fast: Tensor
    slow: Tensor
    beam: Tensor
    twotheta_axis: Tensor
    pivot: str = "beam"
    oversample: int = 1
    corner_factors: bool = False

    def frame(self) -> PanelFrame:
        """Where the panel stands: origin in mm, unit vectors; lab frame."""
        corner = -self.pixel_size * (self.beam_center[0] * self.fast + self.beam_center[1] * self.slow)
        unrotated = PanelFrame(corner, self.fast, self.slow)
        rotation = panel_rotation(self.rotations, self.twotheta, self.twotheta_axis)
        place = panel_pivoted_on_beam if self.pivot == "beam" else panel_pivoted_on_sample
        return place(unrotated, rotation, self.beam, self.distance)

    def positions(self, pixels: Pixels) -> Tensor:
        """Centres (3, S, P) in mm of the S = oversample^2 sub-pixels of P pixels, lab frame."""
        offsets = (torch.arange(self.oversample).to(self.distance) + 0.5) / self.oversample
        slow_offset, fast_offset = torch.cartesian_prod(offsets, offsets).reshape(-1, 2).T[:, :, None]
        return self.points(pixels.fast + fast_offset, pixels.slow + slow_offset)

    def points(self, fast: Tensor, slow: Tensor) -> Tensor:
        """Lab positions (3, ...) in mm of panel coordinates (...) in pixels, the first pixel's corner at (0, 0)."""
        origin, along_fast, along_slow = (v.reshape(3, *[1] * fast.dim()) for v in self.frame())
        return origin + self.pixel_size * (along_fast * fast + along_slow * slow)
