"""From a start several spot widths off to one within reach of the spots' own pixels: by their positions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.app.stills.inputs import Ready
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.problem.coarse import carried
from refine.problem.joint import JointProblem, JointSpace
from refine.problem.placement import displacement, held_out, place_far
from refine.problem.positions import positions
from refine.problem.restraints import Restraint
from refine.problem.shoebox import Shoeboxes
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import Stop, solve
from refine.solvers.solution import Status

SHARED, OWN = ("cell", "beam_center"), ("orientation",)
PLACES = SHARED + OWN  # refined alone at first: widths mean nothing while spots are missed
TIMES = 4  # boxes are placed, at most: those of a start far off miss some spots and hold neighbours'
NEAR = 2.0  # pixels by which one in twenty spots may have moved, for the boxes to be round the same ones
ROUGHLY = Stop(max_iterations=15, shift=0.3, decrease=0.1)


@dataclass(frozen=True)
class Start:
    """z of an image's space, and the boxes of what stands out there."""

    z: Tensor
    boxes: Shoeboxes


def as_given(ready: Ready, space: ParameterSpace) -> Start:
    """The start that an image has."""
    return Start(space.zero(), place_far(ready.still, space.start))


def approached(
    ready: Sequence[Ready], spaces: Sequence[ParameterSpace], restraints: tuple[Restraint, ...]
) -> list[Start]:
    """Of each space near the spots of its image: one cell and beam for all, an orientation for each."""
    starts = [as_given(one, space) for one, space in zip(ready, spaces, strict=True)]
    parts = [ParameterSpace(s.start, tuple(p for p in s.parameters if p.name in PLACES)) for s in spaces]
    joint = JointSpace.of(parts, [p.name for p in parts[0].parameters if p.name in SHARED])
    z = joint.zero()
    for _ in range(TIMES if joint.size else 0):
        boxes = [start.boxes for start in starts]
        z = _nearer(ready, joint, boxes, restraints, z)
        places = [part.to_model(z[place]) for part, place in zip(parts, joint.places, strict=True)]
        far = not all(_still_there(*pair) for pair in zip(boxes, places, strict=True))
        boxes = [place_far(one.still, model) for one, model in zip(ready, places, strict=True)] if far else boxes
        own = zip(spaces, parts, joint.places, boxes, strict=True)
        starts = [Start(carried(space, space.zero(), part, z[place]), some) for space, part, place, some in own]
        if not far:
            break
    return starts


def _nearer(
    ready: Sequence[Ready], joint: JointSpace, boxes: Sequence[Shoeboxes], restraints: tuple[Restraint, ...], z: Tensor
) -> Tensor:
    """z of all images where spots are nearest to where they were seen."""
    shared, own = (tuple(r for r in restraints if r.parameter in names) for names in (SHARED, OWN))
    kept = [_kept(*pair) for pair in zip(ready, boxes, strict=True)]
    each = tuple(positions(space, some, own) for space, some in zip(joint.spaces, kept, strict=True))
    solution = solve(JointProblem(joint, each, shared), LevenbergMarquardt(), z, ROUGHLY)
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return solution.z


def _still_there(boxes: Shoeboxes, model: Model) -> bool:
    """Whether a model's spots are where the boxes were placed."""
    moved = displacement(boxes.spots, model).nan_to_num(torch.inf)
    return len(moved) == 0 or float(moved.quantile(0.95)) < NEAR


def _kept(ready: Ready, boxes: Shoeboxes) -> Shoeboxes:
    choice = ready.still.choice
    return boxes.chosen(~held_out(boxes.spots.indices, choice.holdout, choice.seed))
