"""scipy's minimisers behind the protocol.

scipy owns its loop, and this package's loop wants one step at a time. So scipy runs in a thread of its own that stands
still after every trial until the next step is asked for. The trials it has made are kept: asking twice for the same
step gives the same one, so that a state is as good as a value.
"""

import math
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Quadratic, Step

WALL = 1e30  # in place of an infinite loss, which scipy's line searches cannot interpolate
NEVER = 10**9  # iterations: when to stop is the loop's business
TIGHTEST = 1e-14  # scipy's own tolerances, so that the loop's decide


@dataclass(frozen=True)
class State:
    """The run, and how many of its trials have been taken from it."""

    run: "_Run"
    taken: int


@dataclass(frozen=True)
class ScipyOptimizer:
    """The method of scipy.optimize named `method`: `least_squares`, `L-BFGS-B`, `trust-exact`, `trust-krylov` or
    `Nelder-Mead`. A step is one trial, refused where it does not lower the best loss; one of Nelder-Mead is an
    iteration, one or two trials, and counts as accepted: it moves the simplex.

    least_squares is given a square root of the quadratic model, see `_square_root`; trust-exact the Gauss-Newton
    curvature for its Hessian, trust-krylov exact products with the Hessian. Nelder-Mead's first simplex has edges
    `simplex`, in units of z.
    """

    method: str
    simplex: float = 1.0

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        run = _Run(_METHODS[self.method], problem, z, self.simplex)
        return run.step(0)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """The trial after those taken."""
        return state.run.step(state.taken)


@dataclass(frozen=True)
class _Trial:
    z: Tensor
    loss: float
    gradient_norm: float
    quadratic: Quadratic | None


class _AbandonedError(Exception):
    """Nobody waits for this run any more."""


class _Gate:
    """Where scipy's thread hands over a trial and waits; also what the thread left behind."""

    def __init__(self) -> None:
        self.go, self.ready = threading.Semaphore(0), threading.Semaphore(0)
        self.trials: list[_Trial] = []
        self.ended: str | None = None
        self.error: Exception | None = None
        self.abandoned = False

    def show(self, trial: _Trial) -> None:
        self.trials.append(trial)
        self.ready.release()
        self.go.acquire()
        if self.abandoned:
            raise _AbandonedError

    def abandon(self) -> None:
        self.abandoned = True
        self.go.release()


class _Run:
    """One minimisation by scipy, its trials as steps, made when first asked for."""

    def __init__(self, minimise: "_Minimise", problem: Problem, z: Tensor, simplex: float) -> None:
        self._gate = gate = _Gate()
        self._steps: list[Step] = []

        def work() -> None:
            gate.go.acquire()
            try:
                if not gate.abandoned:
                    gate.ended = minimise(_Objective(problem, z, gate), z.cpu().numpy(), simplex)
            except _AbandonedError:
                pass
            except Exception as error:
                gate.error = error
            gate.ready.release()

        threading.Thread(target=work, daemon=True).start()
        weakref.finalize(self, gate.abandon)
        self.simplex = minimise is _nelder_mead

    def step(self, number: int) -> Step:
        """Trial `number` as a step; behind the last, the best of all with the reason why it ended."""
        while len(self._steps) <= number:
            self._steps.append(self._next())
        return replace(self._steps[number], state=State(self, number + 1))

    def _next(self) -> Step:
        """The next trial as a step, without its state: that would keep the run alive for ever."""
        gate, before = self._gate, self._steps[-1] if self._steps else None
        known = len(gate.trials)
        if gate.ended is None:
            gate.go.release()
            gate.ready.acquire()
        if gate.error is not None:
            raise gate.error
        if len(gate.trials) == known and before is not None:
            return replace(before, accepted=False, actual=0.0, stuck=f"scipy: {gate.ended}")
        trial = gate.trials[-1]
        if before is None or trial.loss < before.loss:
            actual = before.loss - trial.loss if before else math.nan
            return Step(trial.z, trial.loss, trial.gradient_norm, True, math.nan, actual, trial.quadratic, None)
        return replace(before, accepted=self.simplex, actual=0.0 if self.simplex else before.loss - trial.loss)


class _Objective:
    """A problem in scipy's terms, every trial shown at the gate; the last quadratic is kept for its derivatives."""

    def __init__(self, problem: Problem, z: Tensor, gate: _Gate) -> None:
        self.problem, self.like, self.gate = problem, z, gate
        self.last: tuple[np.ndarray, Quadratic] | None = None

    def value(self, x: np.ndarray) -> float:
        return self._finite(self.problem.loss(self._tensor(x)))

    def report(self, x: np.ndarray, loss: float) -> None:
        self.gate.show(_Trial(self._tensor(x), loss if loss < WALL else math.inf, math.nan, None))

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        z = self._tensor(x)
        loss, gradient = self.problem.loss_and_gradient(z)
        self.gate.show(_Trial(z, float(loss), float(torch.linalg.vector_norm(gradient)), None))
        return self._finite(loss), gradient.cpu().numpy()

    def quadratic(self, x: np.ndarray) -> Quadratic:
        if self.last is None or not np.array_equal(self.last[0], x):
            z = self._tensor(x)
            found = self.problem.quadratic(z)
            self.last = x.copy(), found
            norm = float(torch.linalg.vector_norm(found.gradient))
            self.gate.show(_Trial(z, float(found.value), norm, found))
        return self.last[1]

    def quadratic_gradient(self, x: np.ndarray) -> np.ndarray:
        return self.quadratic(x).gradient.cpu().numpy()

    def quadratic_curvature(self, x: np.ndarray) -> np.ndarray:
        return self.quadratic(x).curvature.cpu().numpy()

    def quadratic_value(self, x: np.ndarray) -> float:
        return self._finite(self.quadratic(x).value)

    def hessian_product(self, x: np.ndarray, v: np.ndarray) -> np.ndarray:
        return self.problem.curvature_product(self._tensor(x), self._tensor(v)).cpu().numpy()

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(x)).to(self.like)

    @staticmethod
    def _finite(loss: Tensor) -> float:
        return float(loss) if bool(torch.isfinite(loss)) else WALL


