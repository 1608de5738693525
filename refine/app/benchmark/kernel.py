"""The kernel benchmark: every way to compute every case, in processes of their own, one measurement at a time, in
turns, so that what else the machine does falls on all of them alike."""

import os
import resource
import shlex
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from refine.app.allocation import keep_freed_memory
from refine.app.benchmark import kernel_worker as worker
from refine.app.benchmark.kernel_config import KernelBenchmark, KernelCase, Scaling
from refine.app.benchmark.kernel_report import Measured, Point, write_report
from refine.app.benchmark.kernel_worker import OPERATIONS, Way
from refine.app.load import dump_config, load_config
from refine.errors import InputError
from refine.io.atomic import make_directory, require_writable, write_text

Peers = dict[str, str]  # commands by name
Run = Callable[..., Any]  # a function and its arguments, run in a worker process
JACOBIAN = OPERATIONS[1]
SPARSE_PIXELS = 0.02  # of a whole image, as shoeboxes hold


def run_kernel_benchmark(
    config: KernelBenchmark, directory: Path | None, console: Console, peers: Sequence[str] = ()
) -> int:
    """Measure, print the table, and write results.csv, results.json and scaling.png into the directory; returns 0.

    peers: 'NAME=COMMAND', timed among the rest; {case} in a command stands for the case's name. Raises InputError where
    the configuration, a case's configuration or a peer is wrong.
    """
    commands = dict(map(_named, peers))
    target = Path(os.path.abspath(directory or config.directory))
    for case in config.cases:
        load_config(case.config, case.settings)
    require_writable(target)
    make_directory(target)
    write_text(target / "benchmark.resolved.yaml", dump_config(config))
    measured = [row for case in config.cases for row in _measure_case(case, config, commands, console)]
    points = list(_scaling(config.scaling, config, console)) if config.scaling else []
    for line in write_report(target, measured, points):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _named(peer: str) -> tuple[str, str]:
    name, equals, command = peer.partition("=")
    if not (name and equals and command):
        raise InputError(f"--peer is {peer!r}; accepted: 'NAME=COMMAND'")
    return name, command


def _measure_case(case: KernelCase, config: KernelBenchmark, peers: Peers, console: Console) -> Iterator[Measured]:
    """One row a way and a peer."""
    ways = [Way(case, dtype, mode) for dtype in config.dtypes for mode in config.modes]
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with _processes(ways) as runs:
        steps = 0.0
        for way, run in zip(ways, runs, strict=True):
            console.print(f"{case.name}: {way.dtype}, {way.mode}: first run")
            steps, _ = run(worker.prepare, way)
            for operation in OPERATIONS:
                run(worker.measure, operation)
        for _ in range(config.rounds):
            for operation in OPERATIONS:
                for way, run in zip(ways, runs, strict=True):
                    found[way.dtype, way.mode, operation].append(run(worker.measure, operation)["ns"])
            for name, command in peers.items():
                found[name, "", OPERATIONS[0]].append(_time_peer(name, command, case) / steps * 1e9)
        memory = {(way.dtype, way.mode): run(worker.peak_memory) for way, run in zip(ways, runs, strict=True)}
    for dtype, mode in dict.fromkeys((dtype, mode) for dtype, mode, _ in found):
        times = {o: median(found[dtype, mode, o]) for o in OPERATIONS if found.get((dtype, mode, o))}
        yield Measured(case.name, dtype, mode, steps, times, memory.get((dtype, mode)))


def _scaling(scaling: Scaling, config: KernelBenchmark, console: Console) -> Iterator[Point]:
    """Cost of value and Jacobian against pixels, domains and threads."""
    (case,) = (case for case in config.cases if case.name == scaling.case)
    dtype, mode = config.dtypes[0], config.modes[0]
    console.print(f"{case.name}: {dtype}, {mode}: scaling with pixels, domains and threads")
    yield from _points("pixels", [(part, Way(case, dtype, mode), part) for part in scaling.pixels], config.rounds)
    yield from _points("shoeboxes", [(SPARSE_PIXELS, Way(case, dtype, mode), SPARSE_PIXELS)], config.rounds)
    varied = [
        (count, case.model_copy(update={"settings": (*case.settings, f"crystal.mosaic.domains={count}")}))
        for count in scaling.domains
    ]
    yield from _points("domains", [(count, Way(other, dtype, mode), 1.0) for count, other in varied], config.rounds)
    threads = [(count, Way(case, dtype, mode, count), 1.0) for count in scaling.threads]
    yield from _points("threads", threads, config.rounds)


def _points(kind: str, wanted: Sequence[tuple[float, Way, float]], rounds: int) -> Iterator[Point]:
    """Medians of seconds for (place on the axis, way, part of the pixels), measured in turns."""
    distinct = list(dict.fromkeys(way for _, way, _ in wanted))
    with _processes(distinct) as runs:
        by_way = dict(zip(distinct, runs, strict=True))
        for way, run in by_way.items():
            run(worker.prepare, way)
            run(worker.measure, JACOBIAN)
        seconds: dict[float, list[float]] = defaultdict(list)
        for _ in range(rounds):
            for place, way, part in wanted:
                seconds[place].append(by_way[way](worker.measure, JACOBIAN, part)["seconds"])
        for place, way, _ in wanted:
            yield Point(kind, place, median(seconds[place]), by_way[way](worker.peak_memory))


@contextmanager
def _processes(ways: Sequence[Way]) -> Iterator[list[Run]]:
    """A process for each way, alive until the end, with as many threads as it is to have and no more."""
    pools = []
    try:
        for way in ways:
            with _environment(OMP_NUM_THREADS=str(way.threads)):
                pools.append(ProcessPoolExecutor(1, get_context("spawn"), keep_freed_memory))
                pools[-1].submit(os.getpid).result()
        yield [lambda function, *given, pool=pool: pool.submit(function, *given).result() for pool in pools]
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Variables that a process started meanwhile inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _time_peer(name: str, command: str, case: KernelCase) -> float:
    """Processor seconds of an external command. Raises InputError where it cannot be run or fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        words = shlex.split(command.replace("{case}", case.name))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--peer {name}: {command!r} cannot be run ({error})") from error
    if done.returncode:
        raise InputError(f"--peer {name}: {command!r} ended with exit code {done.returncode}: {done.stderr[-300:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
