"""The lattice transform along one axis of a crystal that is a block of cells.

The amplitude of a block of N1 x N2 x N3 cells is a product of three axis factors f(delta, N), where delta is the
distance of a fractional Miller index from the nearest integer. Written in delta, not in h: sin(pi h) at h near 45
has lost five digits that sin(pi delta) keeps (it is the same number for whole N, and the only sensible one else).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

GAUSS_WIDTH = 0.63  # nanoBragg.c: makes the gaussian's integral and width those of the square crystal's main peak
_SERIES = 0.3  # |x| below which the series of sin(x)/x is exact to rounding
_CANCELLING = 0.03  # |N u| below which the closed form of the square factor's slope has lost three digits
_NUDGE = 1e-30  # added to an angle: 0/0 becomes the limit, and no other number changes


class AxisFactor(NamedTuple):
    """A shape: its axis factor f(delta, N) with derivatives of every order, the same for its value alone, and with
    its first derivatives by delta and by N written out."""

    smooth: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def sinc(x: Tensor) -> Tensor:
    """sin(x) / x with exact derivatives of every order at and near zero (torch.sinc's lose digits there)."""
    y = x * x
    series = 1 - y / 6 * (1 - y / 20 * (1 - y / 42 * (1 - y / 72 * (1 - y / 110 * (1 - y / 156 * (1 - y / 210))))))
    near = x.abs() < _SERIES
    away = torch.where(near, torch.ones_like(x), x)
    return torch.where(near, series, torch.sin(away) / away)


def square(delta: Tensor, n: Tensor) -> Tensor:
    """sin(pi N delta) / sin(pi delta) for a row of N cells: a parallelepiped's factor (Laue)."""
    return n * sinc(torch.pi * n * delta) / sinc(torch.pi * delta)


def square_value(delta: Tensor, n: Tensor) -> Tensor:
    """`square`, not for differentiation: derivatives at delta = 0 would be 0/0."""
    u = delta * torch.pi + _NUDGE
    return torch.sin(n * u) / torch.sin(u)


def square_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`square` and its derivatives by delta and by N, by hand.

    f' = pi (N cos(N u) - f cos(u)) / sin(u), u = pi delta, cancels to nothing at small N u; there it is f times the
    series of pi (N cot(N u) - cot(u)).
    """
    u = delta * torch.pi + _NUDGE
    v = n * u
    sin_u, cos_v = torch.sin(u), torch.cos(v)
    f = torch.sin(v) / sin_u
    slope = (n * cos_v - f * torch.cos(u)) / sin_u
    slope = torch.where(v.abs() < _CANCELLING, f * _cotangent_difference(u, n), slope)
    return f, torch.pi * slope, u * cos_v / sin_u


def _cotangent_difference(u: Tensor, n: Tensor) -> Tensor:
    """N cot(N u) - cot(u) by its Laurent series, the poles cancelled (Abramowitz & Stegun 4.3.70)."""
    u2, n2 = u * u, n * n
    c1, c2, c3, c4 = ((1 - n2**k) * c for k, c in ((1, 1 / 3), (2, 1 / 45), (3, 2 / 945), (4, 1 / 4725)))
    return u * (c1 + u2 * (c2 + u2 * (c3 + u2 * c4)))


def gauss(delta: Tensor, n: Tensor) -> Tensor:
    """N exp(-(N delta)^2 / 0.63): smooth, without side lobes; the width in units of the fringe, as for `square`.

    nanoBragg.c's own -gauss_xtal takes |delta in 1/Å| N1 N2 N3 for the argument, which is no length scale.
    """
    return n * torch.exp(-((n * delta) ** 2) / GAUSS_WIDTH)


def gauss_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`gauss` and its derivatives by delta and by N, by hand."""
    x2 = (n * delta) ** 2
    bell = torch.exp(-x2 / GAUSS_WIDTH)
    return n * bell, -2 / GAUSS_WIDTH * n**3 * delta * bell, (1 - 2 / GAUSS_WIDTH * x2) * bell


AXES = {"square": AxisFactor(square, square_value, square_slopes), "gauss": AxisFactor(gauss, gauss, gauss_slopes)}
