"""Solvers and their one loop, on problems that need no crystal; scipy is the oracle."""

import dataclasses
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import LeastSquares, Quad, f64, largest, relative, vectors
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.optimize import least_squares, minimize
from torch import Tensor

from refine.solvers.adam import Adam
from refine.solvers.levenberg_marquardt import LevenbergMarquardt, Trial, damped_shift, foreseen, predicted_decrease
from refine.solvers.loop import Stop, remaining_shift, solve
from refine.solvers.protocol import Solver
from refine.solvers.registry import SOLVERS as REGISTRY
from refine.solvers.registry import make_solver
from refine.solvers.solution import Record, Status

SOLVERS: dict[str, Solver] = {name: make_solver(name, {}, 500) for name in REGISTRY}
TIMES = torch.linspace(0, 4, 25, dtype=torch.float64)


def linear_problem(seed: int = 1) -> tuple[LeastSquares, Tensor]:
    """Ten residuals of four unknowns in units that differ by orders of magnitude, and the solution."""
    rng = np.random.default_rng(seed)
    matrix = torch.from_numpy(rng.normal(size=(10, 4)) * [1.0, 1e-3, 1e2, 10.0])
    wanted = torch.from_numpy(rng.normal(size=10))
    best = torch.linalg.lstsq(matrix, wanted[:, None], driver="gelsd").solution[:, 0]
    return LeastSquares(lambda z: matrix @ z - wanted), best


def rosenbrock(z: Tensor) -> Tensor:
    return torch.stack([10 * (z[1] - z[0] ** 2), 1 - z[0]])


def decay(z: Tensor) -> Tensor:
    """An exponential with an offset against data that it does not fit exactly."""
    data = 3 * torch.exp(-1.3 * TIMES) + 0.4 + 0.05 * torch.cos(7 * TIMES)
    return z[0] * torch.exp(-z[1] * TIMES) + z[2] - data


def powell(z: Tensor) -> Tensor:
    """Powell's badly shaped valley, singular at its solution."""
    return torch.stack([z[0] + 10 * z[1], 5**0.5 * (z[2] - z[3]), (z[1] - 2 * z[2]) ** 2, 10**0.5 * (z[0] - z[3]) ** 2])


PROBLEMS = {
    "rosenbrock": (rosenbrock, (-1.2, 1.0)),
    "decay": (decay, (1.0, 0.4, 0.0)),
    "decay, far": (decay, (8.0, 4.0, -3.0)),
}


def test_linear_problem_is_solved_in_three_undamped_steps() -> None:
    problem, best = linear_problem()
    solution = solve(problem, LevenbergMarquardt(initial_damping=0.0, least_damping=0.0), f64(1.0, -5.0, 0.2, 3.0))
    assert solution.status is Status.CONVERGED
    assert solution.iterations <= 3
    assert largest((solution.z - best) / best) < 1e-9
    assert solution.history[0].loss > 100 * solution.history[-1].loss


def test_predicted_decrease_is_the_actual_one_where_the_model_is_exact() -> None:
    problem, _ = linear_problem()
    for damping in (0.0, 1e-3, 1.0, 100.0):
        solver = LevenbergMarquardt(initial_damping=damping)
        first = solver.init(problem, f64(1.0, -5.0, 0.2, 3.0))
        step = solver.step(problem, first.z, first.state)
        assert step.accepted
        assert step.actual > 1e-3
        assert step.predicted == pytest.approx(step.actual, rel=1e-11)
        assert step.loss == pytest.approx(first.loss - step.actual)


def test_damped_shift_is_the_solution_of_its_equations() -> None:
    problem, _ = linear_problem()
    model = problem.quadratic(f64(1.0, -5.0, 0.2, 3.0))
    shift = damped_shift(model, 0.37)
    matrix = model.curvature + 0.37 * torch.diag(torch.diagonal(model.curvature))
    residual = (matrix @ shift + model.gradient) / torch.sqrt(torch.diagonal(model.curvature))
    assert largest(residual) < 1e-9
    assert predicted_decrease(model, shift) > 0


