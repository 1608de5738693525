"""The detector: a panel, or many held as one rigid body, placed by the numbers a beamline knows."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.pixels import Pixels
from refine.physics.curved import curved_positions
from refine.physics.panel import (
    PanelFrame,
    PanelSet,
    held_frames,
    panel_pivoted_on_beam,
    panel_pivoted_on_sample,
    panel_rotation,
)
from refine.physics.parallax import absorbed_at, mean_path, recorded_shift

MM_PER_UM = 1e-3


@dataclass(frozen=True)
class Sensor:
    """What absorbs: thickness () µm and attenuation_length () µm, in which a ray falls to 1/e; cut into `layers`, each
    taken at its front; or, with `at_mean_path`, one layer whose photons are counted where a ray has gone its mean path
    (the parallax of DIALS). beyond: layers of thickness / (layers - 1), together thicker than the sensor, as
    nanoBragg.c has them."""

    thickness: Tensor
    attenuation_length: Tensor
    layers: int = 1
    at_mean_path: bool = False
    beyond: bool = False

    @property
    def in_mm(self) -> tuple[Tensor, Tensor]:
        """Thickness () in mm and attenuation () in 1/mm."""
        return self.thickness * MM_PER_UM, 1 / (self.attenuation_length * MM_PER_UM)

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
    """A flat or bent panel of square pixels, or many flat ones of one size.

    size: (slow, fast) pixels of a panel. pixel_size: () mm. distance: () mm from the sample to the direct-beam spot.
    beam_center: (2,) fast, slow in pixels, the outer corner of the first pixel at (0, 0).
    rotations: (3,) degrees about lab x, y, z; twotheta: () degrees about twotheta_axis, after them.
    fast, slow, beam, twotheta_axis: (3,) unit vectors of the unrotated panel and of the convention.
    pivot: what stays put under rotation, 'beam' (the direct-beam spot) or 'sample'.
    oversample: sub-pixels per pixel edge.
    sensor: its thickness, or None where every photon is counted at the surface.
    curved: bent so that all pixels are `distance` from the sample, before the rotations.
    point_pixel: solid angle without the tilt of the pixel against the ray.
    corner_factors: solid angle and polarisation at the first sub-pixel only, as nanoBragg.c has them.
    panels: the panels of a detector of many, relative to the frame that all of the above places, which moves them as
    one rigid body; None for the one panel of that frame.

    Where there are many panels, coordinates (..., P) go with the panel (P,) that each pixel is on; else it is None.
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
    panels: PanelSet | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image: (slow, fast), or (panels, slow, fast)."""
        return self.size if self.panels is None else (self.panels.origins.shape[1], *self.size)

    @property
    def sites_per_pixel(self) -> int:
        """S of `Sites`."""
        return self.oversample**2 * (self.sensor.layers if self.sensor else 1)

    def frame(self) -> PanelFrame:
        """Where the flat panel, or the frame of many, stands: origin in mm, unit vectors; lab frame."""
        corner = -self.pixel_size * (self.beam_center[0] * self.fast + self.beam_center[1] * self.slow)
        return self._placed(PanelFrame(corner, self.fast, self.slow))

    def sites(self, pixels: Pixels) -> Sites:
        """Where the photons of P pixels are counted; layers outermost, then sub-pixels along slow, along fast."""
        offsets = (torch.arange(self.oversample).to(self.distance) + 0.5) / self.oversample
        slow_offset, fast_offset = torch.cartesian_prod(offsets, offsets).reshape(-1, 2).T[:, :, None]
        fast, slow = pixels.fast + fast_offset, pixels.slow + slow_offset
        depths = self.sensor.depths if self.sensor else self.distance.new_zeros(1)
        positions, normals = self._faces(fast, slow, pixels.panel)
        if len(depths) > 1:
            positions = (positions[:, None] + normals[:, None] * depths[:, None, None]).flatten(1, 2)
        normals = normals.repeat(1, len(depths), 1) if self.curved else normals
        return Sites(positions, normals, depths.repeat_interleave(len(fast_offset))[:, None])

    def points(self, fast: Tensor, slow: Tensor, panel: Tensor | None = None) -> Tensor:
        """Lab positions (3, ...) in mm at which the photons of panel coordinates (...) in pixels, the first pixel's
        corner at (0, 0), are counted: on the surface, or below it at a ray's mean path."""
        return self._faces(fast, slow, panel)[0]

    def recorded(self, ray: Tensor, panel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Coordinates fast, slow (R,) in pixels, not only within the panel, at which rays (3, R), unit vectors from
        the sample, are recorded by a flat panel: the inverse of `points`."""
        if self.curved:
            raise ValueError("rays are followed to flat panels only")
        origin, fast, slow = self._frames(panel, 1)
        normal = self.normals(ray[0], ray[1], panel)
        obliquity = (ray * normal).sum(0)
        entered = ray * ((origin * normal).sum(0) / obliquity) - origin
        along_fast, along_slow = (entered * fast).sum(0), (entered * slow).sum(0)
        if self.sensor is not None and self.sensor.at_mean_path:
            shift = self.shift(ray, mean_path(obliquity, *self.sensor.in_mm), panel)
            along_fast, along_slow = along_fast + shift[0], along_slow + shift[1]
        return along_fast / self.pixel_size, along_slow / self.pixel_size

    def shift(self, ray: Tensor, path: Tensor, panel: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """How far (R,) in mm along fast and slow rays (3, R) are recorded from where they enter a flat panel, `path`
        (R,) mm behind it."""
        _, fast, slow = self._frames(panel, 1)
        return recorded_shift(ray, fast, slow, path)

    def normals(self, fast: Tensor, slow: Tensor, panel: Tensor | None = None) -> Tensor:
        """Unit vectors (3, ...), away from the sample, in which the panel faces at coordinates (...) in pixels; one
        for all (3, 1, ...) where it is flat, one for each panel (3, ..., P) where there are many."""
        if self.curved:
            return self._curved(fast, slow)[1]
        return _facing(self._frames(panel, fast.dim()))

    def _faces(self, fast: Tensor, slow: Tensor, panel: Tensor | None) -> tuple[Tensor, Tensor]:
        """`points` and `normals`."""
        if self.curved:
            surface, normals = self._curved(fast, slow)
        else:
            origin, along_fast, along_slow = frame = self._frames(panel, fast.dim())
            in_row = torch.addcmul(origin, self.pixel_size * along_fast, fast)
            surface, normals = torch.addcmul(in_row, self.pixel_size * along_slow, slow), _facing(frame)
        if self.sensor is None or not self.sensor.at_mean_path:
            return surface, normals
        return absorbed_at(surface, normals, *self.sensor.in_mm), normals

    def _frames(self, panel: Tensor | None, dims: int) -> PanelFrame:
        """The frames of the panels (P,) as (3, 1, ..., P), or the one there is as (3, 1, ...), `dims` dimensions
        after the first."""
        frame = self.frame()
        if self.panels is None or panel is None:
            return PanelFrame(*(_column(vector, dims) for vector in frame))
        held = held_frames(frame, self.panels)
        return PanelFrame(*(part[:, panel].reshape(3, *[1] * (dims - 1), len(panel)) for part in held))

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


def _facing(frame: PanelFrame) -> Tensor:
    """Unit vectors (3, ...) away from the sample of flat panels."""
    across = torch.linalg.cross(frame.fast, frame.slow, dim=0)
    return across * torch.sign((across * frame.origin).sum(0))


def _column(vector: Tensor, dims: int) -> Tensor:
    """A vector (3,) as (3, 1, ...), to be added to (3, ...) of `dims` further dimensions."""
    return vector.reshape(3, *[1] * dims)
