"""Whole-crystal shapes: their derivatives by hand against autograd and multiple-precision arithmetic."""

import math

import mpmath
import pytest
import torch
from builders import f64, largest, relative

from refine.physics import round_lattice
from refine.physics.round_lattice import ellipsoid, sphere, sphere_slope
from refine.physics.shapes import SHAPES, TOPHAT_EDGE, tophat

N = f64(5.0, 6.5, 4.0)[:, None]
DELTA = torch.rand(3, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5
SMOOTH = sorted(set(SHAPES) - {"tophat"})


@pytest.mark.parametrize("shape", SHAPES)
def test_value_smooth_and_slopes_agree(shape: str) -> None:
    wanted = SHAPES[shape].smooth(DELTA, N)
    assert largest(wanted) > 10
    assert relative(SHAPES[shape].value(DELTA, N), wanted) < 1e-14
    assert relative(SHAPES[shape].slopes(DELTA, N)[0], wanted) < 1e-14


@pytest.mark.parametrize("shape", SMOOTH)
def test_slopes_are_autograds(shape: str) -> None:
    delta, n = DELTA.clone().requires_grad_(), N.expand(3, 400).clone().requires_grad_()
    if shape == "round":
        wanted = [
            torch.func.vmap(torch.func.grad(ellipsoid, argnums=k), in_dims=1, out_dims=1)(DELTA, N.expand(3, 400))
            for k in (0, 1)
        ]
    else:
        wanted = list(torch.autograd.grad(SHAPES[shape].smooth(delta, n).sum(), (delta, n)))
    _, by_delta, by_n = SHAPES[shape].slopes(DELTA, N)
    assert relative(torch.stack(by_delta), wanted[0]) < 1e-12
    assert relative(torch.stack(by_n), wanted[1]) < 1e-12


@pytest.mark.parametrize("order", [0, 1, 2])
def test_form_factor_of_a_ball_and_its_derivatives(order: int) -> None:
    edge = round_lattice._SERIES
    at = f64(0.0, 1e-12, 1e-3, edge * (1 - 1e-9), edge * (1 + 1e-9), 1.0, 30.0, 400.0)

    def exact(s: mpmath.mpf) -> mpmath.mpf:
        x = mpmath.sqrt(s)
        return 3 * (mpmath.sin(x) - x * mpmath.cos(x)) / x**3 if x else mpmath.mpf(1)

    with mpmath.workdps(60):
        coefficients = (1.0, -1 / 10, 2 / 280)  # of its series, times the factorial of the order
        wanted = f64(
            [float(mpmath.diff(exact, mpmath.mpf(s), order)) if s else coefficients[order] for s in at.tolist()]
        )
    by_autograd = sphere
    for _ in range(order):
        by_autograd = torch.func.grad(by_autograd)
    assert largest(torch.stack([by_autograd(s) for s in at]) - wanted) < 1e-13
    if order == 1:
        assert largest(sphere_slope(at) - wanted) < 1e-14


def test_round_crystals_keep_the_square_ones_intensity() -> None:
    """Integrated over a reflection, both give N1 N2 N3: SPHERE_IN_CUBE^2 / pi^3 times f(x)^2 4 pi x^2."""
    x = torch.linspace(0, 4000, 2_000_001, dtype=torch.float64)
    volume = torch.trapezoid(sphere(x * x) ** 2 * 4 * torch.pi * x * x, x) / torch.pi**3
    assert float(volume) * round_lattice.SPHERE_IN_CUBE**2 == pytest.approx(1, abs=1e-3)


def test_tophat_has_an_edge_and_a_height() -> None:
    n = f64(5.0, 6.0, 7.0)[:, None]
    inside, outside = 0.999 * math.sqrt(TOPHAT_EDGE), 1.001 * math.sqrt(TOPHAT_EDGE)
    for axis in range(3):
        delta = torch.zeros(3, 2, dtype=torch.float64)
        delta[axis] = f64(inside, outside) / n[axis]
        assert tophat(delta, n).tolist() == [210.0, 0.0]
