"""Levenberg-Marquardt on the Fisher information: damped Fisher scoring, with a secant term where the model fits ill."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from refine.solvers.arrow import Arrow
from refine.solvers.parted import Parted, parted
from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step

MOST = 10.0  # times the information: a secant term beyond it is of directions about which there is none
OFF = 0.1  # of a decrease: a smaller error of what was foreseen asks for no other model
OFF_AT_FIRST = 0.002  # of a decrease, taken for the error of what is foreseen while nothing is known of it
TURNED = 2.0  # times what the decrease tells of an unforeseen gradient: part of it lies across the step
LAST = 0.01  # standard uncertainties that a step may be expected to leave, to be the last


class Trial(NamedTuple):
    """A shift (n,) from where the quadratic model is known, and the decrease that the model foresees."""

    here: Quadratic
    shift: Tensor
    predicted: float


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, the damping, and its growth at the next refusal; the secant terms
    (k, s + m, s + m) of its parts, and whether they foresaw the last step better than the information alone did;
    by which part of the last decrease the model was off; and the last trial, where its end is only foreseen: the
    quadratic is then that where it began."""

    quadratic: Quadratic
    damping: float
    growth: float
    secants: Tensor
    trusted: bool = False
    off: float = OFF_AT_FIRST
    trial: Trial | None = None


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Solve (H + damping diag H) p = -g; damping follows the ratio of actual to predicted decrease.

    Damping by the diagonal makes the steps independent of the units of z (Marquardt 1963); the update is Nielsen's
    (1999, IMM-REP-1999-05, eq. 2.17), smooth in the ratio. A trial is evaluated with its derivatives at once: most
    are accepted, and then the next step has them. Of a short step, foreseen by a model that has been right, the loss is
    looked at first: where it is as foreseen, that was the last step, and derivatives would tell nothing new.

    Where the data differ from any model by more than their noise, H is not the curvature, and convergence is slow. The
    difference is then learnt from the gradients, a symmetric secant term S that is sized down as it falls, and added
    to H after a step that H + S foresaw better (Dennis, Gay & Welsch 1981, ACM Trans. Math. Softw. 7, 348). Each part
    of a sum has its own, from its own loss and gradients, so that what one part says nothing of stays 0 (Griewank &
    Toint 1982, Numer. Math. 39, 119).
    """

    initial_damping: float = 1e-3
    least_damping: float = 1e-12
    largest_damping: float = 1e12

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        here = problem.quadratic(z)
        state = State(here, self.initial_damping, 2.0, torch.zeros_like(parted(here).arrow.parts))
        return quadratic_step(z, here, state, True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        if state.trial:
            state = self._accepted(state, state.trial, problem.quadratic(z))
        trial = _trial(state)
        here, shift, predicted = trial
        if _may_be_last(predicted, state.off):
            there = foreseen(trial, problem.loss(z + shift))
            if (actual := float(here.value - there.value)) >= 0:
                return quadratic_step(z + shift, there, replace(state, trial=trial), True, predicted, actual)
        known = problem.quadratic(z + shift)
        actual = float(here.value - known.value)
        if actual >= 0:
            return quadratic_step(z + shift, known, self._accepted(state, trial, known), True, predicted, actual)
        refused = replace(state, damping=state.damping * state.growth, growth=state.growth * 2, trusted=False)
        stuck = "no step lowers the loss, however small" if refused.damping > self.largest_damping else None
        return quadratic_step(z, here, refused, False, predicted, actual, stuck)

    def _accepted(self, state: State, trial: Trial, there: Quadratic) -> State:
        """The state after a trial that led to a quadratic."""
        here, shift, predicted = trial
        actual = float(here.value - there.value)
        ratio = actual / predicted if predicted > 0 else 1.0
        damping = max(state.damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), self.least_damping)
        better, off = _foresaw_better(here, state.secants, shift, actual), abs(actual - predicted) / max(actual, 1e-300)
        secants = updated_secants(state.secants, parted(here), parted(there), shift)
        return State(there, damping, 2.0, secants, better, off)


def _trial(state: State) -> Trial:
    extra = state.secants if state.trusted else None
    shift = damped_shift(state.quadratic, state.damping, extra)
    return Trial(state.quadratic, shift, predicted_decrease(state.quadratic, shift, extra))


def _may_be_last(predicted: float, off: float) -> bool:
    """Whether a step of that decrease is expected to leave less than `LAST` standard uncertainties, by what `foreseen`
    will say of it, if the decrease is as far off as the last one was."""
    return predicted > 0 and TURNED * 3 * off * predicted / math.sqrt(2 * predicted) < LAST


def foreseen(trial: Trial, value: Tensor) -> Parted:
    """The quadratic after a trial where only the value () is known there.

    A decrease other than foreseen is put down to a third derivative along the shift, whose slope at its end is then
    three times the difference; `TURNED` times as much is allowed for.
    """
    model, shift = parted(trial.here), trial.shift
    actual, pulls = model.value - value, (model.arrow.parts @ model.arrow.seen(shift)[..., None])[..., 0]
    slope = TURNED * 3 * (trial.predicted - actual) / model.arrow.form(shift).clamp_min(1e-300)
    return Parted(model.values - actual / len(pulls), model.gradients + (1 + slope) * pulls, model.arrow)


def damped_shift(quadratic: Quadratic, damping: float, secants: Tensor | None = None) -> Tensor:
    """The shift (n,) that minimises the damped quadratic model, with secant terms (k, s + m, s + m) of its parts where
    they leave it convex."""
    arrow = parted(quadratic).arrow
    scale = arrow.roots()
    matrix = arrow.scaled(scale).raised(damping)
    if secants is not None and bool(secants.any()):
        matrix = _bent(matrix, replace(arrow, parts=secants).scaled(scale))
    return -matrix.solved(quadratic.gradient / scale) / scale


def _bent(matrix: Arrow, secants: Arrow) -> Arrow:
    """A matrix of unit diagonal with the secant terms of those parts that can bear them, or of none."""
    bent = matrix + secants
    usable = (bent.parts.abs().amax((1, 2)) < MOST) & bent.own_positive_definite()
    bent = matrix + replace(secants, parts=torch.where(usable[:, None, None], secants.parts, 0.0))
    return bent if bent.positive_definite() else matrix


def predicted_decrease(quadratic: Quadratic, shift: Tensor, secants: Tensor | None = None) -> float:
    """How much the undamped quadratic model, secant terms included, falls over a shift (n,)."""
    arrow = parted(quadratic).arrow
    arrow = arrow if secants is None else replace(arrow, parts=arrow.parts + secants)
    return -float(quadratic.gradient @ shift + arrow.form(shift) / 2)


def updated_secants(secants: Tensor, here: Parted, there: Parted, shift: Tensor) -> Tensor:
    """The secant terms (k, s + m, s + m) after an accepted shift (n,)."""
    changes, curvatures = there.gradients - here.gradients, there.arrow.parts
    parts = zip(secants, changes, curvatures, here.arrow.seen(shift), strict=True)
    return torch.stack([updated_secant(*part) for part in parts])


def updated_secant(secant: Tensor, change: Tensor, curvature: Tensor, shift: Tensor) -> Tensor:
    """The secant term (n, n) after an accepted shift (n,): the smallest change, in the measure of the true curvature
    along the shift, that makes H + S the change (n,) of the gradient, H the curvature (n, n) now (Dennis, Gay & Welsch,
    eqs. 2.3 to 2.7)."""
    along = float(change @ shift)
    if not along > 0 or not math.isfinite(along):
        return secant
    wanted = change - curvature @ shift
    held = float(shift @ secant @ shift)
    sized = secant * min(1.0, abs(float(wanted @ shift)) / abs(held)) if held else secant
    lacking = wanted - sized @ shift
    outer = torch.outer(lacking, change)
    return sized + (outer + outer.T) / along - float(lacking @ shift) / along**2 * torch.outer(change, change)


def _foresaw_better(here: Quadratic, secants: Tensor, shift: Tensor, actual: float) -> bool:
    """Whether the decrease over a shift was clearly off what the information says, and nearer to what the model with
    the secant terms does; over short shifts all models agree, and the step of the information is the longer one."""
    plain, bent = predicted_decrease(here, shift), predicted_decrease(here, shift, secants)
    return abs(plain - actual) > OFF * abs(actual) and abs(bent - actual) < abs(plain - actual)
