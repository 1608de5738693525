"""A command line's experiment as a configuration of `refine`: the same physics without the program's defects."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refine.app.nanobragg.settings import DetectorSettings, ScanSettings, Settings
from refine.app.nanobragg.vectors import Vector, cross, dot
from refine.errors import InputError
from refine.model.conventions import CONVENTIONS
from refine.physics.cell import real_space_vectors
from refine.physics.rotation import misset_rotation
from refine.physics.sources import Spread, even_steps, spread_sources, tilt_grid

UM_PER_MM = 1e3
_SAME = 1e-9  # relative; two ways to the same vector differ by rounding
_CUSTOM_FRAME = "mosflm"  # the named frame beside which the axes of a custom one are given


def configuration(settings: Settings) -> dict[str, Any]:
    """The content of a configuration that `refine simulate` makes the same image of.

    `settings` resolved without defects. Raises InputError where a configuration cannot say what the command line does.
    """
    if unsaid := next(_unsaid(settings), None):
        raise InputError(f"-config: {unsaid}")
    config: dict[str, Any] = {
        "beam": _beam(settings),
        "detector": _detector(settings),
        "crystal": _crystal(settings),
        "structure_factors": _structure_factors(settings),
    }
    background = {"background": {"water_um": settings.water}} if settings.water else {}
    return _rounded({**config, **background})


def _rounded(value: Any) -> Any:
    """Numbers without the noise of conversions, which no measurement has: 13 digits."""
    if isinstance(value, float):
        return float(f"{value:.13g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def _unsaid(settings: Settings) -> Iterator[str]:
    """What a configuration has no words for."""
    beam, crystal, panel, scan = settings.beam, settings.crystal, settings.detector, settings.scan
    if crystal.fudge != 1 and crystal.shape != "square":
        yield f"-fudge {crystal.fudge:g} has no counterpart in a configuration; leave it out, and choose N instead"
    if scan.steps > 1 and not math.isclose(scan.step * scan.steps, scan.osc):
        yield "phi steps that do not add up to the oscillation; give -osc and -phisteps"
    if beam.source_file is None and not _evenly_spread(settings):
        yield "a divergence or dispersion whose steps do not span it; give the range and the number of steps"
    if panel.sensor_thickness and not panel.attenuation:
        yield "a sensor that absorbs nothing; give -detector_abs a depth in µm"
    if _to_plane(panel, beam.direction) <= 0:
        yield "the direct beam does not hit the detector's plane, from where a configuration measures"


def _evenly_spread(settings: Settings) -> bool:
    """Whether the rays are those of an even grid over the ranges, as a configuration has them."""
    beam = settings.beam
    colours = even_steps(beam.dispersion_steps)
    grid = Spread(
        divergence=torch.tensor([beam.hdiv_range, beam.vdiv_range], dtype=torch.float64),
        tilts=tilt_grid((beam.hdiv_steps, beam.vdiv_steps), beam.round_divergence),
        dispersion=torch.tensor(100 * beam.dispersion, dtype=torch.float64),
        colours=colours,
        ratios=torch.ones_like(colours),
        weights=torch.ones_like(colours),
    )
    direction, electric = (torch.tensor(v, dtype=torch.float64) for v in (beam.direction, beam.polarization))
    rays = spread_sources(direction, electric, grid)
    ours = torch.cat([-rays.directions, rays.wavelength_ratios[:, None] * beam.wavelength], 1)
    theirs = torch.tensor([(*s.direction, s.wavelength) for s in beam.sources], dtype=torch.float64)
    return ours.shape == theirs.shape and bool(torch.allclose(_ordered(ours), _ordered(theirs), rtol=0, atol=_SAME))


def _ordered(rows: Tensor) -> Tensor:
    """Rows (n, k) in an order that rounding does not change."""
    return rows[np.lexsort(rows.round(decimals=7).T.numpy())]


def _beam(settings: Settings) -> dict[str, Any]:
    beam = settings.beam
    found: dict[str, Any] = {
        "wavelength": beam.wavelength,
        "fluence": beam.fluence,
        "polarization": beam.kahn if beam.polarized else None,
    }
    if beam.source_file is not None:
        return {**found, "sources": str(beam.source_file.absolute())}
    if max(beam.hdiv_range, beam.vdiv_range) > 0:
        widths = {"horizontal_mrad": beam.hdiv_range, "vertical_mrad": beam.vdiv_range}
        steps = {"steps": [max(beam.hdiv_steps, 1), max(beam.vdiv_steps, 1)]}
        square = not beam.round_divergence and min(beam.hdiv_range, beam.vdiv_range) > 0
        found["divergence"] = {**widths, **steps, **({"round": False} if square else {})}
    if beam.dispersion > 0:
        found["dispersion"] = {"percent": 100 * beam.dispersion, "steps": beam.dispersion_steps}
    return found


def _detector(settings: Settings) -> dict[str, Any]:
    panel, sampling = settings.detector, settings.sampling
    distance = _to_plane(panel, settings.beam.direction)
    spot = [distance * b - o for b, o in zip(settings.beam.direction, panel.origin, strict=True)]
    found: dict[str, Any] = {
        "distance": distance,
        "pixel_size": panel.pixel_size,
        "size": list(panel.size),
        "beam_center_px": [_along(spot, axis) / panel.pixel_size for axis in (panel.fast, panel.slow)],
        "convention": _frame_name(panel),
        "oversample": sampling.oversample,
    }
    if axes := _axes(settings):
        found["axes"] = axes
    if panel.sensor_thickness and panel.attenuation:
        depth = {
            "um": panel.layers * panel.layer_thickness * UM_PER_MM,
            "attenuation_um": UM_PER_MM / panel.attenuation,
        }
        found["thickness"] = {**depth, "steps": panel.layers}
    found |= {name: True for name in ("curved", "point_pixel") if getattr(panel, name)}
    if sampling.mask is not None:
        found["mask"] = str(sampling.mask.absolute())
    return {**found, **_roi(settings)}


def _frame_name(panel: DetectorSettings) -> str:
    return panel.convention if panel.convention in CONVENTIONS else _CUSTOM_FRAME


def _axes(settings: Settings) -> dict[str, list[float]]:
    """The axes that are not the convention's: of a turned panel those where it ended, so that no rotation is left."""
    panel, beam = settings.detector, settings.beam
    named = CONVENTIONS[_frame_name(panel)]
    held = {
        "beam": beam.direction,
        "fast": panel.fast,
        "slow": panel.slow,
        "spindle": settings.scan.spindle,
        "polarization": beam.polarization,
    }
    return {name: list(axis) for name, axis in held.items() if tuple(axis) != tuple(getattr(named, name))}


