"""The local quadratic model of a loss, and what follows from it."""

from typing import NamedTuple

import torch
from torch import Tensor


class Quadratic(NamedTuple):
    """value (), gradient (n,) and curvature (n, n), the Fisher information J^T W J, of a loss at some z; and the
    expected photons (P,) there, where it has been made from an image."""

    value: Tensor
    gradient: Tensor
    curvature: Tensor
    image: Tensor | None = None

    def __add__(self, other: "Quadratic") -> "Quadratic":  # type: ignore[override]
        """Their sum, for which the image of either stands."""
        value, gradient, curvature = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return Quadratic(value, gradient, curvature, other.image if self.image is None else self.image)

    def through(self, jacobian: Tensor) -> "Quadratic":
        """As a function of other numbers (m,), by which those it has change as the Jacobian (n, m) says."""
        gradient, curvature = self.gradient @ jacobian, jacobian.T @ self.curvature @ jacobian
        return self._replace(gradient=gradient, curvature=curvature)

    @classmethod
    def zero(cls, like: Tensor) -> "Quadratic":
        """Nothing yet, for a z like (n,)."""
        n = len(like)
        return cls(like.new_zeros(()), like.new_zeros(n), like.new_zeros(n, n))


class Spectrum(NamedTuple):
    """Eigenvalues (n,), ascending, and eigenvectors (n, n), in columns, of a curvature scaled to a unit diagonal;
    scale (n,) the roots of that diagonal."""

    values: Tensor
    vectors: Tensor
    scale: Tensor

    @property
    def condition(self) -> float:
        """Condition number, which no change of units changes; infinite where a parameter has no effect."""
        return float(self.values[-1] / self.values[0]) if self.values[0] > 0 else float("inf")

    @property
    def determined(self) -> Tensor:
        """Which eigenvectors (n,) the data determine: the others are zero to rounding."""
        return self.values > self.values[-1] / SINGULAR


SINGULAR = 1e13  # condition number above which a combination is not determined at all; rounding gives about 1e16


def spectrum(curvature: Tensor) -> Spectrum:
    """How well a curvature (n, n) determines the combinations of its parameters."""
    scale = torch.sqrt(torch.diagonal(curvature).clamp_min(0.0))
    safe = torch.where(scale > 0, scale, 1.0)
    values, vectors = torch.linalg.eigh(curvature / (safe[:, None] * safe))
    return Spectrum(values, vectors, safe)


def covariance(curvature: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse (n, n) of a curvature over what it determines, and which coordinates (n,) take part in what it does
    not: their variance is unknown."""
    values, vectors, scale = found = spectrum(curvature)
    known = found.determined
    directions = vectors[:, known] / scale[:, None]
    return directions / values[known] @ directions.T, (vectors[:, ~known].abs() > 1e-6).any(1)
