"""What a kernel benchmark found: the table, the numbers, and a picture of how the cost grows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from refine.io.atomic import write_atomically, write_text
from refine.io.results import write_csv

HEADER = ("case", "dtype", "mode", "forward", "value + Jacobian", "gradient", "Hessian product", "memory [GB]")


@dataclass(frozen=True)
class Measured:
    """A way to compute a case: its steps, processor nanoseconds a step by operation, and peak memory in GB."""

    case: str
    dtype: str
    mode: str
    steps: float
    nanoseconds: Mapping[str, float]
    memory: float | None


@dataclass(frozen=True)
class Point:
    """Wall seconds of value and Jacobian, and peak memory in GB, at a place on the axis of a kind."""

    kind: str
    place: float
    seconds: float
    memory: float


def write_report(directory: Path, measured: Sequence[Measured], points: Sequence[Point]) -> list[str]:
    """Write results.csv, results.json and, where there are points, scaling.csv and scaling.png; returns the tables as
    lines to print."""
    rows = [_cells(row) for row in measured]
    write_csv(directory / "results.csv", HEADER, rows)
    slopes = {kind: slope for kind in ("pixels", "domains") if (slope := _slope(points, kind)) is not None}
    content = {
        "nanoseconds_a_step": [asdict(row) for row in measured],
        "scaling": [asdict(point) for point in points],
        "slopes": slopes,
    }
    write_text(directory / "results.json", json.dumps(content, indent=1))
    lines = [*_aligned([HEADER, *rows]), "times in processor nanoseconds a step, one thread"]
    if points:
        write_csv(directory / "scaling.csv", list(asdict(points[0])), [list(asdict(p).values()) for p in points])
        draw_scaling(directory / "scaling.png", points)
        lines += [*_scaling_lines(points), *(f"log-log slope in {kind}: {slope:.3f}" for kind, slope in slopes.items())]
    return lines


def _cells(row: Measured) -> list[str]:
    """In multiples of the forward image behind it, where there is more than that."""
    forward = row.nanoseconds["forward"]
    times = [f"{forward:.1f}"]
    for operation in HEADER[4:7]:
        value = row.nanoseconds.get(operation)
        times.append("" if value is None else f"{value:.1f} ({value / forward:.1f}x)")
    return [row.case, row.dtype, row.mode, *times, "" if row.memory is None else f"{row.memory:.2f}"]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _scaling_lines(points: Sequence[Point]) -> list[str]:
    cells = [[p.kind, f"{p.place:g}", f"{p.seconds:.3f}", f"{p.memory:.2f}"] for p in points]
    return _aligned([("varied", "", "seconds", "memory [GB]"), *cells])


def _slope(points: Sequence[Point], kind: str) -> float | None:
    """Of log seconds against log place, by least squares; None for fewer than two points."""
    chosen = [p for p in points if p.kind == kind]
    places, seconds = np.log([p.place for p in chosen]), np.log([p.seconds for p in chosen])
    return float(np.polyfit(places, seconds, 1)[0]) if len(chosen) > 1 else None


def draw_scaling(path: Path, points: Sequence[Point]) -> None:
    """Seconds against pixels, domains and threads, on logarithmic axes, with the straight line of perfect scaling."""
    kinds = [kind for kind in ("pixels", "domains", "threads") if any(p.kind == kind for p in points)]
    figure = Figure(figsize=(3.6 * len(kinds), 3.6), layout="constrained")
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    labels = {"pixels": "part of the pixels", "domains": "mosaic domains", "threads": "threads"}
    for axis, kind in zip(panels, kinds, strict=True):
        _draw_kind(axis, [p for p in points if p.kind == kind], -1 if kind == "threads" else 1)
        axis.set_xlabel(labels[kind])
    panels[0].set_ylabel("value + Jacobian [s]")
    panels[0].legend(frameon=False, fontsize=8)
    write_atomically(path, lambda stream: figure.savefig(stream, format="png", dpi=130))


def _draw_kind(axis: Axes, points: Sequence[Point], power: int) -> None:
    places, seconds = np.array([p.place for p in points]), np.array([p.seconds for p in points])
    last = 0 if power < 0 else -1
    axis.loglog(places, seconds[last] * (places / places[last]) ** power, "--", color="0.6", label="proportional")
    axis.loglog(places, seconds, "o-", color="#0072b2", label="measured")
    axis.set_xticks(places, [f"{place:g}" for place in places])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
