"""From a place on the detector to the scattering vector that reaches it."""

import torch
from torch import Tensor


def rays(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors (3, ...) from the sample to positions (3, ...), and their distances (...) in the same unit."""
    distance = torch.sqrt((positions * positions).sum(0))  # torch.linalg.vector_norm along dim 0 is ten times slower
    return positions / distance, distance


def scattering_vectors(ray: Tensor, direction: Tensor, wavelength: Tensor) -> Tensor:
    """q = (d - s) / lambda (3, ...) in 1/Å for rays d (3, ...), the beam's unit direction s (3,) and lambda () in Å."""
    return (ray - direction.reshape(3, *[1] * (ray.dim() - 1))) / wavelength
