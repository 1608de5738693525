"""The lattice transform of an ellipsoidal crystal."""

import torch
from torch import Tensor

SPHERE_IN_CUBE = 0.723601254558268  # nanoBragg.c: root of the volume ratio that keeps the square crystal's intensity
_SERIES = 0.1  # x^2 below which the series is exact to rounding


def sphere(square: Tensor) -> Tensor:
    """3 (sin x - x cos x) / x^3 (...) of x^2: the form factor of a ball (Rayleigh, Proc. R. Soc. A 84, 25, 1911).

    A function of x^2, so that its derivatives of every order are finite at zero.
    """
    near = square < _SERIES
    s = torch.where(near, square, torch.zeros_like(square))
    series = 1 - s / 10 * (1 - s / 28 * (1 - s / 54 * (1 - s / 88 * (1 - s / 130 * (1 - s / 180)))))
    away = torch.where(near, torch.ones_like(square), square)
    x = torch.sqrt(away)
    return torch.where(near, series, 3 * (torch.sin(x) / x - torch.cos(x)) / away)


def ellipsoid(delta: Tensor, cells: Tensor, fudge: float = 1.0) -> Tensor:
    """Amplitude (...) of an ellipsoid of N1 x N2 x N3 cells.

    Args:
        delta: (3, ...) distance of h, k, l from the nearest whole index.
        cells: (3,) N along each axis.
        fudge: factor on the squared argument, nanoBragg.c's -fudge.
    """
    reach = ((delta * cells.reshape(3, *[1] * (delta.dim() - 1))) ** 2).sum(0)
    return SPHERE_IN_CUBE * cells.prod() * sphere(torch.pi**2 * fudge * reach)
