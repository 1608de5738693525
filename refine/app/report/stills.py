"""The part of a report on stills: shared and own values, and what every image's spots say."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.image import imsave
from matplotlib.ticker import LogLocator, NullLocator

from refine.app.report.canvas import Canvas
from refine.app.report.drawing import INK, MODEL, OBSERVED, Drawing, axes, png, svg
from refine.app.report.images import draw_offsets
from refine.app.report.source import ParameterRow
from refine.app.report.stills_source import Boxes, Still

GALLERY, BRIGHT = 8, 0.5  # best and worst boxes, the best of the brighter part of them
SHOWN = 12  # images with pictures, at most
ABREAST = 7  # columns of a table of own values
BINS = 12  # of resolution
PIXEL = 4  # of a picture, in the screen's
UNUSED = "#efe9d8"
_OWN = re.compile(r"(.*)\[(.*)\]")


def shared_values(rows: Sequence[ParameterRow]) -> list[ParameterRow]:
    """The values that all images have in common."""
    return [row for row in rows if not _OWN.fullmatch(row.name)]


def own_values(rows: Sequence[ParameterRow]) -> Iterator[tuple[list[ParameterRow], dict[str, list[ParameterRow]]]]:
    """Tables of the values that each image has: the first image's rows, which name them, and every image's by its
    name."""
    found: dict[str, dict[str, ParameterRow]] = {}
    for row in rows:
        if own := _OWN.fullmatch(row.name):
            found.setdefault(own[2], {})[own[1]] = row
    first = next(iter(found.values()), {})
    names = [name for name in first if any(own[name].state != "fixed" for own in found.values() if name in own)]
    for begin in range(0, len(names), ABREAST):
        part = names[begin : begin + ABREAST]
        yield (
            [replace(first[name], name=name) for name in part],
            {image: [values[name] for name in part if name in values] for image, values in found.items()},
        )


def still_sections(stills: Sequence[Still], layout: Canvas | None) -> list[dict[str, Any]]:
    """What is shown of the first images."""
    return [_section(still, layout) for still in stills[:SHOWN] if len(still.reflections.get("h", ()))]


def left_out(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Images that no answer is of, and why."""
    return [(Path(str(one.get("file"))).name, str(one.get("reason"))) for one in result.get("left_out") or []]


def _section(still: Still, layout: Canvas | None) -> dict[str, Any]:
    best, worst = best_and_worst(still)
    return {
        "name": still.name,
        "pictures": [*_offsets(still, layout), draw_scores(still)],
        "best": [draw_box(still, still.boxes, k) for k in best] if still.boxes else [],
        "worst": [draw_box(still, still.boxes, k) for k in worst] if still.boxes else [],
    }


def _offsets(still: Still, layout: Canvas | None) -> Iterator[Drawing]:
    known = np.isfinite(still.offset)
    if layout is None or not known.any():
        return
    panel = still.reflections["panel"][known].astype(np.int64)
    start, end = (
        layout.at(np.stack([still.reflections[f"{k}_{of}_px"][known] for k in "xy"], 1), panel)
        for of in ("obs", "model")
    )
    yield draw_offsets(start, end - start, layout.size, "model less observed positions", still.held[known])


def best_and_worst(still: Still) -> tuple[list[int], list[int]]:
    """Numbers of the boxes that the model explains best, among the brighter half, and worst: by deviance a pixel."""
    if still.boxes is None:
        return [], []
    score, signal = still.reflections["score"], still.boxes.signal
    order = np.argsort(score, kind="stable").tolist()
    bright = signal >= np.quantile(signal, BRIGHT)
    best = [k for k in order if bright[k]][:GALLERY]
    return best, [k for k in order[::-1] if k not in best][:GALLERY]


def draw_box(still: Still, boxes: Boxes, number: int) -> Drawing:
    """One box: observed beside model, on one scale."""
    pair = np.stack([boxes.observed[number], boxes.model[number]])
    seen = pair[np.isfinite(pair)]
    scale = Normalize(*((seen.min(), seen.max()) if len(seen) else (0, 1)))
    colours = colormaps["gray_r"].with_extremes(bad=UNUSED)
    shown = colours(scale(np.ma.masked_invalid(pair)))
    gap = np.ones((shown.shape[1], 1, 4))
    picture = np.concatenate([shown[0], gap, shown[1]], 1).repeat(PIXEL, 0).repeat(PIXEL, 1)
    stream = io.BytesIO()
    imsave(stream, picture, format="png", metadata={"Software": "refine"})
    column = {key: float(values[number]) for key, values in still.reflections.items() if key != "image"}
    h, k, l = (int(column[key]) for key in "hkl")  # noqa: E741  Miller's index
    offset = f", {still.offset[number]:.2f} pixels off" if np.isfinite(still.offset[number]) else ""
    said = f"{h} {k} {l}, {1 / still.reciprocal[number]:.2f} Å: {boxes.signal[number]:.0f} photons{offset}"
    kept = "; held out" if still.held[number] else ""
    what = f"reflection {h} {k} {l}: observed, model"
    return Drawing(png(stream.getvalue()), what, f"{said}; deviance {column['score']:.2f}{kept}")


def draw_scores(still: Still) -> Drawing:
    """Deviance a pixel of every box against resolution, and its median."""
    figure, axis = axes(4.6, 3.4, left=0.75, top=0.35)
    reciprocal, score, held = still.reciprocal, still.reflections["score"], still.held
    for which, colour, label in ((~held, OBSERVED, "used"), (held, MODEL, "held out")):
        if which.any():
            axis.plot(reciprocal[which], score[which], ".", ms=3, mew=0, alpha=0.6, color=colour, label=label,
                      rasterized=True)  # fmt: skip
    edges = np.quantile(reciprocal, np.linspace(0, 1, min(BINS, len(score)) + 1))
    place = np.clip(np.searchsorted(edges, reciprocal, side="right") - 1, 0, len(edges) - 2)
    bins = np.unique(place)
    middle, median = (np.array([np.median(part[place == n]) for n in bins]) for part in (reciprocal, score))
    axis.plot(middle, median, "-", lw=1.5, color=INK, label="median")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("1/d [1/Å]")
    axis.set_ylabel("deviance a pixel")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, markerscale=3)
    caption = f"deviance a pixel of {len(score)} shoeboxes, median {np.median(score):.2f}; about 1 is counting noise"
    return Drawing(svg(figure), "deviance of shoeboxes against resolution", caption)
