"""`refine run` where shoeboxes of stills are compared."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import torch

from refine.app.build import build_restraints
from refine.app.checkpoint import Checkpoint, remembered
from refine.app.config import Config
from refine.app.progress import Progress, summary_lines
from refine.app.results import trace_row, write_trace
from refine.app.stills.inputs import free_space, make_ready
from refine.app.stills.outcome import Conclusion, conclude, joint_names, joint_values
from refine.app.stills.results import Run, write_results
from refine.app.stills.strategy import LOCAL, Placed, Refined, not_begun, refine_stills
from refine.app.stopping import stop_of
from refine.model.crystal import Crystal, GaussianMosaic
from refine.problem.identifiability import weak_combination
from refine.problem.joint import JointSpace
from refine.problem.problem import Counted
from refine.problem.shoebox import Shoeboxes
from refine.solvers.protocol import Problem, Solver
from refine.solvers.solution import Record, Status

FLAT = 0.01  # of the largest spread
MISFIT = 3.0  # times the deviance of counting noise: real spots have shapes that no model has to the last photon


def run_stills(
    config: Config,
    target: Path,
    solver: Solver,
    progress: Progress,
    checkpoint: Checkpoint,
    check: Callable[[], None],
    claim: Callable[[], None],
    started: datetime,
    began: float,
) -> Status:
    """Refine the stills of a configuration, results into `target`, which `claim` makes this run's; gives the status.

    Raises InputError where the input is wrong, before anything is written.
    """
    ready, failed = make_ready(config)
    spaces, notes = zip(*(free_space(one) for one in ready), strict=True)
    said = dict.fromkeys((*ready[0].setup.notes, *notes[0]))
    progress.say(f"{config.title or ready[0].path.name}: {len(ready)} stills; {'; '.join(said)}")
    for failure in failed:
        progress.say(f"left out: {failure.reason}")
    if told := checkpoint.told():
        progress.say(told)
    restraints, once = build_restraints(config, spaces[0]), config.refinement.strategy == "single"
    stop, session = stop_of(config), _Session(target, progress, checkpoint, check, claim)
    try:
        found = refine_stills(ready, failed, spaces, restraints, solver, stop, once, session)
    except KeyboardInterrupt:
        session.begin()
        found = not_begun(ready, failed, spaces, restraints)
        session.observe(found.images, found.space)
    conclusion = conclude(found)
    warnings = _warnings(found, conclusion)
    write_results(target, Run(config, warnings, started, time.time() - began), found, conclusion)
    _report(progress, found, conclusion, warnings, target)
    return found.solution.status


@dataclass
class _Session:
    """What a run leaves on the way: lines, checkpoint and trace. Nothing is touched before it begins."""

    target: Path
    progress: Progress
    checkpoint: Checkpoint
    check: Callable[[], None]
    claim: Callable[[], None]

    def say(self, line: str) -> None:
        self.progress.say(line)
        self.check()

    def keep(self, problem: Counted, boxes: Sequence[Shoeboxes]) -> Problem:
        return remembered(problem, self.checkpoint, [part for box in boxes for part in box.signature()])

    def begin(self) -> None:
        if not self.progress.logging:
            self.claim()
            self.checkpoint.begin()

    def observe(self, images: Sequence[Placed], space: JointSpace) -> Callable[[Record], None]:
        names, rows = joint_names(images), list[list[float | str]]()
        write_trace(self.target, names, rows)

        def observe(record: Record) -> None:
            rows.append(trace_row(record, joint_values(images, space, record.z)))
            self.progress.iteration(record)
            write_trace(self.target, names, rows)
            self.check()

        return observe


def _warnings(found: Refined, conclusion: Conclusion) -> list[str]:
    """What a user should know before trusting the answer."""
    fit, warnings = conclusion.fit, []
    if not found.solution.history:
        return [f"left out: {failure.reason}" for failure in found.failed]
    if len(found.images) == 1 and not _flat(conclusion.images[0].outcome.model.crystal):
        warnings.append(weak_combination(found.images[0].space, found.solution.quadratic.curvature))
    if fit.reduced_deviance > MISFIT * fit.expected:
        warnings.append(
            f"the deviance per pixel is {fit.reduced_deviance:.2f}, the noise alone gives {fit.expected:.2f}: the model"
            f" does not explain the spots to the last photon; the esds, from the scatter of the spots, are about"
            f" {conclusion.esd_factor:.1f} times those of counting noise"
        )
    warnings += [f"left out: {failure.reason}" for failure in found.failed]
    return [warning for warning in warnings if warning]


def _flat(crystal: Crystal) -> bool:
    """Whether the parts of the crystal do not turn about some axis: the mosaic's covariance is then at its limit, where
    one combination of its numbers means nothing, and that is no fault of the data."""
    assert isinstance(crystal.mosaic, GaussianMosaic)
    spreads = torch.linalg.eigvalsh(crystal.mosaic.covariance)
    return bool(spreads[0] < FLAT**2 * spreads[-1])


def _report(progress: Progress, found: Refined, conclusion: Conclusion, warnings: list[str], target: Path) -> None:
    """A table an image, of its own values after the first, which has those of all."""
    for number, image in enumerate(conclusion.images):
        reflections = image.reflections
        used, held = int((~reflections.held).sum()), int(reflections.held.sum())
        progress.say(f"{image.ready.shown}: {used} reflections used, {held} held out")
        told = {name: e for name, e in image.outcome.estimates.items() if number == 0 or name in LOCAL}
        for line in summary_lines(replace(image.outcome, estimates=told)):
            progress.say(line)
    progress.verdict(found.solution, warnings, target)
