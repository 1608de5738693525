"""`refine report`: pages from results directories."""

from collections.abc import Sequence
from pathlib import Path

from refine.app.report.compare import write_comparison
from refine.app.report.page import write_report


def report(directories: Sequence[Path], target: Path | None) -> str:
    """Rebuild the report of one results directory, or compare several; returns a line to print. Raises InputError."""
    if len(directories) == 1 and target is None:
        return f"{write_report(directories[0])}: written"
    return f"{write_comparison(directories, target or Path('comparison.html'))}: written"