def _to_plane(panel: DetectorSettings, beam: Vector) -> float:
    """Distance in mm along the beam to the detector's plane."""
    normal = cross(panel.fast, panel.slow)
    across = dot(normal, beam)
    return dot(normal, panel.origin) / across if across else -1.0


def _along(vector: list[float], axis: Vector) -> float:
    return sum(v * a for v, a in zip(vector, axis, strict=True))


def _roi(settings: Settings) -> dict[str, Any]:
    x_from, x_to, y_from, y_to = settings.sampling.roi
    slow, fast = settings.detector.size
    spans = {"fast": [x_from, min(x_to, fast - 1)], "slow": [y_from, min(y_to, slow - 1)]}
    whole = {"fast": [0, fast - 1], "slow": [0, slow - 1]}
    kept = {name: span for name, span in spans.items() if span != whole[name]}
    return {"roi": kept} if kept else {}


def _crystal(settings: Settings) -> dict[str, Any]:
    crystal = settings.crystal
    found: dict[str, Any] = {**_cell_or_matrix(settings), "cells": list(crystal.cells), "shape": crystal.shape}
    if crystal.mosaic_domains > 1:
        spread = {"spread_deg": crystal.mosaic_spread, "domains": crystal.mosaic_domains, "seed": crystal.mosaic_seed}
        found["mosaic"] = spread
    if settings.scan.steps > 1 or settings.scan.phi0:
        found["scan"] = _scan(settings.scan)
    return found


def _scan(scan: ScanSettings) -> dict[str, Any]:
    return {"phi0": scan.phi0, "osc": scan.osc if scan.steps > 1 else 0.0, "steps": scan.steps}


def _cell_or_matrix(settings: Settings) -> dict[str, Any]:
    """Cell and missetting where they lead to the crystal's vectors, its matrix otherwise."""
    crystal = settings.crystal
    rows = np.array([crystal.a, crystal.b, crystal.c])
    cell, misset = (torch.tensor(numbers, dtype=torch.float64) for numbers in (crystal.cell, crystal.misset))
    if np.allclose(
        (real_space_vectors(cell) @ misset_rotation(misset).T).numpy(), rows, rtol=0, atol=_SAME * rows.max()
    ):
        return {"cell": list(crystal.cell), "orientation": {"misset_deg": list(crystal.misset)}}
    matrix = np.column_stack([crystal.a_star, crystal.b_star, crystal.c_star])
    return {"orientation": {"a_matrix": matrix.flatten().tolist()}}


def _structure_factors(settings: Settings) -> dict[str, Any]:
    factors, d_min = settings.structure_factors, settings.sampling.dmin
    listed: dict[str, Any] = {} if factors.hkl is None else {"file": str(factors.hkl.absolute())}
    optional = {"interpolate": factors.interpolate, "d_min": d_min if d_min > 0 else None}
    return {**listed, "default": factors.default, **{name: value for name, value in optional.items() if value}}
