"""Can the free parameters be told apart at all?"""

import torch
from torch import Tensor

from refine.errors import InputError
from refine.parameters.space import ParameterSpace
from refine.problem.quadratic import condition

SINGULAR = 1e-9  # relative size of a singular value that counts as zero
ILL_CONDITIONED = 1e8  # of the curvature scaled to a unit diagonal


def require_identifiable(space: ParameterSpace) -> None:
    """Raise InputError where two detector parameters move the panel in the same way, whatever the image.

    All that detector parameters do goes through the panel's frame; its Jacobian at a start without symmetry must
    have full rank. (Two-theta and the rotation about the same axis do not.)
    """
    coordinates = [
        (i, f"{p.name}")
        for p, part in zip(space.parameters, space.split(torch.arange(space.size)), strict=True)
        for i in part.tolist()
        if p.name in ("distance", "beam_center", "twotheta") or p.name.startswith("detector_rotations")
    ]
    if len(coordinates) < 2:
        return

    def frame(z: Tensor) -> Tensor:
        found = space.to_model(z).experiment.detector.frame()
        return torch.cat([found.origin / space.start.experiment.detector.distance, found.fast, found.slow])

    columns = torch.func.jacfwd(frame)(space.zero())[:, [i for i, _ in coordinates]]
    norms = torch.linalg.vector_norm(columns, dim=0)
    _, values, vectors = torch.linalg.svd(columns / norms.clamp_min(1e-300), full_matrices=True)
    rank = int((values > SINGULAR * values[0]).sum())
    if rank < len(coordinates):
        names = dict.fromkeys(
            name for (_, name), part in zip(coordinates, vectors[-1].abs(), strict=True) if part > 0.1
        )
        raise InputError(
            f"refinement.free: {' and '.join(names)} move the detector in the same way, so that no image can tell them"
            " apart; fix one of them"
        )


def require_effect(space: ParameterSpace, curvature: Tensor) -> None:
    """Raise InputError where a free parameter does not change the expected image at all."""
    idle = torch.diagonal(curvature) <= 0
    names = [p.name for p, part in zip(space.parameters, space.split(idle), strict=True) if bool(part.any())]
    if names:
        raise InputError(
            f"refinement.free: {', '.join(names)} have no effect on the expected image in the pixels used: check the"
            " structure factors, the orientation and the detector, or fix them"
        )


def weak_combination(space: ParameterSpace, curvature: Tensor) -> str | None:
    """A warning that names the combination of parameters the data hardly determine, or None."""
    number, vector = condition(curvature)
    if number < ILL_CONDITIONED:
        return None
    weights = {
        p.name: float(torch.linalg.vector_norm(v)) for p, v in zip(space.parameters, space.split(vector), strict=True)
    }
    named = ", ".join(name for name, weight in weights.items() if weight > 0.1)
    return f"the data hardly determine a combination of {named} (condition number {number:.1e}): fix or restrain one"
