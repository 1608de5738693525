"""A crystal whose parts are turned by a continuous Gaussian distribution of small rotations, summed in closed form.

A gauss-shaped crystal has the intensity P^2 exp(-delta^T D^-1 delta / 2) about the reflection n, with delta = h - n,
P = N1 N2 N3 and D = diag(0.63 / (4 N_j^2)). A small rotation w moves the reflection's place q_n to q_n + w x q_n, hence
delta_j by -(a_j x q_n) . w. Averaged over w of covariance S, to first order in w, D becomes
    C = D + U S U^T,   U_j = a_j x q_n,
and the height falls by sqrt(det D / det C): in reciprocal space the covariance sigma^2 I + [q]x S [q]x^T. A rotation
that brings a reflection onto the Ewald sphere is correlated with those that move its spot, which is why S has all six
components. A Gaussian spectrum and divergence add columns to U in the same way: -n times dlambda/lambda, and
a_j . ds / lambda. All of it holds while sqrt(C_jj) is a fraction of 1: beyond, neighbours overlap, and only the nearest
is taken.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.interference import Steps
from refine.physics.lattice import GAUSS_WIDTH
from refine.physics.mosaic import step_rotations
from refine.physics.structure_factor import nearest_intensity


class Blur(NamedTuple):
    """What spreads a reflection, as standard deviations.

    rotations: (3, 3) L with L L^T = S, radians, lab axes. bandwidth: () of dlambda / lambda.
    divergence: (k, 3) changes of s / lambda, 1/Å, one row a direction in which the beam diverges.
    """

    rotations: Tensor
    bandwidth: Tensor
    divergence: Tensor


def gaussian_interference(
    scattering: Tensor, real_space: Tensor, cells: Tensor, blur: Blur, angles: Tensor, steps: Steps
) -> Tensor:
    """Interference function (Q,), electrons^2, of gauss-shaped crystals; the other arguments as for
    `refine.physics.interference.interference`, whose steps are then those of phi alone. One reflection a point: the
    nearest."""
    vectors, indices = _step_indices(scattering, real_space, angles, steps)
    nearest = indices.round()
    sharp = GAUSS_WIDTH / 4 / cells**2
    determinant, form = _determinant_and_form(sharp, _columns(vectors, nearest, blur), indices - nearest)
    profile = torch.sqrt(sharp.prod() / determinant) * torch.exp(-form / (2 * determinant))
    return (nearest_intensity(nearest, steps.intensity, steps.lowest) * cells.prod() ** 2 * profile).mean(0)


def reflection_widths(
    scattering: Tensor, real_space: Tensor, cells: Tensor, blur: Blur, angles: Tensor, steps: Steps
) -> Tensor:
    """Standard deviations sqrt(C_jj) (3, Q) of h, k, l at the nearest reflections, in the first step."""
    vectors, indices = _step_indices(scattering, real_space, angles, steps)
    columns = _columns(vectors, indices.round(), blur)[:, :, 0]
    return torch.sqrt((columns**2).sum(1) + (GAUSS_WIDTH / 4 / cells**2)[:, None])


def _step_indices(scattering: Tensor, real_space: Tensor, angles: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
    """Vectors R_m a_j (3, M, 3) of every step, and fractional indices (3, M, Q)."""
    rotations = step_rotations(angles, steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
    vectors = (real_space @ rotations.mT).transpose(0, 1)
    return vectors, (vectors.reshape(-1, 3) @ scattering).reshape(3, -1, scattering.shape[1])


def _columns(vectors: Tensor, nearest: Tensor, blur: Blur) -> Tensor:
    """Changes (3, k, M, Q) of h for one standard deviation of each of k causes, at the reflections (3, M, Q)."""
    reciprocal = torch.linalg.inv(vectors.transpose(0, 1))  # (M, 3, 3): columns a*, b*, c*
    centres = torch.einsum("mcj,jmq->cmq", reciprocal, nearest)
    along = vectors.transpose(1, 2)[..., None].expand(-1, -1, -1, nearest.shape[2])  # (3, 3, M, Q)
    turned = torch.linalg.cross(along, centres.expand_as(along), dim=1)
    by_rotation = torch.einsum("jcmq,ck->jkmq", turned, blur.rotations)
    by_colour = (nearest * blur.bandwidth)[:, None]
    by_direction = (vectors @ blur.divergence.T).transpose(1, 2)[..., None].expand(-1, -1, -1, nearest.shape[2])
    return torch.cat([by_rotation, by_colour, by_direction], 1)


def _determinant_and_form(sharp: Tensor, columns: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """det C (M, Q) and delta^T adj(C) delta (M, Q) of C = diag(sharp) + columns columns^T, by cofactors."""
    c = {
        (i, j): (columns[i] * columns[j]).sum(0) + (sharp[i] if i == j else 0.0) for i in range(3) for j in range(i, 3)
    }
    xx, yy, zz = (
        c[1, 1] * c[2, 2] - c[1, 2] ** 2,
        c[0, 0] * c[2, 2] - c[0, 2] ** 2,
        c[0, 0] * c[1, 1] - c[0, 1] ** 2,
    )
    xy, xz, yz = (
        c[0, 2] * c[1, 2] - c[0, 1] * c[2, 2],
        c[0, 1] * c[1, 2] - c[0, 2] * c[1, 1],
        c[0, 1] * c[0, 2] - c[0, 0] * c[1, 2],
    )
    determinant = c[0, 0] * xx + c[0, 1] * xy + c[0, 2] * xz
    x, y, z = delta.unbind()
    return determinant, xx * x * x + yy * y * y + zz * z * z + 2 * (xy * x * y + xz * x * z + yz * y * z)