_Minimise = Callable[[_Objective, np.ndarray, float], str]


def _lbfgsb(objective: _Objective, z: np.ndarray, _: float) -> str:
    options = {"maxiter": NEVER, "maxfun": NEVER, "ftol": TIGHTEST, "gtol": TIGHTEST}
    return _message(
        scipy.optimize.minimize(objective.value_and_gradient, z, method="L-BFGS-B", jac=True, options=options)
    )


def _trust_exact(objective: _Objective, z: np.ndarray, _: float) -> str:
    derivatives = {"jac": objective.quadratic_gradient, "hess": objective.quadratic_curvature}
    return _trust_region("trust-exact", objective.quadratic_value, z, **derivatives)


def _trust_krylov(objective: _Objective, z: np.ndarray, _: float) -> str:
    derivatives = {"jac": objective.quadratic_gradient, "hessp": objective.hessian_product}
    return _trust_region("trust-krylov", objective.quadratic_value, z, **derivatives)


def _trust_region(method: str, value: Callable[..., float], z: np.ndarray, **derivatives: Any) -> str:
    options = {"maxiter": NEVER, "gtol": TIGHTEST}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rounding at the minimum, where the loop will have stopped
        return _message(scipy.optimize.minimize(value, z, method=method, options=options, **derivatives))


def _nelder_mead(objective: _Objective, z: np.ndarray, edge: float) -> str:
    corners = np.concatenate([z[None], z + edge * np.eye(len(z))])
    objective.report(z, objective.value(z))
    options = {"maxiter": NEVER, "maxfev": NEVER, "xatol": TIGHTEST, "fatol": TIGHTEST, "initial_simplex": corners}
    options["adaptive"] = len(z) > 2

    def iteration(intermediate_result: Any) -> None:
        objective.report(intermediate_result.x, float(intermediate_result.fun))

    return _message(
        scipy.optimize.minimize(objective.value, z, method="Nelder-Mead", callback=iteration, options=options)
    )


def _least_squares(objective: _Objective, z: np.ndarray, _: float) -> str:
    """Trust-region reflective, on a square root of the quadratic model."""
    first = objective.quadratic(z)
    floor = float(first.value) - 10 * max(abs(float(first.value)), 1e3)

    def residuals(x: np.ndarray) -> np.ndarray:
        return _square_root(objective.quadratic(x), floor)[0]

    def jacobian(x: np.ndarray) -> np.ndarray:
        return _square_root(objective.quadratic(x), floor)[1]

    tolerances = {"ftol": None, "xtol": TIGHTEST, "gtol": None, "max_nfev": NEVER}
    return _message(scipy.optimize.least_squares(residuals, z, jacobian, x_scale="jac", **tolerances))


def _square_root(quadratic: Quadratic, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n + 1,) and Jacobian (n + 1, n) whose cost is the loss above `floor`, and whose gradient and
    Gauss-Newton curvature are the model's: with H = L L^T they are L^-1 g and L^T, and one more residual that makes
    up the rest of the loss, as if it were constant."""
    if not bool(torch.isfinite(quadratic.value)):
        n = len(quadratic.gradient)
        return np.append(np.zeros(n), math.sqrt(2 * WALL)), np.zeros((n + 1, n))
    factor, residuals = _root(quadratic)
    rest = max(2 * (float(quadratic.value) - floor) - residuals @ residuals, 0.0)
    return np.append(residuals, math.sqrt(rest)), np.vstack([factor.T, np.zeros(len(factor))])


def _root(quadratic: Quadratic) -> tuple[np.ndarray, np.ndarray]:
    """L (n, n) with L L^T the curvature, from its eigenvectors, and L^-1 g (n,) over what it determines."""
    values, vectors = np.linalg.eigh(quadratic.curvature.cpu().numpy())
    root = np.sqrt(np.maximum(values, 0.0))
    along = vectors.T @ quadratic.gradient.cpu().numpy()
    safe = root > 1e-7 * root[-1]
    return vectors * root, np.where(safe, along / np.where(safe, root, 1.0), 0.0)


def _message(result: Any) -> str:
    return " ".join(str(result.message).split())


_METHODS: dict[str, _Minimise] = {
    "least_squares": _least_squares,
    "L-BFGS-B": _lbfgsb,
    "trust-exact": _trust_exact,
    "trust-krylov": _trust_krylov,
    "Nelder-Mead": _nelder_mead,
}
