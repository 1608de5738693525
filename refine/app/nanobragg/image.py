"""From the settings of a command line to its image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refine.app.nanobragg import factors as f
from refine.app.nanobragg.amplitudes import Shape, StructureFactors, shape, structure_factors
from refine.app.nanobragg.files import named
from refine.app.nanobragg.orientations import Orientations, orientations
from refine.app.nanobragg.settings import Settings
from refine.app.nanobragg.steps import CHUNK, Passage, blocks, passages
from refine.io.images import read_mask
from refine.model.beam import THOMSON_CROSS_SECTION

AVOGADRO, WATER_F, WATER_G_PER_MOL = 6.02214179e23, 2.57, 18.0
_TOGETHER = 131072  # pixels times steps whose indices are held at once: temporaries of 1 MB

Progress = Callable[[float], None]


class Last(NamedTuple):
    """The last step of each of P pixels: what `-printout` shows.

    position (3, P) m, scattering (3, P) 1/Å, indices (3, P), amplitudes of cell and lattice (P,), the sum and the
    pixel's photons (P,), factors (P,), the rows a, b, c (3, 3) in Å.
    """

    position: Tensor
    scattering: Tensor
    indices: Tensor
    cell: Tensor
    lattice: Tensor
    total: Tensor
    photons: Tensor
    factors: f.Factors
    vectors: Tensor


@dataclass(frozen=True)
class Image:
    """values: float32 (slow, fast) photons, 0 where not computed; solid_angle: summed over sub-pixels, layers.

    note: a remark on the list of structure factors, empty for none.
    """

    values: NDArray[np.float32]
    computed: NDArray[np.bool_]
    solid_angle: float
    note: str = ""


class _Plan(NamedTuple):
    settings: Settings
    rule: f.Rules
    turned: Orientations
    shape: Shape
    listed: StructureFactors
    water: float


class _Tile(NamedTuple):
    last: Last
    solid_angle: float
    interpolates: bool


def simulate(
    settings: Settings, progress: Progress | None = None, look: Callable[[Tensor, Last], None] | None = None
) -> Image:
    """The image, in nanoBragg.c's order of steps. `look` sees pixels (2, P) slow, fast with their last steps.

    Raises InputError for files that cannot be used.
    """
    plan = _plan(settings)
    computed = computed_pixels(settings)
    pixels = torch.from_numpy(np.argwhere(computed).T)
    values = np.zeros(settings.detector.size, dtype=np.float32)
    tiles = pixels.split(max(_TOGETHER // min(plan.turned.vectors.shape[1], CHUNK), 64), dim=1)
    fresh, interpolates, solid_angle, done = _first_passage(plan, tiles), settings.structure_factors.interpolate, 0.0, 0
    for tile in tiles if pixels.shape[1] else ():
        found = _tile(plan, tile, interpolates, _within_tile(fresh, done, tile))
        interpolates, solid_angle, done = found.interpolates, solid_angle + found.solid_angle, done + tile.shape[1]
        values[tile[0].numpy(), tile[1].numpy()] = found.last.photons.to(torch.float32).numpy()
        if look is not None:
            look(tile, found.last)
        if progress is not None:
            progress(done / pixels.shape[1])
    return Image(values, computed, solid_angle, plan.listed.note)


def region(settings: Settings) -> NDArray[np.bool_]:
    """Pixels (slow, fast) in the region of interest."""
    x_from, x_to, y_from, y_to = settings.sampling.roi
    chosen = np.zeros(settings.detector.size, dtype=np.bool_)
    chosen[y_from : y_to + 1, x_from : x_to + 1] = True
    return chosen


def computed_pixels(settings: Settings) -> NDArray[np.bool_]:
    """Pixels (slow, fast) in the region of interest and not masked. Raises InputError."""
    chosen = region(settings)
    if settings.sampling.mask is not None:
        with named("-mask"):
            chosen &= read_mask(settings.sampling.mask, settings.detector.size)
    return chosen


def water_intensity(settings: Settings) -> float:
    """Photons per steradian that the cube of water scatters."""
    volume = (settings.water * 1e-6) ** 3 * 1e6  # cm^3, the program's g
    return WATER_F**2 * THOMSON_CROSS_SECTION * settings.beam.fluence * volume * AVOGADRO / WATER_G_PER_MOL


def _plan(settings: Settings) -> _Plan:
    listed = structure_factors(settings.structure_factors, settings.defects.list_read_by_scanf)
    rule, water = f.rules(settings), water_intensity(settings)
    return _Plan(settings, rule, orientations(settings), shape(settings), listed, water)


def _first_passage(plan: _Plan, tiles: tuple[Tensor, ...]) -> tuple[int, int] | None:
    """The pixel (counted over all tiles) and the passage that are computed first, where that matters."""
    if plan.turned.first is None:
        return None
    done = 0
    for tile in tiles:
        first = torch.full((tile.shape[1],), -1)
        for passage in passages(plan.settings, plan.rule, tile):
            first[(first < 0) & passage.within] = passage.number
        reached = torch.nonzero(first >= 0)
        if len(reached):
            return done + int(reached[0]), int(first[reached[0]])
        done += tile.shape[1]
    return None


def _within_tile(fresh: tuple[int, int] | None, done: int, tile: Tensor) -> tuple[int, int] | None:
    if fresh is None or not done <= fresh[0] < done + tile.shape[1]:
        return None
    return fresh[0] - done, fresh[1]


def _tile(plan: _Plan, pixels: Tensor, interpolates: bool, fresh: tuple[int, int] | None) -> _Tile:
    settings, rule = plan.settings, plan.rule
    stop = _stop(plan, pixels, interpolates, fresh)
    total = torch.full((pixels.shape[1],), plan.water if settings.defects.water_rescaled else 0.0, dtype=torch.float64)
    lit, solid_angle = torch.zeros_like(total), 0.0
    for passage in passages(settings, rule, pixels):
        solid_angle += float(passage.factors.omega.sum()) if passage.opens else 0.0
        own = passage.weight * passage.factors.product(rule.averaged)
        compounding = passage.factors.product(rule.compounding)
        lit += own * compounding
        for block in blocks(passage, plan.turned, fresh):
            whole = torch.ceil(block.indices - 0.5)
            lattice = plan.shape.amplitude(block.indices - whole)
            cell = _cell(plan, block.first, block.indices, whole, stop, interpolates)
            active = _active(plan, lattice, passage)
            terms = torch.where(active, (cell * lattice) ** 2, 0.0) * own
            total = _added(total, terms, active, compounding if rule.compounding else None)
    passes = len(settings.beam.sources) * settings.sampling.oversample**2
    photons = THOMSON_CROSS_SECTION * settings.beam.fluence * total / settings.sampling.steps
    if not settings.defects.water_rescaled:
        photons = photons + plan.water * lit / passes
    photons = photons * passage.factors.product(rule.once)
    last = Last(
        passage.position, passage.scattering, block.indices[:, -1], cell[-1], lattice[-1], total, photons,
        passage.factors, plan.turned.vectors[:, -1],
    )  # fmt: skip
    return _Tile(last, solid_angle, interpolates and (stop is None or bool(torch.isinf(stop[-1]))))


def _added(total: Tensor, terms: Tensor, active: Tensor, compounding: Tensor | None) -> Tensor:
    """The running sum after `terms` (m, P); `compounding` multiplies it after each of them that is `active`."""
    if compounding is None:
        return total + terms.sum(0)
    for term, counts in zip(terms, active.expand(terms.shape), strict=True):
        total = torch.where(counts, (total + term) * compounding, total)
    return total


def _active(plan: _Plan, lattice: Tensor, passage: Passage) -> Tensor:
    """Steps (m, P) that are computed to their end: within the resolution limit, with a lattice amplitude or water."""
    if plan.water:
        return passage.within.expand(lattice.shape)
    return passage.within & (lattice != 0)


def _cell(plan: _Plan, first: int, indices: Tensor, whole: Tensor, stop: Tensor | None, interpolates: bool) -> Tensor:
    """F (m, P)."""
    if not interpolates:
        return plan.listed.nearest(whole)
    if stop is None:
        return plan.listed.mixed(indices, whole, ~plan.listed.beyond(indices))
    numbers = first + torch.arange(indices.shape[1], dtype=torch.float64)[:, None]
    return plan.listed.mixed(indices, whole, numbers < stop)


def _stop(plan: _Plan, pixels: Tensor, interpolates: bool, fresh: tuple[int, int] | None) -> Tensor | None:
    """The step (P,) at which interpolation ends, infinite for never; None where each step decides for itself."""
    if not interpolates or not plan.settings.defects.interpolation_stops:
        return None
    stop = torch.full((pixels.shape[1],), torch.inf, dtype=torch.float64)
    for passage in passages(plan.settings, plan.rule, pixels):
        for block in blocks(passage, plan.turned, fresh):
            lattice = plan.shape.amplitude(block.indices - torch.ceil(block.indices - 0.5))
            beyond = plan.listed.beyond(block.indices) & _active(plan, lattice, passage)
            first = torch.where(beyond.any(0), block.first + beyond.double().argmax(0), torch.inf)
            stop = torch.minimum(stop, first)
    reached = torch.nonzero(torch.isfinite(stop))
    if len(reached):
        stop[int(reached[0]) + 1 :] = 0.0
    return stop
