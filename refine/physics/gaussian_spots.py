"""Reflections of a Gaussian mosaic one by one, in reciprocal space: where each is, how it is spread, how high it is.

The distribution of `refine.physics.gaussian_mosaic`, C in Miller indices, is in reciprocal space
    C_q = B C B^T = B D B^T + [q]x S [q]x^T + (bandwidth q)(bandwidth q)^T + divergence,
B the reciprocal matrix, about the reflection's place q_n. A pixel at q has exp(-(q - q_n)^T C_q^-1 (q - q_n) / 2) of
the reflection's height, P^2 sqrt(det B D B^T / det C_q) of one of unit |F|.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.cell import reciprocal_vectors
from refine.physics.gaussian_mosaic import Blur
from refine.physics.lattice import GAUSS_WIDTH
from refine.physics.vectors import dot

PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
ON_SPHERE = 4  # passes; each multiplies what is left of the distance by about |q - q_n| / |s|


class GaussianSpots(NamedTuple):
    """centres (R, 3) q_n in 1/Å; covariances (R, 3, 3) C_q in 1/Å^2; log_heights (R,) for unit |F|."""

    centres: Tensor
    covariances: Tensor
    log_heights: Tensor

    def packed(self) -> Tensor:
        """(R, 10): the centre, the covariance's six numbers in the order of `PAIRS`, the logarithm of the height."""
        six = torch.stack([self.covariances[:, i, j] for i, j in PAIRS], 1)
        return torch.cat([self.centres, six, self.log_heights[:, None]], 1)


def gaussian_spots(
    indices: Tensor, real_space: Tensor, cells: Tensor, blur: Blur, recorded: Tensor | None = None
) -> GaussianSpots:
    """The reflections of indices (R, 3) of gauss-shaped crystals of N = `cells` (3,), rows a, b, c of `real_space`
    (3, 3) in Å. recorded: further causes of spread (R, k, 3), standard deviations in 1/Å."""
    reciprocal = reciprocal_vectors(real_space)
    centres = indices @ reciprocal.T
    sharp = (reciprocal * (GAUSS_WIDTH / 4 / cells**2)) @ reciprocal.T
    turned = torch.linalg.cross(blur.rotations.T[None], centres[:, None], dim=2)
    coloured = (centres * blur.bandwidth)[:, None]
    every = [turned, coloured, blur.divergence.expand(len(centres), -1, 3)]  # (R, k, 3)
    causes = torch.cat(every if recorded is None else [*every, recorded], 1)
    covariances = sharp + causes.mT @ causes
    heights = 2 * torch.log(cells).sum() + (torch.logdet(sharp) - torch.logdet(covariances)) / 2
    return GaussianSpots(centres, covariances, heights)


class Profiles(NamedTuple):
    """values (K, P) of K spots at P scattering vectors each, height included, and pulls (3, K, P), C_q^-1 (q - q_n)."""

    values: Tensor
    pulls: Tensor

    def slopes(self) -> Tensor:
        """Derivatives (K, 10, P) of log(values) by the spots' packed numbers, the height's own decrease with the
        covariance apart, which is in the log_heights."""
        x, y, z = self.pulls
        squares = [x * x / 2, y * y / 2, z * z / 2, x * y, x * z, y * z]
        return torch.stack([x, y, z, *squares, torch.ones_like(x)], 1)


def profiles(spots: GaussianSpots, scattering: Tensor) -> Profiles:
    """K spots at scattering vectors (3, K, P) in 1/Å."""
    away = scattering - spots.centres.T[:, :, None]
    inverse = torch.linalg.inv(spots.covariances)
    pulls = torch.einsum("kij,jkp->ikp", inverse, away)
    return Profiles(torch.exp(spots.log_heights[:, None] - dot(pulls, away) / 2), pulls)


class Reflected(NamedTuple):
    """rays (3, R), unit vectors along which the photons of R spots leave, those of a spot's middle; distances (R,) of
    the Ewald sphere from the spots' centres, in their standard deviations."""

    rays: Tensor
    distances: Tensor


def reflected(spots: GaussianSpots, beam: Tensor, wavelength: Tensor) -> Reflected:
    """Where spots meet the Ewald sphere, for a beam along the unit vector (3,), wavelength () in Å.

    The middle of what the sphere cuts out of a Gaussian is its densest point on it, q_n - C u e / (u^T C u) where the
    sphere is a plane of normal u at the distance e; the passes follow it where it is bent.
    """
    radius = 1 / wavelength
    at = spots.centres
    for _ in range(ON_SPHERE):
        ray = beam * radius + at
        length = torch.linalg.vector_norm(ray, dim=1, keepdim=True)
        normal = ray / length
        spread = (spots.covariances @ normal[:, :, None])[:, :, 0]
        variance = (normal * spread).sum(1, keepdim=True)
        distance = ((spots.centres - at) * normal).sum(1, keepdim=True) + length - radius
        at = spots.centres - spread * distance / variance
    sigmas, rays = (distance / torch.sqrt(variance))[:, 0], beam * radius + at
    return Reflected((rays / torch.linalg.vector_norm(rays, dim=1, keepdim=True)).T, sigmas)
