"""Every solver of the registry on every problem, held against scipy called directly; and what is each one's own."""

import gc
import threading

import numpy as np
import pytest
import torch
from builders import LeastSquares, f64, largest
from scipy.optimize import least_squares, minimize
from test_solvers import PROBLEMS, decay, linear_problem, rosenbrock

from refine.solvers.lbfgs import inverse_product
from refine.solvers.levenberg_marquardt import predicted_decrease
from refine.solvers.loop import Stop, solve
from refine.solvers.newton_cg import truncated_newton
from refine.solvers.registry import SOLVERS, make_solver
from refine.solvers.scipy_optimizer import ScipyOptimizer, _square_root
from refine.solvers.solution import Status
from refine.solvers.trust_region import TrustRegion, confined_shift

ITERATIONS = 1500
SLOW_STARTERS = {("nadam", "rosenbrock"), ("sgd", "rosenbrock")}  # a curved valley, and no idea of its curvature
QUADRATIC = ["lm", "trust-region", "newton-cg"]  # foresee what a step gains


def oracle(name):
    residuals, start = PROBLEMS[name]

    def plain(z):
        return residuals(torch.from_numpy(z)).numpy()

    return least_squares(plain, start, xtol=1e-14, ftol=1e-14, gtol=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_reaches_scipys_minimum(name, problem):
    residuals, start = PROBLEMS[problem]
    stop = Stop(ITERATIONS, shift=1e-3, decrease=1e-9)
    solution = solve(LeastSquares(residuals), make_solver(name, {}, ITERATIONS), f64(start), stop)
    wanted = oracle(problem)
    assert solution.history[0].loss > 10 * wanted.cost
    if (name, problem) in SLOW_STARTERS:
        assert solution.status is Status.MAX_ITERATIONS
        assert solution.history[-1].loss < solution.history[0].loss / 100
    else:
        assert solution.status is Status.CONVERGED
        assert largest(solution.z - torch.from_numpy(wanted.x)) < 2e-3


@pytest.mark.parametrize("name", QUADRATIC)
def test_foreseen_and_found_decrease_agree_on_a_linear_problem(name):
    problem, _ = linear_problem()
    solver = SOLVERS[name]
    step = solver.init(problem, f64(1.0, -5.0, 0.2, 3.0))
    following = solver.step(problem, step.z, step.state)
    assert following.accepted
    assert following.actual > 1e-3
    assert following.predicted == pytest.approx(following.actual, rel=1e-10)


def test_trust_regions_shift_is_the_constrained_minimum():
    """scipy minimises the same model over the same ball."""
    problem, _ = linear_problem()
    model = problem.quadratic(f64(1.0, -5.0, 0.2, 3.0))
    scale = torch.sqrt(torch.diagonal(model.curvature))
    free = confined_shift(model, scale, 1e9)
    assert largest(model.curvature @ free + model.gradient) < 1e-8 * largest(model.gradient)
    whole = float(torch.linalg.vector_norm(scale * free))
    for radius in (0.9 * whole, 0.3 * whole, 0.01 * whole):
        shift = confined_shift(model, scale, radius)
        assert float(torch.linalg.vector_norm(scale * shift)) == pytest.approx(radius, rel=1e-8)
        wanted = minimize(
            lambda p: -predicted_decrease(model, torch.from_numpy(p) / scale),
            np.zeros(4),
            method="SLSQP",
            constraints={"type": "ineq", "fun": lambda p, r=radius: r * r - p @ p},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert predicted_decrease(model, shift) == pytest.approx(-wanted.fun, rel=1e-6)
        assert predicted_decrease(model, shift) < predicted_decrease(model, free)


def test_trust_region_shrinks_behind_a_refusal_and_stays_within():
    problem = LeastSquares(lambda z: torch.atan(z * f64(3.0, 1.0)))  # a full step overshoots
    solution = solve(problem, TrustRegion(), f64(2.0, -3.0))
    assert solution.status is Status.CONVERGED
    assert not all(record.accepted for record in solution.history)
    assert largest(solution.z) < 1e-2


def test_truncated_newton_solves_or_stops_at_the_edge():
    matrix = torch.diag(f64(1.0, 2.0, 5.0))
    gradient = f64(1e-8, -2e-8, 1e-8)  # so small a gradient asks for a tight solution
    step, predicted = truncated_newton(gradient, lambda v: matrix @ v, 1e3)
    assert largest(step + gradient / torch.diagonal(matrix)) < 1e-4 * largest(step)
    assert predicted == pytest.approx(-float(gradient @ step + step @ matrix @ step / 2))
    bent = torch.diag(f64(1.0, -2.0, 5.0))
    step, predicted = truncated_newton(f64(0.1, -0.2, 0.3), lambda v: bent @ v, 2.0)
    assert float(torch.linalg.vector_norm(step)) == pytest.approx(2.0)
    assert predicted > 0


def test_newton_cg_converges_quadratically_where_gauss_newton_does_not():
    """Large residuals: the Gauss-Newton curvature is wrong at the minimum, the Hessian is not."""
    problem = LeastSquares(lambda z: torch.stack([z[0] ** 2 - 0.5, 3 - z[0], z[1] + z[0]]))
    strict = Stop(100, shift=1e-8, decrease=1e-14)
    newton, gauss = (solve(problem, SOLVERS[name], f64(3.0, 1.0), strict) for name in ("newton-cg", "trust-region"))
    assert newton.status is Status.CONVERGED
    assert newton.iterations < gauss.iterations
    assert largest(newton.z - gauss.z) < 1e-6


def test_lbfgs_product_is_that_of_the_bfgs_matrix():
    rng = np.random.default_rng(3)
    hessian = torch.from_numpy(np.diag([1.0, 4.0, 9.0, 2.0]))
    shifts = [torch.from_numpy(rng.normal(size=4)) for _ in range(3)]
    pairs = tuple((s, hessian @ s) for s in shifts)
    s, y = pairs[-1]
    inverse = torch.eye(4, dtype=torch.float64) * (s @ y) / (y @ y)
    for s, y in pairs:
        left = torch.eye(4, dtype=torch.float64) - torch.outer(s, y) / (s @ y)
        inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
    gradient = torch.from_numpy(rng.normal(size=4))
    assert largest(inverse_product(pairs, gradient) - inverse @ gradient) < 1e-12


def test_sgd_takes_torchs_steps():
    problem, z = LeastSquares(decay), f64(1.0, 0.4, 0.0)
    solver = make_solver("sgd", {"rate": 0.01, "horizon": 10**9, "clip": 1e9}, 10)
    solution = solve(problem, solver, z, Stop(max_iterations=10))
    wanted = z.clone().requires_grad_()
    optimizer = torch.optim.SGD([wanted], lr=0.01, momentum=0.9, nesterov=True)
    for record in solution.history:
        assert largest(record.z - wanted.detach()) < 1e-12
        wanted.grad = problem.loss_and_gradient(wanted.detach())[1]
        optimizer.step()


def test_square_root_of_a_quadratic_has_its_value_gradient_and_curvature():
    problem, _ = linear_problem()
    model = problem.quadratic(f64(1.0, -5.0, 0.2, 3.0))
    residuals, jacobian = _square_root(model, float(model.value) - 1e6)
    assert residuals @ residuals / 2 == pytest.approx(1e6)
    assert jacobian.T @ residuals == pytest.approx(model.gradient.numpy(), rel=1e-9)
    assert jacobian.T @ jacobian == pytest.approx(model.curvature.numpy(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name.startswith("scipy")])
def test_scipys_threads_end_with_the_run(name):
    before = threading.active_count()
    solution = solve(LeastSquares(rosenbrock), SOLVERS[name], f64(-1.2, 1.0), Stop(max_iterations=3))
    assert solution.iterations == 3
    gc.collect()
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(5)
    assert threading.active_count() <= before


def test_an_error_in_scipys_thread_is_raised_here():
    def broken(z):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ScipyOptimizer("L-BFGS-B").init(LeastSquares(broken), f64(1.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("quadratic", n) for n in ("lm", "trust-region", "newton-cg", "scipy-least-squares", "scipy-trust-exact")]
    + [("gradient", n) for n in ("adam", "nadam", "sgd", "lbfgs", "scipy-l-bfgs-b")],
)
def test_every_step_is_one_evaluation_whoever_owns_the_loop(kind, name):
    problem = LeastSquares(rosenbrock)
    solution = solve(problem, SOLVERS[name], f64(-1.2, 1.0), Stop(max_iterations=5))
    assert problem.calls.count(kind) == solution.iterations + 1


def test_no_progress_is_a_stall_with_scipys_reason():
    flat = LeastSquares(lambda z: torch.stack([(z[0] - 1) ** 2, (z[0] - 1) ** 2]))
    solution = solve(flat, SOLVERS["scipy-nelder-mead"], f64([0.0]), Stop(4000, shift=0.0))
    assert solution.status is Status.STALLED
    assert "scipy" in solution.reason or "trial steps" in solution.reason
