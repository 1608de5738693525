"""The way to an answer: boxes placed, the crystal refined, boxes placed again, until both stand still; then all images
together."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from refine.app.stills.approach import PLACES, Start, approached, as_given
from refine.app.stills.inputs import Failed, Ready
from refine.errors import InputError
from refine.parameters.space import ParameterSpace
from refine.problem.coarse import carried
from refine.problem.joint import JointProblem, JointSpace
from refine.problem.placement import Still, displacement, held_out, no_boxes, place_near
from refine.problem.problem import Counted
from refine.problem.quadratic import Quadratic
from refine.problem.restraints import Restraint
from refine.problem.shoebox import Shoeboxes
from refine.problem.shoebox_problem import ShoeboxProblem
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import Stop, solve
from refine.solvers.protocol import Problem, Solver
from refine.solvers.solution import Record, Solution, Status

ROUNDS = 6  # of placing boxes and refining, at most
SETTLED = 0.3  # pixels by which one in twenty spots may still move, for the boxes to stay where they are
ON_THE_WAY = Stop(max_iterations=12, shift=2.0, decrease=30.0)  # nearer than boxes need to be placed
FEWEST = 3  # reflections a refined value, without which an image says too little
BRIGHTNESS = {"scale", "b_factor"}  # found when the spots are where they belong
LOCAL = frozenset({"orientation", "scale", "cells", "mosaic", "b_factor"})  # each image's own
BY_ITSELF = LOCAL | {"cell"}  # what one of several images may say; of the detector it hardly tells


@dataclass(frozen=True)
class Placed:
    """An image with its parameters, its boxes, where the way to them led (z of its space), and how many times they
    were placed."""

    ready: Ready
    space: ParameterSpace
    boxes: Shoeboxes
    z: Tensor
    rounds: int

    @property
    def held(self) -> Tensor:
        """Which boxes (R,) are the free set."""
        return _held(self.ready, self.boxes)

    def problem(self, which: Tensor | slice = slice(None), restraints: tuple[Restraint, ...] = ()) -> ShoeboxProblem:
        """Some of the boxes, all unless told, against the crystal."""
        return self.ready.still.problem(self.space, self.boxes.chosen(_places(self.boxes, which)), restraints)


@dataclass(frozen=True)
class Refined:
    """What came of it: the images that were refined together, those left out, and the solution, whose z is that of
    `space`; the loss at the given start, in the same boxes."""

    images: tuple[Placed, ...]
    failed: tuple[Failed, ...]
    space: JointSpace
    problem: JointProblem
    solution: Solution
    start_loss: float

    def z_of(self, number: int) -> Tensor:
        """The z of an image's own space."""
        return self.solution.z[self.space.places[number]]


class Hooks(Protocol):
    """What a run does beside refining."""

    def say(self, line: str) -> None:
        """Tell what was done."""

    def keep(self, problem: Counted, boxes: Sequence[Shoeboxes]) -> Problem:
        """The problem that is solved in place of one with these boxes."""

    def begin(self) -> None:
        """An image has shown its crystal: there will be an answer."""

    def observe(self, images: Sequence[Placed], space: JointSpace) -> Callable[[Record], None]:
        """What gets the records of all images together."""


def refine_stills(
    ready: Sequence[Ready],
    failed: Sequence[Failed],
    spaces: Sequence[ParameterSpace],
    restraints: tuple[Restraint, ...],
    solver: Solver,
    stop: Stop,
    once: bool,
    hooks: Hooks,
) -> Refined:
    """Each image by itself, then all that went well together. `once`: boxes are placed at the start alone. Raises
    InputError where no image shows its crystal, KeyboardInterrupt before there is anything to give."""
    placed: list[Placed] = []
    lost = list(failed)
    given = zip(ready, spaces, strict=True)
    starts = [as_given(*pair) for pair in given] if once else approached(ready, spaces, restraints)
    own = BY_ITSELF if len(ready) > 1 else frozenset(p.name for p in spaces[0].parameters)
    for one, space, begun in zip(ready, spaces, starts, strict=True):
        try:
            placed.append(_placed(one, space, begun, own, restraints, once, hooks))
            hooks.begin()
        except InputError as error:
            lost.append(Failed(one.path, str(error)))
            hooks.say(f"left out: {error}")
    if not placed:
        raise InputError("\n".join(failure.reason for failure in lost))
    start = _joint_space(placed).joined([one.z for one in placed])
    if len(placed) > 1 and not once:
        hooks.say("all together: boxes are placed again round what they share")
        placed, start = _together(placed, restraints, hooks)
    each, together = _joined(placed, restraints)
    start_loss = float(together.loss(together.space.zero()))
    kept = hooks.keep(together, [problem.boxes for problem in each])
    solution = solve(kept, solver, start, stop, hooks.observe(placed, together.space))
    return Refined(tuple(placed), tuple(lost), together.space, together, solution, start_loss)


def not_begun(
    ready: Sequence[Ready],
    failed: Sequence[Failed],
    spaces: Sequence[ParameterSpace],
    restraints: tuple[Restraint, ...],
) -> Refined:
    """What there is where a run was stopped before all images were refined together: the start, without boxes."""
    given = zip(ready, spaces, strict=True)
    images = tuple(Placed(one, space, no_boxes(one.still, space.start), space.zero(), 0) for one, space in given)
    _, problem = _joined(images, restraints)
    z, reason = problem.space.zero(), "stopped by the user before the first iteration was done"
    solution = Solution(z, Quadratic.zero(z), Status.INTERRUPTED, reason, ())
    return Refined(images, tuple(failed), problem.space, problem, solution, math.nan)