def test_what_the_data_do_not_touch_stays() -> None:
    problem, _ = linear_problem()
    seen = problem.quadratic(f64(1.0, -5.0, 0.2, 3.0))
    places = torch.tensor([0, 2, 3, 5])
    curvature = torch.zeros(6, 6, dtype=torch.float64)
    curvature[places[:, None], places] = seen.curvature
    shift = damped_shift(Quad(seen.value, torch.zeros(6).double().index_add(0, places, seen.gradient), curvature), 1e-3)
    assert largest(shift[[1, 4]]) < 1e-6
    assert largest((shift[places] - damped_shift(seen, 1e-3)) / shift[places]) < 1e-9


def test_units_of_z_do_not_matter() -> None:
    units = f64(1e4, 1e-3, 7.0)
    plain = solve(LeastSquares(decay), LevenbergMarquardt(), f64(1.0, 0.4, 0.0))
    scaled = solve(LeastSquares(lambda z: decay(z / units)), LevenbergMarquardt(), f64(1.0, 0.4, 0.0) * units)
    assert [r.loss for r in scaled.history] == pytest.approx([r.loss for r in plain.history], rel=1e-8)


@pytest.mark.parametrize("name", PROBLEMS)
def test_levenberg_marquardt_agrees_with_scipy(name: str) -> None:
    residuals, start = PROBLEMS[name]
    solution = solve(LeastSquares(residuals), LevenbergMarquardt(), f64(start), Stop(max_iterations=100, shift=1e-6))
    wanted = least_squares(lambda z: residuals(torch.from_numpy(z)).numpy(), start, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    assert solution.status is Status.CONVERGED
    assert largest(solution.z - torch.from_numpy(wanted.x)) < 1e-6
    assert solution.history[-1].loss == pytest.approx(wanted.cost, abs=1e-10)
    assert solution.history[0].loss > 10 * wanted.cost
    assert solution.iterations <= 2 * wanted.nfev + 10


@pytest.mark.parametrize("name", PROBLEMS)
def test_adam_reaches_the_same_minimum(name: str) -> None:
    residuals, start = PROBLEMS[name]
    solution = solve(
        LeastSquares(residuals), Adam(rate=0.1, horizon=3000), f64(start), Stop(3000, shift=1e-3, decrease=1e-9)
    )
    wanted = minimize(lambda z: float((residuals(torch.from_numpy(z)) ** 2).sum() / 2), start, method="BFGS", tol=1e-10)
    assert solution.status is Status.CONVERGED or solution.history[-1].loss < 1e-14  # nought never stops changing
    assert largest(solution.z - torch.from_numpy(wanted.x)) < 2e-3
    assert solution.history[0].loss > 10 * wanted.fun


def test_adam_takes_torchs_steps() -> None:
    """At a rate that does not fall; the first step is the rate in every coordinate."""
    problem, z = LeastSquares(decay), f64(1.0, 0.4, 0.0)
    solution = solve(problem, Adam(rate=0.05, horizon=10**9), z, Stop(max_iterations=12))
    wanted = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([wanted], lr=0.05, betas=(0.9, 0.99), eps=1e-30)
    for record in solution.history:
        assert largest(record.z - wanted.detach()) < 1e-10
        wanted.grad = problem.loss_and_gradient(wanted.detach())[1]
        optimizer.step()
    assert largest((solution.history[1].z - z).abs() - 0.05) < 1e-12


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_solver_solves_a_linear_problem(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = torch.from_numpy(rng.normal(size=(12, 3)))
    wanted = torch.from_numpy(rng.normal(size=12))
    problem = LeastSquares(lambda z: matrix @ z - wanted)
    solution = solve(problem, SOLVERS[name], f64(3.0, -4.0, 5.0), Stop(max_iterations=500))
    assert solution.status is Status.CONVERGED
    assert largest(solution.z - torch.linalg.lstsq(matrix, wanted[:, None]).solution[:, 0]) < 0.01


def test_singular_problems_come_down_all_the_way() -> None:
    solution = solve(
        LeastSquares(powell), LevenbergMarquardt(), f64(3.0, -1.0, 0.0, 1.0), Stop(60, shift=1e-6, decrease=1e-14)
    )
    assert solution.history[0].loss > 100
    assert solution.history[-1].loss < 1e-10
    idle = LeastSquares(lambda z: torch.stack([z[0] - 1, 2 * z[0] - 2, 0 * z[1]]))
    found = solve(idle, LevenbergMarquardt(), f64(5.0, 7.0), Stop(shift=1e-4))
    assert found.z.tolist() == pytest.approx([1.0, 7.0], abs=1e-4)


@pytest.mark.parametrize("name", SOLVERS)
def test_stepping_twice_from_one_state_gives_the_same_bits(name: str) -> None:
    problem, solver = LeastSquares(rosenbrock), SOLVERS[name]
    step = solver.init(problem, f64(-1.2, 1.0))
    for _ in range(4):
        one, other = (solver.step(problem, step.z, step.state) for _ in range(2))
        assert torch.equal(one.z, other.z)
        assert (one.loss, one.gradient_norm, one.accepted) == (other.loss, other.gradient_norm, other.accepted)
        for a, b in zip(tensors(one.state), tensors(other.state), strict=True):
            assert torch.equal(a, b)
        step = one


def tensors(state: Any) -> list[Tensor]:
    parts = [getattr(state, f.name) for f in dataclasses.fields(state)]
    return [t for part in parts for t in (part if isinstance(part, tuple) else [part]) if isinstance(t, Tensor)]


@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_handed_in_is_written_to(name: str) -> None:
    problem, solver, z = LeastSquares(rosenbrock), SOLVERS[name], f64(-1.2, 1.0)
    first = solver.init(problem, z)
    held = [z, first.z, *tensors(first.state)]
    before = [t.clone() for t in held]
    solver.step(problem, first.z, first.state)
    solve(problem, solver, z, Stop(max_iterations=3))
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))


