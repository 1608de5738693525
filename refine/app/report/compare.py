"""comparison.html: several runs beside one another."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from refine.app.report.drawing import styled
from refine.app.report.page import render, verdict
from refine.app.report.plots import draw_loss
from refine.app.report.source import ParameterRow, RunFiles, read_run
from refine.app.results import with_esd
from refine.io.atomic import write_text

FIGURES = ("reduced_deviance", "expected_deviance", "final", "initial", "pixels_used")
EFFORT = ("name", "iterations", "value_evaluations", "gradient_evaluations", "jacobian_evaluations")


def write_comparison(directories: Sequence[Path], target: Path) -> Path:
    """Compare the runs in two directories or more on one page. Raises InputError where one is no result."""
    runs = [read_run(directory) for directory in directories]
    write_text(target, render("compare.html", comparison(runs)))
    return target


def comparison(runs: Sequence[RunFiles]) -> dict[str, Any]:
    """What the page is made of."""
    names = labels(runs)
    traced = {name: run.trace for name, run in zip(names, runs, strict=True) if len(run.trace.get("loss", ()))}
    with styled():
        convergence = draw_loss(traced) if traced else None
    return {
        "title": " and ".join(names) if len(names) == 2 else f"{len(names)} runs",
        "names": names,
        "verdicts": [verdict(run) for run in runs],
        "values": list(_values(runs)),
        "fit": list(_facts(runs)),
        "settings": list(_different(runs)),
        "convergence": convergence,
    }


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """The directories' names, with as much of the way to them as tells them apart."""
    paths = [run.directory.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        found = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(found)) == len(set(paths)):
            return found
    return [str(path) for path in paths]


def _values(runs: Sequence[RunFiles]) -> Iterator[tuple[str, str, list[str], str]]:
    """Parameter, unit, value(esd) of every run, and the largest difference from the first in combined esd."""
    tables = [{row.name: row for row in run.parameters} for run in runs]
    for name in dict.fromkeys(name for table in tables for name in table):
        rows = [table.get(name) for table in tables]
        unit = next(row.unit for row in rows if row)
        shown = [with_esd(row.value, row.esd) if row else "–" for row in rows]
        yield name, unit, shown, _largest_difference(rows)


def _largest_difference(rows: Sequence[ParameterRow | None]) -> str:
    first, *others = rows
    found = [
        abs(row.value - first.value) / spread
        for row in others
        if row and first and (spread := math.hypot(_known(row.esd), _known(first.esd))) > 0
    ]
    return f"{max(found):.2f}" if found else "–"


def _known(esd: float) -> float:
    return 0.0 if math.isnan(esd) else esd


def _facts(runs: Sequence[RunFiles]) -> Iterator[tuple[str, list[Any]]]:
    for section, keys in (("loss", FIGURES), ("optimizer", EFFORT)):
        for key in keys:
            name = f"{section} {key}".replace("_", " ")
            yield name, [(run.result.get(section) or {}).get(key) for run in runs]
    yield "wall seconds", [run.result.get("wall_seconds") for run in runs]
    for key in ("version", "torch", "device", "dtype", "started"):
        yield key, [(run.result.get("provenance") or {}).get(key) for run in runs]


def _different(runs: Sequence[RunFiles]) -> Iterator[tuple[str, list[str]]]:
    """Settings in which the runs differ."""
    settings = [dict(flat(run.config)) for run in runs]
    for key in dict.fromkeys(key for table in settings for key in table):
        values = [table.get(key) for table in settings]
        if any(value != values[0] for value in values):
            yield key, ["–" if value is None else str(value) for value in values]


def flat(content: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, by dotted key."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
