"""A figure for a page: SVG in the page itself, the same bytes for the same run."""

import base64
import io
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure

INK, SOFT = "#1d2433", "#8a93a6"
OBSERVED, MODEL, ACCENT = "#0072b2", "#d55e00", "#009e73"  # of Okabe & Ito's colours, which all eyes tell apart
RASTER = 160  # dots per inch of what is too much for lines
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "refine", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9,
    "axes.edgecolor": SOFT, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.linewidth": 0.7, "axes.spines.top": False, "axes.spines.right": False, "xtick.labelsize": 8,
    "ytick.labelsize": 8, "legend.fontsize": 8, "legend.frameon": False, "axes.titlesize": 9,
}  # fmt: skip


class Drawing(NamedTuple):
    """A picture as the source of an <img>, its text for those who do not see it, and a caption."""

    source: str
    alt: str
    caption: str = ""


def axes(width: float, height: float, left: float = 0.6, bottom: float = 0.45, top: float = 0.1) -> tuple[Figure, Any]:
    """A figure of a size in inches with one pair of axes, its margins in inches."""
    figure = Figure(figsize=(width, height))
    axis = figure.add_axes((left / width, bottom / height, 1 - (left + 0.12) / width, 1 - (bottom + top) / height))
    return figure, axis


def styled() -> Any:
    """The look of every figure, as a context in which they are drawn."""
    return matplotlib.rc_context(_STYLE)


def svg(figure: Figure) -> str:
    """The figure as a data URI."""
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", dpi=RASTER, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def png(picture: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(picture).decode("ascii")