@pytest.mark.parametrize("name", SOLVERS)
def test_records_are_frozen(name: str) -> None:
    solution = solve(LeastSquares(rosenbrock), SOLVERS[name], f64(-1.2, 1.0), Stop(max_iterations=2))
    first = SOLVERS[name].init(LeastSquares(rosenbrock), f64(-1.2, 1.0))
    for record in (SOLVERS[name], solution, solution.history[0], first, first.state, Stop()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, dataclasses.fields(record)[0].name, None)
    assert isinstance(solution.history, tuple)


@pytest.mark.parametrize("name", SOLVERS)
def test_observe_gets_every_record(name: str) -> None:
    seen: list[Record] = []
    solution = solve(LeastSquares(decay), SOLVERS[name], f64(1.0, 0.4, 0.0), Stop(max_iterations=7), seen.append)
    assert tuple(seen) == solution.history
    assert [record.iteration for record in seen] == list(range(solution.iterations + 1))
    assert torch.equal(seen[0].z, f64(1.0, 0.4, 0.0))
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(seen))
    assert float(LeastSquares(decay).loss(seen[-1].z)) == pytest.approx(seen[-1].loss)


def test_solution_is_the_best_seen_with_its_own_quadratic() -> None:
    """Adam passes through better points than its last."""
    problem = LeastSquares(lambda z: 3 * z)
    solution = solve(problem, Adam(rate=2.0, horizon=10_000), f64([1.3]), Stop(max_iterations=9))
    losses = [record.loss for record in solution.history]
    assert min(losses) < losses[-1]
    assert float(problem.loss(solution.z)) == pytest.approx(min(losses))
    assert float(solution.quadratic.value) == pytest.approx(min(losses))


def test_one_quadratic_a_step() -> None:
    problem = LeastSquares(decay)
    solution = solve(problem, LevenbergMarquardt(), f64(1.0, 0.4, 0.0))
    assert problem.calls == ["quadratic"] * (solution.iterations + 1)


