"""`refine run`: from a configuration to a results directory."""

import math
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from refine.app.build import build_model, build_problem, image_file, require_refinable
from refine.app.config import Config
from refine.app.load import load_config
from refine.app.outcome import Outcome, conclude
from refine.app.progress import Progress, summary_lines
from refine.app.results import Run, trace_row, write_results, write_trace
from refine.app.strategy import choose_start
from refine.errors import InputError
from refine.io.atomic import make_directory, require_writable, set_aside
from refine.problem.identifiability import weak_combination
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import Quadratic
from refine.solvers.loop import Stop, solve
from refine.solvers.protocol import Solver
from refine.solvers.registry import make_solver
from refine.solvers.solution import Record, Solution, Status

EXIT_CODES = {Status.CONVERGED: 0, Status.INTERRUPTED: 130}  # 1 for the others
FALSE_FIT = 10.0  # standard deviations and
FALSE_RATIO = 1.2  # times the deviance of counting noise, above which the model does not explain the image


def run(path: Path, directory: Path | None, overrides: Sequence[str], console: Console, began: float) -> int:
    """Refine the configuration at `path`, results into `directory` or the configured one; returns the exit code.

    Raises InputError where the input is wrong, before anything is written.
    """
    config = load_config(path, overrides)
    target = Path(os.path.abspath(directory or config.output.directory))
    require_writable(target)
    if config.threads:
        torch.set_num_threads(config.threads)
    started = datetime.now(UTC)
    solver = _solver(config)
    with Progress(console) as progress:
        setup = build_model(config)
        problem = build_problem(config, setup)
        progress.say(f"{config.title or path.name}: {len(problem.pixels)} pixels; {'; '.join(setup.notes)}")
        given_loss, solution = _refine(config, problem, solver, progress, target)
        outcome = conclude(problem, solution, setup.misset_deg)
        warnings = _warnings(problem, solution, outcome)
        done = Run(config, image_file(config), given_loss, warnings, started, time.time() - began)
        write_results(target, done, problem, solution, outcome)
        _report(progress, solution, outcome, warnings, target)
    return EXIT_CODES.get(solution.status, 1)


def _solver(config: Config) -> Solver:
    optimizer = config.refinement.optimizer
    try:
        return make_solver(optimizer.name, optimizer.options, optimizer.max_iterations)
    except (TypeError, ValueError) as error:
        raise InputError(f"key 'refinement.optimizer.options': {error}") from error


def _refine(
    config: Config, problem: ImageProblem, solver: Solver, progress: Progress, target: Path
) -> tuple[float, Solution]:
    """The loss of the given start, and the solution; trace and log grow in `target` as the solver goes."""
    rows: list[list[float | str]] = []

    def observe(record: Record) -> None:
        rows.append(trace_row(problem, record))
        progress.iteration(record)
        write_trace(target, problem, rows)

    given = math.nan
    try:
        require_refinable(problem)
        _claim(target, progress)
        start = choose_start(problem, config.refinement.strategy)
        given = float(start.given_loss)
        progress.say(start.note)
        stop = Stop(max_iterations=config.refinement.optimizer.max_iterations)
        return given, solve(problem, solver, start.z, stop, observe)
    except KeyboardInterrupt:
        z = problem.space.zero()
        if not progress.logging:
            _claim(target, progress)
        reason = "stopped by the user before the first iteration was done"
        return given, Solution(z, Quadratic.zero(z), Status.INTERRUPTED, reason, ())


def _claim(target: Path, progress: Progress) -> None:
    """Make the results directory this run's: an earlier run's result stays under another name, so that no moment
    shows it beside this run's files."""
    make_directory(target)
    set_aside(target / "result.yaml", target / "result.previous.yaml")
    progress.open_log(target / "refine.log")


def _report(progress: Progress, solution: Solution, outcome: Outcome, warnings: list[str], target: Path) -> None:
    for line in summary_lines(outcome):
        progress.say(line)
    for warning in warnings:
        progress.say(f"WARNING: {warning}")
    advice = f" ({solution.status.advice})" if solution.status.advice else ""
    progress.say(f"{solution.status.value}: {solution.reason}{advice}; results in {target}")


def _warnings(problem: ImageProblem, solution: Solution, outcome: Outcome) -> list[str]:
    """What a user should know before trusting the answer."""
    fit = outcome.fit
    found = [weak_combination(problem.space, solution.quadratic.curvature)] if solution.history else []
    excess = fit.reduced_deviance - fit.expected
    if excess > FALSE_FIT * fit.expected_sd and fit.reduced_deviance > FALSE_RATIO * fit.expected:
        found.append(
            f"the deviance per pixel is {fit.reduced_deviance:.3f}, the noise alone gives {fit.expected:.3f}:"
            " the model does not explain the image, so this may be a false minimum, and the esds are too small"
        )
    return [warning for warning in found if warning]
