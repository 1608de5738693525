"""Which reflections of a still stand out of its noise, and the shoeboxes round them."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from refine.model.observation import Observation
from refine.model.prediction import Predicted, predict, predict_all
from refine.model.structure_factors import StructureFactors
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics.structure_factor import nearest_intensity
from refine.problem.noise import Noise
from refine.problem.restraints import Restraint
from refine.problem.separable import Amplitudes
from refine.problem.shoebox import Shoeboxes
from refine.problem.shoebox_problem import Shape, ShoeboxProblem

REACH = 3.0  # standard deviations of the Ewald sphere from a reflection's centre: 99.7 % of those that are seen
CORE = 0.75  # of half a box's edge: a spot is within it, its background beyond, when boxes are first placed
ROUGH = 2  # passes of a fit that only tells whether there is a spot
CLIPS = 3  # times that what stands out of a spot's surroundings is left out of them
SMALL, INNER, HINT = 9, 0.75, 1.5  # pixels an edge, of half of it, and standard deviations: a first look
LEAST_USE, LEAST = 0.5, 16  # of the pixels nearer to a spot than to others, and of them all: a spot and its background
AMONG = 3  # times that spots which share pixels are fitted, each beside what the time before found of the others
MOST = 40_000  # reflections looked at in one still; more are those of a cell, a mosaic or a resolution that is not so


@dataclass(frozen=True)
class Choice:
    """How shoeboxes are chosen. size: pixels an edge. min_signal: intensity over esd. d_min, d_max: Å. holdout:
    fraction of reflections, drawn by their indices and the seed, that are kept from the refinement. centring: the
    lattice's letter, by which reflections are absent."""

    size: int
    min_signal: float
    d_min: float
    d_max: float
    holdout: float
    seed: int
    centring: str = "P"


@dataclass(frozen=True)
class Still:
    """A still and what is known of it beside its crystal. relative_sigma: standard deviation of the intensities |F|^2
    about the known ones, relative to them; infinity where they are unknown."""

    observation: Observation
    noise: Noise
    background: Shape
    choice: Choice
    factors: StructureFactors | None
    relative_sigma: float

    def amplitudes(self, indices: Tensor) -> Amplitudes:
        """What is known of |F|^2 of reflections (R, 3)."""
        if self.factors is None or self.relative_sigma == float("inf"):
            return Amplitudes.unknown(len(indices), indices)
        found = nearest_intensity(indices.T, self.factors.intensity, self.factors.lowest)
        return Amplitudes(found, self.relative_sigma * found)

    def problem(
        self, space: ParameterSpace, boxes: Shoeboxes, restraints: tuple[Restraint, ...] = ()
    ) -> ShoeboxProblem:
        """The boxes against the crystals of a space."""
        known = self.amplitudes(boxes.spots.indices)
        return ShoeboxProblem(space, boxes, self.noise, known, self.background, restraints)


def no_boxes(still: Still, model: Model) -> Shoeboxes:
    """Of no reflection."""
    return _again(still, model, predict(*model, model.crystal.cell.new_zeros(0, 3)))


def place_far(still: Still, model: Model) -> Shoeboxes:
    """Boxes round what stands out near its predicted place: for a start a few pixels off. What is summed is within
    `CORE` of the box, whatever the model's spot looks like."""
    boxes = _candidates(still, model)
    signal = _signal(boxes, CORE) > still.choice.min_signal
    return _again(still, model, boxes.spots.chosen(signal & _enough(boxes)))


def _signal(boxes: Shoeboxes, core: float) -> Tensor:
    """Photons (R,) within `core` of half a box's edge above those beyond, neighbours' spots there left out, in standard
    deviations."""
    radius = (boxes.across**2).sum(0)
    inner, rim = boxes.use & (radius <= core**2), boxes.use & (radius > core**2)
    for _ in range(CLIPS):
        level = (boxes.observed * rim).sum(1) / rim.sum(1).clamp_min(1)
        outstanding = level + 3 * torch.sqrt(level.clamp_min(0) + boxes.readout.amax(1)) + 1
        rim = rim & (boxes.observed <= outstanding[:, None])
    ratio = inner.sum(1).clamp_min(1) / rim.sum(1).clamp_min(1)
    inside, outside = (boxes.observed * inner).sum(1), (boxes.observed * rim).sum(1)
    variance = inside.clamp_min(0) + outside.clamp_min(0) * ratio**2 + (boxes.readout * inner).sum(1) + 1
    return (inside - outside * ratio) / torch.sqrt(variance)


