"""The shapes a crystal may have: the amplitude of its lattice transform about a reflection.

delta (3, ...) is the distance of h, k, l from the nearest whole index, N (3, ...) the unit cells along a, b, c.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.lattice import AXES, AxisFactor
from refine.physics.round_lattice import ellipsoid, ellipsoid_slopes

TOPHAT_EDGE = 0.3969  # nanoBragg.c: 0.63^2, the height and volume of the square crystal's spots


class Shape(NamedTuple):
    """Amplitudes (...) of delta (3, ...) and N (3, ...): with derivatives of every order; the value alone; and the
    value with its first derivatives (3, ...) by delta and by N written out."""

    smooth: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor, Tensor], Tensor]
    slopes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def _block(axis: AxisFactor) -> Shape:
    """A block of cells: the product of a factor along each axis."""

    def slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        factor, by_delta, by_n = axis.slopes(delta, n)
        others = torch.stack([factor[1] * factor[2], factor[2] * factor[0], factor[0] * factor[1]])
        return others[0] * factor[0], others * by_delta, others * by_n

    return Shape(lambda d, n: axis.smooth(d, n).prod(0), lambda d, n: axis.value(d, n).prod(0), slopes)


def tophat(delta: Tensor, n: Tensor) -> Tensor:
    """N1 N2 N3 inside the ellipsoid sum (N_j delta_j)^2 < 0.63^2, 0 outside: spots with a sharp edge.

    Its derivatives by delta are 0 wherever they exist, so it can tell nothing of cell or orientation.
    """
    return n.prod(0) * (((n * delta) ** 2).sum(0) < TOPHAT_EDGE)


def _tophat_slopes(delta: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    amplitude = tophat(delta, n)
    return amplitude, torch.zeros_like(delta), amplitude / n


SHAPES = {
    **{name: _block(axis) for name, axis in AXES.items()},
    "round": Shape(ellipsoid, ellipsoid, ellipsoid_slopes),
    "tophat": Shape(tophat, tophat, _tophat_slopes),
}
