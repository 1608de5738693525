"""Levenberg-Marquardt on the Fisher information: damped Fisher scoring, with a secant term where the model fits ill."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from refine.solvers.arrow import Arrow
from refine.solvers.parted import Parted, parted
from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step

MOST = 10.0  # times the information: a secant term beyond it is of directions about which there is none
OFF = 0.1  # of a decrease: a smaller error of what was foreseen asks for no other model


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, the damping, and its growth at the next refusal; the secant terms
    (k, s + m, s + m) of its k parts, and which of them (k,) foresaw the last step better than the information alone
    did."""

    quadratic: Quadratic
    damping: float
    growth: float
    secants: Tensor
    trusted: Tensor

    @property
    def extra(self) -> Tensor:
        """The secant terms to add to the information."""
        return self.secants * self.trusted[:, None, None]


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Solve (H + damping diag H) p = -g; damping follows the ratio of actual to predicted decrease.

    Damping by the diagonal makes the steps independent of the units of z (Marquardt 1963); the update is Nielsen's
    (1999, IMM-REP-1999-05, eq. 2.17), smooth in the ratio. A trial is evaluated with its derivatives at once: most
    are accepted, and then the next step has them.

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
        secants = torch.zeros_like(parted(here).arrow.parts)
        state = State(here, self.initial_damping, 2.0, secants, _none(secants))
        return quadratic_step(z, here, state, True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        here = state.quadratic
        shift = damped_shift(here, state.damping, state.extra)
        predicted = predicted_decrease(here, shift, state.extra)
        there = problem.quadratic(z + shift)
        actual = float(here.value - there.value)
        if not actual >= 0:
            damping, none = state.damping * state.growth, _none(state.secants)
            refused = replace(state, damping=damping, growth=state.growth * 2, trusted=none)
            stuck = "no step lowers the loss, however small" if refused.damping > self.largest_damping else None
            return quadratic_step(z, here, refused, False, predicted, actual, stuck)
        ratio = actual / predicted if predicted > 0 else 1.0
        damping = max(state.damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), self.least_damping)
        state = State(there, damping, 2.0, *_learnt(state.secants, parted(here), parted(there), shift))
        return quadratic_step(z + shift, there, state, True, predicted, actual)


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
    bent = matrix + replace(secants, parts=secants.parts * usable[:, None, None])
    return bent if bent.positive_definite() else matrix


def predicted_decrease(quadratic: Quadratic, shift: Tensor, secants: Tensor | None = None) -> float:
    """How much the undamped quadratic model, secant terms included, falls over a shift (n,)."""
    arrow = parted(quadratic).arrow
    arrow = arrow if secants is None else replace(arrow, parts=arrow.parts + secants)
    return -float(quadratic.gradient @ shift + arrow.form(shift) / 2)


def _none(secants: Tensor) -> Tensor:
    return torch.zeros(len(secants), dtype=torch.bool, device=secants.device)


def _learnt(secants: Tensor, here: Parted, there: Parted, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The secant terms after an accepted shift (n,), and which of those before it foresaw it better."""
    seen = here.arrow.seen(shift)
    before = zip(here.values - there.values, here.gradients, here.arrow.parts, secants, seen, strict=True)
    better = torch.tensor([foresaw_better(*part) for part in before], device=secants.device)
    after = zip(secants, there.gradients - here.gradients, there.arrow.parts, seen, strict=True)
    return torch.stack([updated_secant(*part) for part in after]), better


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


def foresaw_better(actual: Tensor, gradient: Tensor, curvature: Tensor, secant: Tensor, shift: Tensor) -> bool:
    """Whether the actual decrease () over a shift (n,) was clearly off what the information (n, n) says, and nearer to
    what the model with the secant term (n, n) does; over short shifts all models agree, and the step of the information
    is the longer one."""
    plain, bent = (-float(gradient @ shift + shift @ h @ shift / 2) for h in (curvature, curvature + secant))
    found = float(actual)
    return abs(plain - found) > OFF * abs(found) and abs(bent - found) < abs(plain - found)
