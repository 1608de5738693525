"""Newton's method with the exact Hessian, its equations solved by conjugate gradients in a trust region."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.solvers.protocol import Problem, Quadratic, Step, quadratic_step

FORCING = 0.1  # largest residual of the Newton equations, as a fraction of the gradient's norm
RIDGE = 1e-10  # of its unit diagonal, added to the preconditioner: the information matrix may be singular


@dataclass(frozen=True)
class State:
    """The quadratic model at the current z, and the radius; None before the first step."""

    quadratic: Quadratic
    radius: float | None


@dataclass(frozen=True)
class NewtonCG:
    """Steihaug's truncated conjugate gradients (1983, SIAM J. Numer. Anal. 20, 626) on Hessian-vector products.

    The Gauss-Newton curvature M of the accepted point preconditions them and measures lengths, |p|^2 = p M p: where
    it is a good model one or two products do, and a length of 1 is one standard deviation. The first radius is the
    length of the Gauss-Newton step.
    """

    least_radius: float = 1e-9

    def init(self, problem: Problem, z: Tensor) -> Step:
        """The starting state at z."""
        here = problem.quadratic(z)
        return quadratic_step(z, here, State(here, None), True, math.nan, math.nan)

    def step(self, problem: Problem, z: Tensor, state: State) -> Step:
        """One trial, accepted where it lowers the loss."""
        here = state.quadratic
        factor = _factor(here.curvature)

        def product(y: Tensor) -> Tensor:
            return _solve(factor, problem.curvature_product(z, _solve(factor.T, y, upper=True)))

        gradient = _solve(factor, here.gradient)
        radius = state.radius or max(float(torch.linalg.vector_norm(gradient)), 1e-300)
        y, predicted = truncated_newton(gradient, product, radius)
        length = float(torch.linalg.vector_norm(y))
        shift = _solve(factor.T, y, upper=True)
        there = problem.quadratic(z + shift)
        actual = float(here.value - there.value)
        if not actual >= 0:
            refused = State(here, length / 4)
            stuck = "no step lowers the loss, however small" if length / 4 < self.least_radius else None
            return quadratic_step(z, here, refused, False, predicted, actual, stuck)
        ratio = actual / predicted if predicted > 0 else 1.0
        radius = length / 4 if ratio < 0.25 else max(radius, 2 * length) if ratio > 0.75 else radius
        return quadratic_step(z + shift, there, State(there, radius), True, predicted, actual)


def truncated_newton(gradient: Tensor, product: Callable[[Tensor], Tensor], radius: float) -> tuple[Tensor, float]:
    """The step y (n,) of Steihaug's method for a gradient (n,) and a Hessian known by its products, within a radius,
    and the decrease it predicts."""
    y, hessian_y = torch.zeros_like(gradient), torch.zeros_like(gradient)
    residual, direction = gradient, -gradient
    start = float(torch.linalg.vector_norm(gradient))
    goal = min(FORCING, math.sqrt(start)) * start
    for _ in range(2 * len(gradient)):
        if float(torch.linalg.vector_norm(residual)) <= goal:
            break
        hessian_d = product(direction)
        bend = float(direction @ hessian_d)
        square = float(residual @ residual)
        alpha = square / bend if bend > 0 else math.inf
        to_edge = _to_boundary(y, direction, radius)
        take = min(alpha, to_edge)
        y, hessian_y = y + take * direction, hessian_y + take * hessian_d
        if alpha >= to_edge:
            break
        residual = residual + alpha * hessian_d
        direction = -residual + float(residual @ residual) / square * direction
    return y, -float(gradient @ y + y @ hessian_y / 2)


def _to_boundary(y: Tensor, direction: Tensor, radius: float) -> float:
    """The positive t for which |y + t direction| is the radius."""
    a, b, c = float(direction @ direction), float(y @ direction), float(y @ y) - radius**2
    return (math.sqrt(max(b * b - a * c, 0.0)) - b) / a


def _factor(curvature: Tensor) -> Tensor:
    """Lower triangular L (n, n), L L^T the curvature with a trace of its diagonal added."""
    scale = torch.sqrt(torch.diagonal(curvature)).clamp_min(1e-150)
    ridge = RIDGE * torch.eye(len(scale), dtype=scale.dtype, device=scale.device)
    return scale[:, None] * torch.linalg.cholesky(curvature / (scale[:, None] * scale) + ridge)


def _solve(triangle: Tensor, vector: Tensor, upper: bool = False) -> Tensor:
    return torch.linalg.solve_triangular(triangle, vector[:, None], upper=upper)[:, 0]
