"""From a place on the detector to the scattering vector that reaches it."""

import torch
from torch import Tensor

from refine.physics.vectors import dot


def rays(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (3, ...) from the sample to positions (3, ...), and their distances (...) in the same unit."""
    distance = torch.sqrt(dot(positions, positions))  # torch.linalg.vector_norm along dim 0 is ten times slower
    return positions / distance, distance


def scattering_vectors(ray: Tensor, directions: Tensor, wavelengths: Tensor) -> Tensor:
    """q = (d - s) / lambda (3, W, ...) in 1/Å for rays d (3, ...), unit directions s (W, 3) of the incident rays and
    their wavelengths (W,) in Å."""
    ones = [1] * (ray.dim() - 1)
    wavenumbers = 1 / wavelengths
    incident = (directions.T * wavenumbers).reshape(3, -1, *ones)
    return torch.addcmul(-incident, ray[:, None], wavenumbers.reshape(-1, *ones))
