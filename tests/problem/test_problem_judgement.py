"""Right answers and wrong ones are told apart."""

from dataclasses import replace

import pytest
import torch
from builders import experiment, f64

from refine.model.crystal import Crystal
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.physics.rotation import misset_rotation
from refine.problem.coarse import carried, near_spots, with_smaller_crystal
from refine.problem.judgement import EXPLAINED, GAIN, Evidence, explained_share, gather, judge
from refine.problem.problem import ImageProblem
from refine.problem.spots import observed_spots
from refine.solvers.solution import Solution, Status

CELL = f64(37.0, 43.0, 51.0, 82.0, 95.0, 107.0)


def sample(orientation=(9.0, 18.0, 27.0)):
    return replace(Crystal.simple(CELL, misset_rotation(f64(orientation)), 14.0), shape="square")


def instrument():
    built = experiment(size=(160, 160))
    panel = replace(built.detector, pixel_size=f64(0.12), distance=f64(25.0))
    return replace(built, detector=panel, scale=f64(3e-3))


@pytest.fixture(scope="module")
def problem():
    image = expected_image(sample(), instrument())
    counts = torch.poisson(image, generator=torch.Generator().manual_seed(3))
    space = ParameterSpace.of(sample(), instrument(), ("cell", "orientation", "scale"), f64(9.0, 18.0, 27.0))
    return ImageProblem.of(space, Observation.of(counts))


def solution_at(problem, z, status=Status.CONVERGED):
    return Solution(z, problem.quadratic(z), status, "settled", ())


def evidence_at(problem, z):
    return gather(problem, z, problem.image(z), observed_spots(problem.observation, problem.space.start))


def test_the_truth_stays_converged(problem):
    zero = problem.space.zero()
    evidence = evidence_at(problem, zero)
    assert evidence.spots > 15
    assert evidence.explained > EXPLAINED + 0.1
    assert evidence.gain > 100 * GAIN
    assert evidence.outliers == 0
    solution = solution_at(problem, zero)
    assert judge(problem, solution, evidence) is solution


def test_a_lattice_beside_the_crystals_is_a_false_minimum(problem):
    z = problem.space.to_z({"orientation": f64(9.0, 19.5, 27.0)})
    evidence = evidence_at(problem, z)
    assert evidence.explained < EXPLAINED / 2
    judged = judge(problem, solution_at(problem, z), evidence)
    assert judged.status is Status.FALSE_MINIMUM
    assert "spots" in judged.reason
    assert judged.status.advice


def test_other_statuses_are_left_alone(problem):
    z = problem.space.to_z({"orientation": f64(9.0, 19.5, 27.0)})
    for status in set(Status) - {Status.CONVERGED}:
        solution = solution_at(problem, z, status)
        assert judge(problem, solution, evidence_at(problem, z)) is solution


GOOD = Evidence(spots=30, explained=0.95, gain=1e4, outliers=0)


@pytest.mark.parametrize(
    ("evidence", "reason"),
    [
        (replace(GOOD, explained=0.5), "50 % of the photons in 30 observed spots"),
        (replace(GOOD, gain=3.0), "hardly better than background alone"),
        (replace(GOOD, spots=7, explained=0.0, gain=1e4), None),
        (GOOD, None),
    ],
)
def test_each_kind_of_misfit_counts(problem, evidence, reason):
    judged = judge(problem, solution_at(problem, problem.space.zero()), evidence)
    assert judged.status is (Status.FALSE_MINIMUM if reason else Status.CONVERGED)
    assert reason is None or reason in judged.reason


def test_a_runaway_cell_and_a_limit_reached_are_said(problem):
    grown = problem.space.to_z({"cell": CELL * f64(1.1, 1.1, 1.1, 1, 1, 1)})
    judged = judge(problem, solution_at(problem, grown), GOOD)
    assert judged.status is Status.FALSE_MINIMUM
    assert "volume has changed by +33 %" in judged.reason
    edge = problem.space.to_z({"cell": CELL * f64(1.19999, 1, 1, 1, 1, 1)})
    assert "a has run to its limit" in judge(problem, solution_at(problem, edge), GOOD).reason


def test_an_undetermined_combination_is_singular_and_named(problem):
    solution = solution_at(problem, problem.space.zero())
    curvature = solution.quadratic.curvature.clone()
    curvature[-1] = curvature[:, -1] = 0.0
    flat = replace(solution, quadratic=solution.quadratic._replace(curvature=curvature))
    judged = judge(problem, flat, GOOD)
    assert judged.status is Status.SINGULAR
    assert "scale" in judged.reason
    assert judged.status.advice


def test_a_smaller_crystal_is_as_bright_and_wider(problem):
    wide = with_smaller_crystal(problem, 0.5)
    level = problem.space.start.experiment.background.photons(problem.pixels)
    before, after = problem.image(problem.space.zero()) - level, wide.image(wide.space.zero()) - level
    assert float(after.sum() / before.sum()) == pytest.approx(1, abs=0.5)  # 8 without the change of fluence
    assert float((after > after.max() / 4).sum()) > 2 * float((before > before.max() / 4).sum())
    spots = observed_spots(problem.observation, problem.space.start)
    off = problem.space.to_z({"orientation": f64(9.0, 18.6, 27.0)})
    sharp, blurred = (explained_share(problem, spots, p.image(off) - level)[1] for p in (problem, wide))
    assert blurred > sharp


def test_free_domain_sizes_are_left_out_and_kept(problem):
    space = ParameterSpace.of(sample(), instrument(), ("cells", "cell", "orientation"), f64(9.0, 18.0, 27.0))
    whole = replace(problem, space=space)
    wide = with_smaller_crystal(whole, 0.5)
    assert [p.name for p in wide.space.parameters] == ["cell", "orientation"]
    z = torch.arange(1.0, space.size + 1).double()
    there = carried(wide.space, wide.space.zero(), space, z)
    assert torch.equal(there, z[3:])
    back = carried(space, z, wide.space, -there)
    assert back.tolist() == [1, 2, 3, *(-z[3:]).tolist()]


def test_the_pixels_round_spots_hold_most_of_what_is_known(problem):
    zero = problem.space.zero()
    spots = observed_spots(problem.observation, problem.space.start)
    whole = torch.diagonal(problem.quadratic(zero).curvature)
    for few, share in ((near_spots(problem, spots), 0.65), (near_spots(problem, spots, zero), 0.85)):
        assert len(few.pixels) < 0.35 * len(problem.pixels)
        assert bool((torch.diagonal(few.quadratic(zero).curvature) > share * whole).all())