@given(vectors(-1.0, 1.0, 4), st.floats(0.01, 100))
def test_where_the_model_is_exact_what_is_foreseen_is_what_is_there(shift: Tensor, damping: float) -> None:
    assume(largest(shift) > 1e-3)  # shorter ones change the loss by less than its rounding
    problem, best = linear_problem()
    here = problem.quadratic(best + shift)
    trial = Trial(here, step := damped_shift(here, damping), predicted_decrease(here, step))
    found, there = foreseen(trial, problem.loss(best + shift + step)), problem.quadratic(best + shift + step)
    assert largest(found.gradient - there.gradient) <= 1e-6 * (largest(here.gradient) + 0.1)
    assert float(found.value) == pytest.approx(float(there.value), rel=1e-9, abs=1e-9)
    assert relative(found.curvature, there.curvature) < 1e-12


def test_a_third_derivative_is_seen_in_the_decrease() -> None:
    """Of z^2 / 2 + c z^3 / 6, whose Newton step from z = s goes to z = c s^2 / (2 (1 + c s))."""
    start, bend = 0.3, 0.05
    here = Quad(f64(start**2 / 2 + bend * start**3 / 6)[()], f64([start + bend * start**2 / 2]), f64([[1.0]]))
    shift = -here.gradient
    end = float(start + shift[0])
    found = foreseen(Trial(here, shift, float(shift @ shift) / 2), f64(end**2 / 2 + bend * end**3 / 6)[()])
    assert remaining_shift(found) > abs(end + bend * end**2 / 2)
    assert remaining_shift(found) < 10 * abs(end + bend * end**2 / 2)


def test_the_last_step_needs_no_derivatives() -> None:
    problem, best = linear_problem()
    solution = solve(problem, LevenbergMarquardt(initial_damping=1e-9), best + 1e-3)
    assert solution.status is Status.CONVERGED
    assert problem.calls == ["quadratic", "loss"]
    assert largest(solution.z - best) < 1e-6


def test_remaining_shift_is_newtons_in_esds() -> None:
    problem, best = linear_problem()
    model = problem.quadratic(best)
    esds = torch.sqrt(torch.diagonal(torch.linalg.inv(model.curvature)))
    assert remaining_shift(model) < 1e-6
    off = best + esds * f64(0.1, 0.0, 0.0, -0.3)
    assert remaining_shift(problem.quadratic(off)) == pytest.approx(0.3, rel=1e-5)
    assert remaining_shift(Quad(f64(math.inf), *model[1:])) == math.inf


# How a minimisation ends


@dataclass(frozen=True)
class Uphill:
    """A problem whose derivatives point the wrong way: no step ever lowers the loss."""

    inner: LeastSquares

    def loss(self, z: Tensor) -> Tensor:
        return self.inner.loss(z)

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.inner.loss_and_gradient(z)
        return value, -gradient

    def quadratic(self, z: Tensor) -> Quad:
        return self.inner.quadratic(z)._replace(gradient=-self.inner.quadratic(z).gradient)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        return self.inner.curvature_product(z, v)


def test_converged() -> None:
    solution = solve(LeastSquares(decay), LevenbergMarquardt(), f64(1.0, 0.4, 0.0))
    assert solution.status is Status.CONVERGED
    assert "esd" in solution.reason
    assert solution.status.advice == ""


def test_a_start_at_the_minimum_converges_at_once() -> None:
    problem, best = linear_problem()
    solution = solve(problem, LevenbergMarquardt(), best)
    assert solution.status is Status.CONVERGED
    assert solution.iterations <= 1


def test_max_iterations() -> None:
    solution = solve(LeastSquares(rosenbrock), LevenbergMarquardt(), f64(-1.2, 1.0), Stop(max_iterations=2))
    assert solution.status is Status.MAX_ITERATIONS
    assert solution.iterations == 2
    assert "2 iterations" in solution.reason
    assert "max_iterations" in solution.status.advice


def test_no_iterations_are_an_evaluation_of_the_start() -> None:
    solution = solve(LeastSquares(rosenbrock), LevenbergMarquardt(), f64(-1.2, 1.0), Stop(max_iterations=0))
    assert solution.status is Status.MAX_ITERATIONS
    assert torch.equal(solution.z, f64(-1.2, 1.0))


