"""Arrow-shaped matrices against the dense ones they stand for, and the solver that works with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import LeastSquares, Quad, f64, largest, relative
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from refine.solvers.arrow import Arrow
from refine.solvers.levenberg_marquardt import LevenbergMarquardt, damped_shift, predicted_decrease
from refine.solvers.loop import Stop, remaining_shift, solve
from refine.solvers.parted import Parted, parted
from refine.solvers.protocol import Problem, Quadratic
from refine.solvers.solution import Status


@dataclass(frozen=True)
class Case:
    """Parts, their Jacobians (rows, s + m_i), as an arrow and as the dense matrix that they sum to."""

    shared: int
    own: tuple[int, ...]
    jacobians: tuple[Tensor, ...]

    @property
    def size(self) -> int:
        return self.shared + sum(self.own)

    def places(self) -> list[list[int]]:
        begins = self.shared + np.concatenate([[0], np.cumsum(self.own)])
        both = zip(begins, self.own, strict=False)
        return [[*range(self.shared), *range(int(begin), int(begin) + count)] for begin, count in both]

    def arrow(self) -> Arrow:
        width = self.shared + max(self.own)
        parts = torch.zeros(len(self.own), width, width, dtype=torch.float64)
        for part, jacobian in zip(parts, self.jacobians, strict=True):
            part[: jacobian.shape[1], : jacobian.shape[1]] = jacobian.T @ jacobian
        return Arrow(parts, torch.arange(max(self.own)) < torch.tensor(self.own)[:, None])

    def dense(self) -> Tensor:
        whole = []
        for jacobian, place in zip(self.jacobians, self.places(), strict=True):
            wide = torch.zeros(len(jacobian), self.size, dtype=torch.float64)
            wide[:, place] = jacobian
            whole.append(wide)
        return torch.cat(whole).T @ torch.cat(whole)

    def vector(self, seed: int = 0) -> Tensor:
        return torch.randn(self.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def cases(draw: Callable[..., Any], determined: bool = False) -> Case:
    """Any number of coordinates shared and own, and as many rows, few or many, as leave the parts singular or not."""
    shared = draw(st.integers(0, 3))
    own = tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(lambda some: shared + sum(some) > 0)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = [shared + m + 3 if determined else draw(st.integers(0, shared + m + 2)) for m in own]
    sizes = zip(rows, own, strict=True)
    return Case(shared, own, tuple(torch.from_numpy(rng.normal(size=(r, shared + m))) for r, m in sizes))


def unit(case: Case, ridge: float) -> tuple[Arrow, Tensor]:
    """Scaled to a unit diagonal and raised, as an arrow and dense."""
    arrow, dense = case.arrow(), case.dense()
    scale = torch.sqrt(torch.where(torch.diagonal(dense) > 0, torch.diagonal(dense), 1.0))
    wanted = dense / torch.outer(scale, scale) + ridge * torch.eye(len(dense), dtype=torch.float64)
    return arrow.scaled(arrow.roots()).raised(ridge), wanted


@given(cases())
def test_an_arrow_is_its_dense_matrix(case: Case) -> None:
    arrow, dense, vector = case.arrow(), case.dense(), case.vector()
    assert arrow.size == case.size
    torch.testing.assert_close(arrow.dense(), dense)
    torch.testing.assert_close(arrow.diagonal(), torch.diagonal(dense))
    torch.testing.assert_close(arrow.form(vector), vector @ dense @ vector)
    torch.testing.assert_close((arrow + arrow.raised(0.5)).dense(), 2 * dense + 0.5 * torch.eye(case.size).double())
    scaled, wanted = unit(case, 0.25)
    torch.testing.assert_close(scaled.dense(), wanted)


@given(cases())
def test_what_parts_see_of_a_vector_sums_to_it(case: Case) -> None:
    arrow, vector = case.arrow(), case.vector()
    times = torch.ones(case.size)
    times[: case.shared] = len(case.own)
    torch.testing.assert_close(arrow.summed(arrow.seen(vector)), times * vector)
    assert bool((arrow.seen(vector, 7.0)[:, case.shared :] == 7).eq(~arrow.there).all())


@given(cases(), st.sampled_from([1e-3, 1.0]))
def test_damped_equations_have_the_dense_solution(case: Case, ridge: float) -> None:
    arrow, dense = unit(case, ridge)
    right = case.vector()
    assert arrow.positive_definite()
    assert relative(arrow.solved(right), torch.linalg.solve(dense, right)) < 1e-9
    found, variances = arrow.newton(right)
    assert relative(found, torch.linalg.solve(dense, right)) < 1e-9
    assert relative(variances, torch.diagonal(torch.linalg.inv(dense))) < 1e-9


@given(cases())
def test_what_is_not_determined_does_no_harm(case: Case) -> None:
    arrow, dense = unit(case, 0.0)
    right = dense @ case.vector()
    for found in (arrow.solved(right), arrow.newton(right)[0]):
        assert largest(dense @ found - right) < 1e-5
        assert largest(found) < 1e6 * (1 + largest(case.vector()))


@given(cases(determined=True))
def test_own_coordinates_that_cannot_be_told_apart_have_the_pseudo_inverse(case: Case) -> None:
    s = case.shared
    twice = [torch.cat([j, j[:, s:], torch.zeros(len(j), 1)], 1) for j in case.jacobians]
    doubled = Case(s, tuple(2 * m + 1 for m in case.own), tuple(twice))
    arrow, dense = unit(doubled, 0.0)
    right = dense @ doubled.vector()
    inverse = torch.linalg.pinv(dense, hermitian=True, rtol=1e-10)
    found, variances = arrow.newton(right)
    assert not arrow.positive_definite()
    assert largest(found - inverse @ right) < 1e-7 * (1 + largest(inverse @ right))
    assert largest(variances - torch.diagonal(inverse)) < 1e-7 * (1 + largest(inverse))


@given(cases(), st.floats(-1.0, 1.0))
def test_positive_definite_where_no_eigenvalue_is_negative(case: Case, ridge: float) -> None:
    arrow, dense = unit(case, ridge)
    least = float(torch.linalg.eigvalsh(dense)[0])
    if abs(least) > 1e-9:
        assert arrow.positive_definite() == (least > 0)


@given(cases(), st.sampled_from([1e-3, 10.0]))
def test_a_step_of_the_parts_is_that_of_their_sum(case: Case, damping: float) -> None:
    arrow, dense = case.arrow(), case.dense()
    gradients = torch.stack([arrow.seen(case.vector(k)) for k in range(len(case.own))]).diagonal().T
    parts = Parted(torch.arange(len(case.own)).double(), gradients, arrow)
    whole = Quad(parts.value, parts.gradient, dense)
    shift = damped_shift(whole, damping)
    torch.testing.assert_close(parts.curvature, dense)
    assert largest(damped_shift(parts, damping) - shift) < 1e-8 * (1 + largest(shift))
    assert predicted_decrease(parts, shift) == pytest.approx(predicted_decrease(whole, shift), rel=1e-9, abs=1e-9)


@given(cases(determined=True))
def test_the_remaining_shift_of_the_parts_is_that_of_their_sum(case: Case) -> None:
    arrow, gradient = case.arrow(), case.vector()
    gradients = torch.zeros_like(arrow.parts[..., 0])
    gradients[0] = arrow.seen(gradient)[0]
    parts = Parted(torch.zeros(len(case.own)), gradients, arrow)
    wanted = remaining_shift(Quad(parts.value, parts.gradient, case.dense()))
    assert remaining_shift(parts) == pytest.approx(wanted, rel=1e-7)


TIMES = torch.linspace(0, 4, 25, dtype=torch.float64)


@dataclass(frozen=True)
class Decays:
    """Exponentials of one rate, the first coordinate of z, each with its own height and offset, against data that they
    do not fit exactly; as a sum of parts or, `dense`, as one problem."""

    count: int
    dense: bool = False

    def _part(self, k: int) -> Problem:
        data = (3 + k % 7) * torch.exp(-1.3 * TIMES) + 0.4 + 0.3 * torch.cos(7 * TIMES + k)
        return LeastSquares(lambda z: z[1] * torch.exp(-z[0] * TIMES) + z[2] - data)

    def quadratic(self, z: Tensor) -> Quadratic:
        there = torch.ones(self.count, 2, dtype=torch.bool)
        own = z[1:].reshape(-1, 2)
        each = [self._part(k).quadratic(torch.cat([z[:1], own[k]])) for k in range(self.count)]
        value, gradient, curvature = (torch.stack([getattr(q, n) for q in each]) for n in Quad._fields)
        found = Parted(value, gradient, Arrow(curvature, there))
        return Quad(found.value, found.gradient, found.curvature) if self.dense else found

    def loss(self, z: Tensor) -> Tensor:
        return self.quadratic(z).value

    def start(self) -> Tensor:
        return torch.cat([f64([0.4]), f64(1.0, 0.0).repeat(self.count)])


def solution(problem: Any) -> Any:
    return solve(problem, LevenbergMarquardt(), problem.start(), Stop(shift=1e-4, decrease=1e-4))


def test_the_sum_of_many_is_solved_as_if_it_were_one_problem() -> None:
    ours, theirs = solution(Decays(8)), solution(Decays(8, dense=True))
    assert ours.status is theirs.status is Status.CONVERGED
    assert ours.history[0].loss > 2 * ours.history[-1].loss
    assert largest((ours.z - theirs.z) * torch.diagonal(theirs.quadratic.curvature).sqrt()) < 1e-3
    assert ours.iterations <= theirs.iterations + 2


def test_the_only_part_takes_the_path_of_the_problem_by_itself() -> None:
    ours, theirs = solution(Decays(1)), solution(Decays(1, dense=True))
    assert len(ours.history) == len(theirs.history) > 3
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-10)
        assert relative(one.z, other.z) < 1e-7


def test_secant_terms_join_no_parts() -> None:
    problem, solver = Decays(5), LevenbergMarquardt()
    step = solver.init(problem, problem.start())
    for _ in range(4):
        step = solver.step(problem, step.z, step.state)
    secants = replace(parted(step.quadratic).arrow, parts=step.state.secants).dense()
    apart = 1 - torch.block_diag(*[torch.ones(2, 2)] * 5)
    assert all(float(part.abs().max()) > 0 for part in step.state.secants)
    assert largest(secants[1:, 1:] * apart) == 0


@pytest.mark.parametrize("bad", [-200.0, 200.0, float("nan")])
def test_a_part_that_cannot_bear_its_secant_term_goes_without(bad: float) -> None:
    here = Decays(3).quadratic(Decays(3).start())
    good = 0.1 * parted(here).arrow.parts
    both, one = good.clone(), good.clone()
    both[1], one[1] = bad * good[1], 0.0
    assert largest(damped_shift(here, 1e-3, one) - damped_shift(here, 1e-3)) > 1e-3
    assert torch.equal(damped_shift(here, 1e-3, both), damped_shift(here, 1e-3, one))


def test_secant_terms_that_leave_no_minimum_are_left_out() -> None:
    here = Decays(3).quadratic(Decays(3).start())
    secants = torch.zeros_like(parted(here).arrow.parts)
    secants[:, 0, 0] = -0.9 * parted(here).arrow.parts[:, 0, 0]
    assert torch.equal(damped_shift(here, 1e-3, secants), damped_shift(here, 1e-3))


class Largest(TorchDispatchMode):
    """The most numbers that any result has."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        some = result if isinstance(result, tuple | list) else [result]
        self.found = max([self.found, *(one.numel() for one in some if isinstance(one, Tensor))])
        return result


@pytest.mark.parametrize("count", [20, 80])
def test_nothing_grows_with_the_square_of_the_number_of_parts(count: int) -> None:
    problem, solver = Decays(count), LevenbergMarquardt()
    step = solver.init(problem, problem.start())
    with Largest() as seen:
        for _ in range(5):
            step = solver.step(problem, step.z, step.state)
            remaining_shift(step.quadratic)
    assert step.state.secants.any()
    assert seen.found == count * 3 * 3
