"""Levenberg-Marquardt on the Fisher information: damped Fisher scoring."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, the damping, and its growth at the next refusal."""

    quadratic: Quadratic
    damping: float
    growth: float


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Solve (H + damping diag H) p = -g; damping follows the ratio of actual to predicted decrease.

    Damping by the diagonal makes the steps independent of the units of z (Marquardt 1963); the update is Nielsen's
    (1999, IMM-REP-1999-05, eq. 2.17), smooth in the ratio. A trial is evaluated with its derivatives at once: most
    are accepted, and then the next step has them.
    """

    initial_damping: float = 1e-3
    least_damping: float = 1e-12
    largest_damping: float = 1e12

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        here = problem.quadratic(z)
        return quadratic_step(z, here, State(here, self.initial_damping, 2.0), True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        here = state.quadratic
        shift = damped_shift(here, state.damping)
        predicted = predicted_decrease(here, shift)
        there = problem.quadratic(z + shift)
        actual = float(here.value - there.value)
        if not actual >= 0:
            refused = State(here, state.damping * state.growth, state.growth * 2)
            stuck = "no step lowers the loss, however small" if refused.damping > self.largest_damping else None
            return quadratic_step(z, here, refused, False, predicted, actual, stuck)
        ratio = actual / predicted if predicted > 0 else 1.0
        damping = state.damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3)
        state = State(there, max(damping, self.least_damping), 2.0)
        return quadratic_step(z + shift, there, state, True, predicted, actual)


def damped_shift(quadratic: Quadratic, damping: float) -> Tensor:
    """The shift (n,) that minimises the damped quadratic model."""
    diagonal = torch.diagonal(quadratic.curvature).clamp_min(torch.finfo(torch.float64).tiny)
    scale = torch.sqrt(diagonal)
    matrix = quadratic.curvature / (scale[:, None] * scale)
    matrix = matrix + damping * torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
    return -torch.linalg.lstsq(matrix, (quadratic.gradient / scale)[:, None], driver="gelsd").solution[:, 0] / scale


def predicted_decrease(quadratic: Quadratic, shift: Tensor) -> float:
    """How much the undamped quadratic model falls over a shift (n,)."""
    return -float(quadratic.gradient @ shift + shift @ quadratic.curvature @ shift / 2)
