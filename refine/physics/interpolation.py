"""Structure factors between the reflections."""

from collections.abc import Callable

import torch
from torch import Tensor

from refine.physics.structure_factor import nearest_intensity

STENCIL = 4

Weights = tuple[Tensor, Tensor, Tensor, Tensor]
Node = Callable[[int, int, int], Tensor]


def interpolated_intensity(indices: Tensor, intensity: Tensor, amplitude: Tensor, lowest: Tensor) -> Tensor:
    """|F|^2 (...) at fractional Miller indices (3, ...): F by `tricubic` where the list reaches all around its stencil,
    that of the nearest reflection elsewhere.

    Args:
        intensity, amplitude: (H, K, L) |F|^2 and F of one dense box, the list with a layer around it that holds the
            value for everything outside.
        lowest: (3,) the indices of the box's first entry.
    """
    nearest = nearest_intensity(indices.round(), intensity, lowest)
    return torch.where(_within(indices, amplitude, lowest), tricubic(indices, amplitude, lowest) ** 2, nearest)


def interpolated_intensity_slopes(
    indices: Tensor, intensity: Tensor, amplitude: Tensor, lowest: Tensor
) -> tuple[Tensor, Tensor]:
    """`interpolated_intensity` (...) and its derivatives (3, ...) by h, k, l, by hand."""
    within = _within(indices, amplitude, lowest)
    f, by_index = tricubic_slopes(indices, amplitude, lowest)
    value = torch.where(within, f * f, nearest_intensity(indices.round(), intensity, lowest))
    return value, torch.where(within, 2 * f * by_index, 0.0)


def _within(indices: Tensor, box: Tensor, lowest: Tensor) -> Tensor:
    """Where (...) the list inside the box reaches two reflections below and above, as nanoBragg.c asks for."""
    sizes = torch.tensor(box.shape).to(lowest)
    shape = (3, *[1] * (indices.dim() - 1))
    offset = indices - lowest.reshape(shape)
    return ((offset >= STENCIL - 1) & (offset <= sizes.reshape(shape) - STENCIL)).all(0)


def lagrange_weights(t: Tensor) -> Weights:
    """Weights (...) of the nodes -1, 0, 1, 2 in the cubic through them, at t (...) from 0 to 1 (Abramowitz & Stegun
    25.2.13)."""
    below, above, beyond = t + 1, t - 1, t - 2
    return (-t * above * beyond / 6, below * above * beyond / 2, -below * t * beyond / 2, below * t * above / 6)


def lagrange_slopes(t: Tensor) -> Weights:
    """Their derivatives (...) by t."""
    square = 3 * t * t
    return ((6 * t - square - 2) / 6, (square - 4 * t - 1) / 2, (2 * t - square + 2) / 2, (square - 1) / 6)


def tricubic(indices: Tensor, amplitude: Tensor, lowest: Tensor) -> Tensor:
    """F (...) at fractional Miller indices: the cubic through four reflections along each axis, differentiable.

    Args:
        indices: (3, ...) h, k, l.
        amplitude: (H, K, L) dense box of F; beyond it every reflection has the F of the box's nearest.
        lowest: (3,) the indices of the box's first entry.

    The value is continuous, its slope jumps at whole indices. Source: nanoBragg.c, polin3.
    """
    node, (t_h, t_k, t_l) = _stencil(indices, amplitude, lowest)
    weights = lagrange_weights(t_h), lagrange_weights(t_k), lagrange_weights(t_l)
    total = torch.zeros_like(indices[0])
    for i, along_h in enumerate(weights[0]):
        plane = torch.zeros_like(total)
        for j, along_k in enumerate(weights[1]):
            line = torch.zeros_like(total)
            for k, along_l in enumerate(weights[2]):
                line = line + along_l * node(i, j, k)
            plane = plane + along_k * line
        total = total + along_h * plane
    return total


def tricubic_slopes(indices: Tensor, amplitude: Tensor, lowest: Tensor) -> tuple[Tensor, Tensor]:
    """`tricubic` (...) and its derivatives (3, ...) by h, k, l, by hand."""
    node, places = _stencil(indices, amplitude, lowest)
    weights, slopes = [lagrange_weights(t) for t in places], [lagrange_slopes(t) for t in places]
    total = torch.zeros_like(indices[0])
    by_h, by_k, by_l = total, total, total
    for i in range(STENCIL):
        plane, plane_k, plane_l = torch.zeros_like(total), torch.zeros_like(total), torch.zeros_like(total)
        for j in range(STENCIL):
            nodes = [node(i, j, k) for k in range(STENCIL)]
            line = sum((w * f for w, f in zip(weights[2], nodes, strict=True)), torch.zeros_like(total))
            line_l = sum((w * f for w, f in zip(slopes[2], nodes, strict=True)), torch.zeros_like(total))
            plane, plane_k = plane + weights[1][j] * line, plane_k + slopes[1][j] * line
            plane_l = plane_l + weights[1][j] * line_l
        total, by_h = total + weights[0][i] * plane, by_h + slopes[0][i] * plane
        by_k, by_l = by_k + weights[0][i] * plane_k, by_l + weights[0][i] * plane_l
    return total, torch.stack([by_h, by_k, by_l])


def _stencil(indices: Tensor, amplitude: Tensor, lowest: Tensor) -> tuple[Node, tuple[Tensor, ...]]:
    """F (...) of a node (i, j, k) of the stencil, 0 to 3 each, and where between the middle ones (...) h, k, l are."""
    floors = indices.detach().floor()
    first = [(floors[j] - 1 - lowest[j]).long() for j in range(3)]
    rows = [
        [(start + i).clamp(0, size - 1) for i in range(STENCIL)]
        for start, size in zip(first, amplitude.shape, strict=True)
    ]
    flat, (_, width, depth) = amplitude.reshape(-1), amplitude.shape

    def node(i: int, j: int, k: int) -> Tensor:
        return flat[(rows[0][i] * width + rows[1][j]) * depth + rows[2][k]]

    return node, tuple((indices - floors).unbind())
