"""The same sum in one pass, with hand-written first derivatives and memory that does not grow with the steps.

Everything a free parameter does to a pixel goes through few numbers: q (3) and a weight for every ray that reaches it,
the lattice vectors (9), N (3) and the step angles (3). `moments` sums the intensity and its derivative by those tile by
tile, the sines shared. The derivative by h_j of a step, G_j, is all that is needed:
    dI/dq = sum_j G_j R a_j,   dI/da_j = sum G_j R^T q,   dI/dangle = sum_j G_j (dR/dangle a_j) . q.
A step's own arithmetic, `_step_terms`, is elementwise and can be compiled; the sums over steps are matrix products.
Second derivatives are taken through the reference, so they are exact.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from refine.physics.interference import Steps, interference
from refine.physics.interpolation import interpolated_intensity, interpolated_intensity_slopes
from refine.physics.mosaic import step_rotation_rates, step_rotations
from refine.physics.shapes import SHAPES
from refine.physics.structure_factor import nearest_intensity

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]  # scattering, real_space, cells, angles
TILE = 1 << 15  # steps x points worked on at once: the dozens of arrays of a tile stay in a core's cache
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


def fused_interference(
    scattering: Tensor,
    real_space: Tensor,
    cells: Tensor,
    angles: Tensor,
    steps: Steps,
    weights: Tensor | None = None,
    how: Execution = EAGER,
) -> Tensor:
    """`interference`, faster; same arguments, same numbers to rounding. The result is float64 in any precision."""
    if weights is None:
        weights = torch.ones_like(scattering[:1])
    inputs = (scattering, real_space, cells, angles, weights)
    if any(_derivative_levels(tensor) > 1 for tensor in inputs):
        return interference(scattering, real_space, cells, angles, steps, weights)
    return _apply(*inputs, steps, Wanted(*map(_carries_derivative, inputs)), how)[0]


@dataclass(frozen=True)
class FusedSum:
    """`fused_interference`, carried out in one way."""

    how: Execution = EAGER

    def __call__(
        self,
        scattering: Tensor,
        real_space: Tensor,
        cells: Tensor,
        angles: Tensor,
        steps: Steps,
        weights: Tensor | None = None,
    ) -> Tensor:
        return fused_interference(scattering, real_space, cells, angles, steps, weights, self.how)


FUSED = FusedSum()


def _carries_derivative(tensor: Tensor) -> bool:
    """Whether a derivative is being taken through the tensor, by reverse or by forward mode."""
    while functorch.is_batchedtensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor.requires_grad or forward_ad.unpack_dual(tensor).tangent is not None


def _derivative_levels(tensor: Tensor) -> int:
    """How many derivatives may be taken through the tensor at once; torch cuts the outer one of a forward-mode rule
    without a word, so nested ones need to be seen before."""
    levels = 0
    while functorch.is_functorch_wrapped_tensor(tensor):
        levels += functorch.is_gradtrackingtensor(tensor)
        tensor = functorch.get_unwrapped(tensor)
    return levels + _carries_derivative(tensor)


def moments(
    inputs: Inputs, steps: Steps, wanted: Wanted, how: Execution = EAGER, weights: Tensor | None = None
) -> Moments:
    """Intensity and the wanted derivatives, tile by tile; no graph is made. Arguments as for `interference`."""
    scattering, real_space, cells, angles = (tensor.detach() for tensor in inputs)
    weights = torch.ones_like(scattering[:1]) if weights is None else weights.detach()
    rays, pixels = weights.shape
    fixed = (steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
    rotations = step_rotations(angles, *fixed)
    rates = step_rotation_rates(angles, *fixed) if wanted.angles else rotations.new_zeros(0, *rotations.shape)
    height = min(len(rotations), MOST_STEPS)
    tile = COMPILED_TILE if how.compiled else TILE
    width = max(1, tile * torch.get_num_threads() // (height * rays))
    blocks = [slice(m0, m0 + height) for m0 in range(0, len(rotations), height)]
    lattices = [_Lattice.of(real_space, cells, rotations[block], rates[:, block], how.precision) for block in blocks]
    amplitude = None if steps.amplitude is None else steps.amplitude / len(rotations) ** 0.5
    box = Box(steps.intensity / len(rotations), steps.lowest, amplitude)
    out = _empty_moments(scattering, weights, wanted)
    q = scattering.reshape(3, rays, pixels)
    for p0 in range(0, pixels, width):
        columns = slice(p0, p0 + width)
        points = q[..., columns].flatten(1)
        total = _sum_tile(points, lattices[0], box, steps.shape, wanted, how)
        for lattice in lattices[1:]:
            more = _sum_tile(points, lattice, box, steps.shape, wanted, how)
            total = Moments(*(mine.add_(part) for mine, part in zip(total, more, strict=True)))
        _gather(out, total, weights[:, columns], columns)
    return out._replace(scattering=out.scattering.flatten(1), weights=out.weights.flatten())


class _Lattice(NamedTuple):
    """A block of M steps: R_m a_j (3 M, 3) in float64; the rest in the working precision: R_m (M, 3, 3), the vectors
    that sum to dI/dq and, where rates are given, to dI/dangles (3 M, 3 or 12), N (3, 1)."""

    vectors: Tensor
    rotations: Tensor
    directions: Tensor
    cells: Tensor

    @classmethod
    def of(
        cls, real_space: Tensor, cells: Tensor, rotations: Tensor, rates: Tensor, precision: torch.dtype
    ) -> "_Lattice":
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


def _gather(out: Moments, points: Moments, weights: Tensor, columns: slice) -> None:
    """Write the weighted sums over rays of a tile's points (..., R P) into its columns."""
    value, by_q, *others = [part.unflatten(-1, weights.shape) for part in points]
    if out.scattering.numel():
        out.scattering[..., columns] = by_q * weights
    if out.weights.numel():
        out.weights[..., columns] = value
    sums = zip((out.value[None], out.real_space, out.cells, out.angles), (value[None], *others), strict=False)
    for place, part in sums:
        if place.numel():
            torch.mul(part[:, 0], weights[0], out=place[:, columns])
            for ray in range(1, len(weights)):
                place[:, columns].addcmul_(part[:, ray], weights[ray])


