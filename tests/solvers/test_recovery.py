"""From a wrong start back to the truth, on tiny images."""

import pytest
import torch
from builders import crystal, experiment, f64, largest

from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.physics.rotation import misset_rotation
from refine.problem.noise import expected_poisson_deviance
from refine.problem.problem import ImageProblem
from refine.solvers.adam import Adam
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import Stop, solve
from refine.solvers.protocol import Solver
from refine.solvers.solution import Solution, Status

TRUTH = {"cell": f64(37.0, 43.0, 51.0, 82.0, 95.0, 107.0), "orientation": f64(9.0, 18.0, 27.0), "scale": f64([1.0])}
MISSET = f64(9.3, 17.6, 27.25)
START_CELL = (37.3, 42.7, 51.5, 82.6, 94.5, 107.5)


def refine(seed: int, shape: str, solver: Solver, stop: Stop) -> tuple[ParameterSpace, ImageProblem, Solution]:
    """48 x 48 pixels with Poisson noise, a start half a spot width off."""
    instrument = experiment(size=(48, 48), scale=f64(1.0))
    image = expected_image(crystal(shape=shape), instrument)
    counts = torch.poisson(image, generator=torch.Generator().manual_seed(seed))
    wrong = crystal(START_CELL, shape=shape, orientation=misset_rotation(MISSET))
    space = ParameterSpace.of(wrong, experiment(size=(48, 48), scale=f64(1.2)), misset_deg=MISSET)
    problem = ImageProblem.of(space, Observation.of(counts))
    return space, problem, solve(problem, solver, space.zero(), stop)


def check(space: ParameterSpace, problem: ImageProblem, solution: Solution) -> None:
    truth = torch.cat([TRUTH[p.name] for p in space.parameters])
    esds = torch.sqrt(torch.diagonal(space.covariance(solution.z, torch.linalg.inv(solution.quadratic.curvature))))
    before, after = space.physical(space.zero()) - truth, space.physical(solution.z) - truth
    assert solution.status is Status.CONVERGED
    assert solution.history[0].loss - solution.history[-1].loss > 1000
    assert largest(before / esds) > 40
    assert largest(after / esds) < 4
    assert largest(after[:6] / before[:6]) < 0.5
    mu = problem.image(solution.z)
    observed = problem.observation.photons.flatten()
    mean, variance = expected_poisson_deviance(mu)
    deviance = float(problem.noise.deviance(mu, observed, f64(0.0)).sum())
    assert abs(deviance - mean) < 4 * variance**0.5
    at_start = float(problem.noise.deviance(problem.image(space.zero()), observed, f64(0.0)).sum())
    assert at_start - mean > 20 * variance**0.5


@pytest.mark.parametrize("shape", ["square", "gauss"])
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_levenberg_marquardt_recovers_the_truth(seed: int, shape: str) -> None:
    space, problem, solution = refine(seed, shape, LevenbergMarquardt(), Stop())
    jacobians, values = problem.counts.jacobians, problem.counts.values
    check(space, problem, solution)
    assert solution.iterations <= 20
    assert values <= 1  # the last step's
    assert jacobians == solution.iterations + 1 - values


def test_adam_comes_down_to_the_same_minimum() -> None:
    _, problem, solution = refine(11, "gauss", Adam(rate=1.0, horizon=600), Stop(max_iterations=600, shift=0.05))
    _, _, wanted = refine(11, "gauss", LevenbergMarquardt(), Stop())
    off = solution.z - wanted.z
    assert float(off @ wanted.quadratic.curvature @ off) < 1
    assert float(solution.quadratic.value) == pytest.approx(float(wanted.quadratic.value), abs=0.5)
    assert solution.history[0].loss - solution.history[-1].loss > 1000
    assert problem.counts.gradients == solution.iterations + 1


def test_errors_are_those_of_the_noise() -> None:
    """Over the seeds the weighted squared deviation of the nine values is a chi squared of nine each."""
    total, count = 0.0, 0
    for seed in range(20, 28):
        space, _, solution = refine(seed, "gauss", LevenbergMarquardt(), Stop())
        z = solution.z - space.to_z(TRUTH)
        total += float(z @ solution.quadratic.curvature @ z)
        count += len(z)
    assert abs(total - count) < 4 * (2 * count) ** 0.5
