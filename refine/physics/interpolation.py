"""Structure factors between the reflections."""

import torch
from torch import Tensor

STENCIL = 4


def lagrange_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (...) of the nodes -1, 0, 1, 2 in the cubic through them, at t (...) from 0 to 1 (Abramowitz & Stegun
    25.2.13)."""
    below, above, beyond = t + 1, t - 1, t - 2
    return (-t * above * beyond / 6, below * above * beyond / 2, -below * t * beyond / 2, below * t * above / 6)


def tricubic(indices: Tensor, amplitude: Tensor, lowest: Tensor) -> Tensor:
    """F (...) at fractional Miller indices: the cubic through four reflections along each axis, differentiable.

    Args:
        indices: (3, ...) h, k, l, no nearer to the box's ends than its stencil reaches.
        amplitude: (H, K, L) dense box of F, at least four reflections along each axis.
        lowest: (3,) the indices of the box's first entry.

    The value is continuous, its slope jumps at whole indices. Source: nanoBragg.c, polin3.
    """
    floors = indices.detach().floor()
    corner = [(floors[j] - 1 - lowest[j]).clamp(0, size - STENCIL).long() for j, size in enumerate(amplitude.shape)]
    by_h, by_k, by_l = (lagrange_weights(indices[j] - floors[j]) for j in range(3))
    row, column = amplitude.shape[1], amplitude.shape[2]
    flat = amplitude.reshape(-1)
    start = (corner[0] * row + corner[1]) * column + corner[2]
    total = torch.zeros_like(indices[0])
    for i, along_h in enumerate(by_h):
        plane = torch.zeros_like(total)
        for j, along_k in enumerate(by_k):
            line = torch.zeros_like(total)
            for k, along_l in enumerate(by_l):
                line = line + along_l * flat[start + ((i * row + j) * column + k)]
            plane = plane + along_k * line
        total = total + along_h * plane
    return total