@functools.cache
def _compiled_terms() -> Callable[..., tuple[Tensor, Tensor]]:
    """`_step_terms` as torch.compile makes it, once for every shape, precision, lookup and set of derivatives met. It
    holds no autograd graph, so nothing of it can be donated or freed."""
    torch._dynamo.config.recompile_limit = 64  # kinds; beyond torch's 8 the rest would go uncompiled
    return torch.compile(_step_terms, dynamic=True, options={"cpp.enable_floating_point_contract_flag": "fast"})


def _sum_tile(q: Tensor, lattice: _Lattice, box: Box, shape: str, wanted: Wanted, how: Execution) -> Moments:
    """Sums over steps (M) at q (3, Q), all weights 1: the Miller indices in float64, all else in `how.precision`."""
    grid = (len(lattice.rotations), q.shape[1])
    indices = (lattice.vectors @ q).reshape(3, -1)  # (3, M Q)
    terms = _compiled_terms() if how.compiled else _step_terms
    derived = any(wanted[:4])
    plain, slopes = terms(indices, lattice.cells, box, shape, derived, wanted.cells, how.precision)
    summed = (plain.new_ones(1, grid[0]) @ plain.unflatten(1, grid))[:, 0]
    none = summed.new_zeros(0, grid[1])
    if not derived:
        return Moments(summed[0], none, none, none, none, none)
    slopes, q = slopes.unflatten(1, grid), q.to(how.precision)
    directed = none
    if wanted.scattering or wanted.angles:
        directed = lattice.directions.T @ slopes.flatten(0, 1)
    return Moments(
        summed[0],
        directed[:3] if wanted.scattering else none,
        _by_real_space(slopes, lattice.rotations, q) if wanted.real_space else none,
        summed[1:] if wanted.cells else none,
        _by_angles(directed[3:], q) if wanted.angles else none,
        none,
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
    """sum_m G_jm (R_m^T q)_c as (9, Q), from G (3, M, Q)."""
    if len(rotations) < FEW_STEPS:
        turned = rotations.mT @ q  # (M, 3, Q)
        products = [slopes[:, m, None] * turned[m] for m in range(len(rotations))]
        return sum(products[1:], products[0]).flatten(0, 1)
    x, y, z = (rotations.flatten(1).T @ slopes).unflatten(1, (3, 3)).unbind(1)  # sum_m G_jm R_m,dc: (3, 3, Q) for d
    return torch.addcmul(torch.addcmul(x * q[0], y, q[1]), z, q[2]).flatten(0, 1)


def _by_angles(directed: Tensor, q: Tensor) -> Tensor:
    """The angles' derivatives (3, Q): sum_jm G_jm dR_m/dangle a_j, (9, Q), times q."""
    return (directed.unflatten(0, (3, 3)) * q).sum(1)


class _Interference(torch.autograd.Function):
    """`moments` with its rules for reverse mode, forward mode and vmap. Returns the intensity first."""

    @staticmethod
    def forward(
        q: Tensor,
        real_space: Tensor,
        cells: Tensor,
        angles: Tensor,
        weights: Tensor,
        steps: Steps,
        wanted: Wanted,
        how: Execution,
    ) -> tuple[Tensor, ...]:
        return tuple(moments((q, real_space, cells, angles), steps, wanted, how, weights))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.steps, ctx.wanted, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, *output[1:])
        ctx.save_for_forward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * 8
        inputs, (by_q, by_a, by_n, by_angle, by_weight) = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        if torch.is_grad_enabled():  # somebody will differentiate this again
            return *torch.func.vjp(_reference(ctx.steps), *inputs)[1](gradient), None, None, None
        rays = gradient.expand(inputs[4].shape)
        found = (
            rays.reshape(-1) * by_q if ctx.wanted.scattering else None,
            (by_a @ gradient).reshape(-1, 3),
            by_n @ gradient,
            by_angle @ gradient,
            rays * by_weight.reshape(rays.shape) if ctx.wanted.weights else None,
        )
        return *(g if want else None for g, want in zip(found, ctx.wanted, strict=True)), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        sums = (_along_points, _along_matrix, _along_vector, _along_vector, _along_weights)
        rays = ctx.saved_tensors[4]
        pairs = zip(sums, ctx.saved_tensors[5:], tangents[:5], ctx.wanted, strict=True)
        terms = [along(b, t, rays) for along, b, t, want in pairs if want and t is not None]
        return sum(terms[1:], terms[0]), *(None,) * 5

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        """One entry of the batch after the other: the sum itself is already the whole machine's work."""
        entries = [
            _apply(
                *(
                    a if d is None or not isinstance(a, Tensor) else a.select(d, i)
                    for a, d in zip(args, in_dims, strict=False)
                )
            )
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(column) for column in zip(*entries, strict=True)), (0,) * 6


_apply: Callable[..., tuple[Tensor, ...]] = _Interference.apply  # torch leaves it without a type


def _reference(steps: Steps) -> Callable[..., Tensor]:
    return lambda q, real_space, cells, angles, weights: interference(q, real_space, cells, angles, steps, weights)


def _along_points(by: Tensor, tangent: Tensor, weights: Tensor) -> Tensor:
    return (by * tangent).sum(0).reshape(weights.shape).sum(0)


def _along_matrix(by: Tensor, tangent: Tensor, _: Tensor) -> Tensor:
    return tangent.reshape(9) @ by


def _along_vector(by: Tensor, tangent: Tensor, _: Tensor) -> Tensor:
    return tangent @ by


def _along_weights(by: Tensor, tangent: Tensor, weights: Tensor) -> Tensor:
    return (by.reshape(weights.shape) * tangent).sum(0)
