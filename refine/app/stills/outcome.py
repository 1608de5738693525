"""What a refinement of stills says: of every image its values with esds, its reflections, its fit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refine.app.outcome import Fit, Outcome, correlation, describe
from refine.app.stills.inputs import Ready
from refine.app.stills.strategy import LOCAL, Placed, Refined
from refine.io.reflection_tables import Spots
from refine.model.prediction import predict
from refine.problem.joint import JointSpace
from refine.problem.quadratic import covariance
from refine.problem.separable import BoxFit
from refine.problem.shoebox import Shoeboxes
from refine.problem.shoebox_problem import ShoeboxProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reflections:
    """R reflections of an image: Miller indices (R, 3), panel, places in pixels of the model and the observed spot
    (undefined where it has none), amplitude |F| with its esd (0 where it is known, undefined where it is at its limit,
    0), background in photons/pixel at the middle, the deviance per pixel, and whether it was held out; with the boxes
    they come from and their fit."""

    indices: NDArray[np.int64]
    panel: NDArray[np.int64]
    model: Array
    observed: Array
    amplitude: Array
    amplitude_esd: Array
    background: Array
    score: Array
    held: NDArray[np.bool_]
    boxes: Shoeboxes
    fit: BoxFit

    @property
    def offsets(self) -> Array:
        """Distances (R,) in pixels of the model's spots from the observed ones."""
        return np.asarray(np.linalg.norm(self.model - self.observed, axis=1))


@dataclass(frozen=True)
class Image:
    """One image: how it was made ready, its outcome, its reflections."""

    ready: Ready
    outcome: Outcome
    reflections: Reflections


@dataclass(frozen=True)
class Conclusion:
    """All images; names (m,), values (m,) and covariance (m, m) of everything that was refined, what is shared once;
    the fit over all, and by how much the esds exceed those of counting noise."""

    images: tuple[Image, ...]
    names: tuple[str, ...]
    values: Tensor
    covariance: Tensor
    fit: Fit
    esd_factor: float

    @property
    def correlation(self) -> Tensor:
        """(m, m); 0 for a value that does not move."""
        return correlation(self.covariance)


def conclude(found: Refined) -> Conclusion:
    """Physical values, and esds from how the shoeboxes scatter about them."""
    inverse, undetermined = covariance(found.solution.quadratic.curvature)
    spread = _spread(found, inverse)
    images, parts = [], []
    for placed, place in zip(found.images, found.space.places, strict=True):
        z = found.solution.z[place]
        reflections = _reflections(placed, z)
        parts.append(_sums(placed, reflections))
        mine, own = spread[place[:, None], place], _total(parts[-1:], placed.space.size)
        told = describe(placed.space, z, mine, undetermined[place], placed.ready.setup.misset_deg, own)
        images.append(Image(placed.ready, told, reflections))
    names, rates = joint_names(found.images), _rates(found)
    values = joint_values(found.images, found.space, found.solution.z)
    fit = _total(parts, found.space.size)
    return Conclusion(tuple(images), names, values, rates @ spread @ rates.T, fit, _factor(inverse, spread))


def _spread(found: Refined, inverse: Tensor) -> Tensor:
    """Covariance (n, n) of z, whose inverse information (n, n) is given.

    H^-1 (sum g g^T) H^-1 with the gradients g of the boxes (Huber 1967; White 1982, Econometrica 50, 1): real spots
    lie off any model's by more than photons make them, each as a whole, so that pixels cannot be the independent
    observations. Where the model is right it is the inverse information, as for any likelihood.
    """
    scatters, boxes = [], 0
    for number, problem in enumerate(found.problem.problems):
        assert isinstance(problem, ShoeboxProblem)
        scores = problem.scores(found.z_of(number))
        scatters.append(scores.T @ scores)
        boxes += len(scores)
    few = boxes / max(1, boxes - found.space.size)
    scatter = found.problem.prior_curvature(found.solution.z) + found.space.arrow(scatters)
    return inverse @ (few * scatter.dense()) @ inverse


def _factor(inverse: Tensor, spread: Tensor) -> float:
    """How much larger the esds are than counting noise alone would make them, as a geometric mean."""
    ratios = torch.diagonal(spread) / torch.diagonal(inverse).clamp_min(1e-300)
    ratios = ratios[ratios > 0]
    return float(torch.exp(torch.log(ratios).mean() / 2)) if len(ratios) else 1.0


def joint_names(images: Sequence[Placed]) -> tuple[str, ...]:
    """The labels (m,) of everything that is refined; an image's own with its name where there are several."""
    return tuple(
        name + (own_suffix(placed.ready, images) if p.name in LOCAL else "")
        for number, placed in enumerate(images)
        for p in placed.space.parameters
        for name in p.labels
        if number == 0 or p.name in LOCAL
    )


