"""Polarisation of the scattered beam."""

import torch
from torch import Tensor

from refine.physics.vectors import dot


def polarization(incident: Tensor, ray: Tensor, axis: Tensor, kahn: Tensor) -> Tensor:
    """Kahn's factor (...) = (1 + cos^2 2theta - K cos 2psi sin^2 2theta) / 2 (Kahn et al., J. Appl. Cryst. 15, 330,
    1982).

    Args:
        incident, ray: (3, ...) unit vectors along the incident and the diffracted beam, shapes that broadcast.
        axis: (3,) direction of the electric vector; only its part normal to `incident` counts.
        kahn: () K, from -1 to 1; 1 is fully polarised along `axis`, 0 unpolarised.

    cos 2psi sin^2 2theta is the difference of the ray's squared components along the electric and the magnetic
    vector, e^2 - m^2 = 2 e^2 + cos^2 2theta - 1, which has no singularity at the beam.
    """
    axis = axis.reshape(3, *[1] * (incident.dim() - 1))
    magnetic = torch.linalg.cross(axis.expand_as(incident), incident, dim=0)
    magnetic = magnetic / torch.linalg.vector_norm(magnetic, dim=0)
    electric = torch.linalg.cross(incident, magnetic, dim=0)
    along, forward = dot(electric, ray), dot(incident, ray)
    return (1 + kahn + (1 - kahn) * forward * forward) / 2 - kahn * along * along
