"""Is a minimum the right one? What the image says about an answer, beside its loss."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from refine.parameters.space import ParameterSpace
from refine.physics.cell import volume
from refine.problem.identifiability import weakest_combination
from refine.problem.problem import ImageProblem
from refine.problem.quadratic import SINGULAR, spectrum
from refine.problem.spots import BOX, Spots, boxes_round
from refine.solvers.solution import Solution, Status

FEW_SPOTS = 8  # fewer say nothing about a lattice
EXPLAINED = 0.85  # of a spot's photons, on average: less, and the model's lattice is not the crystal's
GAIN = 25.0  # in the log-likelihood, a parameter's worth apart: less, and no crystal at all would do
FEW_PIXELS = 2  # that hot pixels fill of a box at most ...
LONE = 3.0  # ... so that the rest of it lacks less than so many standard deviations
OUTLIER = 6.0  # standard deviations; counting noise passes it once in 1e9 pixels
VOLUME = 0.2  # relative change of the cell's volume above which it has run away
AT_LIMIT = 1e-3  # of the way from the start to a limit


@dataclass(frozen=True)
class Evidence:
    """spots: how many stand out of the observed image; explained: see `explained_share`; gain: by how much the crystal
    lowers the loss of the background alone; outliers: pixels more than six standard deviations from the model."""

    spots: int
    explained: float
    gain: float
    outliers: int

    @property
    def convincing(self) -> bool:
        """Whether enough spots are explained well enough that this is the crystal's lattice."""
        return self.spots >= FEW_SPOTS and self.explained >= EXPLAINED


def gather(problem: ImageProblem, z: Tensor, image: Tensor, spots: Spots) -> Evidence:
    """The evidence at z (n,), whose expected image (P,) and the observed spots are known."""
    observed, readout = problem.observed(), problem.observation.variance(problem.pixels)
    level = problem.space.to_model(z).experiment.background.photons(problem.pixels)
    alone, together = (problem.noise.loss(at, observed, readout).sum() for at in (level, image))
    outliers = (observed - image) ** 2 > OUTLIER**2 * (torch.maximum(image, observed) + readout)
    count, share = explained_share(problem, spots, image - level)
    return Evidence(count, share, float(alone - together), int(outliers.sum()))


def explained_share(problem: ImageProblem, spots: Spots, bragg: Tensor) -> tuple[int, float]:
    """How many observed spots there are, and the fraction of their photons that a Bragg image (P,) has in their boxes,
    at most 1, on average over the spots: bright ones count no more than others.

    Under a robust loss spots are left out that the model lacks one or two pixels of and no more: hot pixels, which
    other losses do not bear either. A standard deviation of the observed photons is allowed for; at the truth the
    average is above 0.94.
    """
    image = torch.zeros_like(problem.observation.photons)
    image[problem.pixels.place] = bragg
    model = boxes_round(image.cpu().numpy(), spots.place)
    boxes = (spots.excess, model, spots.variance + model.clip(0))
    wanted, found, noise = (part.reshape(-1, BOX**2) for part in boxes)
    lacking, spread = np.sort(wanted - found), np.sqrt(noise.sum(1))
    lone = (lacking[:, -1] > LONE * spread) & (lacking[:, :-FEW_PIXELS].sum(1) < LONE * spread)
    kept = ~lone | (problem.noise.name != "robust")
    wanted, found, spread = wanted[kept].sum(1), found[kept].sum(1), spread[kept]
    spread = np.sqrt(wanted.clip(0) + spread**2)
    share = np.clip((found + spread) / wanted.clip(1e-9), 0, 1)
    return len(share), float(share.mean()) if len(share) else 1.0


def judge(problem: ImageProblem, solution: Solution, evidence: Evidence) -> Solution:
    """A solution that calls itself converged, with the status false_minimum or singular where it should not."""
    if solution.status is not Status.CONVERGED:
        return solution
    found = spectrum(solution.quadratic.curvature)
    if found.condition > SINGULAR:
        named = weakest_combination(problem.space, found)
        reason = f"the image does not determine a combination of {named} (condition number {found.condition:.0e})"
        return replace(solution, status=Status.SINGULAR, reason=reason)
    doubts = [*_misfits(evidence, problem.space.size), *_runaways(problem.space, solution.z)]
    return replace(solution, status=Status.FALSE_MINIMUM, reason="; ".join(doubts)) if doubts else solution


def _misfits(evidence: Evidence, size: int) -> Iterator[str]:
    if evidence.spots >= FEW_SPOTS and evidence.explained < EXPLAINED:
        share = f"{100 * evidence.explained:.0f} % of the photons in {evidence.spots} observed spots"
        yield f"the model has only {share}: its lattice is not the crystal's"
    if evidence.gain < GAIN + size:
        yield f"the model is hardly better than background alone (log-likelihood {evidence.gain:+.1f})"


def _runaways(space: ParameterSpace, z: Tensor) -> Iterator[str]:
    start, end = (volume(space.to_model(at).crystal.cell) for at in (space.zero(), z))
    if abs(float(end / start) - 1) > VOLUME:
        yield f"the cell's volume has changed by {100 * (float(end / start) - 1):+.0f} %"
    for parameter, part in zip(space.parameters, space.split(z), strict=True):
        value, before = parameter.read(part), parameter.read(torch.zeros_like(part))
        for limit in (parameter.lower, parameter.upper):
            hit = torch.isfinite(limit) & ((value - limit).abs() < AT_LIMIT * (before - limit).abs())
            yield from (f"{parameter.labels[k]} has run to its limit" for k in hit.nonzero()[:, 0].tolist())
