"""A beam that is not one ray of one colour: a weighted sum of rays (after nanoBragg.c's sources)."""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.rotation import axis_rotation

ROUND = 1.1  # squared radius, in half ranges, up to which a direction belongs to a round beam; as in nanoBragg.c


class Sources(NamedTuple):
    """W rays: directions (W, 3), unit vectors the photons travel along; wavelength_ratios (W,), to the beam's
    wavelength; weights (W,), whose sum is 1."""

    directions: Tensor
    wavelength_ratios: Tensor
    weights: Tensor


def single_source(direction: Tensor) -> Sources:
    """One ray along a unit vector (3,)."""
    one = direction.new_ones(1)
    return Sources(direction[None], one, one)


def spread_sources(
    direction: Tensor,
    polarization_axis: Tensor,
    ranges: tuple[float, float],
    steps: tuple[int, int],
    dispersion: float,
    colours: int,
) -> Sources:
    """Rays on a regular grid of directions, clipped to an ellipse where both ranges are above 0, times colours.

    Args:
        direction, polarization_axis: (3,) unit vectors; the horizontal spread is along the latter.
        ranges: full horizontal and vertical divergence in radians; `steps` directions along each of them that is
            above 0, both ends included.
        dispersion: full width of the spectrum over its mean; `colours` wavelengths, both ends included.
    """
    vertical = torch.linalg.cross(direction, polarization_axis)
    sides = [_ends(*side) for side in zip(ranges, steps, strict=True)]
    grid = [(h, v) for h in sides[0] for v in sides[1] if _inside((h, v), ranges, steps)]
    turned = []
    for h, v in grid:
        across = axis_rotation(polarization_axis, direction.new_tensor(v))
        turned.append(axis_rotation(vertical, direction.new_tensor(h)) @ across @ direction)
    ratios = direction.new_tensor(_ends(dispersion, colours)) + 1
    directions = torch.stack(turned).repeat_interleave(len(ratios), 0)
    count = len(directions)
    return Sources(directions, ratios.repeat(len(turned)), direction.new_full((count,), 1 / count))


def _ends(width: float, steps: int) -> list[float]:
    """Values from -width/2 to width/2; 0 alone without a width."""
    return torch.linspace(-width / 2, width / 2, steps, dtype=torch.float64).tolist() if width > 0 else [0.0]


def _inside(angles: tuple[float, float], ranges: tuple[float, float], steps: tuple[int, int]) -> bool:
    """Whether a direction belongs to a round beam. An even number of steps has none in the middle: its innermost pair
    counts as the middle."""
    if min(ranges) <= 0:
        return True
    square = 0.0
    for angle, width, count in zip(angles, ranges, steps, strict=True):
        innermost = 0.0 if count % 2 else 1 / (count - 1)
        square += (2 * angle / width) ** 2 - innermost**2
    return square <= ROUND
