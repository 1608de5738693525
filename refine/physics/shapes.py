"""The shapes a crystal may have: the amplitude of its lattice transform about a reflection.

delta (3, ...) is the distance of h, k, l from the nearest whole index, N (3, ...) the unit cells along a, b, c.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics import lattice
from refine.physics.lattice import GAUSS_WIDTH
from refine.physics.round_lattice import ellipsoid, ellipsoid_slopes

TOPHAT_EDGE = 0.3969  # nanoBragg.c: 0.63^2, the height and volume of the square crystal's spots


Axes = tuple[Tensor, ...]  # one (...) for each of a, b, c


class Shape(NamedTuple):
    """Amplitudes (...) of delta (3, ...) and N (3, ...): with derivatives of every order; the value alone; and the
    value with its first derivatives by delta and by N written out. The last two are for intensities: their sign,
    one for all, is not always kept (see `refine.physics.trigonometry.angle`)."""

    smooth: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Axes, Axes]]


def square(delta: Tensor, n: Tensor) -> Tensor:
    """A block of cells: the product of `refine.physics.lattice.square` along each axis."""
    return lattice.square(delta, n).prod(0)


def _square_value(delta: Tensor, n: Tensor) -> Tensor:
    (a, x), (b, y), (c, z) = map(lattice.square_fraction, delta.unbind(), n.unbind())
    return (a * b * c) / (x * y * z)


def _square_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Axes, Axes]:
    """Axis by axis and unstacked: so the compiler keeps the terms in registers."""
    (f, *f_by), (g, *g_by), (h, *h_by) = map(lattice.square_slopes, delta.unbind(), n.unbind())
    gh, hf, fg = g * h, h * f, f * g
    by_delta, by_n = zip(*([gh * x for x in f_by], [hf * x for x in g_by], [fg * x for x in h_by]), strict=True)
    return gh * f, by_delta, by_n


def gauss(delta: Tensor, n: Tensor) -> Tensor:
    """N1 N2 N3 exp(-sum (N_j delta_j)^2 / 0.63): the product of `refine.physics.lattice.gauss` along each axis."""
    return n.prod(0) * torch.exp(((n * delta) ** 2).sum(0) / -GAUSS_WIDTH)


def _gauss_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Axes, Axes]:
    amplitude = gauss(delta, n)
    rate = -2 / GAUSS_WIDTH * amplitude
    pairs = list(zip(delta.unbind(), n.unbind(), strict=True))
    by_delta = tuple(rate * (k * k * d) for d, k in pairs)
    return amplitude, by_delta, tuple(amplitude / k + rate * (k * d * d) for d, k in pairs)


def tophat(delta: Tensor, n: Tensor) -> Tensor:
    """N1 N2 N3 inside the ellipsoid sum (N_j delta_j)^2 < 0.63^2, 0 outside: spots with a sharp edge.

    Its derivatives by delta are 0 wherever they exist, so it can tell nothing of cell or orientation.
    """
    return n.prod(0) * (((n * delta) ** 2).sum(0) < TOPHAT_EDGE)


def _tophat_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Axes, Axes]:
    amplitude = tophat(delta, n)
    nothing = torch.zeros_like(amplitude)
    return amplitude, (nothing,) * 3, tuple(amplitude / k for k in n.unbind())


def _ellipsoid_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Axes, Axes]:
    amplitude, by_delta, by_n = ellipsoid_slopes(delta, n)
    return amplitude, by_delta.unbind(), by_n.unbind()


SHAPES = {
    "square": Shape(square, _square_value, _square_slopes),
    "gauss": Shape(gauss, gauss, _gauss_slopes),
    "round": Shape(ellipsoid, ellipsoid, _ellipsoid_slopes),
    "tophat": Shape(tophat, tophat, _tophat_slopes),
}
