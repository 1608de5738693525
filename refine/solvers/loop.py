"""The one loop: stepping, stopping, history and status, for every solver."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from refine.solvers.parted import parted
from refine.solvers.protocol import Problem, Quadratic, Solver, Step
from refine.solvers.solution import Record, Solution, Status


@dataclass(frozen=True)
class Stop:
    """When to stop.

    shift: converged where every parameter's predicted further shift is below this fraction of its esd (a hundredth
    of an esd is invisible) ...
    decrease: ... and a step changes the loss, a log-likelihood, by no more than this, or differs by no more than this
    from the change it foresaw: then the model that predicts the further shift can be relied on.
    check_every: iterations between looks at the curvature, for solvers that do not have it.
    refusals: so many refused trials in a row are a stall.
    """

    max_iterations: int = 50
    shift: float = 0.01
    decrease: float = 0.01
    check_every: int = 20
    refusals: int = 25


def solve(
    problem: Problem,
    solver: Solver,
    z0: Tensor,
    stop: Stop | None = None,
    observe: Callable[[Record], None] = lambda _: None,
) -> Solution:
    """Minimise a problem from z0 (n,).

    `observe` is called with the start and after each iteration. A KeyboardInterrupt ends the loop with the best z
    so far and the status INTERRUPTED; nothing else is caught.
    """
    return _Loop(problem, solver, stop or Stop(), observe).run(z0)


@dataclass(frozen=True)
class _Loop:
    problem: Problem
    solver: Solver
    stop: Stop
    observe: Callable[[Record], None]
    started: float = field(default_factory=time.perf_counter)

    def run(self, z: Tensor) -> Solution:
        step = best = self.solver.init(self.problem, z)
        history: list[Record] = []
        status, reason = Status.MAX_ITERATIONS, f"{self.stop.max_iterations} iterations"
        if not math.isfinite(step.loss):
            status, reason = Status.DIVERGED, "the loss is infinite or not a number at the start"
        refused = 0
        try:
            self._note(step, history)
            while status is Status.MAX_ITERATIONS and len(history) <= self.stop.max_iterations:
                step = self.solver.step(self.problem, step.z, step.state)
                best = step if step.loss <= best.loss else best
                self._note(step, history)
                refused = 0 if step.accepted else refused + 1
                status, reason = self._verdict(step, len(history) - 1, refused) or (status, reason)
        except KeyboardInterrupt:
            status, reason = Status.INTERRUPTED, f"stopped by the user after {len(history) - 1} iterations"
        return Solution(best.z, best.quadratic or self.problem.quadratic(best.z), status, reason, tuple(history))

    def _note(self, step: Step, history: list[Record]) -> None:
        remaining = remaining_shift(step.quadratic) if step.quadratic else None
        seconds = time.perf_counter() - self.started
        step_taken = (step.z, step.loss, step.gradient_norm, step.accepted)
        history.append(Record(len(history), *step_taken, remaining, seconds))
        self.observe(history[-1])

    def _verdict(self, step: Step, iteration: int, refused: int) -> tuple[Status, str] | None:
        """Status and reason, or None to go on."""
        if not math.isfinite(step.loss):
            return Status.DIVERGED, "the loss became infinite or not a number"
        settled = min(abs(step.actual), abs(step.actual - step.predicted)) <= self.stop.decrease
        if settled or not step.accepted:
            quadratic = step.quadratic or self._look(step, iteration)
            remaining = remaining_shift(quadratic) if quadratic else math.inf
            if remaining < self.stop.shift:
                return Status.CONVERGED, f"largest further shift {remaining:.1e} esd, below {self.stop.shift}"
        if step.stuck:
            return Status.STALLED, step.stuck
        if refused >= self.stop.refusals:
            return Status.STALLED, f"{refused} trial steps in a row did not lower the loss"
        return None

    def _look(self, step: Step, iteration: int) -> Quadratic | None:
        """The curvature now and then, for a solver that goes without."""
        due = step.stuck or iteration % self.stop.check_every == 0
        return self.problem.quadratic(step.z) if due else None


def remaining_shift(quadratic: Quadratic) -> float:
    """Largest component of the Newton shift in units of its esd (the root of the inverse curvature's diagonal)."""
    if not bool(torch.isfinite(quadratic.value)):
        return math.inf
    arrow = parted(quadratic).arrow
    scale = arrow.roots()
    shift, variance = arrow.scaled(scale).newton(quadratic.gradient / scale)
    return float((shift.abs() / torch.sqrt(variance).clamp_min(1e-150)).max())
