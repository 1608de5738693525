"""Which benchmark a configuration asks for."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from refine.app.load import load_section, read_kind
from refine.errors import InputError

KINDS = ("optimizers", "kernel")


def benchmark(
    path: Path, directory: Path | None, overrides: Sequence[str], console: Console, peers: Sequence[str] = ()
) -> int:
    """Run the benchmark that a file's `kind` names, results into `directory` or the configured one; the exit code.
    peers: 'NAME=COMMAND', other programs that a kernel benchmark times.

    Raises InputError where the configuration is wrong, before anything is written.
    """
    kind = read_kind(path, overrides)
    if kind == "kernel":
        from refine.app.benchmark.kernel import run_kernel_benchmark
        from refine.app.benchmark.kernel_config import KernelBenchmark

        return run_kernel_benchmark(load_section(KernelBenchmark, path, overrides), directory, console, peers)
    if peers:
        raise InputError(f"--peer goes with a benchmark of kind kernel; {path} is of kind {kind!r}")
    if kind == "optimizers":
        from refine.app.benchmark.config import OptimizerBenchmark
        from refine.app.benchmark.optimizers import run

        return run(load_section(OptimizerBenchmark, path, overrides), directory, console)
    raise InputError(f"{path}: key 'kind' is {kind!r}; accepted: {' or '.join(KINDS)}")
