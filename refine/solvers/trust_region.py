"""Gauss-Newton within a trust region: the exact minimum of the quadratic model in a ball."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.solvers.levenberg_marquardt import predicted_decrease
from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step

ROUNDING = 1e-14  # of the largest eigenvalue: a smaller one is none


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, the radius, and the scale (n,) of z in which the region is a ball."""

    quadratic: Quadratic
    radius: float
    scale: Tensor


@dataclass(frozen=True)
class TrustRegion:
    """Minimise the model where |D p| <= radius, D the largest root of the curvature's diagonal so far (More 1978,
    Numerical Analysis, LNM 630, 105), which makes the steps independent of the units of z; the radius follows the
    ratio of actual to predicted decrease (Nocedal & Wright 2006, algorithm 4.1).

    In the scale D a step of 1 is at most one standard deviation: the first step is free unless it is absurd.
    """

    initial_radius: float = 1e6
    least_radius: float = 1e-9

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        here = problem.quadratic(z)
        return quadratic_step(z, here, State(here, self.initial_radius, _scale(here)), True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        here, scale = state.quadratic, state.scale
        shift = confined_shift(here, scale, state.radius)
        length = float(torch.linalg.vector_norm(scale * shift))
        predicted = predicted_decrease(here, shift)
        there = problem.quadratic(z + shift)
        actual = float(here.value - there.value)
        if not actual >= 0:
            refused = State(here, length / 4, scale)
            stuck = "no step lowers the loss, however small" if refused.radius < self.least_radius else None
            return quadratic_step(z, here, refused, False, predicted, actual, stuck)
        ratio = actual / predicted if predicted > 0 else 1.0
        radius = length / 4 if ratio < 0.25 else max(state.radius, 2 * length) if ratio > 0.75 else state.radius
        accepted = State(there, radius, torch.maximum(scale, _scale(there)))
        return quadratic_step(z + shift, there, accepted, True, predicted, actual)


def _scale(quadratic: Quadratic) -> Tensor:
    return torch.sqrt(torch.diagonal(quadratic.curvature)).clamp_min(1e-150)


def confined_shift(quadratic: Quadratic, scale: Tensor, radius: float) -> Tensor:
    """The shift p (n,) that minimises the model where |scale * p| <= radius.

    Either the Gauss-Newton step, or (H + damping D^2) p = -g with the damping that puts p on the boundary: the root
    of 1/radius - 1/|p|, which Newton's method approaches from below without fail (More & Sorensen 1983, SIAM J. Sci.
    Stat. Comput. 4, 553).
    """
    values, vectors = torch.linalg.eigh(quadratic.curvature / (scale[:, None] * scale))
    along = vectors.T @ (quadratic.gradient / scale)
    known = values > ROUNDING * values[-1].abs()
    step = torch.where(known, along / torch.where(known, values, 1.0), 0.0)
    if float(torch.linalg.vector_norm(step)) > radius:
        values = values.clamp_min(0.0)
        step = along / (values + _boundary_damping(values, along, radius))
    return -(vectors @ step) / scale


def _boundary_damping(values: Tensor, along: Tensor, radius: float) -> float:
    damping = max(float(torch.linalg.vector_norm(along)) / radius - float(values[-1]), 0.0)
    damping = max(damping, ROUNDING * float(values[-1]))
    for _ in range(100):
        step = along / (values + damping)
        length = float(torch.linalg.vector_norm(step))
        if length <= radius * (1 + 1e-10):
            break
        slope = float((step**2 / (values + damping)).sum())
        damping += length**2 / slope * (length - radius) / radius
    return damping
