"""report.html: the evidence of a results directory as one page that needs nothing else."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from refine.app.report.canvas import Canvas, canvas, picture
from refine.app.report.drawing import Drawing, styled
from refine.app.report.evidence import Evidence, gather_evidence, normal_residuals, radial, shells
from refine.app.report.images import draw_images, draw_offsets, draw_spot, offsets_of
from refine.app.report.plots import (
    draw_correlations,
    draw_histogram,
    draw_loss,
    draw_parameter,
    draw_radial,
    draw_remaining,
    draw_shells,
)
from refine.app.report.source import ParameterRow, RunFiles, read_run
from refine.app.report.stills import left_out, own_values, shared_values, still_sections
from refine.app.report.stills_source import read_stills
from refine.app.results import with_esd
from refine.app.stopping import largest_shift
from refine.io.atomic import write_text
from refine.solvers.solution import Status

LONGEST_SIDE = 560  # pixels of a picture in the page
GALLERY, BRIGHT = 6, 0.5  # best and worst spots, of the brighter part of them
PARAMETERS = 36  # traces at most
NEAR_DEGENERATE = 0.95
LARGE = 1e7  # numbers below it are written out
TINY, HUGE = 1e-9, 1e9  # limits beyond them are none
VERDICTS = {
    "converged": ("good", "Converged"),
    "max_iterations": ("fair", "Not finished"),
    "stalled": ("fair", "Stalled"),
    "interrupted": ("fair", "Interrupted"),
    "diverged": ("bad", "Diverged"),
    "false_minimum": ("bad", "Not to be believed"),
    "singular": ("bad", "Not determined"),
}


def write_report(directory: Path) -> Path:
    """Make DIR/report.html from the other files in DIR. Raises InputError where they are missing or damaged."""
    target = directory / "report.html"
    write_text(target, render("run.html", run_page(read_run(directory))))
    return target


def render(template: str, content: dict[str, Any]) -> str:
    """A page from a template of this package, all text escaped."""
    environment = Environment(loader=PackageLoader("refine.app.report"), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters |= {"number": number, "esd": with_esd, "limits": limits, "fact": fact}
    return environment.get_template(template).render(content)


def number(value: Any, digits: int = 4) -> str:
    """A number for people, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "∞"
    whole = isinstance(value, int) or 10 ** (digits - 1) <= abs(value) < LARGE
    return f"{value:.0f}" if whole else f"{value:.{digits}g}"


def fact(value: Any) -> str:
    """A number with as many digits as a loss needs where it is large."""
    return number(value, 9 if isinstance(value, float) and abs(value) >= 1000 else 5)


def limits(row: ParameterRow) -> str:
    """How far a parameter may go, in words."""
    lower = 0.0 if abs(row.lower) < TINY else row.lower
    low, high = abs(lower) < HUGE, abs(row.upper) < HUGE
    if low and high:
        return f"{number(lower)} to {number(row.upper)}"
    return f"above {number(lower)}" if low else f"below {number(row.upper)}" if high else "–"


def run_page(run: RunFiles) -> dict[str, Any]:
    """What the page of one run is made of."""
    with styled():
        found = [gather_evidence(image, run.experiment) for image in run.images] if run.experiment else []
        layout = canvas(run.experiment.panels) if run.experiment else None
        images = [_image_section(evidence, layout) for evidence in found] if layout else []
        stills = read_stills(run.directory, run.result)
        return {
            "run": run,
            "title": run.title,
            "verdict": verdict(run),
            "parameters": shared_values(run.parameters),
            "own": list(own_values(run.parameters)),
            "stills": stills,
            "sections": still_sections(stills, layout),
            "left_out": left_out(run.result),
            "convergence": _convergence(run),
            "traces": _parameter_traces(run),
            "images": images,
            "offsets": None if stills else _reflection_offsets(run, layout),
            "correlations": draw_correlations(run.correlated, run.correlation) if run.correlated else None,
            "pairs": near_degenerate(run),
            "facts": facts(run),
        }


def verdict(run: RunFiles) -> dict[str, str]:
    """The run's end in a sentence: tone, word, reason and what to try."""
    status = str(run.result.get("status", ""))
    tone, word = VERDICTS.get(status, ("fair", status))
    advice = Status(status).advice if status in VERDICTS else ""
    return {"tone": tone, "word": word, "reason": str(run.result.get("reason", "")), "advice": advice}


def _convergence(run: RunFiles) -> list[Drawing]:
    if not len(run.trace.get("loss", ())):
        return []
    drawn = [
        draw_loss({run.title: run.trace}),
        draw_remaining(run.trace, largest_shift(spot_by_spot="left_out" in run.result)),
    ]
    return [drawing for drawing in drawn if drawing]