def joint_values(images: Sequence[Placed], space: JointSpace, z: Tensor) -> Tensor:
    """The physical values (m,) at z, in the order of `joint_names`."""
    parts = zip(images, space.places, strict=True)
    return torch.cat([one.space.physical(z[place])[_told(one, k == 0)] for k, (one, place) in enumerate(parts)])


def own_suffix(ready: Ready, images: Sequence[Placed]) -> str:
    """What tells an image's values from those of others."""
    return f"[{ready.name}]" if len(images) > 1 else ""


def _rates(found: Refined) -> Tensor:
    """Derivatives (m, n) of the physical values by z."""
    rows = []
    for number, (placed, place) in enumerate(zip(found.images, found.space.places, strict=True)):
        rates = found.solution.z.new_zeros(len(placed.space.names), found.space.size)
        rates[:, place] = placed.space.rates(found.solution.z[place])
        rows.append(rates[_told(placed, number == 0)])
    return torch.cat(rows)


def _told(placed: Placed, first: bool) -> Tensor:
    """Which of an image's physical values are told as its own: what all share is so for the first alone."""
    return torch.tensor([first or p.name in LOCAL for p in placed.space.parameters for _ in p.labels])


def _sums(placed: Placed, found: Reflections) -> tuple[float, float, float, int, int]:
    """Deviance, its mean and variance under noise alone, pixels and fitted linear values of the boxes that were
    used."""
    boxes, fit, noise = found.boxes, found.fit, placed.ready.still.noise
    kept = ~placed.held
    use = boxes.use & kept[:, None]
    deviance = noise.deviance(fit.expected, boxes.observed, boxes.readout)[use].sum()
    mean, variance = noise.expected_deviance(fit.expected[use], boxes.readout[use])
    return float(deviance), mean, variance, int(use.sum()), int(fit.free[kept].sum())


def _total(parts: Sequence[tuple[float, float, float, int, int]], refined: int) -> Fit:
    deviance, mean, variance, pixels, linear = (sum(column) for column in zip(*parts, strict=True))
    freedom = max(1, pixels - linear - refined)
    return Fit(deviance / freedom, mean / max(1, pixels), variance**0.5 / freedom, pixels)


def _reflections(placed: Placed, z: Tensor) -> Reflections:
    """Every box at the answer, the held-out ones too, whose background and intensity are fitted now."""
    problem = placed.problem()
    fit, boxes = problem.fit(z), placed.boxes
    there = predict(*placed.space.to_model(z), boxes.spots.indices)
    pixels = boxes.use.sum(1).clamp_min(1)
    deviance = problem.noise.deviance(fit.expected, boxes.observed, boxes.readout)
    amplitude = torch.sqrt(fit.intensities.clamp_min(0.0))
    esd = fit.intensity_esds / (2 * amplitude).clamp_min(1e-300)
    indices = boxes.spots.indices.round().long().cpu().numpy()
    panel = boxes.spots.panel.cpu().numpy()
    return Reflections(
        indices,
        panel,
        torch.stack([there.fast, there.slow], 1).cpu().numpy(),
        _observed(boxes, fit) if placed.ready.spots is None else _listed(placed.ready.spots, indices, panel),
        amplitude.cpu().numpy(),
        torch.where(fit.free[:, -1], esd, torch.where(problem.amplitudes.sigmas > 0, torch.nan, 0.0)).cpu().numpy(),
        fit.linear[:, 0].cpu().numpy(),
        ((deviance * boxes.use).sum(1) / pixels).cpu().numpy(),
        placed.held.cpu().numpy(),
        boxes,
        fit,
    )


def _observed(boxes: Shoeboxes, fit: BoxFit) -> Array:
    """Centroids (R, 2) of what is above the background by two standard deviations, in the pixels of a spot."""
    excess = (boxes.observed - fit.background) * boxes.use
    noise = torch.sqrt(fit.background.clamp_min(0.0) + boxes.readout)
    shown = torch.where(excess > 2 * noise, excess, 0.0)
    total = shown.sum(1)
    places = [part.reshape(boxes.use.shape) + 0.5 for part in (boxes.pixels.fast, boxes.pixels.slow)]
    centre = torch.stack([(place * shown).sum(1) / total for place in places], 1)
    return centre.cpu().numpy()


def _listed(spots: Spots, indices: NDArray[np.int64], panel: NDArray[np.int64]) -> Array:
    """Places (R, 2) of listed spots, undefined where a reflection has none."""
    known = {
        (*map(int, hkl), int(number)): place
        for hkl, number, place in zip(spots.hkl, spots.panel, spots.xy, strict=True)
    }
    none = np.full(2, np.nan)
    keys = ((*map(int, hkl), int(number)) for hkl, number in zip(indices, panel, strict=True))
    return np.array([known.get(key, none) for key in keys]).reshape(-1, 2)
