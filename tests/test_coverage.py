"""Are the reported uncertainties those of repeated experiments? 200 noise realisations of small crystals."""

import numpy as np
import pytest
import torch
from builders import crystal, experiment, f64

from refine.app.outcome import conclude
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.problem.noise import NOISES
from refine.problem.problem import ImageProblem
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import solve
from refine.solvers.solution import Status

REALISATIONS = 200
MISSET = f64(9.0, 18.0, 27.0)


def triclinic():
    """Background refined; brightest pixel about 4000 photons."""
    truth = crystal(cell=(37.0, 43.0, 51.0, 82.0, 95.0, 107.0), cells=(8.0, 8.0, 8.0), shape="square")
    return truth, experiment(size=(64, 64), scale=f64(0.02)), ("cell", "orientation", "scale", "background")


def hexagonal():
    """Symmetry ties a to b and fixes the angles; domain sizes refined."""
    truth = crystal(cell=(46.0, 46.0, 61.0, 90.0, 90.0, 120.0), cells=(7.0, 7.0, 6.0), shape="gauss", space_group="P 6")
    return truth, experiment(size=(64, 64), scale=f64(0.05)), ("cell", "orientation", "scale", "cells")


CASES = {
    "triclinic": (triclinic, "poisson", 11),
    "hexagonal": (hexagonal, "poisson", 10),
    "hexagonal, unweighted": (hexagonal, "mse", 10),
    "hexagonal, robust": (hexagonal, "robust", 10),
}


def standardised_errors(build, loss):
    """(value - truth) / esd of every value that can vary, a row a realisation; starts off the truth."""
    truth, setting, free = build()
    space = ParameterSpace.of(truth, setting, free, MISSET)
    clean = expected_image(truth, setting).numpy()
    generator, rows = np.random.default_rng(11), []
    exact = space.physical(space.zero())
    for _ in range(REALISATIONS):
        counts = Observation.of(torch.from_numpy(generator.poisson(clean).astype(float)))
        problem = ImageProblem(space, counts, counts.pixels(), NOISES[loss])
        start = torch.from_numpy(generator.normal(0, 0.3, space.size))
        solution = solve(problem, LevenbergMarquardt(), start)
        assert solution.status is Status.CONVERGED
        outcome = conclude(problem, solution, MISSET)
        rows.append((outcome.values - exact) / torch.sqrt(torch.diagonal(outcome.covariance)))
    table = dict(zip(space.names, torch.stack(rows).T.numpy(), strict=True))
    return {name: errors for name, errors in table.items() if np.isfinite(errors).all()}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_standardised_errors_are_standard_normal(name):
    build, loss, determined = CASES[name]
    found = standardised_errors(build, loss)
    for label, errors in found.items():
        print(f"{label:12s} mean {errors.mean():+.3f}  sd {errors.std(ddof=1):.3f}")
    assert len(found) == determined
    for label, errors in found.items():
        assert 0.9 < errors.std(ddof=1) < 1.1, label
        assert abs(errors.mean()) < 0.25, label
