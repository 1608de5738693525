"""Pictures of numbers: convergence, agreement, residuals, correlations."""

from collections.abc import Sequence

import numpy as np

from refine.app.report.drawing import ACCENT, INK, MODEL, OBSERVED, SOFT, Drawing, axes, svg
from refine.app.report.evidence import Radial, Shell
from refine.app.report.source import Array, ParameterRow
from refine.app.results import with_esd

LEAST_EXCESS = 1e-3  # of a log-likelihood: below it two losses are the same
LIMIT = 5.0  # standard deviations
NAMED, COUNTED = 60, 12  # parameters whose names fit beside a matrix, and whose numbers fit in it


def draw_loss(traces: dict[str, dict[str, Array]]) -> Drawing:
    """Loss above the lowest against iteration, a line a run: above its own, for of other images or likelihoods it is
    another number."""
    figure, axis = axes(4.6, 2.6, left=0.75)
    for (name, trace), colour in zip(traces.items(), (OBSERVED, MODEL, ACCENT, "#cc79a7", INK) * 20, strict=False):
        above = trace["loss"] - float(np.nanmin(trace["loss"]))
        axis.plot(trace["iteration"], np.maximum(above, LEAST_EXCESS), "o-", ms=3, lw=1.2,
                  color=colour, label=name)  # fmt: skip
    axis.set_yscale("log")
    axis.set_xlabel("iteration")
    axis.set_ylabel("loss above the lowest")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    if len(traces) > 1:
        axis.legend()
    return Drawing(svg(figure), "loss against iteration", "loss (negative log-likelihood) above its lowest value")


def draw_remaining(trace: dict[str, Array], wanted: float = 0.01) -> Drawing | None:
    """The largest shift still to come, in esd, against iteration; None for a solver that does not know it."""
    values = trace.get("largest_shift_over_esd", np.array([]))
    if not np.isfinite(values).any():
        return None
    figure, axis = axes(4.6, 2.6, left=0.75)
    axis.plot(trace["iteration"], np.maximum(values, 1e-12), "o-", ms=3, lw=1.2, color=OBSERVED)
    axis.axhline(wanted, color=ACCENT, lw=1, ls="--")
    axis.set_yscale("log")
    axis.set_xlabel("iteration")
    axis.set_ylabel("largest shift / esd")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.25)
    caption = "largest shift still to come, in standard uncertainties; converged below the dashed line"
    return Drawing(svg(figure), "largest shift over esd against iteration", caption)


def draw_parameter(row: ParameterRow, iterations: Array, values: Array) -> Drawing:
    """One parameter against iteration: its start dashed, its final value with its esd as a band."""
    figure, axis = axes(2.3, 1.35, left=0.62, bottom=0.25, top=0.18)
    esd = row.esd if row.esd > 0 else 0.0
    axis.axhspan(-esd, esd, color=ACCENT, alpha=0.25, lw=0)
    axis.axhline(row.start - row.value, color=SOFT, lw=0.8, ls="--")
    axis.plot(iterations, values - row.value, "o-", ms=2.5, lw=1, color=OBSERVED)
    axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axis.yaxis.get_offset_text().set_size(7)
    axis.tick_params(labelsize=7)
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=4)
    axis.yaxis.get_major_locator().set_params(nbins=4)
    return Drawing(
        svg(figure), f"{row.name} against iteration", f"{row.name}: {with_esd(row.value, row.esd)} {row.unit}"
    )


