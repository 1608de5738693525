"""Limited-memory BFGS: curvature learnt from the gradients alone."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Step, gradient_step

SUFFICIENT = 1e-4  # of the decrease the slope promises (Armijo)
CURVED = 1e-10  # least cosine between a shift and the change of the gradient that teaches a curvature


@dataclass(frozen=True)
class State:
    """Loss () and gradient (n,) at the current z, shifts and gradient changes (n,) of the last steps, the direction
    of the search (n,) and how far along it the next trial is."""

    loss: Tensor
    gradient: Tensor
    pairs: tuple[tuple[Tensor, Tensor], ...]
    direction: Tensor
    length: float


@dataclass(frozen=True)
class LBFGS:
    """Two-loop recursion over the last `memory` steps (Nocedal 1980, Math. Comp. 35, 773) with a backtracking line
    search. One trial a step; the first has the length `first`, in units of z."""

    memory: int = 12
    first: float = 1.0
    least_length: float = 1e-12

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        loss, gradient = problem.loss_and_gradient(z)
        norm = torch.linalg.vector_norm(gradient).clamp_min(1e-300)
        state = State(loss, gradient, (), -gradient / norm * self.first, 1.0)
        return gradient_step(z, loss, gradient, state, True, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial along the direction, accepted where it lowers the loss enough."""
        shift = state.length * state.direction
        loss, gradient = problem.loss_and_gradient(z + shift)
        slope = float(state.gradient @ state.direction)
        actual = float(state.loss - loss)
        if not actual >= max(-SUFFICIENT * state.length * slope, 0.0):
            shorter = replace(state, length=state.length * _shrink(actual, state.length * slope))
            stuck = "no step lowers the loss, however small" if shorter.length < self.least_length else None
            return gradient_step(z, state.loss, state.gradient, shorter, False, actual, stuck)
        change = gradient - state.gradient
        pairs = state.pairs
        if float(shift @ change) > CURVED * float(torch.linalg.vector_norm(shift) * torch.linalg.vector_norm(change)):
            pairs = (*pairs, (shift, change))[-self.memory :]
        direction = -inverse_product(pairs, gradient) if pairs else state.direction * 2
        return gradient_step(z + shift, loss, gradient, State(loss, gradient, pairs, direction, 1.0), True, actual)


def _shrink(actual: float, slope: float) -> float:
    """By how much to shorten a trial: to the minimum of the parabola through it, within 0.1 to 0.5."""
    if not math.isfinite(actual) or not -actual > slope:
        return 0.1
    return min(max(-slope / (2 * (-actual - slope)), 0.1), 0.5)


def inverse_product(pairs: tuple[tuple[Tensor, Tensor], ...], gradient: Tensor) -> Tensor:
    """The approximate inverse Hessian times a gradient (n,)."""
    q, weights = gradient, []
    for shift, change in reversed(pairs):
        weights.append(float(shift @ q) / float(shift @ change))
        q = q - weights[-1] * change
    shift, change = pairs[-1]
    q = q * (float(shift @ change) / float(change @ change))
    for (shift, change), weight in zip(pairs, reversed(weights), strict=True):
        q = q + (weight - float(change @ q) / float(shift @ change)) * shift
    return q
