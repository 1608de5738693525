"""What the pixels of the image say, and defaults for real images."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.app.dials import trusted_ranges, unmasked
from refine.app.importing.draft import Draft, Gap, Setting
from refine.errors import InputError
from refine.io.experiments import DialsExperiment
from refine.io.images import RawImage, read_image

BACKGROUND = 90  # per cent of the pixels, the darkest, are taken to be background
LEAST_BACKGROUND = 0.01  # photons
OVERSAMPLE = 3  # sub-pixels along an edge, by whose variance spots are wider
SPREAD_DEG, BLOCK = 0.1, 500.0  # degrees; Å
STEPS_A_SPREAD, MOST_STEPS = 2, 100
GUESSED = f"unit cells: blocks of {BLOCK:g} Å, a guess"


def from_pixels(draft: Draft, experiment: DialsExperiment | None) -> Draft:
    """Background and readout noise of the draft's image; raises InputError where it cannot be used."""
    path = draft.value("images.0.file", Path)
    if path is None:
        return Draft()
    shape = _given_size(draft) if experiment is None else _shape(experiment)
    raw = read_image(path, shape, draft.value("images.0.frame", int))
    counts = raw.values[_trusted(raw, experiment)]
    if counts.size == 0 or not np.isfinite(counts).all():
        said = "has no pixel that is not masked or untrusted" if counts.size == 0 else "has NaN or infinite pixels"
        raise InputError(f"{path}: {said}; give another image, or another detector")
    return _described(path.name, raw, counts, draft, experiment)


def _given_size(draft: Draft) -> tuple[int, ...] | None:
    size = draft.value("detector.size", list) or draft.value("detector.size", tuple)
    return tuple(size) if size is not None and len(size) == 2 and all(isinstance(n, int) for n in size) else None


def _shape(experiment: DialsExperiment) -> tuple[int, ...]:
    (width, height), count = experiment.panels[0].image_size, len(experiment.panels)
    return (height, width) if count == 1 else (count, height, width)


def _trusted(raw: RawImage, experiment: DialsExperiment | None) -> NDArray[np.bool_]:
    if experiment is None:
        return raw.valid
    low, high = trusted_ranges(experiment)
    stack = raw.values.reshape(len(experiment.panels), *raw.values.shape[-2:])
    size = (stack.shape[1], stack.shape[2])
    return raw.valid & ((stack >= low) & (stack <= high) & unmasked(experiment, size)).reshape(raw.valid.shape)


def _described(
    name: str, raw: RawImage, counts: NDArray[np.float64], draft: Draft, experiment: DialsExperiment | None
) -> Draft:
    """Sizes, background (photons) and, where counts are below zero, the noise of a detector that integrates."""
    gain, offset = (
        _number(draft, experiment, *names) for names in (("gain", "gain", 1.0), ("offset", "pedestal", 0.0))
    )
    background = np.mean(counts[counts <= np.percentile(counts, BACKGROUND)])
    level = max(round(float(background - offset) / gain, 3), LEAST_BACKGROUND)
    settings, gaps = [], []
    if not draft.says("structure_factors.unknown"):  # a shoebox has a background of its own
        settings.append(Setting("background.model", "constant", ""))
        said = f"photons/pixel; mean of the darkest {BACKGROUND} % of {name}"
        settings.append(Setting("background.value", level, said))
    if experiment is None and raw.values.ndim == 2:
        settings.append(Setting("detector.size", list(raw.values.shape), f"{name}: slow, fast pixels"))
    if counts.min() < offset:
        noise = round(float(np.sqrt(np.mean((counts[counts <= offset] - offset) ** 2))), 3)
        said = f"ADU rms; of the pixels of {name} below {offset:g}, those of no photons"
        settings.append(Setting("detector.readout_noise", noise, said))
        if gain == 1:
            gaps.append(Gap("detector.gain", 25.0, "ADU a photon: counts below zero are no counts of photons"))
    used = f"image {name}: {raw.note}; {counts.size} pixels are trusted"
    return Draft(tuple(settings), tuple(gaps), (used,))


def _number(draft: Draft, experiment: DialsExperiment | None, key: str, panel: str, default: float) -> float:
    """What is given, or what the file says of its first panel."""
    given = draft.number(f"detector.{key}")
    if given is not None:
        return given
    return default if experiment is None else float(getattr(experiment.panels[0], panel))


def defaults(draft: Draft) -> Draft:
    """Settings for a real image that no file says."""
    return Draft(tuple(_defaults(draft)))


def _defaults(draft: Draft) -> Iterator[Setting]:
    yield Setting("crystal.shape", "gauss", "smooth, as the Gaussian mosaic needs it")
    mosaic = draft.value("crystal.mosaic", dict)
    if mosaic is None:
        mosaic = {"model": "gaussian", "spread_deg": SPREAD_DEG}
        yield Setting("crystal.mosaic", mosaic, "degrees, a standard deviation; a guess")
    cell = draft.value("crystal.cell", tuple) or draft.value("crystal.cell", list) or ()
    if len(cell) == 6 and all(isinstance(x, int | float) and x > 0 for x in cell):
        yield Setting("crystal.cells", block_cells(cell[:3], BLOCK), GUESSED)
    coloured = [] if draft.value("beam.gaussian", dict) is None else ["bandwidth"]
    if draft.says("structure_factors.unknown"):
        yield Setting("detector.oversample", OVERSAMPLE, "a pixel has an area")
        yield Setting("refinement.free", ["cell", "orientation", "mosaic", "cells", *coloured], "")
        yield Setting("refinement.pixels", {"shoebox": {"size": 15}}, "pixels; each box has a background of its own")
        yield Setting("refinement.loss", "robust", "counting statistics with the tails of what is not the crystal")
        return
    yield Setting("background.model", "constant", "")
    yield Setting("background.value", 1.0, "photons/pixel; a guess")
    free = ["cell", "orientation", "scale", "background", *coloured]
    yield Setting("refinement.free", [*free, "mosaic"] if mosaic.get("model") == "gaussian" else free, "")
    yield Setting("refinement.loss", "robust", "counting statistics with the tails of what is not the crystal")


def scan_steps(width: float, spread: float = SPREAD_DEG) -> int:
    """Spindle angles that sample a rotation (degrees) of a crystal of a mosaic spread (degrees) finely enough."""
    return min(max(math.ceil(STEPS_A_SPREAD * abs(width) / spread), 1), MOST_STEPS)


def block_cells(edges: Any, size: float) -> list[float]:
    """Unit cells along edges (Å) of a block of a size (Å)."""
    return [round(max(size / float(edge), 1.0), 1) for edge in edges]
