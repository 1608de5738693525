"""The local quadratic model of a loss, and what follows from it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Quadratic(NamedTuple):
    """value (), gradient (n,) and curvature (n, n), the Fisher information J^T W J, of a loss at some z."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor

    def __add__(self, other: "Quadratic") -> "Quadratic":  # type: ignore[override]
        return Quadratic(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def zero(cls, like: Tensor) -> "Quadratic":
        """Nothing yet, for a z like (n,)."""
        n = len(like)
        return cls(like.new_zeros(()), like.new_zeros(n), like.new_zeros(n, n))


def condition(curvature: Tensor) -> tuple[float, Tensor]:
    """Condition number of the curvature (n, n) scaled to a unit diagonal, and the unit vector (n,) of the scaled
    parameters it determines least; infinite where a parameter has no effect."""
    scale = torch.sqrt(torch.diagonal(curvature))
    if not bool((scale > 0).all()):
        return float("inf"), (scale <= 0).to(curvature) / (scale <= 0).sum().sqrt()
    values, vectors = torch.linalg.eigh(curvature / (scale[:, None] * scale))
    return (float(values[-1] / values[0]) if values[0] > 0 else float("inf")), vectors[:, 0]
