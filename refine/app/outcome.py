"""What a finished refinement says: values, uncertainties and the words of result.yaml."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from refine.parameters.catalogue import CELL_LABELS, MISSET_LABELS
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.problem.problem import Counts, ImageProblem
from refine.problem.quadratic import covariance
from refine.solvers.solution import Solution

ROUNDING = 1e-12  # an esd below it, whatever the unit, is that of a value that does not move
TIED = 1 - 1e-9  # a correlation above it is none of the data's
FIXED = 1e-10  # a value that moves less, for a unit of z, does not move: symmetry fixes it


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
    """How well the model fits: deviance per degree of freedom, and what the noise alone would give, with its standard
    deviation."""

    reduced_deviance: float
    expected: float
    expected_sd: float
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
        return correlation(self.covariance)


def correlation(covariance: Tensor) -> Tensor:
    """The correlation matrix (m, m) of a covariance (m, m); 0 for a value that does not move."""
    esd = torch.sqrt(torch.diagonal(covariance).clamp_min(0.0))
    safe = torch.where(esd > ROUNDING, esd, 1.0)
    return covariance / (safe[:, None] * safe)


def moving(correlation: Tensor) -> list[int]:
    """Which of m values move by themselves: not those that symmetry fixes, nor those tied to an earlier one."""
    whole = correlation.abs() > TIED
    return [k for k in range(len(whole)) if whole[k, k] and not bool(whole[k, :k].any())]


def conclude(problem: ImageProblem, solution: Solution, misset_deg: Tensor, image: Tensor | None = None) -> Outcome:
    """Physical values with their esds (the inverse Fisher information through symmetry and transforms), and the fit;
    `image` (P,) is the expected one, where it is known."""
    fit = _fit(problem, problem.image(solution.z) if image is None else image)
    return describe(problem.space, solution.z, *_covariance(problem, solution), misset_deg, fit)


def describe(
    space: ParameterSpace, z: Tensor, inverse: Tensor, undetermined: Tensor, misset_deg: Tensor, fit: Fit
) -> Outcome:
    """The outcome of a space's z (n,), whose covariance is `inverse` (n, n), some of it `undetermined` (n,)."""
    moved = space.rates(z)
    moved = torch.where(torch.linalg.vector_norm(moved, dim=1, keepdim=True) > FIXED, moved, 0.0)
    spread = moved @ inverse @ moved.T
    lost = (moved.abs() @ undetermined.to(z)) > 0
    esd = torch.where(lost, torch.nan, torch.sqrt(torch.diagonal(spread).clamp_min(0.0)))
    given, place = _fixed_estimates(space, misset_deg), 0
    estimates: dict[str, Estimate] = {}
    for parameter, part in zip(space.parameters, space.split(z), strict=True):
        rows = slice(place, place := place + len(parameter.labels))
        start = given[parameter.name].start if parameter.name in given else parameter.read(torch.zeros_like(part))
        estimates[parameter.name] = Estimate(start, parameter.read(part), esd[rows], parameter.labels, parameter.units)
    return Outcome(space.to_model(z), given | estimates, space.names, space.physical(z), spread, fit)


def _covariance(problem: ImageProblem, solution: Solution) -> tuple[Tensor, Tensor]:
    """Covariance (n, n) of z, and which coordinates (n,) are not determined. Where the slope's variance is not the
    information, the sandwich of both (White 1982, Econometrica 50, 1)."""
    inverse, undetermined = covariance(solution.quadratic.curvature)
    scatter = problem.noise.scatter
    if scatter is None or not solution.history:
        return inverse, undetermined
    spread = replace(problem, noise=problem.noise.informed(scatter), counts=Counts()).quadratic(solution.z)
    return inverse @ spread.curvature @ inverse, undetermined


def _fixed_estimates(space: ParameterSpace, misset_deg: Tensor) -> dict[str, Estimate]:
    """What is always reported, as it stands when it is not refined."""
    crystal, experiment = space.start
    scale = experiment.scale.reshape(1)
    return {
        "cell": Estimate(crystal.cell, crystal.cell, None, CELL_LABELS, ("Å",) * 3 + ("degrees",) * 3),
        "orientation": Estimate(misset_deg, misset_deg, None, MISSET_LABELS, ("degrees",) * 3),
        "scale": Estimate(scale, scale, None, ("scale",), ("",)),
    }


def _fit(problem: ImageProblem, mu: Tensor) -> Fit:
    pixels, observed = problem.pixels, problem.observed()
    readout = problem.observation.variance(pixels)
    deviance = float(problem.noise.deviance(mu, observed, readout).sum())
    freedom = max(1, len(pixels) - problem.space.size)
    mean, variance = problem.noise.expected_deviance(mu, readout)
    return Fit(deviance / freedom, mean / freedom, variance**0.5 / freedom, len(pixels))
