"""The pictures of an optimizer benchmark."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from refine.app.benchmark.trial import Trial
from refine.io.atomic import write_atomically

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe & Ito's
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
LEAST_EXCESS = 1e-3  # of a log-likelihood: below it two answers are the same


def draw_success(path: Path, scales: Sequence[float], rates: Mapping[str, Sequence[float]], trials: int) -> None:
    """Success rate against starting error, a bar an optimizer."""
    figure = Figure(figsize=(9, 1.6 + 0.32 * len(rates)), layout="constrained")
    axes = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
    names = list(rates)
    for axis, k in zip(axes, range(len(scales)), strict=True):
        values = [100 * rates[name][k] for name in names]
        axis.barh(names, values, color=[_style(i)["color"] for i in range(len(names))])
        for i, value in enumerate(values):
            inside = value > 70
            axis.text(value + (-2 if inside else 2), i, f"{value:.0f}", va="center", ha="right" if inside else "left",
                      color="white" if inside else "black", fontsize=8)  # fmt: skip
        axis.set_title(f"start within {scales[k]:g} %", fontsize=10)
        axis.set_xlim(0, 100)
        axis.set_xlabel("success [%]")
    axes[0].invert_yaxis()
    figure.suptitle(f"Success rate by starting error ({trials} trials a bar)", fontsize=11)
    _save(figure, path)


def draw_profiles(path: Path, ratios: Mapping[str, Sequence[float]], label: str) -> None:
    """Dolan and More's performance profiles."""
    figure, axis = _with_legend()
    finite = [r for values in ratios.values() for r in values if np.isfinite(r)]
    end = 1.3 * max(finite, default=10.0)
    for i, (name, values) in enumerate(ratios.items()):
        solved = [r for r in values if np.isfinite(r)]
        share = 100 * np.arange(1, len(solved) + 1) / max(len(values), 1)
        x, y = [1.0, *solved, end], [0.0, *share, share[-1] if len(share) else 0.0]
        axis.step(x, y, where="post", label=name, **_style(i))
    axis.set_xscale("log")
    axis.set_xlim(1, end)
    axis.set_ylim(0, 102)
    axis.set_xlabel(f"{label}, as a multiple of the best optimizer's on the same start")
    axis.set_ylabel("starts solved [%]")
    axis.set_title(f"Performance profile in {label}", fontsize=11)
    axis.grid(alpha=0.3)
    _legend(figure, axis)
    _save(figure, path)


def draw_traces(path: Path, cases: Sequence[str], names: Sequence[str], trials: Sequence[Trial], scale: float) -> None:
    """Loss above the best of any trial against evaluations, from the first start at a scale; a panel a case."""
    figure = Figure(figsize=(4.2 * len(cases) + 2.2, 4.4), layout="constrained")
    panels = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for axis, case in zip(panels, cases, strict=True):
        best = min(t.loss for t in trials if t.case == case)
        for i, name in enumerate(names):
            trial = next(t for t in trials if (t.case, t.optimizer, t.scale, t.start) == (case, name, scale, 0))
            passes = [point[1] for point in trial.trace]
            lowest = np.minimum.accumulate([point[2] for point in trial.trace])
            axis.plot(passes, np.maximum(lowest - best, LEAST_EXCESS), label=name, **_style(i))
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(case, fontsize=10)
        axis.set_xlabel("evaluations of the image")
        axis.grid(alpha=0.3)
    panels[0].set_ylabel("loss above the best answer's [log-likelihood]")
    figure.suptitle(f"Convergence from a start within {scale:g} %", fontsize=11)
    _legend(figure, panels[0])
    _save(figure, path)


def _with_legend() -> tuple[Figure, Any]:
    figure = Figure(figsize=(9, 5), layout="constrained")
    return figure, figure.subplots()


def _legend(figure: Figure, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % len(DASHES)]}


def _save(figure: Figure, path: Path) -> None:
    write_atomically(path, lambda stream: figure.savefig(stream, format="png", dpi=130))
