"""The same sum in one pass, with hand-written first derivatives and memory that does not grow with the steps.

Everything a free parameter does to a scattering vector's intensity goes through few numbers: q (3), the lattice
vectors (9), N (3) and the step angles (3). `_accumulate` sums the intensity and its derivative by those ("moments")
tile by tile, the sines shared. The derivative by h_j of a step, G_j, is all that is needed:
    dI/dq = sum_j G_j R a_j,   dI/da_j = sum G_j R^T q,   dI/dangle = sum_j G_j (dR/dangle a_j) . q.
Second derivatives are taken through the reference, so they are exact.
"""

import functools
from collections.abc import Callable
from functools import partial
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
TILE = 1 << 15  # steps x points worked on at once: the dozen arrays of a tile stay in a core's cache
MOST_STEPS = 64  # steps at most in a tile
FEW_STEPS = 4  # below it nine products beat a matrix product


class Wanted(NamedTuple):
    """Which derivatives to accumulate, by input."""

    scattering: bool
    real_space: bool
    cells: bool
    angles: bool


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
    """Intensity (Q,) and its derivatives by q (3, Q), by a_jc (9, Q), by N (3, Q), by the angles (3, Q); empty
    (0, Q) where not wanted."""

    value: Tensor
    scattering: Tensor
    real_space: Tensor
    cells: Tensor
    angles: Tensor


def fused_interference(
    scattering: Tensor,
    real_space: Tensor,
    cells: Tensor,
    angles: Tensor,
    steps: Steps,
    how: Execution = EAGER,
) -> Tensor:
    """`interference`, faster; same arguments, same numbers to rounding. The result is float64 in any precision."""
    inputs = (scattering, real_space, cells, angles)
    if any(_derivative_levels(tensor) > 1 for tensor in inputs):
        return interference(*inputs, steps)
    return _apply(*inputs, steps, Wanted(*map(_carries_derivative, inputs)), how)[0]


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


