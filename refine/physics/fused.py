"""The same sum in one pass, as torch differentiates it: first derivatives are those of `refine.physics.tile_sums`,
second ones are taken through the reference, so they are exact."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.autograd import forward_ad

from refine.physics.interference import Steps, interference
from refine.physics.tile_sums import EAGER, Execution, Wanted, moments


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
