"""Prior knowledge of physical values, as residuals beside the image's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from refine.errors import InputError
from refine.parameters.jacobian import jacobian
from refine.parameters.space import ParameterSpace
from refine.problem.quadratic import Quadratic


@dataclass(frozen=True)
class Restraint:
    """Values (k,) of one parameter, by its name, expected at `target` within the standard deviations `sigma` (k,)."""

    parameter: str
    target: Tensor
    sigma: Tensor


def restraint_residuals(space: ParameterSpace, restraints: tuple[Restraint, ...], z: Tensor) -> Tensor:
    """(value - target) / sigma of all restraints (m,); they add half their sum of squares to the loss.

    Raises InputError where a restrained parameter is not free.
    """
    if unknown := {r.parameter for r in restraints} - {p.name for p in space.parameters}:
        raise InputError(f"a restraint on {sorted(unknown)}, which is not refined; free it, or leave the restraint out")
    values = {p.name: p.read(part) for p, part in zip(space.parameters, space.split(z), strict=True)}
    return torch.cat([z.new_zeros(0), *((values[r.parameter] - r.target) / r.sigma for r in restraints)])


def restraint_quadratic(space: ParameterSpace, restraints: tuple[Restraint, ...], z: Tensor) -> Quadratic:
    """Their value, gradient and Gauss-Newton curvature at z."""
    if not restraints:
        return Quadratic.zero(z)
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        value = restraint_residuals(space, restraints, at)
        rates = jacobian(value, at)
    value = value.detach()
    return Quadratic(value @ value / 2, value @ rates, rates.T @ rates)