def _joined(
    placed: Sequence[Placed], restraints: tuple[Restraint, ...]
) -> tuple[tuple[ShoeboxProblem, ...], JointProblem]:
    """Each image's boxes that are not held out, and the problem of all."""
    local = tuple(r for r in restraints if r.parameter in LOCAL)
    own = tuple(one.problem(~one.held, local) for one in placed)
    return own, JointProblem(_joint_space(placed), own, tuple(r for r in restraints if r not in local))


def _joint_space(placed: Sequence[Placed]) -> JointSpace:
    shared = [p.name for p in placed[0].space.parameters if p.name not in LOCAL]
    return JointSpace.of([one.space for one in placed], shared)


def _together(placed: Sequence[Placed], restraints: tuple[Restraint, ...], hooks: Hooks) -> tuple[list[Placed], Tensor]:
    """The images with boxes placed for what is best for all of them, and where that is: what one image alone said of
    what they share may have put its spots elsewhere."""
    own, problem = _joined(placed, restraints)
    wrapped = hooks.keep(problem, [one.boxes for one in own])
    start = problem.combined([one.z for one in placed])
    solution = solve(wrapped, LevenbergMarquardt(), start, ON_THE_WAY)
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    found = []
    for one, place in zip(placed, problem.space.places, strict=True):
        z = solution.z[place]
        boxes = place_near(one.ready.still, one.space.to_model(z))
        found.append(replace(one, boxes=boxes if len(boxes) else one.boxes, z=z, rounds=one.rounds + 1))
    return found, solution.z


def _placed(
    ready: Ready,
    space: ParameterSpace,
    start: Start,
    own: frozenset[str],
    restraints: tuple[Restraint, ...],
    once: bool,
    hooks: Hooks,
) -> Placed:
    """Rounds of placing and refining what is an image's `own`. Raises InputError where too few spots stand out."""
    first, shapes = own & set(PLACES), own - BRIGHTNESS
    z, boxes = start.z, _enough(ready, start.boxes, space if once else _part(space, start.z, first))
    if once:
        return Placed(ready, space, boxes, z, 1)
    for number in range(1, ROUNDS + 1):
        spots = _part(space, z, first)
        part = spots if number == 1 and spots.parameters else _part(space, z, shapes)
        z = _approached(ready, part, space, restraints, z, boxes, hooks)
        model = space.to_model(z)
        moved = float(displacement(boxes.spots, model).nan_to_num(torch.inf).quantile(0.95))
        hooks.say(f"{ready.shown}: {len(boxes)} spots, boxes placed {number} times, moved by {moved:.2f} pixels")
        before, boxes = boxes, _enough(ready, place_near(ready.still, model), space)
        if number > 2 and moved < SETTLED and len(boxes) < 1.1 * len(before):
            break
    return Placed(ready, space, boxes, _scaled(ready.still, space, boxes, z), number + 1)


def _part(space: ParameterSpace, z: Tensor, names: frozenset[str]) -> ParameterSpace:
    """Some of the parameters, the others held where they are at z."""
    return ParameterSpace(space.to_model(z), tuple(p for p in space.parameters if p.name in names))


def _scaled(still: Still, space: ParameterSpace, boxes: Shoeboxes, z: Tensor) -> Tensor:
    """z with the scale, where that is free, by which the known intensities are most like those of the spots."""
    scale = [p for p in space.parameters if p.name == "scale"]
    known = still.amplitudes(boxes.spots.indices).intensities
    if not scale or not bool((known > 0).any()):
        return z
    found = replace(still, relative_sigma=float("inf")).problem(space, boxes).fit(z).intensities
    shown = (known > 0) & (found > 0)
    factor = torch.exp(torch.log(found[shown] / known[shown]).median())
    value = {"scale": space.to_model(z).experiment.scale.reshape(1) * factor}
    rest = ParameterSpace(space.start, tuple(p for p in space.parameters if p.name != "scale"))
    return carried(space, space.to_z(value), rest, carried(rest, rest.zero(), space, z))


def _approached(
    ready: Ready,
    part: ParameterSpace,
    space: ParameterSpace,
    restraints: tuple[Restraint, ...],
    z: Tensor,
    boxes: Shoeboxes,
    hooks: Hooks,
) -> Tensor:
    """The z of `space` after refining its `part` against the boxes that are not held out, by the spots' places and
    shapes alone, whatever is known of their intensities."""
    used = boxes.chosen(~_held(ready, boxes))
    start = carried(part, part.zero(), space, z)
    names, still = {p.name for p in part.parameters}, replace(ready.still, relative_sigma=float("inf"))
    problem = hooks.keep(still.problem(part, used, tuple(r for r in restraints if r.parameter in names)), [used])
    solution = solve(problem, LevenbergMarquardt(), start, ON_THE_WAY)
    if solution.status is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return carried(space, z, part, solution.z)


def _enough(ready: Ready, boxes: Shoeboxes, space: ParameterSpace) -> Shoeboxes:
    used = int((~_held(ready, boxes)).sum())
    if used < FEWEST * space.size:
        raise InputError(
            f"{ready.path}: {used} reflections stand out near their predicted places, too few for {space.size} values;"
            " check crystal and geometry, lower refinement.pixels.shoebox.min_signal, or free fewer parameters"
        )
    return boxes


def _held(ready: Ready, boxes: Shoeboxes) -> Tensor:
    choice = ready.still.choice
    return held_out(boxes.spots.indices, choice.holdout, choice.seed)


def _places(boxes: Shoeboxes, which: Tensor | slice) -> Tensor:
    return torch.arange(len(boxes), device=boxes.use.device)[which]
