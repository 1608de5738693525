"""The quadratic model of a sum, part by part."""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from refine.solvers.arrow import Arrow
from refine.solvers.protocol import Quadratic


@dataclass(frozen=True)
class Parted:
    """A quadratic of z (n,) that is the sum of k quadratics, each of the coordinates it sees.

    values (k,), gradients (k, s + m) and curvature of the parts, as an `Arrow` has them.
    """

    values: Tensor
    gradients: Tensor
    arrow: Arrow

    @property
    def value(self) -> Tensor:
        """()"""
        return self.values.sum()

    @cached_property
    def gradient(self) -> Tensor:
        """(n,)"""
        return self.arrow.summed(self.gradients)

    @property
    def curvature(self) -> Tensor:
        """(n, n), made anew whenever it is asked for."""
        return self.arrow.dense()


def parted(quadratic: Quadratic) -> Parted:
    """Any quadratic: itself where it has parts, otherwise its only part."""
    if isinstance(quadratic, Parted):
        return quadratic
    return Parted(quadratic.value[None], quadratic.gradient[None], Arrow.whole(quadratic.curvature))