def _parameter_traces(run: RunFiles) -> list[Drawing]:
    """Those that moved furthest in units of their esd, in the table's order."""
    traced = [row for row in run.parameters if row.name in run.trace and row.esd > 0]
    furthest = sorted(traced, key=lambda row: -abs(row.shift_over_esd))[:PARAMETERS]
    return [draw_parameter(r, run.trace["iteration"], run.trace[r.name]) for r in traced if r in furthest]


def _image_section(evidence: Evidence, layout: Canvas) -> dict[str, Any]:
    """Everything that is shown of one image."""
    compared, spots = evidence.compared, evidence.spots
    shown = picture(compared, layout, LONGEST_SIDE)
    at, moved = offsets_of(spots, layout)
    found = shells(spots)
    what = "centroids of model less observed spots"
    return {
        "name": compared.name,
        "pictures": draw_images(evidence, shown, layout),
        "both": int((spots.in_image & spots.in_model).sum()),
        "only_image": int((~spots.in_model).sum()),
        "only_model": int((~spots.in_image).sum()),
        **{kind: [draw_spot(evidence, k) for k in chosen] for kind, chosen in best_and_worst(evidence).items()},
        "agreement": [
            draw_histogram(normal_residuals(evidence)),
            draw_radial(radial(evidence)),
            *([draw_shells(found)] if found else []),
            *([draw_offsets(at, moved, layout.size, what)] if len(at) else []),
        ],
        "shells": found,
    }


def best_and_worst(evidence: Evidence) -> dict[str, list[int]]:
    """Numbers of the spots that the model explains best and worst: by chi2 among the brighter half, and among all."""
    spots = evidence.spots
    bright = (
        np.flatnonzero(spots.observed >= np.quantile(spots.observed, BRIGHT)) if len(spots.d) else np.array([], int)
    )
    best = bright[np.argsort(spots.chi2[bright], kind="stable")][:GALLERY].tolist()
    worst = [k for k in np.argsort(-spots.chi2, kind="stable").tolist() if k not in best][:GALLERY]
    return {"best": best, "worst": worst}


def _reflection_offsets(run: RunFiles, layout: Canvas | None) -> Drawing | None:
    """Predicted less observed positions of reflections modelled one by one."""
    keys = ("panel", "x_obs_px", "y_obs_px", "x_model_px", "y_model_px")
    if layout is None or not all(key in run.reflections for key in keys):
        return None
    panel, *positions = (run.reflections[key] for key in keys)
    known = np.isfinite(np.stack(positions)).all(0)
    number = np.nan_to_num(panel[known]).astype(np.int64)
    points = np.stack(positions, 1)[known]
    start, end = (layout.at(part, number) for part in (points[:, :2], points[:, 2:]))
    return draw_offsets(start, end - start, layout.size, "predicted less observed positions of reflections.csv")


def near_degenerate(run: RunFiles) -> list[tuple[str, str, float]]:
    """Pairs of parameters that the data hardly tell apart, the worst first; those that symmetry ties or sets left
    out."""
    tied = {row.name for row in run.parameters if row.state.startswith(("tied", "by symmetry"))}
    names, matrix = run.correlated, run.correlation
    pairs = [
        (names[j], names[k], float(matrix[k, j]))
        for k in range(len(names))
        for j in range(k)
        if abs(matrix[k, j]) > NEAR_DEGENERATE and not tied & {names[j], names[k]}
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))


def _fact(key: str, value: Any, of: str) -> tuple[str, Any]:
    return of if key == "name" else key.replace("_", " "), value


def facts(run: RunFiles) -> list[tuple[str, Sequence[tuple[str, Any]]]]:
    """Tables of plain facts: the fit, what it took, and what was run."""
    loss, optimizer, origin = (run.result.get(k) or {} for k in ("loss", "optimizer", "provenance"))
    seconds = run.trace.get("seconds", np.array([]))
    iterations = int(optimizer.get("iterations") or 0)
    each = float(seconds[-1] - seconds[0]) / iterations if iterations and len(seconds) > 1 else None
    return [
        ("Fit", [_fact(key, value, "loss") for key, value in loss.items()]),
        (
            "Timing",
            [
                ("wall seconds", run.result.get("wall_seconds")),
                ("seconds an iteration", each),
                *(_fact(key, value, "optimizer") for key, value in optimizer.items()),
            ],
        ),
        ("Provenance", [*origin.items(), ("threads", run.config.get("threads"))]),
    ]
