"""One refinement of a benchmark, from one start by one optimizer."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from refine.app.benchmark.cases import KnownCase, Start, draw_starts, known_case
from refine.app.benchmark.config import Case, Contestant
from refine.app.strategy import refine_image
from refine.problem.problem import Counts
from refine.solvers.loop import Stop
from refine.solvers.registry import make_solver
from refine.solvers.solution import Record


@dataclass(frozen=True)
class Task:
    """Start number `start` of those drawn at a scale, in %, from a seed."""

    case: Case
    optimizer: Contestant
    scale: float
    start: int
    seed: int
    success: float

    @property
    def key(self) -> str:
        """What tells it from every other task, its settings included."""
        case, optimizer = self.case.model_dump_json(), self.optimizer.model_dump_json()
        return f"{case} {optimizer} {self.scale!r} {self.start} {self.seed} {self.success!r}"


@dataclass(frozen=True)
class Trial:
    """What came of a task. seconds: processor time of the refinement; evaluations: passes over the image, of whatever
    kind: values, gradients, quadratics (`jacobians`) or Hessian products. trace: after every iteration of the last
    stage [seconds, evaluations, loss]."""

    key: str
    case: str
    optimizer: str
    scale: float
    start: int
    status: str
    success: bool
    chi2_per_parameter: float
    loss: float
    iterations: int
    evaluations: int
    values: int
    gradients: int
    jacobians: int
    curvature_products: int
    seconds: float
    trace: tuple[tuple[float, int, float], ...]

    def as_row(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run_task(task: Task) -> Trial:
    """Refine. Deterministic but for the seconds; one thread."""
    torch.set_num_threads(1)
    case = known_case(task.case)
    start = draw_starts(case, task.scale, task.start + 1, task.seed)[-1]
    return refine_from(case, start, task)


def refine_from(case: KnownCase, start: Start, task: Task) -> Trial:
    """The trial of a task on a known case from a start."""
    optimizer = task.optimizer
    problem = case.problem(start)
    solver = make_solver(optimizer.name, optimizer.options, optimizer.max_iterations)
    trace: list[tuple[float, int, float]] = []
    began = time.process_time()

    def observe(record: Record) -> None:
        if record.iteration == 0:
            trace.clear()
        trace.append((time.process_time() - began, _passes(problem.counts), record.loss))

    stop = Stop(max_iterations=optimizer.max_iterations)
    found = refine_image(problem, solver, optimizer.strategy, stop=stop, observe=observe)
    seconds, solution = time.process_time() - began, found.solution
    chi = case.chi_squared(problem, solution.z)
    return Trial(
        key=task.key,
        case=task.case.name,
        optimizer=optimizer.title,
        scale=task.scale,
        start=task.start,
        status=solution.status.value,
        success=chi < task.success,
        chi2_per_parameter=chi,
        loss=float(solution.quadratic.value),
        iterations=solution.iterations,
        evaluations=_passes(problem.counts),
        **asdict(problem.counts),
        seconds=seconds,
        trace=tuple(trace),
    )


def _passes(counts: Counts) -> int:
    return counts.values + counts.gradients + counts.jacobians + counts.curvature_products
