"""The optimizer benchmark: every trial in a process of its own kind, done ones kept, pictures at the end."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from refine.app.allocation import keep_freed_memory
from refine.app.benchmark.cases import prepare_image
from refine.app.benchmark.config import OptimizerBenchmark
from refine.app.benchmark.report import write_report
from refine.app.benchmark.trial import Task, Trial, run_task
from refine.app.load import dump_config
from refine.errors import InputError
from refine.io.atomic import make_directory, require_writable, write_text
from refine.solvers.registry import make_solver

TRIALS = "trials.jsonl"
DONE, INTERRUPTED = 0, 130


def run(config: OptimizerBenchmark, directory: Path | None, console: Console) -> int:
    """Run what is not done yet, then write tables and pictures into the directory; returns the exit code.

    Raises InputError where a case or an option is wrong, before any trial.
    """
    target = Path(os.path.abspath(directory or config.directory))
    _require_options(config)
    require_writable(target)
    make_directory(target)
    write_text(target / "benchmark.resolved.yaml", dump_config(config))
    tasks = list(_tasks(config, target))
    done = {trial.key: trial for trial in read_trials(target / TRIALS)}
    waiting = [task for task in tasks if task.key not in done]
    console.print(f"{config.title or 'benchmark'}: {len(tasks)} trials, {len(tasks) - len(waiting)} done before")
    try:
        for trial in _carry_out(waiting, config.processes or os.cpu_count() or 1, console):
            done[trial.key] = trial
            append_trial(target / TRIALS, trial)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on from the {len(done)} trials that are done")
        return INTERRUPTED
    for line in write_report(target, config, [done[task.key] for task in tasks]):
        console.print(line, markup=False)
    return DONE


def _require_options(config: OptimizerBenchmark) -> None:
    for k, optimizer in enumerate(config.optimizers):
        try:
            make_solver(optimizer.name, optimizer.options, optimizer.max_iterations)
        except (TypeError, ValueError) as error:
            raise InputError(f"key 'optimizers.{k}.options': {error}") from error


def _tasks(config: OptimizerBenchmark, directory: Path) -> Iterator[Task]:
    """Every trial wanted, in an order in which all optimizers advance together."""
    make_directory(directory / "cases")
    cases = [prepare_image(case, directory / "cases") for case in config.cases]
    for start, scale, case, optimizer in itertools.product(
        range(config.starts), config.scales, cases, config.optimizers
    ):
        yield Task(case, optimizer, scale, start, config.seed, config.success)


def _carry_out(tasks: Sequence[Task], processes: int, console: Console) -> Iterator[Trial]:
    """The trials in the order they end. Fresh processes, one thread each; one process is this one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        shown = bar.add_task("trials", total=len(tasks))
        for trial in map(run_task, tasks) if processes == 1 else _in_pool(tasks, processes):
            bar.update(shown, advance=1, description=f"{trial.case}, {trial.optimizer}: {trial.status}")
            yield trial


def _in_pool(tasks: Sequence[Task], processes: int) -> Iterator[Trial]:
    waiting = iter(tasks)
    pool = ProcessPoolExecutor(processes, get_context("spawn"), keep_freed_memory)
    try:
        running: set[Future[Trial]] = {pool.submit(run_task, task) for task in itertools.islice(waiting, 2 * processes)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(run_task, task) for task in itertools.islice(waiting, len(ended))}
            yield from (future.result() for future in ended)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def append_trial(path: Path, trial: Trial) -> None:
    """Add a line to the file in one piece: whatever ends the run, earlier lines are whole."""
    line = (json.dumps(trial.as_row()) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def read_trials(path: Path) -> Iterable[Trial]:
    """The trials of a file, whole lines only; none where it does not exist."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a run that was killed while it wrote
            continue
        yield Trial(**{**row, "trace": tuple(map(tuple, row["trace"]))})