def moments(inputs: Inputs, steps: Steps, wanted: Wanted, how: Execution = EAGER) -> Moments:
    """Intensity and the wanted derivatives at scattering vectors (3, Q), tile by tile; no graph is made."""
    scattering, real_space, cells, angles = (tensor.detach() for tensor in inputs)
    fixed = (steps.axes, steps.fractions, steps.spindle, steps.phi_steps)
    rotations, rates = step_rotations(angles, *fixed), step_rotation_rates(angles, *fixed)
    height = min(len(rotations), MOST_STEPS)
    width = max(1, TILE * torch.get_num_threads() // height)
    sum_tile = _compiled_sum() if how.compiled else _sum_tile
    amplitude = None if steps.amplitude is None else steps.amplitude / len(rotations) ** 0.5
    box = Box(steps.intensity / len(rotations), steps.lowest, amplitude)
    out = _empty_moments(scattering, wanted)
    for q0 in range(0, scattering.shape[1], width):
        columns = slice(q0, q0 + width)
        for m0 in range(0, len(rotations), height):
            block = slice(m0, m0 + height)
            lattice = (real_space, cells, rotations[block], rates[:, block])
            part = sum_tile(scattering[:, columns], *lattice, box, steps.shape, wanted, how.precision)
            for total, found in zip(out, part, strict=True):
                total[..., columns] += found
    return out


@functools.cache
def _compiled_sum() -> Callable[..., Moments]:
    """`_sum_tile` as torch.compile makes it. It holds no autograd graph, so nothing of it can be donated or freed."""
    return torch.compile(_sum_tile)


def _empty_moments(scattering: Tensor, wanted: Wanted) -> Moments:
    points = scattering.shape[1]
    rows = [size if want else 0 for size, want in zip((3, 9, 3, 3), wanted, strict=True)]
    return Moments(scattering.new_zeros(points), *(scattering.new_zeros(n, points) for n in rows))


def _sum_tile(
    q: Tensor,
    real_space: Tensor,
    cells: Tensor,
    rotations: Tensor,
    rates: Tensor,
    box: Box,
    shape: str,
    wanted: Wanted,
    precision: torch.dtype,
) -> Moments:
    """Sums over steps (M) at q (3, Q): the Miller indices in float64, everything after them in `precision`."""
    vectors = (real_space @ rotations.mT).transpose(0, 1)  # (3, M, 3): R_m a_j
    indices = (vectors.reshape(-1, 3) @ q).reshape(3, -1, q.shape[1])  # (3, M, Q)
    nearest = indices.round()
    delta = (indices - nearest).to(precision)
    n = cells[:, None, None].to(precision)
    vectors, q, real_space = vectors.to(precision), q.to(precision), real_space.to(precision)
    rotations, rates = rotations.to(precision), rates.to(precision)
    if not any(wanted):
        lattice = SHAPES[shape].value(delta, n)
        return _empty_moments(q, wanted)._replace(value=(_weight(indices, nearest, box, precision) * lattice**2).sum(0))
    lattice, by_delta, by_n = SHAPES[shape].slopes(delta, n)
    if box.amplitude is None:
        weight = _weight(indices, nearest, box, precision)
        slopes = by_delta * (2 * weight * lattice)  # G (3, M, Q)
    else:
        found = interpolated_intensity_slopes(indices, box.intensity, box.amplitude, box.lowest)
        weight, by_index = (part.to(precision) for part in found)
        slopes = by_delta * (2 * weight * lattice) + by_index * lattice**2
    none = q.new_zeros(0, q.shape[1])
    return Moments(
        (weight * lattice**2).sum(0),
        vectors.flatten(0, 1).T @ slopes.flatten(0, 1) if wanted.scattering else none,
        _by_real_space(slopes, rotations, q) if wanted.real_space else none,
        (2 * weight * lattice * by_n).sum(1) if wanted.cells else none,
        torch.stack([_by_angle(slopes, real_space, rate, q) for rate in rates]) if wanted.angles else none,
    )


def _weight(indices: Tensor, nearest: Tensor, box: Box, precision: torch.dtype) -> Tensor:
    """|F|^2 (M, Q)."""
    if box.amplitude is None:
        return nearest_intensity(nearest, box.intensity, box.lowest).to(precision)
    return interpolated_intensity(indices, box.intensity, box.amplitude, box.lowest).to(precision)


def _by_real_space(slopes: Tensor, rotations: Tensor, q: Tensor) -> Tensor:
    """sum_m G_jm (R_m^T q)_c as (9, Q)."""
    if len(rotations) < FEW_STEPS:
        turned = rotations.mT @ q  # (M, 3, Q)
        products = (slopes[:, m, None] * turned[m] for m in range(len(rotations)))
        return sum(products, slopes.new_zeros(())).flatten(0, 1)
    spread = rotations.flatten(1).T @ slopes  # (3, 9, Q): sum_m G_jm R_m,dc
    return (spread.reshape(3, 3, 3, -1) * q[:, None]).sum(1).flatten(0, 1)


def _by_angle(slopes: Tensor, real_space: Tensor, rate: Tensor, q: Tensor) -> Tensor:
    """sum_jm G_jm (dR_m/dangle a_j) . q as (Q,), the rate (M, 3, 3) per radian."""
    vectors = (real_space @ rate.mT).transpose(0, 1).flatten(0, 1)  # (3 M, 3)
    return ((vectors.T @ slopes.flatten(0, 1)) * q).sum(0)


class _Interference(torch.autograd.Function):
    """`moments` with its rules for reverse mode, forward mode and vmap. Returns the intensity first."""

    @staticmethod
    def forward(
        q: Tensor, real_space: Tensor, cells: Tensor, angles: Tensor, steps: Steps, wanted: Wanted, how: Execution
    ) -> tuple[Tensor, ...]:
        return tuple(moments((q, real_space, cells, angles), steps, wanted, how))

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
            return (None,) * 7
        inputs, (by_q, by_a, by_n, by_angle) = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        if torch.is_grad_enabled():  # somebody will differentiate this again
            return *torch.func.vjp(_reference(ctx.steps), *inputs)[1](gradient), None, None, None
        found = (gradient * by_q, (by_a @ gradient).reshape(-1, 3), by_n @ gradient, by_angle @ gradient)
        return *(g if want else None for g, want in zip(found, ctx.wanted, strict=True)), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        sums = (_along_points, _along_matrix, _along_vector, _along_vector)
        pairs = zip(sums, ctx.saved_tensors[4:], tangents[:4], ctx.wanted, strict=True)
        terms = [along(b, t) for along, b, t, want in pairs if want and t is not None]
        return sum(terms[1:], terms[0]), None, None, None, None

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
        return tuple(torch.stack(column) for column in zip(*entries, strict=True)), (0,) * 5


_apply: Callable[..., tuple[Tensor, ...]] = _Interference.apply  # torch leaves it without a type


def _reference(steps: Steps) -> Callable[..., Tensor]:
    return partial(interference, steps=steps)


def _along_points(by: Tensor, tangent: Tensor) -> Tensor:
    return (by * tangent).sum(0)


def _along_matrix(by: Tensor, tangent: Tensor) -> Tensor:
    return tangent.reshape(9) @ by


def _along_vector(by: Tensor, tangent: Tensor) -> Tensor:
    return tangent @ by
