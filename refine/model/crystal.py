"""The crystal: everything that belongs to the sample and not to the instrument."""

from dataclasses import dataclass

import torch
from torch import Tensor

from refine.physics.cell import real_space_vectors, reciprocal_vectors
from refine.physics.mosaic import mosaic_domains


@dataclass(frozen=True)
class Mosaic:
    """Sampled domains: spread_deg () the largest angle in degrees, axes (D, 3), fractions (D,) of the spread."""

    spread_deg: Tensor
    axes: Tensor
    fractions: Tensor

    @classmethod
    def sampled(cls, spread_deg: Tensor, domains: int = 1, seed: int = -12345678) -> "Mosaic":
        """nanoBragg.c's domains for its -mosaic_seed."""
        axes, fractions = (t.to(spread_deg) for t in mosaic_domains(domains, seed))
        return cls(spread_deg, axes, fractions)


@dataclass(frozen=True)
class GaussianMosaic:
    """A continuous Gaussian distribution of small rotations: covariance L L^T in degrees^2 of `factor` L (3, 3), lab
    axes, as the domains of nanoBragg.c are turned after phi. A factor, so that no value is not positive."""

    factor: Tensor

    @classmethod
    def of(cls, covariance: Tensor) -> "GaussianMosaic":
        """From a positive definite covariance (3, 3) in degrees^2."""
        return cls(torch.linalg.cholesky(covariance))

    @property
    def covariance(self) -> Tensor:
        """(3, 3) degrees^2."""
        return self.factor @ self.factor.T

    @property
    def spread_deg(self) -> Tensor:
        """() The root of the mean variance about one axis, degrees."""
        return torch.sqrt(torch.diagonal(self.covariance).mean())


@dataclass(frozen=True)
class Crystal:
    """A block of unit cells in an orientation.

    cell: (6,) a, b, c in Å and alpha, beta, gamma in degrees.
    orientation: (3, 3) rotation from the canonical frame (a* along x, b* in the x-y plane) to the lab, phi = 0.
    cells: (3,) N, unit cells along a, b, c, at least 1, not necessarily whole.
    shape: a key of refine.physics.shapes.SHAPES: square, round, gauss or tophat.
    mosaic: sampled domains, or, of a gauss-shaped crystal, a continuous distribution.
    b_factor: () Å^2, intensity falls as exp(-B |q|^2 / 2).
    """

    cell: Tensor
    orientation: Tensor
    cells: Tensor
    mosaic: Mosaic | GaussianMosaic
    shape: str
    b_factor: Tensor
    space_group: str = "P 1"

    @property
    def domains(self) -> int:
        """Mosaic domains that are summed one by one."""
        return len(self.mosaic.fractions) if isinstance(self.mosaic, Mosaic) else 1

    @property
    def real_space(self) -> Tensor:
        """Rows a, b, c (3, 3) in Å, lab frame."""
        return real_space_vectors(self.cell) @ self.orientation.T

    @property
    def a_matrix(self) -> Tensor:
        """Columns a*, b*, c* (3, 3) in 1/Å, lab frame."""
        return reciprocal_vectors(self.real_space)

    @classmethod
    def simple(cls, cell: Tensor, orientation: Tensor | None = None, cells: float = 20.0) -> "Crystal":
        """A square crystal of N = `cells` along each axis, without mosaicity."""
        zero = cell.new_zeros(())
        turned = torch.eye(3).to(cell) if orientation is None else orientation
        return cls(cell, turned, cell.new_full((3,), cells), Mosaic.sampled(zero), "square", zero)
