"""How a minimisation ended."""

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from refine.solvers.protocol import Quadratic


class Status(Enum):
    """Why the loop stopped, or why its answer is not to be believed: the last two are given by whoever knows what z
    stands for. The value is the word in result.yaml, `advice` what a user may try."""

    CONVERGED = "converged"
    MAX_ITERATIONS = "max_iterations"
    STALLED = "stalled"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    FALSE_MINIMUM = "false_minimum"
    SINGULAR = "singular"

    @property
    def advice(self) -> str:
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "",
    Status.MAX_ITERATIONS: "raise refinement.optimizer.max_iterations, or start nearer",
    Status.STALLED: "the model may not fit, or a parameter is at its limit: look at the residuals, free fewer",
    Status.DIVERGED: "check the starting cell, orientation and geometry against the image",
    Status.INTERRUPTED: "run again with --resume to go on",
    Status.FALSE_MINIMUM: "do not use this answer: check geometry, cell and orientation, and start nearer",
    Status.SINGULAR: "free fewer parameters, or restrain one of those named",
}


@dataclass(frozen=True)
class Record:
    """One line of the history: the state after an iteration; and, where the solver has a quadratic model, `remaining`,
    the largest further shift it foresees in units of that parameter's esd."""

    iteration: int
    z: Tensor
    loss: float
    gradient_norm: float
    accepted: bool
    remaining: float | None
    seconds: float


@dataclass(frozen=True)
class Solution:
    """z (n,), its quadratic model, why and when the loop stopped, and its history, the start first."""

    z: Tensor
    quadratic: Quadratic
    status: Status
    reason: str
    history: tuple[Record, ...]

    @property
    def iterations(self) -> int:
        return max(0, len(self.history) - 1)
