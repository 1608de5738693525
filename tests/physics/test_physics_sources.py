"""Rays of a divergent, polychromatic beam."""

import math

import pytest
import torch
from builders import f64, largest

from refine.physics.sources import Spread, even_steps, single_source, spread_sources, tilt_grid

BEAM, ELECTRIC = f64(1.0, 0.0, 0.0), f64(0.0, 0.0, 1.0)


def spread(**change: torch.Tensor) -> Spread:
    one = f64([1.0])
    plain = Spread(f64(4.0, 2.0), tilt_grid((3, 3), rounded=False), f64(0.0), 0 * one, one, one)
    return plain._replace(**change)


def test_one_ray_is_the_beam() -> None:
    rays = single_source(BEAM)
    assert torch.equal(rays.directions, BEAM[None])
    assert rays.weights.tolist() == rays.wavelength_ratios.tolist() == [1.0]


def test_tilts_are_the_angles_between_rays_and_beam() -> None:
    rays = spread_sources(BEAM, ELECTRIC, spread())
    along_electric, along_magnetic = rays.directions @ ELECTRIC, rays.directions @ torch.linalg.cross(BEAM, ELECTRIC)
    assert largest(torch.linalg.vector_norm(rays.directions, dim=1) - 1) < 1e-15
    assert sorted({round(float(v), 6) for v in torch.asin(along_electric.abs())}) == [0.0, 0.002]
    assert sorted({round(float(v), 6) for v in torch.asin(along_magnetic.abs())}) == [0.0, 0.001]


def test_every_direction_has_every_colour() -> None:
    ratios, weights = f64(0.98, 1.0, 1.03), f64(0.2, 0.5, 0.3)
    rays = spread_sources(BEAM, ELECTRIC, spread(ratios=ratios, colours=0 * ratios, weights=weights))
    assert rays.directions.shape == (27, 3)
    assert float(rays.weights.sum()) == pytest.approx(1)
    assert torch.equal(rays.wavelength_ratios.reshape(9, 3), ratios.expand(9, 3))
    assert largest(rays.weights.reshape(9, 3).sum(0) - weights) < 1e-15


def test_dispersion_is_the_full_width_in_percent() -> None:
    colours = even_steps(5)
    same = torch.ones_like(colours)
    rays = spread_sources(
        BEAM, ELECTRIC, spread(dispersion=f64(4.0), colours=colours, ratios=same, weights=same / len(same))
    )
    assert largest(rays.wavelength_ratios[:5] - f64(0.98, 0.99, 1.0, 1.01, 1.02)) < 1e-15


@pytest.mark.parametrize(
    ("steps", "rounded", "rays"),
    [
        ((3, 3), True, 5),
        ((5, 5), True, 13),
        ((3, 3), False, 9),
        ((1, 7), True, 7),
        ((2, 2), True, 4),
        ((1, 1), True, 1),
    ],
)
def test_grids_are_nanobraggs(steps: tuple[int, int], rounded: bool, rays: int) -> None:
    """3 x 3 becomes 5, 5 x 5 becomes 13, and nothing is cut where only one side is divergent."""
    grid = tilt_grid(steps, rounded)
    assert len(grid) == rays
    assert largest(grid.sum(0)) < 1e-15
    assert largest(grid) == (0.5 if max(steps) > 1 else 0)


def test_rays_move_with_divergence_and_dispersion() -> None:
    def rays(divergence: torch.Tensor, dispersion: torch.Tensor) -> torch.Tensor:
        found = spread_sources(BEAM, ELECTRIC, spread(divergence=divergence, dispersion=dispersion, colours=f64([0.5])))
        return torch.cat([found.directions.flatten(), found.wavelength_ratios])

    at = (f64(4.0, 2.0).requires_grad_(), f64(1.0).requires_grad_())
    assert torch.autograd.gradcheck(rays, at, eps=1e-3)
    assert torch.autograd.gradgradcheck(rays, at, eps=1e-3)
    assert math.isclose(rays(*at)[-1].item(), 1.005)
