"""Levenberg-Marquardt on the Fisher information: damped Fisher scoring, with a secant term where the model fits ill."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step

MOST = 10.0  # times the information: a secant term beyond it is of directions about which there is none
OFF = 0.1  # of a decrease: a smaller error of what was foreseen asks for no other model


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, the damping, and its growth at the next refusal; the secant term (n, n),
    and whether it foresaw the last step better than the information alone did."""

    quadratic: Quadratic
    damping: float
    growth: float
    secant: Tensor
    trusted: bool = False


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Solve (H + damping diag H) p = -g; damping follows the ratio of actual to predicted decrease.

    Damping by the diagonal makes the steps independent of the units of z (Marquardt 1963); the update is Nielsen's
    (1999, IMM-REP-1999-05, eq. 2.17), smooth in the ratio. A trial is evaluated with its derivatives at once: most
    are accepted, and then the next step has them.

    Where the data differ from any model by more than their noise, H is not the curvature, and convergence is slow. The
    difference is then learnt from the gradients, a symmetric secant term S that is sized down as it falls, and added
    to H after a step that H + S foresaw better (Dennis, Gay & Welsch 1981, ACM Trans. Math. Softw. 7, 348).
    """

    initial_damping: float = 1e-3
    least_damping: float = 1e-12
    largest_damping: float = 1e12

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        here = problem.quadratic(z)
        state = State(here, self.initial_damping, 2.0, torch.zeros_like(here.curvature))
        return quadratic_step(z, here, state, True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        here = state.quadratic
        extra = state.secant if state.trusted else torch.zeros_like(state.secant)
        shift = damped_shift(here, state.damping, extra)
        predicted = predicted_decrease(here, shift, extra)
        there = problem.quadratic(z + shift)
        actual = float(here.value - there.value)
        if not actual >= 0:
            refused = replace(state, damping=state.damping * state.growth, growth=state.growth * 2, trusted=False)
            stuck = "no step lowers the loss, however small" if refused.damping > self.largest_damping else None
            return quadratic_step(z, here, refused, False, predicted, actual, stuck)
        ratio = actual / predicted if predicted > 0 else 1.0
        damping = max(state.damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), self.least_damping)
        better = _foresaw_better(here, state.secant, shift, actual)
        state = State(there, damping, 2.0, updated_secant(state.secant, here, there, shift), better)
        return quadratic_step(z + shift, there, state, True, predicted, actual)


def damped_shift(quadratic: Quadratic, damping: float, secant: Tensor | None = None) -> Tensor:
    """The shift (n,) that minimises the damped quadratic model, with a secant term where that leaves it convex."""
    diagonal = torch.diagonal(quadratic.curvature)
    scale = torch.sqrt(torch.where(diagonal > 0, diagonal, 1.0))
    damped = damping * torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
    matrix = quadratic.curvature / (scale[:, None] * scale) + damped
    if secant is not None and bool(secant.any()):
        bent = matrix + secant / (scale[:, None] * scale)
        usable = float(bent.abs().max()) < MOST and int(torch.linalg.cholesky_ex(bent).info) == 0
        matrix = bent if usable else matrix
    return -torch.linalg.lstsq(matrix, (quadratic.gradient / scale)[:, None], driver="gelsd").solution[:, 0] / scale


def predicted_decrease(quadratic: Quadratic, shift: Tensor, secant: Tensor | None = None) -> float:
    """How much the undamped quadratic model, secant term included, falls over a shift (n,)."""
    curvature = quadratic.curvature if secant is None else quadratic.curvature + secant
    return -float(quadratic.gradient @ shift + shift @ curvature @ shift / 2)


def updated_secant(secant: Tensor, here: Quadratic, there: Quadratic, shift: Tensor) -> Tensor:
    """The secant term (n, n) after an accepted shift (n,): the smallest change, in the measure of the true curvature
    along the shift, that makes H + S the change of the gradient (Dennis, Gay & Welsch, eqs. 2.3 to 2.7)."""
    change = there.gradient - here.gradient
    along = float(change @ shift)
    if not along > 0 or not math.isfinite(along):
        return secant
    wanted = change - there.curvature @ shift
    held = float(shift @ secant @ shift)
    sized = secant * min(1.0, abs(float(wanted @ shift)) / abs(held)) if held else secant
    lacking = wanted - sized @ shift
    outer = torch.outer(lacking, change)
    return sized + (outer + outer.T) / along - float(lacking @ shift) / along**2 * torch.outer(change, change)


def _foresaw_better(here: Quadratic, secant: Tensor, shift: Tensor, actual: float) -> bool:
    """Whether the decrease over a shift was clearly off what the information says, and nearer to what the model with
    the secant term does; over short shifts all models agree, and the step of the information is the longer one."""
    plain, bent = predicted_decrease(here, shift), predicted_decrease(here, shift, secant)
    return abs(plain - actual) > OFF * abs(actual) and abs(bent - actual) < abs(plain - actual)
