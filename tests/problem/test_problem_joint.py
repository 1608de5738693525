"""Several problems as one: every matrix where it belongs, what is shared counted once."""

from dataclasses import replace

import pytest
import torch
from builders import largest, relative
from stills import counts, model, shoeboxes
from torch import Tensor

from refine.parameters.space import ParameterSpace
from refine.problem.joint import JointProblem, JointSpace
from refine.problem.noise import choose_noise
from refine.problem.restraints import Restraint, restraint_quadratic
from refine.problem.separable import Amplitudes
from refine.problem.shoebox_problem import ShoeboxProblem
from refine.solvers.arrow import Arrow
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import Stop, solve
from refine.solvers.solution import Status

FREE = (("cell", "orientation", "mosaic"), ("orientation", "cell", "mosaic", "cells"))
SIZES = (6 + 3 + 6, 6 + 3 + 6 + 3)


def alone(number: int) -> ShoeboxProblem:
    """One of two stills of one cell in different orientations; their parameters are not in the same order."""
    shown = model(misset=((9.0, 18.0, 27.0), (40.0, -10.0, 5.0))[number])
    boxes = shoeboxes(shown, counts(shown, number))
    boxes = boxes.chosen(torch.arange(0, len(boxes), 6))
    space = ParameterSpace.of(*shown, FREE[number])
    unknown = Amplitudes.unknown(len(boxes), boxes.observed)
    return ShoeboxProblem(space, boxes, choose_noise("poisson", 0.0), unknown)


ONE, TWO = alone(0), alone(1)
CELL = ONE.space.start.crystal.cell
RESTRAINT = Restraint("cell", CELL + 0.1, torch.full_like(CELL, 0.05))


def joint(*restraints: Restraint) -> JointProblem:
    return JointProblem(JointSpace.of([ONE.space, TWO.space], ["cell"]), (ONE, TWO), restraints)


def somewhere(size: int) -> Tensor:
    return 0.03 * torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_what_is_shared_comes_first_and_once() -> None:
    space = joint().space
    assert space.size == len(space.zero()) == sum(SIZES) - 6
    assert space.places[0].tolist() == list(range(15))
    assert space.places[1].tolist() == [15, 16, 17, *range(6), *range(18, 27)]


def test_the_models_of_one_z_have_one_cell_and_what_is_their_own() -> None:
    space = joint().space
    z = somewhere(space.size)
    first, second = (part.to_model(z[place]).crystal for part, place in zip(space.spaces, space.places, strict=True))
    assert torch.equal(first.cell, second.cell)
    assert largest(first.orientation - second.orientation) > 0.1
    assert largest(first.mosaic.factor - second.mosaic.factor) > 1e-5


def test_joined_is_the_inverse_and_the_mean_of_what_is_shared() -> None:
    space = joint().space
    z = somewhere(space.size)
    parts = [z[place] for place in space.places]
    torch.testing.assert_close(space.joined(parts), z)
    parts[1] = parts[1] + 1.0
    torch.testing.assert_close(space.joined(parts)[:6], z[:6] + 0.5)


