"""The detector: one panel, placed by the numbers a beamline knows."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.pixels import Pixels
from refine.physics.curved import curved_positions
from refine.physics.panel import PanelFrame, panel_pivoted_on_beam, panel_pivoted_on_sample, panel_rotation

MM_PER_UM = 1e-3


@dataclass(frozen=True)
class Sensor:
    """What absorbs: thickness () µm and attenuation_length () µm, in which a ray falls to 1/e; cut into `layers`, each
    taken at its front. beyond: layers of thickness / (layers - 1), together thicker than the sensor, as nanoBragg.c
    has them."""

    thickness: Tensor
    attenuation_length: Tensor
    layers: int = 1
    beyond: bool = False

    @property
    def layer(self) -> Tensor:
        """Thickness () of a layer, mm."""
        return self.thickness * MM_PER_UM / (self.layers - self.beyond)

    @property
    def depths(self) -> Tensor:
        """Fronts (layers,) of the layers, mm from the sensor's."""
        return self.layer * torch.arange(self.layers).to(self.thickness)


class Sites(NamedTuple):
    """Where photons are counted: positions (3, S, P) mm of the S sub-pixels, in every layer, of P pixels; normals
    (3, S, P) or a shape that broadcasts, unit vectors away from the sample; depths (S, 1) mm in the sensor."""

    positions: Tensor
    normals: Tensor
    depths: Tensor


@dataclass(frozen=True)
class Detector:
    """A panel of square pixels.

    size: (slow, fast) pixels. pixel_size: () mm. distance: () mm from the sample to the direct-beam spot.
    beam_center: (2,) fast, slow in pixels, the outer corner of the first pixel at (0, 0).
    rotations: (3,) degrees about lab x, y, z; twotheta: () degrees about twotheta_axis, after them.
    fast, slow, beam, twotheta_axis: (3,) unit vectors of the unrotated panel and of the convention.
    pivot: what stays put under rotation, 'beam' (the direct-beam spot) or 'sample'.
    oversample: sub-pixels per pixel edge.
    sensor: its thickness, or None where every photon is counted at the surface.
    curved: bent so that all pixels are `distance` from the sample, before the rotations.
    point_pixel: solid angle without the tilt of the pixel against the ray.
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
    sensor: Sensor | None = None
    curved: bool = False
    point_pixel: bool = False
    corner_factors: bool = False

    @property
    def sites_per_pixel(self) -> int:
        """S of `Sites`."""
        return self.oversample**2 * (self.sensor.layers if self.sensor else 1)

    def frame(self) -> PanelFrame:
        """Where the flat panel stands: origin in mm, unit vectors; lab frame."""
        corner = -self.pixel_size * (self.beam_center[0] * self.fast + self.beam_center[1] * self.slow)
        return self._placed(PanelFrame(corner, self.fast, self.slow))

    def sites(self, pixels: Pixels) -> Sites:
        """Where the photons of P pixels are counted; layers outermost, then sub-pixels along slow, along fast."""
        offsets = (torch.arange(self.oversample).to(self.distance) + 0.5) / self.oversample
        slow_offset, fast_offset = torch.cartesian_prod(offsets, offsets).reshape(-1, 2).T[:, :, None]
        fast, slow = pixels.fast + fast_offset, pixels.slow + slow_offset
        depths = self.sensor.depths if self.sensor else self.distance.new_zeros(1)
        normals = self.normals(fast, slow)
        positions = self.points(fast, slow)[:, None] + normals[:, None] * depths[:, None, None]  # (3, layers, subs, P)
        normals = normals.repeat(1, len(depths), 1) if self.curved else normals
        return Sites(positions.flatten(1, 2), normals, depths.repeat_interleave(len(fast_offset))[:, None])

    def points(self, fast: Tensor, slow: Tensor) -> Tensor:
        """Lab positions (3, ...) in mm of panel coordinates (...) in pixels, the first pixel's corner at (0, 0)."""
        if self.curved:
            return self._curved(fast, slow)[0]
        origin, along_fast, along_slow = (_column(v, fast.dim()) for v in self.frame())
        return origin + self.pixel_size * (along_fast * fast + along_slow * slow)

    def normals(self, fast: Tensor, slow: Tensor) -> Tensor:
        """Unit vectors (3, ...), away from the sample, in which the panel faces at coordinates (...) in pixels; one
        for all (3, 1, ...) where it is flat."""
        if self.curved:
            return self._curved(fast, slow)[1]
        frame = self.frame()
        across = torch.linalg.cross(frame.fast, frame.slow)
        return _column(across * torch.sign((across * frame.origin).sum()), fast.dim())

    def _curved(self, fast: Tensor, slow: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (3, ...) mm and normals (3, ...) of a bent panel, which the rotations move as a rigid body."""
        across_fast = self.pixel_size * (fast - self.beam_center[0])
        across_slow = self.pixel_size * (slow - self.beam_center[1])
        unrotated = curved_positions(across_fast, across_slow, self.beam, self.fast, self.slow, self.distance)
        turn = panel_rotation(self.rotations, self.twotheta, self.twotheta_axis)
        normals = torch.tensordot(turn, unrotated / self.distance, dims=1)
        spot = self.distance * (self.beam - turn @ self.beam) if self.pivot == "beam" else 0 * self.beam
        return self.distance * normals + _column(spot, fast.dim()), normals

    def _placed(self, unrotated: PanelFrame) -> PanelFrame:
        rotation = panel_rotation(self.rotations, self.twotheta, self.twotheta_axis)
        place = panel_pivoted_on_beam if self.pivot == "beam" else panel_pivoted_on_sample
        return place(unrotated, rotation, self.beam, self.distance)


def _column(vector: Tensor, dims: int) -> Tensor:
    """A vector (3,) as (3, 1, ...), to be added to (3, ...) of `dims` further dimensions."""
    return vector.reshape(3, *[1] * dims)
