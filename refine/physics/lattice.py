"""The lattice transform along one axis of a crystal that is a block of cells.

The amplitude of a block of N1 x N2 x N3 cells is a product of three axis factors f(delta, N), where delta is the
distance of a fractional Miller index from the nearest integer. Written in delta, not in h: sin(pi h) at h near 45
has lost five digits that sin(pi delta) keeps (it is the same number for whole N, and the only sensible one else).
"""

import torch
from torch import Tensor

from refine.physics.trigonometry import angle, cosine, sine

GAUSS_WIDTH = 0.63  # nanoBragg.c: makes the gaussian's integral and width those of the square crystal's main peak
_SERIES = 0.3  # |x| below which the series of sin(x)/x is exact to rounding
_CANCELLING = {torch.float32: 1e-2, torch.float64: 1e-4}  # |N delta| below which the square factor's slope cancels
_NUDGE = {torch.float32: 1e-12, torch.float64: 1e-30}  # added to delta: 0/0 becomes the limit, nothing else changes


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
    above, below = square_fraction(delta, n)
    return above / below


def square_fraction(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `square`, for a product of several with one division."""
    delta = delta + _NUDGE[delta.dtype]
    return sine(angle(n * delta)), sine(torch.pi * delta)


def square_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`square` and its derivatives by delta and by N, by hand; all three of the opposite sign where `angle` says.

    f' = pi (N cos(N u) - f cos(u)) / sin(u), u = pi delta, cancels to nothing at small N u; there it is
    f u pi (1 - N^2) / 3, the first term of f pi (N cot(N u) - cot(u)) (Abramowitz & Stegun 4.3.70).
    """
    delta = delta + _NUDGE[delta.dtype]
    u, turns = torch.pi * delta, n * delta
    v = angle(turns)
    inverse, cos_v = 1 / sine(u), cosine(v)
    f = sine(v) * inverse
    slope = torch.addcmul(torch.pi * n * cos_v, f, cosine(u), value=-torch.pi) * inverse
    near = f * u * (torch.pi / 3 * (1 - n * n))
    slope = torch.where(turns.abs() < _CANCELLING[delta.dtype], near, slope)
    return f, slope, u * cos_v * inverse


def gauss(delta: Tensor, n: Tensor) -> Tensor:
    """N exp(-(N delta)^2 / 0.63): smooth, without side lobes; the width in units of the fringe, as for `square`.

    nanoBragg.c's own -gauss_xtal takes |delta in 1/Å| N1 N2 N3 for the argument, which is no length scale.
    """
    return n * torch.exp(-((n * delta) ** 2) / GAUSS_WIDTH)
