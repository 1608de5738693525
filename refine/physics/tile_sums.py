"""The sum over steps with hand-written first derivatives, in memory that does not grow with the steps.

Everything a free parameter does to a pixel goes through few numbers: q (3) and a weight for every ray that reaches it,
the lattice vectors (9), N (3) and the step angles (3). `moments` sums the intensity and its derivative by those tile by
tile, the sines shared; `pulled` those of a function of the intensity, which takes less. The derivative by h_j of a
step, G_j, is all that is needed:
    dI/dq = sum_j G_j R a_j,   dI/da_j = sum G_j R^T q,   dI/dangle = sum_j G_j (dR/dangle a_j) . q.
A step's own arithmetic, `_step_terms`, is elementwise and can be compiled; the sums over steps are matrix products.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from refine.physics.interference import Steps
from refine.physics.interpolation import interpolated_intensity, interpolated_intensity_slopes
from refine.physics.mosaic import step_rotation_rates, step_rotations
from refine.physics.shapes import SHAPES
from refine.physics.structure_factor import nearest_intensity

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # scattering, real_space, cells, angles
Pull = Callable[[Tensor, slice], Tensor]  # a function's derivatives (W,) by the intensities (W,) of some pixels
TILE = 1 << 16  # steps x points worked on at once: the dozens of arrays of a tile stay in the caches
COMPILED_TILE = 1 << 17  # likewise: compiled, there are few arrays, and a call costs more
MOST_STEPS = 64  # steps at most in a tile
FEW_STEPS = 4  # below it nine products beat a matrix product


class Wanted(NamedTuple):
    """Which derivatives to accumulate, by input."""

    scattering: bool = False
    real_space: bool = False
    cells: bool = False
    angles: bool = False
    weights: bool = False


class Execution(NamedTuple):
    """How the sum is carried out: float32 does everything after the Miller indices, whose whole part would use up its
    digits, in single precision; `compiled` uses torch.compile, which takes some ten seconds on first use."""

    precision: torch.dtype = torch.float64
    compiled: bool = False


EAGER = Execution()


class Box(NamedTuple):
    """|F|^2 of the nearest reflection, or F to interpolate, by Miller index: see `Steps`; over the number of steps."""

    intensity: Tensor
    lowest: Tensor
    amplitude: Tensor | None


class Moments(NamedTuple):
    """Intensity (P,) and its derivatives by q (3, Q), by a_jc (9, P), by N (3, P), by the angles (3, P) and by the
    weights (Q,); empty where not wanted."""

    value: Tensor
    scattering: Tensor
    real_space: Tensor
    cells: Tensor
    angles: Tensor
    weights: Tensor


class Pulled(NamedTuple):
    """Derivatives of a function of the intensity by a_jc (3, 3), by N (3,), by the angles (3,) and, empty where not
    wanted, by the weights (R, P)."""

    real_space: Tensor
    cells: Tensor
    angles: Tensor
    weights: Tensor


def moments(
    inputs: Inputs, steps: Steps, wanted: Wanted, how: Execution = EAGER, weights: Tensor | None = None
) -> Moments:
    """Intensity and the wanted derivatives, tile by tile; no graph is made. Arguments as for `interference`."""
    given = _Given.of(inputs, steps, wanted, weights)
    blocks = given.blocks(MOST_STEPS, how)
    out = _empty_moments(given.points, given.weights, wanted)
    for columns, points in given.tiles(len(blocks[0].rotations), how):
        share = given.weights[:, columns].flatten()
        total = _sum_tile(points, share, blocks[0], given, how)
        for block in blocks[1:]:
            more = _sum_tile(points, share, block, given, how)
            total = Moments(*(mine.add_(part) for mine, part in zip(total, more, strict=True)))
        _gather(out, total, len(given.weights), columns)
    return out._replace(scattering=out.scattering.flatten(1), weights=out.weights.flatten())


def pulled(
    inputs: Inputs, steps: Steps, wanted: Wanted, how: Execution, weights: Tensor, pull: Pull
) -> tuple[Tensor, Pulled]:
    """Intensity (P,), and the wanted derivatives, all but those by q, of a function of it whose own are `pull`: one
    pass, for a tile's intensity is known before its derivatives are summed. Other arguments as for `interference`."""
    given = _Given.of(inputs, steps, wanted, weights)
    (block,) = given.blocks(len(given.rotations), how)
    value, by_weight = weights.new_empty(weights.shape[1]), torch.empty_like(weights if wanted.weights else weights[:0])
    crossed, by_cells = torch.zeros_like(block.vectors.T), torch.zeros_like(given.cells)
    for columns, points in given.tiles(len(given.rotations), how):
        summed, slopes = _summed_terms(points, block, given, how)
        by_ray = summed[0].unflatten(0, (len(weights), -1))
        value[columns] = (by_ray * weights[:, columns]).sum(0)
        slope = pull(value[columns], columns)
        share = (weights[:, columns] * slope).flatten()
        if given.derived:
            crossed += (points * share).to(how.precision) @ slopes.flatten(0, 1).T
        if wanted.cells:
            by_cells += summed[1:] @ share.to(how.precision)
        if wanted.weights:
            by_weight[:, columns] = by_ray * slope
    return value, _uncrossed(crossed, by_cells, by_weight, given)


