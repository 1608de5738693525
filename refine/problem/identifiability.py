"""Can the free parameters be told apart at all?"""

from dataclasses import replace

import torch
from torch import Tensor

from refine.errors import InputError
from refine.model.pixels import Pixels
from refine.parameters.jacobian import jacobian
from refine.parameters.space import ParameterSpace
from refine.problem.problem import Counts, ImageProblem
from refine.problem.quadratic import SINGULAR, Spectrum, spectrum

SAME = 1e-9  # relative size of a singular value that counts as zero
ILL_CONDITIONED = 1e8  # condition number of the curvature above which a user is warned
THINNING = 7  # pixels of which one is looked at first; no divisor of a row's usual length
SHARE = 0.1  # part of a unit vector above which a parameter is named


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

    z = space.zero().requires_grad_()
    found = space.to_model(z).experiment.detector.frame()
    frame = torch.cat([found.origin / space.start.experiment.detector.distance, found.fast, found.slow])
    columns = jacobian(frame, z)[:, [i for i, _ in coordinates]]
    norms = torch.linalg.vector_norm(columns, dim=0)
    _, values, vectors = torch.linalg.svd(columns / norms.clamp_min(1e-300), full_matrices=True)
    rank = int((values > SAME * values[0]).sum())
    if rank < len(coordinates):
        names = dict.fromkeys(
            name for (_, name), part in zip(coordinates, vectors[-1].abs(), strict=True) if part > 0.1
        )
        raise InputError(
            f"refinement.free: {' and '.join(names)} move the detector in the same way, so that no image can tell them"
            " apart; fix one of them"
        )


def require_refinable(problem: ImageProblem) -> None:
    """Raise InputError where the image, at the start, could not determine a free parameter or combination.

    What a part of the pixels determines, all of them do: the rest are looked at only where the part does not.
    """
    space = problem.space
    try:
        require_determined(space, _curvature(problem, problem.pixels[::THINNING]))
    except InputError:
        require_determined(space, _curvature(problem, problem.pixels))


def _curvature(problem: ImageProblem, pixels: Pixels) -> Tensor:
    at_start = replace(problem, pixels=pixels, counts=Counts()).quadratic(problem.space.zero())
    return at_start.curvature


def require_determined(space: ParameterSpace, curvature: Tensor) -> None:
    """Raise InputError where a free parameter, or a combination of some, does not change the expected image at all."""
    idle = torch.diagonal(curvature) <= 0
    if names := [p.name for p, part in zip(space.parameters, space.split(idle), strict=True) if bool(part.any())]:
        raise InputError(
            f"refinement.free: {', '.join(names)} have no effect on the expected image in the pixels used: check the"
            " structure factors, the orientation and the detector, or fix them"
        )
    found = spectrum(curvature)
    if found.condition > SINGULAR:
        named = weakest_combination(space, found)
        raise InputError(
            f"refinement.free: a change of {named} together leaves the image as it is (condition number"
            f" {found.condition:.0e}), so that it cannot tell them apart; fix or restrain one of them"
        )


def weak_combination(space: ParameterSpace, curvature: Tensor) -> str | None:
    """A warning that names the combination of parameters the data hardly determine, or None."""
    found = spectrum(curvature)
    if found.condition < ILL_CONDITIONED:
        return None
    named = weakest_combination(space, found)
    number = f"condition number {found.condition:.0e}"
    return f"the data hardly determine a combination of {named} ({number}): fix or restrain one"


def weakest_combination(space: ParameterSpace, found: Spectrum) -> str:
    """Names of the parameters that the least determined combination is made of."""
    parts = zip(space.parameters, space.split(found.vectors[:, 0]), strict=True)
    return ", ".join(p.name for p, part in parts if float(torch.linalg.vector_norm(part)) > SHARE)
