"""The lattice transform of an ellipsoidal crystal."""

import torch
from torch import Tensor

from refine.physics.lattice import sinc

SPHERE_IN_CUBE = 0.723601254558268  # nanoBragg.c: root of the volume ratio that keeps the square crystal's intensity
_SERIES = 0.5  # x^2 below which the series is exact to rounding
_DIVISORS = (10, 28, 54, 88, 130, 180, 238)  # 2 k (2 k + 3): ratios of the series' terms


def sphere(square: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3 (...) of x^2: the form factor of a ball (Rayleigh, Proc. R. Soc. A 84, 25, 1911).

    A function of x^2, so that its derivatives of every order are finite at zero.
    """
    near = square < _SERIES
    s = torch.where(near, square, torch.zeros_like(square))
    series = torch.ones_like(s)
    for divisor in reversed(_DIVISORS):
        series = 1 - s / divisor * series
    away = torch.where(near, torch.ones_like(square), square)
    x = torch.sqrt(away)
    return torch.where(near, series, 3 * (torch.sin(x) / x - torch.cos(x)) / away)


def sphere_slope(square: Tensor) -> Tensor:
    """Derivative (...) of `sphere` by x^2: 3/2 (sin(x)/x - sphere) / x^2, its series near zero."""
    near = square < _SERIES
    s = torch.where(near, square, torch.zeros_like(square))
    series, slope = torch.ones_like(s), torch.zeros_like(s)
    for divisor in reversed(_DIVISORS):
        series, slope = 1 - s / divisor * series, -(series + s * slope) / divisor
    away = torch.where(near, torch.ones_like(square), square)
    return torch.where(near, slope, 1.5 * (sinc(torch.sqrt(away)) - sphere(away)) / away)


def ellipsoid(delta: Tensor, cells: Tensor, fudge: float = 1.0) -> Tensor:
    """Amplitude (...) of an ellipsoid of N1 x N2 x N3 cells.

    Args:
        delta: (3, ...) distance of h, k, l from the nearest whole index.
        cells: (3,) N along each axis.
        fudge: factor on the squared argument, nanoBragg.c's -fudge.
    """
    reach = ((delta * cells.reshape(3, *[1] * (delta.dim() - 1))) ** 2).sum(0)
    return SPHERE_IN_CUBE * cells.prod() * sphere(torch.pi**2 * fudge * reach)


def ellipsoid_slopes(delta: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ellipsoid` (...) and its derivatives (3, ...) by delta and by N, by hand."""
    n = cells.reshape(3, *[1] * (delta.dim() - 1))
    square = torch.pi**2 * ((delta * n) ** 2).sum(0)
    peak = SPHERE_IN_CUBE * cells.prod()
    amplitude = peak * sphere(square)
    by_reach = 2 * torch.pi**2 * peak * sphere_slope(square)  # by (N_j delta_j), divided by it
    return amplitude, by_reach * n * n * delta, amplitude / n + by_reach * n * delta**2