def draw_histogram(residual: Array) -> Drawing:
    """Residuals that should be unit normal against the unit normal."""
    figure, axis = axes(4.6, 3.0, left=0.75)
    edges = np.linspace(-LIMIT - 1, LIMIT + 1, 61)
    middle = (edges[1:] + edges[:-1]) / 2
    found = np.histogram(np.clip(residual, edges[0], edges[-1]), edges, density=True)[0]
    axis.bar(middle, found, edges[1] - edges[0], color=OBSERVED, alpha=0.55, label="pixels")
    axis.plot(middle, np.exp(-(middle**2) / 2) / np.sqrt(2 * np.pi), color=INK, lw=1.1, ls="--", label="unit normal")
    axis.set_yscale("log")
    axis.set_ylim(max(0.3 / max(len(residual), 1), 1e-7), 2)
    axis.set_xlabel("residual [σ]")
    axis.set_ylabel("probability density")
    axis.legend(loc="upper right")
    beyond = int((np.abs(residual) > LIMIT).sum())
    caption = (
        f"{len(residual)} pixels: mean {residual.mean():+.4f}, standard deviation {residual.std():.4f}, {beyond} beyond"
        f" {LIMIT:g} σ (the outermost bars hold all that is further out)"
    )
    return Drawing(svg(figure), "histogram of normalised residuals", caption)


def draw_radial(rings: Radial) -> Drawing:
    """Mean photons over rings, and their relative difference with its error."""
    figure, axis = axes(4.6, 3.4, left=0.75, top=1.35)
    axis.plot(rings.reciprocal, 100 * (rings.observed / np.maximum(rings.model, 1e-9) - 1), ".", ms=4, color=OBSERVED)
    band = 100 * rings.error
    axis.fill_between(rings.reciprocal, -band, band, color=ACCENT, alpha=0.3, lw=0)
    reach = float(np.clip(np.percentile(band, 90) * 5, 0.5, 100))
    axis.set_ylim(-reach, reach)
    axis.set_xlabel("1/d [1/Å]")
    axis.set_ylabel("difference [%]")
    upper = figure.add_axes((0.75 / 4.6, 2.17 / 3.4, 1 - 0.87 / 4.6, 1.13 / 3.4), sharex=axis)
    upper.plot(rings.reciprocal, rings.observed, color=OBSERVED, lw=1.4, label="observed")
    upper.plot(rings.reciprocal, rings.model, color=MODEL, lw=1, ls="--", label="model")
    upper.set_ylabel("photons / pixel")
    upper.tick_params(labelbottom=False)
    upper.legend(loc="upper right", ncols=2)
    caption = "means over rings; below, observed over model less 1, the band one standard error of counting noise"
    return Drawing(svg(figure), "mean photons against resolution", caption)


def draw_shells(found: Sequence[Shell]) -> Drawing:
    """R and chi2 of the spots in resolution shells."""
    figure, axis = axes(4.6, 2.6, left=0.75)
    middle = [1 / s.low / 2 + 1 / s.high / 2 for s in found]
    axis.plot(middle, [s.r for s in found], "o-", ms=3, lw=1.2, color=OBSERVED, label="R")
    axis.plot(middle, [s.chi2 for s in found], "s--", ms=3, lw=1.2, color=MODEL, label="χ² a pixel")
    axis.set_ylim(0, None)
    axis.set_xlabel("1/d [1/Å]")
    axis.grid(alpha=0.25)
    axis.legend()
    return Drawing(svg(figure), "agreement of spots against resolution", "R = Σ|Io - Im| / Σ Io of the spots, and χ²")


def draw_correlations(names: Sequence[str], matrix: Array) -> Drawing:
    """The correlation matrix as a heat map."""
    edge, margin = min(2.2 + 0.24 * len(names), 6.4), 0.95 if len(names) <= 2 * COUNTED else 1.3
    figure, axis = axes(edge, edge, left=margin, bottom=margin)
    size = min(9.0, 60 * (edge - margin) / len(names))
    axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none")
    if len(names) <= NAMED:
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
        axis.set_yticks(range(len(names)), names, fontsize=size)
    for k in range(len(names) if len(names) <= COUNTED else 0):
        for j in range(k):
            colour = "white" if abs(matrix[k, j]) > 0.6 else INK
            axis.text(j, k, f"{100 * matrix[k, j]:.0f}", ha="center", va="center", fontsize=6.5, color=colour)
    axis.tick_params(length=0)
    unit = ", in per cent" if len(names) <= COUNTED else ""
    caption = f"correlations of the refined values, -1 (blue) to 1 (red){unit}"
    return Drawing(svg(figure), "correlation matrix", caption)
