"""What a finished refinement says: values, uncertainties and the words of result.yaml."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from refine.parameters.catalogue import CELL_LABELS, MISSET_LABELS
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.problem.noise import expected_poisson_deviance
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import covariance
from refine.solvers.solution import Solution


@dataclass(frozen=True)
class Estimate:
    """Start, value and esd (n,) of one parameter; esd None where it was not refined, NaN where it is not determined."""

    start: Tensor
    value: Tensor
    esd: Tensor | None
    labels: tuple[str, ...]
    units: tuple[str, ...]

    def as_yaml(self) -> dict[str, Any]:
        """Plain numbers, a list where there are several."""
        esd = torch.full_like(self.value, torch.nan) if self.esd is None else self.esd
        columns = {"start": self.start, "value": self.value, "esd": esd}
        lists = {name: [None if x != x else x for x in column.tolist()] for name, column in columns.items()}
        return lists if len(self.labels) > 1 else {name: column[0] for name, column in lists.items()}


@dataclass(frozen=True)
class Fit:
    """How well the model fits: deviance per degree of freedom, and what pure counting noise would give (None where
    the noise is not Poisson), with its standard deviation."""

    reduced_deviance: float
    expected: float | None
    expected_sd: float | None
    pixels_used: int


@dataclass(frozen=True)
class Outcome:
    """A solution in physical terms."""

    model: Model
    estimates: dict[str, Estimate]
    names: tuple[str, ...]
    values: Tensor
    covariance: Tensor
    fit: Fit

    @property
    def correlation(self) -> Tensor:
        """Correlation matrix of the refined values; 0 for a value that symmetry fixes."""
        esd = torch.sqrt(torch.diagonal(self.covariance)).clamp_min(1e-150)
        return self.covariance / (esd[:, None] * esd)


def conclude(problem: ImageProblem, solution: Solution, misset_deg: Tensor) -> Outcome:
    """Physical values with their esds (the inverse Fisher information through symmetry and transforms), and the fit."""
    space, z = problem.space, solution.z
    inverse, undetermined = covariance(solution.quadratic.curvature)
    spread = space.covariance(z, inverse)
    lost = torch.diagonal(space.covariance(z, torch.diag(undetermined.to(z)))) > 0
    esd = torch.where(lost, torch.nan, torch.sqrt(torch.diagonal(spread).clamp_min(0.0)))
    estimates, place = {}, 0
    for parameter, part in zip(space.parameters, space.split(z), strict=True):
        rows = slice(place, place := place + len(parameter.labels))
        start, value = parameter.read(torch.zeros_like(part)), parameter.read(part)
        found = torch.where(esd[rows] < 1e-9 * value.abs().clamp_min(1.0), 0.0, esd[rows])  # rounding of a fixed value
        estimates[parameter.name] = Estimate(start, value, found, parameter.labels, parameter.units)
    model = space.to_model(z)
    estimates = _fixed_estimates(space, misset_deg) | estimates
    return Outcome(model, estimates, space.names, space.physical(z), spread, _fit(problem, z))


def _fixed_estimates(space: ParameterSpace, misset_deg: Tensor) -> dict[str, Estimate]:
    """What is always reported, as it stands when it is not refined."""
    crystal, experiment = space.start
    scale = experiment.scale.reshape(1)
    return {
        "cell": Estimate(crystal.cell, crystal.cell, None, CELL_LABELS, ("Å",) * 3 + ("degrees",) * 3),
        "orientation": Estimate(misset_deg, misset_deg, None, MISSET_LABELS, ("degrees",) * 3),
        "scale": Estimate(scale, scale, None, ("scale",), ("",)),
    }


def _fit(problem: ImageProblem, z: Tensor) -> Fit:
    pixels = problem.pixels
    observed = problem.observation.photons[pixels.slow.long(), pixels.fast.long()]
    mu = problem.image(z)
    deviance = float(problem.noise.deviance(mu, observed, problem.observation.readout_variance).sum())
    freedom = max(1, len(pixels) - problem.space.size)
    if problem.noise.name != "poisson":
        return Fit(deviance / freedom, None, None, len(pixels))
    mean, variance = expected_poisson_deviance(mu)
    return Fit(deviance / freedom, mean / freedom, variance**0.5 / freedom, len(pixels))
