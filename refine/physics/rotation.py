"""Rotations as 3 x 3 matrices; right-handed, acting on column vectors."""

import torch
from torch import Tensor


def cross_matrix(vector: Tensor) -> Tensor:
    """Matrices (..., 3, 3) of the cross product with vectors (..., 3)."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)


def axis_rotation(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations (..., 3, 3) by angles (...) in radians about unit axes (..., 3) (Rodrigues' formula)."""
    k = cross_matrix(axis)
    angle = angle[..., None, None]
    return torch.eye(3, dtype=axis.dtype, device=axis.device) + torch.sin(angle) * k + (1 - torch.cos(angle)) * k @ k


def vector_rotation(vector: Tensor) -> Tensor:
    """Rotation (3, 3) by a rotation vector (3,) in radians; smooth to every order at zero."""
    return torch.linalg.matrix_exp(cross_matrix(vector))


def rotation_vector(rotation: Tensor) -> Tensor:
    """Rotation vector (3,) in radians of a rotation (3, 3) by less than half a turn; for reports, not for gradients."""
    cosine = ((rotation.trace() - 1) / 2).clamp(-1, 1)
    skew = (rotation - rotation.T) / 2
    sine_axis = torch.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    sine = torch.linalg.vector_norm(sine_axis)
    return sine_axis * torch.where(sine > 1e-12, torch.atan2(sine, cosine) / sine.clamp_min(1e-300), 1.0)


def misset_rotation(misset_deg: Tensor) -> Tensor:
    """Rotation (3, 3) about lab x, then y, then z by the angles (3,) in degrees (nanoBragg's -misset)."""
    axes = torch.eye(3, dtype=misset_deg.dtype, device=misset_deg.device)
    x, y, z = axis_rotation(axes, torch.deg2rad(misset_deg)).unbind()
    return z @ y @ x


def misset_angles(rotation: Tensor) -> Tensor:
    """Angles (3,) in degrees about lab x, y, z whose `misset_rotation` is the rotation (3, 3); y within +-90."""
    x = torch.atan2(rotation[2, 1], rotation[2, 2])
    y = torch.atan2(-rotation[2, 0], torch.sqrt(rotation[0, 0] ** 2 + rotation[1, 0] ** 2))
    z = torch.atan2(rotation[1, 0], rotation[0, 0])
    return torch.rad2deg(torch.stack([x, y, z]))
