"""Which benchmark a configuration asks for."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from refine.app.load import load_section, read_kind
from refine.errors import InputError

KINDS = ("optimizers",)


def benchmark(path: Path, directory: Path | None, overrides: Sequence[str], console: Console) -> int:
    """Run the benchmark that a file's `kind` names, results into `directory` or the configured one; the exit code.

    Raises InputError where the configuration is wrong, before anything is written.
    """
    kind = read_kind(path, overrides)
    if kind == "optimizers":
        from refine.app.benchmark.config import OptimizerBenchmark
        from refine.app.benchmark.optimizers import run

        return run(load_section(OptimizerBenchmark, path, overrides), directory, console)
    raise InputError(f"{path}: key 'kind' is {kind!r}; accepted: {' or '.join(KINDS)}")
