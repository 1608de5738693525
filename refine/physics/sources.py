"""A beam that is not one ray of one colour: a weighted sum of rays (after nanoBragg.c's sources)."""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.rotation import axis_rotation

ROUND = 1.1  # squared radius, in half ranges, up to which a direction belongs to a round beam; as in nanoBragg.c
RADIAN_PER_MRAD, PER_PERCENT = 1e-3, 1e-2


class Sources(NamedTuple):
    """W rays: directions (W, 3), unit vectors the photons travel along; wavelength_ratios (W,), to the beam's
    wavelength; weights (W,), whose sum is 1."""

    directions: Tensor
    wavelength_ratios: Tensor
    weights: Tensor


class Spread(NamedTuple):
    """Rays in A directions, each of C colours.

    divergence: (2,) full horizontal and vertical widths, mrad. tilts: (A, 2) horizontal and vertical, in these widths.
    dispersion: () full width of the spectrum over its mean, %. colours: (C,) in that width.
    ratios: (C,) wavelengths over the beam's, before dispersion. weights: (C,) of the colours, whose sum is 1.
    """

    divergence: Tensor
    tilts: Tensor
    dispersion: Tensor
    colours: Tensor
    ratios: Tensor
    weights: Tensor


def single_source(direction: Tensor) -> Sources:
    """One ray along a unit vector (3,)."""
    one = direction.new_ones(1)
    return Sources(direction[None], one, one)


def spread_sources(direction: Tensor, polarization_axis: Tensor, spread: Spread) -> Sources:
    """The rays of a spread beam about a unit vector (3,); its horizontal spread is along the electric vector (3,).

    A ray is turned by its vertical tilt about the electric vector, then by its horizontal one about the magnetic.
    """
    magnetic = torch.linalg.cross(direction, polarization_axis)
    magnetic = magnetic / torch.linalg.vector_norm(magnetic)
    horizontal, vertical = (spread.tilts * spread.divergence * RADIAN_PER_MRAD).unbind(1)
    across = axis_rotation(polarization_axis.expand(len(vertical), 3), vertical) @ direction
    directions = (axis_rotation(magnetic.expand(len(horizontal), 3), horizontal) @ across[:, :, None])[..., 0]
    ratios = spread.ratios * (1 + spread.dispersion * PER_PERCENT * spread.colours)
    rays, colours = len(directions), len(ratios)
    return Sources(directions.repeat_interleave(colours, 0), ratios.repeat(rays), spread.weights.repeat(rays) / rays)


def even_steps(steps: int) -> Tensor:
    """Places (steps,) from -1/2 to 1/2, both ends included; 0 for one step."""
    return torch.linspace(-0.5, 0.5, steps, dtype=torch.float64) if steps > 1 else torch.zeros(1, dtype=torch.float64)


def tilt_grid(steps: tuple[int, int], rounded: bool = True) -> Tensor:
    """Tilts (A, 2) of `Spread`: a grid of horizontal times vertical steps, cut to an ellipse where it is `rounded` and
    has more than one step along both.

    An even number of steps has none in the middle: its innermost pair counts as the middle.
    """
    grid = torch.cartesian_prod(even_steps(steps[0]), even_steps(steps[1]))
    if not rounded or min(steps) < 2:
        return grid
    innermost = torch.tensor([0.0 if count % 2 else 1 / (count - 1) for count in steps], dtype=torch.float64)
    return grid[((2 * grid) ** 2 - innermost**2).sum(1) <= ROUND]
