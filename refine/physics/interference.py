"""The sum over the crystal's steps: the reference, in the order of the equation, differentiable to any order.

I(q) = mean over steps of |F|^2 L(h), h_j = (R a_j) . q, L the squared amplitude of the crystal's shape, F that of the
nearest whole h or interpolated at h; q in 1/Å, a_j in Å, a step = one rotation R (mosaic domain and phi).
"""

from dataclasses import dataclass

from torch import Tensor

from refine.physics.interpolation import interpolated_intensity
from refine.physics.mosaic import step_rotations
from refine.physics.shapes import SHAPES
from refine.physics.structure_factor import nearest_intensity


@dataclass(frozen=True)
class Steps:
    """What the sum holds fixed: nothing here is refined.

    axes, fractions: (D, 3), (D,) mosaic domains; spindle: (3,) unit vector; phi_steps: K;
    intensity, lowest: the |F|^2 box of `nearest_intensity`; shape: a key of SHAPES;
    amplitude: the same box of F, where F is interpolated (`interpolated_intensity`).
    """

    axes: Tensor
    fractions: Tensor
    spindle: Tensor
    phi_steps: int
    intensity: Tensor
    lowest: Tensor
    shape: str
    amplitude: Tensor | None = None


def interference(
    scattering: Tensor, real_space: Tensor, cells: Tensor, angles: Tensor, steps: Steps, weights: Tensor | None = None
) -> Tensor:
    """Interference function (Q,), electrons^2, or with weights its weighted sums (P,).

    Args:
        scattering: (3, Q) q in 1/Å.
        real_space: (3, 3) rows a, b, c in Å at phi = 0, lab frame.
        cells: (3,) N, unit cells along a, b, c.
        angles: (3,) mosaic spread, phi0, osc in radians.
        weights: (R, P) of the R rays (sub-pixels times incident rays) that reach each of P pixels, Q = R P.
    """
    indices = step_indices(scattering, real_space, angles, steps)
    nearest = indices.round()
    lattice = SHAPES[steps.shape].smooth(indices - nearest, cells[:, None, None])
    if steps.amplitude is None:
        weight = nearest_intensity(nearest, steps.intensity, steps.lowest)
    else:
        weight = interpolated_intensity(indices, steps.intensity, steps.amplitude, steps.lowest)
    points = (weight * lattice**2).mean(0)
    return points if weights is None else (points.reshape(weights.shape) * weights).sum(0)


def step_indices(scattering: Tensor, real_space: Tensor, angles: Tensor, steps: Steps) -> Tensor:
    """Fractional Miller indices (3, M, Q) of scattering vectors in every step's lattice; arguments as above."""
    rotations = step_rotations(angles, steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
    vectors = (real_space @ rotations.mT).transpose(0, 1)  # (3, M, 3): R_m a_j
    return (vectors.reshape(-1, 3) @ scattering).reshape(3, -1, scattering.shape[1])
