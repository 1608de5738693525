"""Members of torch.optim behind the protocol."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Step, gradient_step

EXTRA: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9, "nesterov": True}}  # beside each one's own defaults


@dataclass(frozen=True)
class State:
    """Loss () and gradient (n,) at the current z, the optimizer's own memory, and the number of steps taken."""

    loss: Tensor
    gradient: Tensor
    memory: dict[str, Any]
    steps: int


@dataclass(frozen=True)
class TorchOptimizer:
    """The member of torch.optim named `method`; its rate, in units of z, falls to nothing over `horizon` steps along
    half a cosine. Never refused unless it leaves the allowed region. The gradient is handed over at a length of at
    most `clip`: far from the minimum a photon count's gradient is in the ten thousands, which sets no useful step."""

    method: str
    rate: float
    horizon: int = 400
    clip: float = 1e300

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        loss, gradient = problem.loss_and_gradient(z)
        return gradient_step(z, loss, gradient, State(loss, gradient, {}, 0), True, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One step of the optimizer from its memory."""
        rate = self.rate * (1 + math.cos(math.pi * min(state.steps / self.horizon, 1.0))) / 2
        trial, memory = self._move(z, state, rate)
        loss, gradient = problem.loss_and_gradient(trial)
        accepted = bool(torch.isfinite(loss))
        if not accepted:
            trial, loss, gradient, memory = z, state.loss, state.gradient, {}
        stuck = "the step size has run out" if state.steps >= self.horizon else None
        next_state = State(loss, gradient, memory, state.steps + 1)
        return gradient_step(trial, loss, gradient, next_state, accepted, float(state.loss - loss), stuck)

    def _move(self, z: Tensor, state: State, rate: float) -> tuple[Tensor, dict[str, Any]]:
        """Where torch's optimizer goes from z, and what it then remembers."""
        moved = z.clone().requires_grad_()
        moved.grad = state.gradient * min(1.0, self.clip / max(float(torch.linalg.vector_norm(state.gradient)), 1e-300))
        optimizer = getattr(torch.optim, self.method)([moved], lr=rate, **EXTRA.get(self.method, {}))
        if state.memory:
            memory = copy.deepcopy(state.memory)
            optimizer.load_state_dict({**optimizer.state_dict(), "state": memory})
        optimizer.step()
        return moved.detach(), copy.deepcopy(optimizer.state_dict()["state"])
