"""Where a flat panel stands in the lab frame."""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.rotation import axis_rotation, misset_rotation


class PanelFrame(NamedTuple):
    """Origin (outer corner of the first pixel, mm), unit vectors along a row (fast) and down the columns (slow)."""

    origin: Tensor
    fast: Tensor
    slow: Tensor

    @property
    def normal_distance(self) -> Tensor:
        """Distance () in mm from the sample to the panel's plane."""
        return torch.abs((torch.linalg.cross(self.fast, self.slow) * self.origin).sum())


class PanelSet(NamedTuple):
    """N panels held by one frame: origins (3, N) mm from its origin, fast and slow (3, N) unit vectors, all as
    components along the frame's fast, slow and fast x slow."""

    origins: Tensor
    fast: Tensor
    slow: Tensor


def held_frames(holder: PanelFrame, panels: PanelSet) -> PanelFrame:
    """Where N panels stand that `holder` carries as a rigid body: origin, fast, slow (3, N), lab frame."""
    axes = torch.stack([holder.fast, holder.slow, torch.linalg.cross(holder.fast, holder.slow)], 1)
    return PanelFrame(holder.origin[:, None] + axes @ panels.origins, axes @ panels.fast, axes @ panels.slow)


def panel_rotation(rotations_deg: Tensor, twotheta_deg: Tensor, twotheta_axis: Tensor) -> Tensor:
    """Rotation (3, 3): about lab x, y, z by the angles (3,), then by two-theta about its axis, all in degrees."""
    return axis_rotation(twotheta_axis, torch.deg2rad(twotheta_deg)) @ misset_rotation(rotations_deg)


def panel_pivoted_on_beam(unrotated: PanelFrame, rotation: Tensor, beam: Tensor, distance: Tensor) -> PanelFrame:
    """The panel turned about the spot where the direct beam (unit vector `beam`) hits it, `distance` mm away.

    `unrotated.origin` is taken relative to that spot.
    """
    spot = beam * distance
    return PanelFrame(spot + rotation @ unrotated.origin, rotation @ unrotated.fast, rotation @ unrotated.slow)


def panel_pivoted_on_sample(unrotated: PanelFrame, rotation: Tensor, beam: Tensor, distance: Tensor) -> PanelFrame:
    """The panel, placed with its beam spot `distance` mm down the beam, turned about the sample."""
    frame = panel_pivoted_on_beam(unrotated, torch.eye(3, dtype=beam.dtype, device=beam.device), beam, distance)
    return PanelFrame(*(rotation @ vector for vector in frame))
