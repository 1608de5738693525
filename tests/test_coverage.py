"""Are the reported uncertainties those of repeated experiments? 200 noise realisations of one small crystal."""

import numpy as np
import pytest
import torch
from builders import crystal, experiment, f64

from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.problem.problem import ImageProblem
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import solve
from refine.solvers.solution import Status

REALISATIONS = 200
FREE = ("cell", "orientation", "scale", "background")


@pytest.fixture(scope="module")
def standardised_errors():
    """(value - truth) / esd, a row a realisation, a column a value; starts off the truth."""
    truth = crystal(cell=(37.0, 43.0, 51.0, 82.0, 95.0, 107.0), cells=(8.0, 8.0, 8.0), shape="square")
    setting = experiment(size=(64, 64), scale=f64(0.02))  # brightest pixel about 4000 photons
    space = ParameterSpace.of(truth, setting, FREE, f64(9.0, 18.0, 27.0))
    clean = expected_image(truth, setting).numpy()
    generator, rows = np.random.default_rng(11), []
    exact = space.physical(space.zero())
    for _ in range(REALISATIONS):
        problem = ImageProblem.of(space, Observation.of(torch.from_numpy(generator.poisson(clean).astype(float))))
        start = torch.from_numpy(generator.normal(0, 0.3, space.size))
        solution = solve(problem, LevenbergMarquardt(), start)
        assert solution.status is Status.CONVERGED
        covariance = space.covariance(solution.z, torch.linalg.inv(solution.quadratic.curvature))
        rows.append((space.physical(solution.z) - exact) / torch.sqrt(torch.diagonal(covariance)))
    return dict(zip(space.names, torch.stack(rows).T.numpy(), strict=True))


@pytest.mark.slow
def test_standardised_errors_are_standard_normal(standardised_errors):
    for name, errors in standardised_errors.items():
        print(f"{name:12s} mean {errors.mean():+.3f}  sd {errors.std(ddof=1):.3f}")
    assert len(standardised_errors) == 11
    for name, errors in standardised_errors.items():
        assert 0.9 < errors.std(ddof=1) < 1.1, name
        assert abs(errors.mean()) < 0.2, name