@pytest.mark.parametrize(("stop", "reason"), [(Stop(), "however small"), (Stop(refusals=3), "3 trial steps in a row")])
def test_stalled(stop: Stop, reason: str) -> None:
    start = f64(-1.2, 1.0)
    solution = solve(Uphill(LeastSquares(rosenbrock)), LevenbergMarquardt(), start, stop)
    assert solution.status is Status.STALLED
    assert reason in solution.reason
    assert torch.equal(solution.z, start)
    assert not any(record.accepted for record in solution.history[1:])
    assert solution.status.advice


def test_adam_stalls_when_its_rate_has_run_out() -> None:
    solution = solve(LeastSquares(rosenbrock), Adam(rate=0.01, horizon=10), f64(-1.2, 1.0), Stop(max_iterations=100))
    assert solution.status is Status.STALLED
    assert "run out" in solution.reason
    assert solution.iterations == 11


@pytest.mark.parametrize("name", SOLVERS)
def test_diverged_at_the_start(name: str) -> None:
    for problem in (LeastSquares(rosenbrock, bound=0.5), LeastSquares(lambda z: rosenbrock(z) * torch.nan)):
        solution = solve(problem, SOLVERS[name], f64(-1.2, 1.0))
        assert solution.status is Status.DIVERGED
        assert "start" in solution.reason
        assert solution.iterations == 0
        assert solution.status.advice


def test_diverged_on_the_way() -> None:
    @dataclass(frozen=True)
    class Runaway:
        def init(self, problem: Any, z: Tensor) -> Any:
            return LevenbergMarquardt().init(problem, z)

        def step(self, problem: Any, z: Tensor, state: Any) -> Any:
            return replace(LevenbergMarquardt().step(problem, z, state), loss=math.nan, accepted=True)

    solution = solve(LeastSquares(rosenbrock), Runaway(), f64(-1.2, 1.0))
    assert solution.status is Status.DIVERGED
    assert "became" in solution.reason
    assert torch.equal(solution.z, f64(-1.2, 1.0))


@pytest.mark.parametrize("name", SOLVERS)
def test_interrupted_keeps_the_best_so_far(name: str) -> None:
    def impatient(record: Record) -> None:
        if record.iteration == 4:
            raise KeyboardInterrupt

    solution = solve(LeastSquares(rosenbrock), SOLVERS[name], f64(-1.2, 1.0), Stop(max_iterations=500), impatient)
    assert solution.status is Status.INTERRUPTED
    assert 3 <= solution.iterations <= 4
    assert float(LeastSquares(rosenbrock).loss(solution.z)) == pytest.approx(min(r.loss for r in solution.history))
    assert solution.history[0].loss > float(solution.quadratic.value)
    assert solution.status.advice


def test_interrupted_at_the_start() -> None:
    def impatient(_: Record) -> None:
        raise KeyboardInterrupt

    try:
        solution = solve(LeastSquares(rosenbrock), LevenbergMarquardt(), f64(-1.2, 1.0), observe=impatient)
    except KeyboardInterrupt:
        pytest.fail("an interrupt while the start was observed ended the program")
    assert solution.status is Status.INTERRUPTED
    assert torch.equal(solution.z, f64(-1.2, 1.0))


def test_other_exceptions_are_not_caught() -> None:
    def broken(_: Record) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        solve(LeastSquares(rosenbrock), LevenbergMarquardt(), f64(-1.2, 1.0), observe=broken)


def test_every_status_but_success_has_advice() -> None:
    assert {status for status in Status if not status.advice} == {Status.CONVERGED}


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_into_the_forbidden_are_refused(name: str) -> None:
    """The minimum (1, 1) lies outside the box."""
    problem = LeastSquares(rosenbrock, bound=0.9)
    solution = solve(problem, SOLVERS[name], f64(-0.5, 0.3), Stop(max_iterations=300))
    assert float(solution.z.abs().max()) <= 0.9
    assert solution.status in (Status.STALLED, Status.MAX_ITERATIONS)
    assert math.isfinite(float(problem.loss(solution.z)))
    assert not all(record.accepted for record in solution.history)
