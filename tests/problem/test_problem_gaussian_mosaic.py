"""The covariance of a crystal's rotations, refined with cell and orientation from one noisy still."""

import torch
from builders import crystal, experiment, f64
from torch import Tensor

from refine.model.crystal import GaussianMosaic
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.parameters.space import ParameterSpace
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import covariance
from refine.solvers.levenberg_marquardt import LevenbergMarquardt
from refine.solvers.loop import solve
from refine.solvers.solution import Status

FREE = ("cell", "orientation", "scale", "cells", "mosaic", "background")
TRUE = f64([[0.30, 0.12, -0.06], [0.12, 0.20, 0.03], [-0.06, 0.03, 0.25]])


def space(mosaic: Tensor) -> ParameterSpace:
    instrument = experiment(size=(96, 96))
    return ParameterSpace.of(crystal(mosaic=GaussianMosaic.of(mosaic)), instrument, FREE)


def test_six_covariances_are_recovered_within_their_uncertainties() -> None:
    truth, start = space(TRUE), space(0.5 * torch.eye(3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(4)
    counts = torch.poisson(expected_image(*truth.start), generator=generator)
    problem = ImageProblem.of(start, Observation.of(counts))
    begin = start.to_z({"cell": truth.start.crystal.cell * f64(1.004, 0.997, 1.003, 1.002, 0.998, 1.001)})
    assert float(problem.loss(begin)) > float(problem.loss(start.zero()))
    solution = solve(problem, LevenbergMarquardt(), begin)
    assert solution.status is Status.CONVERGED
    inverse, undetermined = covariance(solution.quadratic.curvature)
    assert not bool(undetermined.any())
    esd = torch.sqrt(torch.diagonal(start.covariance(solution.z, inverse)))
    wanted = torch.cat([p.read(torch.zeros(p.size, dtype=torch.float64)) for p in truth.parameters])
    pulls = (start.physical(solution.z) - wanted) / esd
    assert float(pulls.abs().max()) < 4
    assert float(pulls.square().mean()) < 2.5
    six = dict(zip(start.names, esd.tolist(), strict=True))
    assert all(six[f"mosaic_{pair}"] < 0.02 for pair in ("xx", "yy", "zz", "xy", "xz", "yz"))
