"""`refine run`: from a configuration to a results directory."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from refine.app.build import build_model, build_problem, image_file
from refine.app.checkpoint import Checkpoint, RememberedProblem
from refine.app.config import Config
from refine.app.interrupt import patient
from refine.app.load import load_config
from refine.app.outcome import Outcome, conclude
from refine.app.progress import Progress, summary_lines
from refine.app.results import Run, trace_row, write_results, write_trace
from refine.app.stopping import stop_of
from refine.app.strategy import Place, Refined, refine_image
from refine.errors import InputError
from refine.io.atomic import make_directory, remove_leftovers, require_writable, set_aside
from refine.problem.identifiability import require_refinable, weak_combination
from refine.problem.judgement import OUTLIER
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import Quadratic
from refine.solvers.protocol import Solver
from refine.solvers.registry import make_solver
from refine.solvers.solution import Record, Solution, Status

STILL_THREADS = 1  # unless told: arrays of shoeboxes are so small that waking other threads takes longer than they save
EXIT_CODES = {Status.CONVERGED: 0, Status.INTERRUPTED: 130}  # 1 for the others
FALSE_FIT = 10.0  # standard deviations and
FEW_OUTLIERS = 3  # pixels
FALSE_RATIO = 1.2  # times the deviance of counting noise, above which the model does not explain the image


def run(
    path: Path,
    directory: Path | None,
    overrides: Sequence[str],
    console: Console,
    began: float,
    resume: bool = False,
) -> int:
    """Refine the configuration at `path`, results into `directory` or the configured one; returns the exit code.

    With `resume` it goes on where a run into the same directory was stopped, if there is such a run. Raises InputError
    where the input is wrong, before anything is written.
    """
    config = load_config(path, overrides)
    target = Path(os.path.abspath(directory or config.output.directory))
    require_writable(target)
    if threads := config.threads or (config.shoebox and STILL_THREADS):
        torch.set_num_threads(threads)
    started = datetime.now(UTC)
    solver = _solver(config)
    checkpoint = Checkpoint(target, config, resume)
    with Progress(console, stop_of(config)) as progress, patient() as check:
        if config.shoebox:
            from refine.app.stills.run import run_stills

            claim = partial(_claim, target, progress)
            status = run_stills(config, target, solver, progress, checkpoint, check, claim, started, began)
        else:
            status = _run_image(config, path, target, solver, progress, checkpoint, check, started, began)
        if config.output.report:
            _write_report(progress, target)
    return EXIT_CODES.get(status, 1)


def _run_image(
    config: Config,
    path: Path,
    target: Path,
    solver: Solver,
    progress: Progress,
    checkpoint: Checkpoint,
    check: Callable[[], None],
    started: datetime,
    began: float,
) -> Status:
    """Where a whole image is compared."""
    setup = build_model(config)
    problem = build_problem(config, setup)
    progress.say(f"{config.title or path.name}: {len(problem.pixels)} pixels; {'; '.join(setup.notes)}")
    found = _refine(config, problem, solver, progress, target, checkpoint, check)
    solution, settings = found.solution, config.refinement
    if found.stages:
        settings = settings.model_copy(update={"strategy": "stages", "stages": found.stages})
        config = config.model_copy(update={"refinement": settings})
    outcome = conclude(problem, solution, setup.misset_deg, found.end.image)
    warnings = _warnings(problem, found, outcome)
    done = Run(config, image_file(config), found.given_loss, warnings, started, time.time() - began)
    write_results(target, done, problem, solution, outcome)
    for line in summary_lines(outcome):
        progress.say(line)
    progress.verdict(solution, warnings, target)
    return solution.status


def _solver(config: Config) -> Solver:
    optimizer = config.refinement.optimizer
    try:
        return make_solver(optimizer.name, optimizer.options, optimizer.max_iterations)
    except (TypeError, ValueError) as error:
        raise InputError(f"key 'refinement.optimizer.options': {error}") from error


def _refine(
    config: Config,
    problem: ImageProblem,
    solver: Solver,
    progress: Progress,
    target: Path,
    checkpoint: Checkpoint,
    check: Callable[[], None],
) -> Refined:
    """The answer, and how it was come by; trace, log and checkpoint grow in `target` as the solver goes, and `check`
    is called whenever it may stop."""
    rows: list[list[float | str]] = []

    def observe(record: Record) -> None:
        if record.iteration == 0:
            rows.clear()
        rows.append(trace_row(record, problem.space.physical(record.z)))
        progress.iteration(record)
        write_trace(target, problem.space.names, rows)
        check()

    def checked(show: Callable[[str], None]) -> Callable[[str], None]:
        def said(line: str) -> None:
            show(line)
            check()

        return said

    settings = config.refinement
    try:
        require_refinable(problem)
        _claim(target, progress)
        checkpoint.begin()
        if told := checkpoint.told():
            progress.say(told)
        kept = RememberedProblem.keeping(problem, checkpoint)
        say, passing = checked(progress.say), checked(progress.passing)
        found = refine_image(kept, solver, settings.strategy, settings.stages, stop_of(config), observe, say, passing)
    except KeyboardInterrupt:
        if not progress.logging:
            _claim(target, progress)
        reason = "stopped by the user before the first iteration was done"
        z = problem.space.zero()
        solution = Solution(z, Quadratic.zero(z), Status.INTERRUPTED, reason, ())
        return Refined(solution, Place(problem, z), None, (), Place(problem, z))
    rows = [trace_row(record, problem.space.physical(record.z)) for record in found.solution.history]
    write_trace(target, problem.space.names, rows)
    return found


def _claim(target: Path, progress: Progress) -> None:
    """Make the results directory this run's: an earlier run's result stays under another name, so that no moment
    shows it beside this run's files."""
    make_directory(target)
    remove_leftovers(target)
    set_aside(target / "result.yaml", target / "result.previous.yaml")
    progress.open_log(target / "refine.log")


def _write_report(progress: Progress, target: Path) -> None:
    """report.html. What goes wrong with it must not take the answer, which is on disk, with it."""
    from refine.app.report.page import write_report

    try:
        write_report(target)
    except Exception as error:
        progress.say(f"WARNING: no report.html ({error}); mend it, then: refine report {target}")


def _warnings(problem: ImageProblem, found: Refined, outcome: Outcome) -> list[str]:
    """What a user should know before trusting the answer."""
    if found.evidence is None:
        return []
    fit = outcome.fit
    warnings = [weak_combination(problem.space, found.solution.quadratic.curvature)]
    excess = fit.reduced_deviance - fit.expected
    if excess > FALSE_FIT * fit.expected_sd and fit.reduced_deviance > FALSE_RATIO * fit.expected:
        warnings.append(
            f"the deviance per pixel is {fit.reduced_deviance:.3f}, the noise alone gives {fit.expected:.3f}:"
            " the model does not explain the image, so this may be a false minimum, and the esds are too small"
        )
    if found.evidence.outliers > FEW_OUTLIERS and not problem.noise.name.startswith("robust"):
        warnings.append(
            f"{found.evidence.outliers} pixels lie more than {OUTLIER:.0f} standard deviations from the model; where"
            " they are hot pixels or other things than the crystal, refinement.loss: robust bounds their pull"
        )
    return [warning for warning in warnings if warning]
