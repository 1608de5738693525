"""Axis factors, against multiple-precision arithmetic."""

import math

import mpmath
import pytest
import torch
from builders import f64

from refine.physics import lattice
from refine.physics.lattice import sinc
from refine.physics.shapes import SHAPES, Shape

NS = (1.0, 1.3, 4.0, 5.0, 6.7, 20.0, 35.5)
LINE = SHAPES["gauss"]  # of a crystal of one axis
AXES = {
    "square": Shape(lattice.square, lattice.square_value, lattice.square_slopes),
    "gauss": Shape(
        lattice.gauss,
        lambda delta, n: LINE.value(delta[None], n[None]),
        lambda delta, n: tuple(
            torch.atleast_2d(x)[0] if torch.is_tensor(x) else x[0] for x in LINE.slopes(delta[None], n[None])
        ),
    ),
}
EDGES = (lattice._SERIES / math.pi, lattice._CANCELLING[torch.float64])
SWITCHES = tuple(edge * factor / n for n in NS for edge in EDGES for factor in (1 - 1e-9, 1 + 1e-9))
DELTAS = (0.0, 1e-12, 1e-8, 1e-4, 3e-3, 0.02, 0.0954, 0.0956, 0.21, 0.33, 0.47, 0.5)
CASES = [(sign * d, n) for n in NS for d in (*DELTAS, *SWITCHES) if d <= 0.5 for sign in (1, -1)]
ORDERS = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))


def exact_square(delta: mpmath.mpf, n: mpmath.mpf) -> mpmath.mpf:
    return mpmath.sin(mpmath.pi * n * delta) / mpmath.sin(mpmath.pi * delta) if delta else n


def exact_gauss(delta: mpmath.mpf, n: mpmath.mpf) -> mpmath.mpf:
    return n * mpmath.exp(-((n * delta) ** 2) / mpmath.mpf("0.63"))


EXACT = {"square": exact_square, "gauss": exact_gauss}


def scale(n: float, order: tuple[int, int]) -> float:
    """How large a derivative gets: each one by delta brings a factor of N, one by N takes it away."""
    return n * (math.pi * n) ** order[0] / n ** order[1]


@pytest.fixture(scope="module")
def exact() -> dict[str, dict[tuple[int, int], torch.Tensor]]:
    """The factors and their derivatives of the given orders at CASES, each correctly rounded."""
    found: dict[str, dict[tuple[int, int], torch.Tensor]] = {}
    with mpmath.workdps(60):
        for shape, function in EXACT.items():
            found[shape] = {
                order: f64(
                    [
                        float(
                            mpmath.diff(function, (mpmath.mpf(d), mpmath.mpf(n)), order)
                            if any(order)
                            else function(mpmath.mpf(d), mpmath.mpf(n))
                        )
                        for d, n in CASES
                    ]
                )
                for order in ORDERS
            }
    return found


def errors(found: torch.Tensor, wanted: torch.Tensor, order: tuple[int, int]) -> float:
    scales = f64([scale(n, order) for _, n in CASES])
    assert float((wanted / scales).abs().max()) > 0.05
    return float(((found - wanted) / scales).abs().max())


DELTA, N = f64([d for d, _ in CASES]), f64([n for _, n in CASES])


@pytest.mark.parametrize("shape", AXES)
def test_values(shape: str, exact: dict) -> None:
    wanted = exact[shape][0, 0]
    for found in (AXES[shape].smooth(DELTA, N), AXES[shape].value(DELTA, N), AXES[shape].slopes(DELTA, N)[0]):
        assert errors(found, wanted, (0, 0)) < 1e-14


@pytest.mark.parametrize("shape", AXES)
def test_slopes_by_hand(shape: str, exact: dict) -> None:
    _, by_delta, by_n = AXES[shape].slopes(DELTA, N)
    assert errors(by_delta, exact[shape][1, 0], (1, 0)) < 1e-11
    assert errors(by_n, exact[shape][0, 1], (0, 1)) < 1e-11
    wanted = exact[shape][1, 0]
    tiny = (DELTA * N).abs() < 0.1  # where a slope of many digits is small, its own digits count too
    relative = ((by_delta - wanted) / wanted)[tiny & (wanted != 0) & (N > 1)]
    assert len(relative) > 50
    assert float(relative.abs().max()) < 5e-8


@pytest.mark.parametrize("shape", AXES)
def test_derivatives_by_autograd(shape: str, exact: dict) -> None:
    smooth = AXES[shape].smooth

    def total(both: torch.Tensor) -> torch.Tensor:
        return smooth(both[0], both[1])

    both = torch.stack([DELTA, N], 1)
    first = torch.vmap(torch.func.grad(total))(both)
    second = torch.vmap(torch.func.hessian(total))(both)
    for order, found in (((1, 0), first[:, 0]), ((0, 1), first[:, 1])):
        assert errors(found, exact[shape][order], order) < 1e-12
    for order, found in (((2, 0), second[:, 0, 0]), ((1, 1), second[:, 0, 1]), ((0, 2), second[:, 1, 1])):
        assert errors(found, exact[shape][order], order) < 1e-11


def test_sinc_near_its_switch_and_at_zero() -> None:
    x = f64([0.0, 1e-300, 1e-9, 0.2999999, 0.3000001, 1.0, 30.0])
    with mpmath.workdps(40):
        for order, tolerance in ((0, 2e-16), (1, 1e-14), (2, 1e-13), (3, 1e-12)):
            function = sinc
            for _ in range(order):
                function = torch.func.grad(function)
            found = torch.stack([function(value) for value in x])
            wanted = [
                float(mpmath.diff(mpmath.sinc, mpmath.mpf(float(v)), order) if v > 1e-200 else (1, 0, -1 / 3, 0)[order])
                for v in x
            ]
            assert float((found - f64(wanted)).abs().max()) < tolerance


def test_series_are_taken_only_where_they_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving the switches inside the range where both branches hold must not change the numbers."""
    wanted = AXES["square"].slopes(DELTA, N)[1], lattice.square(DELTA, N)
    monkeypatch.setattr(lattice, "_SERIES", 0.15)
    monkeypatch.setitem(lattice._CANCELLING, torch.float64, 5e-5)
    found = AXES["square"].slopes(DELTA, N)[1], lattice.square(DELTA, N)
    assert errors(found[0], wanted[0], (1, 0)) < 1e-11
    assert errors(found[1], wanted[1], (0, 0)) < 1e-14


def test_whole_n_is_the_sum_over_the_row() -> None:
    delta = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64)
    for n in (1, 4, 7):
        places = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
        wanted = torch.cos(2 * torch.pi * delta[:, None] * places).sum(1)
        assert float((lattice.square_value(delta, f64(float(n))) - wanted).abs().max()) < 1e-13


def test_gauss_has_the_main_peaks_area() -> None:
    """nanoBragg.c's width: the squared factors agree in height, and nearly in integral."""
    delta = torch.linspace(-0.5, 0.5, 20001, dtype=torch.float64)
    square, gauss = (torch.trapezoid(AXES[s].value(delta, f64(10.0)) ** 2, delta) for s in ("square", "gauss"))
    assert float(square) == pytest.approx(10.0, rel=1e-6)
    assert float(gauss / square) == pytest.approx(math.sqrt(math.pi * 0.63 / 2), rel=1e-6)
