"""Structure-factor intensities on the nearest reflection, and the fall-off with resolution."""

import torch
from torch import Tensor

from refine.physics.vectors import dot


def nearest_intensity(nearest: Tensor, intensity: Tensor, lowest: Tensor) -> Tensor:
    """|F|^2 (...) of whole Miller indices.

    Args:
        nearest: (3, ...) rounded h, k, l, in floating point.
        intensity: (H, K, L) dense box whose outermost layer holds the value for everything outside it.
        lowest: (3,) the indices of the box's first entry.
    """
    if intensity.numel() == 1:
        return intensity.reshape(()).expand(nearest.shape[1:])
    h, k, l = (  # noqa: E741 - the field's own names
        (nearest[j] - lowest[j]).clamp_(0, size - 1) for j, size in enumerate(intensity.shape)
    )
    place = (h * intensity.shape[1] + k) * intensity.shape[2] + l
    return torch.take(intensity, place.long())


def debye_waller(scattering: Tensor, b_factor: Tensor) -> Tensor:
    """Intensity factor exp(-B |q|^2 / 2) (...) for q (3, ...) in 1/Å and B in Å^2; |q| = 2 sin(theta) / lambda."""
    return torch.exp(-0.5 * b_factor * dot(scattering, scattering))
