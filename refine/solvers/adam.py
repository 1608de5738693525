"""Adam (Kingma & Ba, ICLR 2015), for comparison and for problems without a usable curvature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Step, gradient_step


@dataclass(frozen=True)
class State:
    """Loss and gradient at the current z, the moments of the gradient, and the number of steps taken."""

    loss: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    steps: int


@dataclass(frozen=True)
class Adam:
    """First-order steps of about `rate` in every coordinate; the rate falls to nothing over `horizon` steps along
    half a cosine, without which the last digits never settle."""

    rate: float = 0.3
    horizon: int = 400
    mean_decay: float = 0.9
    square_decay: float = 0.99

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        loss, gradient = problem.loss_and_gradient(z)
        state = State(loss, gradient, torch.zeros_like(z), torch.zeros_like(z), 0)
        return gradient_step(z, loss, gradient, state, True, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One step along the smoothed gradient; never refused unless it leaves the allowed region."""
        count = state.steps + 1
        mean = self.mean_decay * state.mean + (1 - self.mean_decay) * state.gradient
        square = self.square_decay * state.square + (1 - self.square_decay) * state.gradient**2
        corrected = mean / (1 - self.mean_decay**count)
        size = torch.sqrt(square / (1 - self.square_decay**count)).clamp_min(1e-30)
        rate = self.rate * (1 + math.cos(math.pi * min(state.steps / self.horizon, 1.0))) / 2
        trial = z - rate * corrected / size
        loss, gradient = problem.loss_and_gradient(trial)
        accepted = bool(torch.isfinite(loss))
        if not accepted:
            trial, loss, gradient = z, state.loss, state.gradient
        next_state = State(loss, gradient, mean if accepted else torch.zeros_like(mean), square, count)
        stuck = "the step size has run out" if state.steps >= self.horizon else None
        return gradient_step(trial, loss, gradient, next_state, accepted, float(state.loss - loss), stuck)