def place_near(still: Still, model: Model) -> Shoeboxes:
    """Boxes round the spots whose intensity, fitted with the model's own profiles, is significant."""
    boxes = _candidates(still, model, HINT)
    space = ParameterSpace(model, ())
    unknown = Amplitudes.unknown(len(boxes), boxes.observed)
    fit = ShoeboxProblem(space, boxes, still.noise, unknown, passes=ROUGH).fit(space.zero())
    signal = (fit.intensities > still.choice.min_signal * fit.intensity_esds) & (fit.intensities > 0)
    seen = Shoeboxes.place(model, still.observation, boxes.spots.chosen(signal), still.choice.size)
    found = _beside_each_other(still, space, seen)
    return found.chosen(_enough(found))


def _beside_each_other(still: Still, space: ParameterSpace, boxes: Shoeboxes) -> Shoeboxes:
    """The boxes with the photons that spots have in each other's pixels, as their own pixels tell of them."""
    crowded = (~boxes.own).any(1)
    free, photons = replace(still, relative_sigma=float("inf")), torch.zeros_like(boxes.observed)
    for _ in range(AMONG if bool(crowded.any()) else 0):
        some = replace(free.problem(space, boxes.chosen(crowded)), passes=ROUGH)
        photons[crowded] = some.fit(space.zero()).spot
        boxes = replace(boxes, beside=boxes.shared(photons).clamp_min(0.0))
    return boxes


def held_out(indices: Tensor, fraction: float, seed: int) -> Tensor:
    """Which reflections (R, 3) belong to the free set: a share of all there are, each drawn by itself from the seed, so
    that it is the same in every image and wherever the crystal turns out to stand."""
    packed = indices.cpu().numpy().astype(np.int64) + (1 << 20)
    keys = packed[:, 0] | packed[:, 1] << 21 | packed[:, 2] << 42
    mixed = keys.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):  # SplitMix64 (Steele 2014)
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return torch.from_numpy(mixed / 2.0**64 < fraction).to(indices.device)


def displacement(spots: Predicted, model: Model) -> Tensor:
    """Distance (R,) in pixels of spots from where another model has them; undefined where that has none."""
    there = predict(*model, spots.indices)
    return torch.hypot(there.fast - spots.fast, there.slow - spots.slow)


def _candidates(still: Still, model: Model, hint: float = 0.0) -> Shoeboxes:
    """Boxes of everything that is predicted; or of what has, in a few pixels at its predicted place, a `hint` of
    photons above the background, in standard deviations."""
    choice = still.choice
    found = predict_all(*model, choice.d_min, choice.d_max, REACH)
    found = found.chosen(_allowed(found.indices, choice.centring))
    if hint:
        found = found.chosen(_signal(Shoeboxes.place(model, still.observation, found, SMALL, False), INNER) > hint)
    if len(found) > MOST:
        found = found.chosen(found.distance.abs().argsort()[:MOST].sort().values)
    return Shoeboxes.place(model, still.observation, found, choice.size)


def _again(still: Still, model: Model, spots: Predicted) -> Shoeboxes:
    """The boxes of some spots alone: those left out claim no pixels."""
    boxes = Shoeboxes.place(model, still.observation, spots, still.choice.size)
    return boxes.chosen(_enough(boxes))


def _enough(boxes: Shoeboxes) -> Tensor:
    used = boxes.use.sum(1)
    return (used >= LEAST) & (used > LEAST_USE * boxes.own.sum(1))


def _allowed(indices: Tensor, centring: str) -> Tensor:
    """Reflections (R,) that a lattice of this centring has."""
    h, k, l = indices.T.long()  # noqa: E741 - the field's own names
    even = {
        "P": torch.zeros_like(h),
        "A": (k + l) % 2,
        "B": (h + l) % 2,
        "C": (h + k) % 2,
        "I": (h + k + l) % 2,
        "F": (h + k) % 2 + (k + l) % 2,
        "R": (-h + k + l) % 3,
        "H": (h - k) % 3,
    }
    return even[centring] == 0
