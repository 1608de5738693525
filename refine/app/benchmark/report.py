"""What a benchmark's trials amount to: tables and the numbers behind the pictures."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from refine.app.benchmark.config import OptimizerBenchmark
from refine.app.benchmark.figures import draw_profiles, draw_success, draw_traces
from refine.app.benchmark.trial import Trial
from refine.io.atomic import write_text
from refine.io.results import write_csv

MEASURES = {"evaluations": "evaluations", "seconds": "processor seconds"}


def write_report(directory: Path, config: OptimizerBenchmark, trials: Sequence[Trial]) -> list[str]:
    """Write results.csv, results.json, summary.csv and four pictures; returns the summary as lines to print."""
    rows = [{name: value for name, value in t.as_row().items() if name not in ("key", "trace")} for t in trials]
    write_csv(directory / "results.csv", list(rows[0]), [list(row.values()) for row in rows])
    names = [optimizer.title for optimizer in config.optimizers]
    summary = summarise(trials, names)
    rates = {name: success_rates(trials, name, config.scales) for name in names}
    profiles = {measure: profile(trials, names, measure) for measure in MEASURES}
    content = {"summary": summary, "success_rate": rates, "scales": config.scales, "trials": rows}
    write_text(directory / "results.json", json.dumps(content, indent=1, default=str))
    write_csv(directory / "summary.csv", list(summary[0]), [list(row.values()) for row in summary])
    draw_success(directory / "success.png", config.scales, rates, config.starts * len(config.cases))
    for measure, label in MEASURES.items():
        draw_profiles(directory / f"profile_{measure}.png", profiles[measure], label)
    draw_traces(directory / "traces.png", [case.name for case in config.cases], names, trials, min(config.scales))
    return table(summary)


def success_rates(trials: Sequence[Trial], optimizer: str, scales: Sequence[float]) -> list[float]:
    """The fraction of an optimizer's trials that succeeded, at each scale."""
    mine = [t for t in trials if t.optimizer == optimizer]
    return [float(np.mean([t.success for t in mine if t.scale == scale])) for scale in scales]


def profile(trials: Sequence[Trial], names: Sequence[str], measure: str) -> dict[str, list[float]]:
    """Of each optimizer, in ascending order, the ratios of its cost to the least of any optimizer on the same start,
    infinite where it failed: the performance profile of Dolan & More (2002, Math. Program. 91, 201) at tau is the
    fraction of them up to tau. Starts that nobody solved are left out."""
    costs: dict[tuple[str, float, int], dict[str, float]] = {}
    for t in trials:
        cost = float(getattr(t, measure)) if t.success else math.inf
        costs.setdefault((t.case, t.scale, t.start), {})[t.optimizer] = cost
    solved = [by for by in costs.values() if min(by.values()) < math.inf]
    return {name: sorted(by[name] / max(min(by.values()), 1e-9) for by in solved) for name in names}


def summarise(trials: Sequence[Trial], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row an optimizer: how often it succeeded, how often a failure calls itself converged, and the medians of its
    successes."""
    return [_row(name, [t for t in trials if t.optimizer == name]) for name in names]


def _row(name: str, mine: Sequence[Trial]) -> dict[str, Any]:
    good = [t for t in mine if t.success]
    missed = [t for t in mine if not t.success]

    def middle(measure: str) -> float | None:
        return round(median(getattr(t, measure) for t in good), 3) if good else None

    return {
        "optimizer": name,
        "trials": len(mine),
        "success": round(len(good) / len(mine), 3),
        "failures_called_converged": sum(t.status == "converged" for t in missed),
        "successes_not_called_converged": sum(t.status != "converged" for t in good),
        "iterations": middle("iterations"),
        "evaluations": middle("evaluations"),
        "seconds": middle("seconds"),
    }


def table(summary: Sequence[dict[str, Any]]) -> list[str]:
    """The summary in columns."""
    header = {
        "optimizer": "optimizer",
        "success": "success",
        "failures_called_converged": "false",
        "successes_not_called_converged": "unsure",
        "iterations": "iterations",
        "evaluations": "evaluations",
        "seconds": "seconds",
    }
    rows = [list(header.values()), *([_text(row[key]) for key in header] for row in summary)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [*lines, "medians of successes; false: failures that call themselves converged; unsure: the reverse"]


def _text(value: Any) -> str:
    return "" if value is None else str(value)