def parts(count: int, most: int) -> Iterator[slice]:
    """A list of `count` cut into as few parts as hold at most `most` each; alike in length, for a part costs something
    however short it is."""
    length = max(1, math.ceil(count / max(1, math.ceil(count / most))))
    return (slice(start, start + length) for start in range(0, count, length))


class _Given(NamedTuple):
    """What a sum is of, ready to be cut into tiles: q (3, R, P), a_j (3, 3), N (3,), weights (R, P), rotations
    (M, 3, 3) and where angles are wanted their rates (3, M, 3, 3); all in float64."""

    points: Tensor
    real_space: Tensor
    cells: Tensor
    weights: Tensor
    rotations: Tensor
    rates: Tensor
    box: Box
    shape: str
    wanted: Wanted

    @classmethod
    def of(cls, inputs: Inputs, steps: Steps, wanted: Wanted, weights: Tensor | None) -> "_Given":
        scattering, real_space, cells, angles = (tensor.detach() for tensor in inputs)
        weights = torch.ones_like(scattering[:1]) if weights is None else weights.detach()
        fixed = (steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
        rotations = step_rotations(angles, *fixed)
        rates = step_rotation_rates(angles, *fixed) if wanted.angles else rotations.new_zeros(0, *rotations.shape)
        amplitude = None if steps.amplitude is None else steps.amplitude / len(rotations) ** 0.5
        box = Box(steps.intensity / len(rotations), steps.lowest, amplitude)
        points = scattering.reshape(3, *weights.shape)
        return cls(points, real_space, cells, weights, rotations, rates, box, steps.shape, wanted)

    def blocks(self, most: int, how: Execution) -> list["_Block"]:
        """The steps, in blocks of at most `most`."""
        return [
            _Block.of(self.real_space, self.cells, self.rotations[part], self.rates[:, part], how.precision)
            for part in parts(len(self.rotations), most)
        ]

    def tiles(self, height: int, how: Execution) -> Iterator[tuple[slice, Tensor]]:
        """The pixels, in tiles for blocks of some steps, each with its q (3, R W)."""
        rays, pixels = self.weights.shape
        tile = COMPILED_TILE if how.compiled else TILE
        for columns in parts(pixels, max(1, tile * torch.get_num_threads() // (height * rays))):
            yield columns, self.points[..., columns].flatten(1)

    @property
    def derived(self) -> bool:
        """Whether a derivative by h is needed."""
        return any(self.wanted[:4])


class _Block(NamedTuple):
    """Some M steps: R_m a_j (3 M, 3) in float64; the rest in the working precision: R_m (M, 3, 3), the vectors
    that sum to dI/dq and, where rates are given, to dI/dangles (3 M, 3 or 12), N (3, 1)."""

    vectors: Tensor
    rotations: Tensor
    directions: Tensor
    cells: Tensor

    @classmethod
    def of(
        cls, real_space: Tensor, cells: Tensor, rotations: Tensor, rates: Tensor, precision: torch.dtype
    ) -> "_Block":
        turned = (real_space @ torch.cat([rotations[None], rates]).mT).transpose(1, 2)  # (1 or 4, 3, M, 3)
        directions = turned.flatten(1, 2).transpose(0, 1).flatten(1)
        return cls(
            turned[0].flatten(0, 1), rotations.to(precision), directions.to(precision), cells[:, None].to(precision)
        )


def _empty_moments(scattering: Tensor, weights: Tensor, wanted: Wanted) -> Moments:
    rays, pixels = weights.shape
    rows = {"real_space": 9, "cells": 3, "angles": 3}
    sums = {k: scattering.new_empty(size if getattr(wanted, k) else 0, pixels) for k, size in rows.items()}
    return Moments(
        value=scattering.new_empty(pixels),
        scattering=scattering.new_empty(3, rays if wanted.scattering else 0, pixels),
        weights=scattering.new_empty(rays if wanted.weights else 0, pixels),
        **sums,
    )


def _gather(out: Moments, points: Moments, rays: int, columns: slice) -> None:
    """Write a tile's points (..., R W) into its columns (W), those that are a pixel's as sums over its rays."""
    by_ray = [part.unflatten(-1, (rays, -1)) for part in points]
    for name, place, part in zip(Moments._fields, out, by_ray, strict=True):
        if place.numel():
            place[..., columns] = part if name in ("scattering", "weights") else _over_rays(part)


def _over_rays(part: Tensor) -> Tensor:
    """(..., R, W) summed to (..., W)."""
    return part.sum(-2) if part.shape[-2] > 1 else part[..., 0, :]


@functools.cache
def _compiled_terms() -> Callable[..., tuple[Tensor, Tensor]]:
    """`_step_terms` as torch.compile makes it, once for every shape, precision, lookup and set of derivatives met. It
    holds no autograd graph, so nothing of it can be donated or freed."""
    torch._dynamo.config.recompile_limit = 64  # kinds; beyond torch's 8 the rest would go uncompiled
    return torch.compile(_step_terms, dynamic=True, options={"cpp.enable_floating_point_contract_flag": "fast"})


def _summed_terms(q: Tensor, block: _Block, given: _Given, how: Execution) -> tuple[Tensor, Tensor]:
    """|F|^2 L and where wanted its derivatives by N, summed over the steps (M) of a block at q (3, Q): (1 or 4, Q); and
    G (3, M, Q). The Miller indices in float64, all else in `how.precision`."""
    grid = (len(block.rotations), q.shape[1])
    indices = (block.vectors @ q).reshape(3, -1)  # (3, M Q)
    terms = _compiled_terms() if how.compiled else _step_terms
    flags = (given.derived, given.wanted.cells, how.precision)
    plain, slopes = terms(indices, block.cells, given.box, given.shape, *flags)
    return (plain.new_ones(1, grid[0]) @ plain.unflatten(1, grid))[:, 0], slopes.unflatten(1, grid)


def _sum_tile(q: Tensor, share: Tensor, block: _Block, given: _Given, how: Execution) -> Moments:
    """Sums over the steps of a block at q (3, Q) with weights (Q,)."""
    summed, slopes = _summed_terms(q, block, given, how)
    none, wanted = summed.new_zeros(0, q.shape[1]), given.wanted
    value, plain = summed[0] * share, summed[0] if wanted.weights else none
    if not given.derived:
        return Moments(value, none, none, none, none, plain)
    q, share, directed = (q * share).to(how.precision), share.to(how.precision), none
    if wanted.scattering or wanted.angles:
        directed = block.directions.T @ slopes.flatten(0, 1)
    return Moments(
        value,
        directed[:3] * share if wanted.scattering else none,
        _by_real_space(slopes, block.rotations, q) if wanted.real_space else none,
        summed[1:] * share if wanted.cells else none,
        _by_angles(directed[3:], q) if wanted.angles else none,
        plain,
    )


def _step_terms(
    indices: Tensor, n: Tensor, box: Box, shape: str, derived: bool, by_cells: bool, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """|F|^2 L and where wanted its derivatives by N (1 or 4, L) of steps with Miller indices (3, L), and the
    derivatives by those where wanted, G (3, L); n (3, 1) is N."""
    nearest = indices.round()
    delta = (indices - nearest).to(precision)
    if not derived:
        lattice = SHAPES[shape].value(delta, n)
        return (_weight(indices, nearest, box, precision) * lattice**2)[None], delta
    lattice, by_delta, by_n = SHAPES[shape].slopes(delta, n)
    if box.amplitude is None:
        weight = _weight(indices, nearest, box, precision)
        half = weight * lattice
        twice = 2 * half
        slopes = _products([(twice, rate) for rate in by_delta])
    else:
        found = interpolated_intensity_slopes(indices, box.intensity, box.amplitude, box.lowest)
        weight, by_index = (part.to(precision) for part in found)
        half = weight * lattice
        twice = 2 * half
        slopes = _products([(twice, rate) for rate in by_delta]) + lattice**2 * by_index
    return _products([(half, lattice), *((twice, rate) for rate in (by_n if by_cells else ()))]), slopes


def _products(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The products (k, L) of pairs of (L,); uncompiled, each written where it belongs, which saves copies."""
    if torch.compiler.is_compiling():
        return torch.stack([one * other for one, other in pairs])
    found = pairs[0][0].new_empty(len(pairs), *pairs[0][0].shape)
    for row, (one, other) in zip(found, pairs, strict=True):
        torch.mul(one, other, out=row)
    return found


def _weight(indices: Tensor, nearest: Tensor, box: Box, precision: torch.dtype) -> Tensor:
    """|F|^2 (L,)."""
    if box.amplitude is None:
        return nearest_intensity(nearest, box.intensity, box.lowest).to(precision)
    return interpolated_intensity(indices, box.intensity, box.amplitude, box.lowest).to(precision)


def _by_real_space(slopes: Tensor, rotations: Tensor, q: Tensor) -> Tensor:
    """sum_m G_jm (R_m^T q)_c as (9, Q), from G (3, M, Q) and weighted q (3, Q)."""
    if len(rotations) < FEW_STEPS:
        turned = rotations.mT @ q  # (M, 3, Q)
        products = [slopes[:, m, None] * turned[m] for m in range(len(rotations))]
        return sum(products[1:], products[0]).flatten(0, 1)
    x, y, z = (rotations.flatten(1).T @ slopes).unflatten(1, (3, 3)).unbind(1)  # sum_m G_jm R_m,dc: (3, 3, Q) for d
    return torch.addcmul(torch.addcmul(x * q[0], y, q[1]), z, q[2]).flatten(0, 1)


def _by_angles(directed: Tensor, q: Tensor) -> Tensor:
    """The angles' derivatives (3, Q): sum_jm G_jm dR_m/dangle a_j, (9, Q), times weighted q (3, Q)."""
    return (directed.unflatten(0, (3, 3)) * q).sum(1)


def _uncrossed(crossed: Tensor, by_cells: Tensor, by_weight: Tensor, given: _Given) -> Pulled:
    """The derivatives by a_j and the angles from the sums of G_jm q_d over all points (3, 3 M): by a_jc
    sum_md R_m,dc of them, by the angles sum_jmd (dR_m/dangle a_j)_d of them."""
    by_step = crossed.unflatten(1, (3, -1))
    by_real_space = torch.einsum("djm,mdc->jc", by_step, given.rotations)
    by_angles = torch.einsum("djm,kmdc,jc->k", by_step, given.rates, given.real_space)
    return Pulled(by_real_space, by_cells, by_angles, by_weight)
