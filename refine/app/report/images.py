"""Pictures of images: observed, model and residual, and single spots."""

from typing import Any

import numpy as np
from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from refine.app.report.canvas import Canvas, Picture
from refine.app.report.drawing import MODEL, OBSERVED, Drawing, axes, svg
from refine.app.report.evidence import Evidence, SpotTable, paired
from refine.app.report.source import Array

LIMIT = 5.0  # standard deviations at the ends of the residuals' colours
MARKED = 400  # spots at most
ROUND = 7  # pixels on either side of a spot in the gallery
LONGEST_ARROW = 0.07  # of the picture's width


def scale_of(picture: Picture) -> Normalize:
    """One scale for observed and model: linear up to the noise of the background, logarithmic above."""
    values = np.concatenate([part[np.isfinite(part)] for part in (picture.observed, picture.model)])
    low, middle, high = np.percentile(values, (1, 50, 99.9)) if len(values) else (0, 0, 1)
    noise = max(float(np.sqrt(max(middle, 0.05))) / picture.block, 1e-3)
    least = max(float(low), float(middle) - 2 * noise)
    return AsinhNorm(noise, least, max(float(high), least + noise))


def draw_images(evidence: Evidence, picture: Picture, layout: Canvas) -> list[Drawing]:
    """Observed, model and normalised residual, the first two on one scale, spots marked."""
    scale, name = scale_of(picture), evidence.compared.name
    binned = f", {picture.block} x {picture.block} pixels averaged" if picture.block > 1 else ""
    residual = Normalize(-LIMIT, LIMIT)
    whole = [
        (picture.observed, "gray_r", scale, "observed", f"photons a pixel{binned}"),
        (picture.model, "gray_r", scale, "model", f"photons a pixel{binned}, the same scale"),
        (picture.residual, "RdBu_r", residual, "residual", f"(observed - model) / σ{binned}"),
    ]
    spots = evidence.spots
    return [
        Drawing(
            svg(_image(values, colours, norm, label, spots, layout, picture.block)), f"{kind} image of {name}", kind
        )
        for values, colours, norm, kind, label in whole
    ]


def _image(
    values: Array, colours: str, norm: Normalize, label: str, spots: SpotTable, layout: Canvas, block: int
) -> Figure:
    height, width = values.shape
    inches = 4.6
    tall = inches * min(max(height / width, 0.25), 3.0)
    figure = Figure(figsize=(inches, tall + 0.62))
    axis = figure.add_axes((0, 0.62 / (tall + 0.62), 1, tall / (tall + 0.62)))
    extent = (0, width * block, height * block, 0)
    shown = axis.imshow(values, cmap=colours, norm=norm, extent=extent, interpolation="none", aspect="auto")
    axis.set_facecolor("#efe9d8")
    _mark(axis, spots, layout)
    axis.set_axis_off()
    bar = figure.colorbar(shown, cax=figure.add_axes((0.03, 0.46 / (tall + 0.62), 0.94, 0.1 / (tall + 0.62))),
                          orientation="horizontal", label=label)  # fmt: skip
    if not isinstance(norm, AsinhNorm):
        return figure
    ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 1e5) if (norm.vmin or 0) <= t <= (norm.vmax or 0)]
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.minorticks_off()
    return figure


def _mark(axis: Any, spots: SpotTable, layout: Canvas) -> None:
    """Circles round spots of both, squares round those that only the image shows, diamonds where only the model."""
    x, y = spot_coordinates(spots, layout)[:MARKED].T
    both = (spots.in_image & spots.in_model)[:MARKED]
    only_image, only_model = (spots.in_image & ~spots.in_model)[:MARKED], (~spots.in_image)[:MARKED]
    marks = ((both, "o", OBSERVED), (only_image, "s", MODEL), (only_model, "D", "#a0007a"))
    for which, marker, colour in marks:
        axis.scatter(x[which], y[which], 34, marker=marker, facecolors="none", edgecolors=colour, linewidths=0.7)


def spot_coordinates(spots: SpotTable, layout: Canvas) -> Array:
    """x, y (n, 2) of the spots in the picture."""
    points: Array = np.stack(spots.place[:-3:-1], 1).astype(np.float64) + 0.5
    return layout.at(points, panels_of(spots))


def panels_of(spots: SpotTable) -> NDArray[np.int64]:
    """The spots' panels (n,), 0 where there is one."""
    return spots.place[0] if len(spots.place) == 3 else np.zeros_like(spots.place[0])