def placed() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, and the value, gradient and curvature of the two problems as matrix products put them together."""
    space = joint().space
    z = somewhere(space.size)
    value, gradient, curvature = torch.zeros(()).double(), torch.zeros_like(z), torch.zeros(len(z), len(z)).double()
    for problem, place in zip((ONE, TWO), space.places, strict=True):
        takes = torch.eye(len(z)).double()[place]  # (n_i, n)
        part = problem.quadratic(takes @ z)
        value = value + part.value
        gradient = gradient + takes.T @ part.gradient
        curvature = curvature + takes.T @ part.curvature @ takes
    return z, value, gradient, curvature


def test_the_quadratic_is_the_sum_of_both() -> None:
    z, value, gradient, curvature = placed()
    asked = joint()
    found = asked.quadratic(z)
    assert float(found.value) == pytest.approx(float(value), rel=1e-14)
    assert relative(found.gradient, gradient) < 1e-14
    assert relative(found.curvature, curvature) < 1e-14
    assert largest(curvature[:6, 6:15]) > 0
    assert largest(found.curvature[6:15, 15:]) == 0
    assert float(asked.loss(z)) == pytest.approx(float(value), rel=1e-13)
    again, slope = asked.loss_and_gradient(z)
    assert float(again) == pytest.approx(float(value), rel=1e-14)
    assert relative(slope, gradient) < 1e-14
    v = somewhere(len(z)).flip(0)
    assert relative(asked.curvature_product(z, v), curvature @ v) < 1e-12
    counted = asked.counts
    assert (counted.values, counted.gradients, counted.jacobians, counted.curvature_products) == (1, 1, 1, 1)


def test_a_restraint_of_what_is_shared_counts_once() -> None:
    z, value, gradient, curvature = placed()
    asked = joint(RESTRAINT)
    pull = restraint_quadratic(ONE.space, (RESTRAINT,), z[:15])
    found = asked.quadratic(z)
    assert float(pull.value) > 1
    assert float(found.value - value) == pytest.approx(float(pull.value), rel=1e-9)
    assert float(asked.loss(z) - value) == pytest.approx(float(pull.value), rel=1e-9)
    assert relative((found.gradient - gradient)[:15], pull.gradient) < 1e-9
    prior = asked.prior_curvature(z).dense()
    assert relative(prior[:15, :15], pull.curvature) < 1e-14
    assert largest(prior[15:]) == 0
    assert relative(found.curvature - curvature, prior) < 1e-9


def test_an_image_keeps_restraints_of_its_own() -> None:
    own = Restraint("cells", torch.full((3,), 12.0).double(), torch.full((3,), 0.5).double())
    asked = JointProblem(joint().space, (ONE, replace(TWO, restraints=(own,))))
    z = somewhere(asked.space.size)
    place = asked.space.places[1]
    wanted = restraint_quadratic(TWO.space, (own,), z[place]).curvature
    assert largest(wanted) > 0
    prior = asked.prior_curvature(z).dense()
    assert relative(prior[place[:, None], place], wanted) < 1e-14
    assert largest(prior[:15, :15]) == 0


def test_each_has_its_say_in_what_it_knows() -> None:
    problem = joint()
    parts = [solve(one, LevenbergMarquardt(), one.space.zero()).z for one in (ONE, TWO)]
    mean, best = problem.space.joined(parts), solve(problem, LevenbergMarquardt(), problem.space.joined(parts)).z
    found = problem.combined(parts)
    over = [float(problem.loss(z) - problem.loss(best)) for z in (mean, found)]
    assert over[0] > 1
    assert over[1] < 0.1 * over[0]


def test_the_mean_stands_where_nothing_is_better() -> None:
    problem = joint(RESTRAINT)
    best = solve(problem, LevenbergMarquardt(), problem.space.zero()).z
    parts = [best[place] for place in problem.space.places]
    assert float(problem.loss(problem.combined(parts))) <= float(problem.loss(best))


def test_one_problem_takes_the_path_it_takes_by_itself() -> None:
    ours = JointProblem(JointSpace.of([ONE.space], ["cell"]), (ONE,), (RESTRAINT,))
    both, start = (ours, replace(ONE, restraints=(RESTRAINT,))), 10 * somewhere(ONE.space.size)
    paths = [solve(one, LevenbergMarquardt(), start, Stop(shift=1e-4)) for one in both]
    assert paths[0].iterations == paths[1].iterations > 3
    for one, other in zip(*(path.history for path in paths), strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-12)
        assert largest(one.z - other.z) < 1e-6


def test_no_matrix_of_everything_is_made_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = joint(RESTRAINT)
    z = somewhere(problem.space.size)
    monkeypatch.delattr(Arrow, "dense")
    start = problem.combined([z[place] for place in problem.space.places])
    assert solve(problem, LevenbergMarquardt(), start).status is Status.CONVERGED
    assert len(problem.prior_curvature(z).diagonal()) == len(problem.curvature_product(z, z)) == problem.space.size
