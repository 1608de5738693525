"""What a solver asks of a problem, and what the loop asks of a solver."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Quadratic(Protocol):
    """A local model: value (), gradient (n,), curvature (n, n), positive semi-definite."""

    @property
    def value(self) -> Tensor: ...
    @property
    def gradient(self) -> Tensor: ...
    @property
    def curvature(self) -> Tensor: ...


class Problem(Protocol):
    """A loss of z (n,) to be minimised; infinite where z is not allowed."""

    def loss(self, z: Tensor) -> Tensor: ...
    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]: ...
    def quadratic(self, z: Tensor) -> Quadratic: ...
    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Step:
    """What one step of a solver did.

    z (n,), loss: where it ended (the start again when not accepted). gradient_norm: there.
    predicted, actual: the decrease of the loss foreseen and found, nan where the solver foresees nothing.
    quadratic: the local model at z, where the solver has it.
    state: for the next step. stuck: why no further step is possible, or None.
    """

    z: Tensor
    loss: float
    gradient_norm: float
    accepted: bool
    predicted: float
    actual: float
    quadratic: Quadratic | None
    state: Any
    stuck: str | None = None


def quadratic_step(
    z: Tensor, here: Quadratic, state: Any, accepted: bool, predicted: float, actual: float, stuck: str | None = None
) -> Step:
    """The record of a step that ends at z (n,) with its local model."""
    norm = float(torch.linalg.vector_norm(here.gradient))
    return Step(z, float(here.value), norm, accepted, predicted, actual, here, state, stuck)


def gradient_step(
    z: Tensor, loss: Tensor, gradient: Tensor, state: Any, accepted: bool, actual: float, stuck: str | None = None
) -> Step:
    """The record of a step that foresees nothing and ends at z (n,) with its loss () and gradient (n,)."""
    norm = float(torch.linalg.vector_norm(gradient))
    return Step(z, float(loss), norm, accepted, math.nan, actual, None, state, stuck)


class Solver(Protocol):
    """A frozen record of settings. `init` is the zeroth step: it evaluates the start and stays there. `step` twice
    from one state gives the same result."""

    def init(self, problem: Problem, z: Tensor) -> Step: ...
    def step(self, problem: Problem, z: Tensor, state: Any) -> Step: ...