def draw_spot(evidence: Evidence, number: int) -> Drawing:
    """One spot: observed, model, residual, with what it is."""
    spots, compared = evidence.spots, evidence.compared
    *panel, slow, fast = (int(part[number]) for part in spots.place)
    image = [part[tuple(panel)] for part in (compared.observed, compared.model, evidence.residual)]
    trusted = compared.trusted[tuple(panel)]
    observed, model, residual = (_window(np.where(trusted, part, np.nan), slow, fast) for part in image)
    figure = Figure(figsize=(2.9, 1.0))
    top = float(max(np.nanmax(observed), np.nanmax(model), 1e-6))
    low = float(min(np.nanmin(model), np.nanmin(observed)))
    panels = ((observed, "gray_r", low, top), (model, "gray_r", low, top), (residual, "RdBu_r", -LIMIT, LIMIT))
    for k, (values, colours, least, most) in enumerate(panels):
        axis = figure.add_axes((k / 3 + 0.004, 0, 1 / 3 - 0.008, 1))
        axis.imshow(values, cmap=colours, vmin=least, vmax=most, interpolation="none")
        axis.set_facecolor("#efe9d8")
        axis.set_xticks([])
        axis.set_yticks([])
    h, k, l = spots.hkl[number]  # noqa: E741  Miller's index
    said = (
        f"{h} {k} {l}, {spots.d[number]:.2f} Å: {spots.observed[number]:.0f} photons, model {spots.model[number]:.0f}"
    )
    where = f"fast {fast}, slow {slow}" + (f", panel {panel[0]}" if panel else "")
    return Drawing(svg(figure), f"spot at {where}: observed, model, residual", f"{said}; χ² {spots.chi2[number]:.2f}")


def _window(image: Array, slow: int, fast: int) -> Array:
    """The pixels round one, NaN outside the image."""
    found = np.full((2 * ROUND + 1, 2 * ROUND + 1), np.nan)
    rows, columns = np.arange(slow - ROUND, slow + ROUND + 1), np.arange(fast - ROUND, fast + ROUND + 1)
    inside = np.ix_((rows >= 0) & (rows < image.shape[0]), (columns >= 0) & (columns < image.shape[1]))
    found[inside] = image[np.ix_(rows[inside[0][:, 0]], columns[inside[1][0]])]
    return found


def draw_offsets(
    at: Array, moved: Array, size: tuple[int, int], what: str, held: NDArray[np.bool_] | None = None
) -> Drawing:
    """Model less observed positions, arrows at x, y (n, 2), much enlarged; r.m.s. in the caption. held (n,): spots in
    another colour, for which the caption gives a median of their own."""
    rms = np.sqrt((moved**2).mean(0))
    lengths = np.linalg.norm(moved, axis=1)
    factor = _round_factor(LONGEST_ARROW * size[0] / max(float(np.percentile(lengths, 95)), 1e-6))
    figure, axis = axes(4.6, 4.6 * min(max(size[1] / size[0], 0.25), 3.0) + 0.2, left=0.65, bottom=0.42)
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.004, "rasterized": len(at) > MARKED}
    if held is None:
        axis.quiver(*at.T, *(factor * moved).T, lengths, cmap="viridis", **arrows)
    else:
        axis.quiver(*at.T, *(factor * moved).T, color=np.where(held, MODEL, OBSERVED), **arrows)
    axis.set_xlim(0, size[0])
    axis.set_ylim(size[1], 0)
    axis.set_xlabel("fast [pixels]")
    axis.set_ylabel("slow [pixels]", labelpad=2)
    caption = (
        f"{what}, {len(at)} spots: r.m.s. {rms[0]:.3f} (fast), {rms[1]:.3f} (slow) pixels, mean"
        f" {moved[:, 0].mean():+.3f}, {moved[:, 1].mean():+.3f}; arrows {factor:g} times as long"
    )
    told = caption if held is None else f"{caption}; median length {_medians(lengths, held)}"
    return Drawing(svg(figure), "map of predicted minus observed positions", told)


def _medians(lengths: Array, held: NDArray[np.bool_]) -> str:
    """Of used and held-out spots, in words."""
    parts = (("used, blue", lengths[~held]), ("held out, orange", lengths[held]))
    return ", ".join(f"{np.median(part):.3f} pixels ({name}: {len(part)})" for name, part in parts if len(part))


def _round_factor(value: float) -> float:
    power = 10 ** np.floor(np.log10(max(value, 1.0)))
    return float(next(n * power for n in (5, 2, 1) if n * power <= max(value, 1.0)))


def offsets_of(spots: SpotTable, layout: Canvas) -> tuple[Array, Array]:
    """Observed positions (n, 2) in the picture, and model less observed (n, 2), of the spots that both images show."""
    both = paired(spots)
    start, end = (layout.at(at[both], panels_of(spots)[both]) for at in (spots.observed_at, spots.model_at))
    return start, end - start
