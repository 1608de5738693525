"""Problems that are easier than the one to be solved, on the way to it: a wider model, or fewer pixels."""

from dataclasses import replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from refine.model.crystal import Mosaic
from refine.model.forward import expected_image
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.problem.problem import ImageProblem
from refine.problem.spots import Spots, across

AROUND = 9  # pixels: edge of the box round an observed spot
VISIBLE = 1.0  # standard deviations of the background's counts: a model pixel brighter than it belongs to a spot
FEW_DOMAINS = 4  # show where a mosaic crystal's spots are


def with_smaller_crystal(problem: ImageProblem, factor: float) -> ImageProblem:
    """The problem for a crystal of `factor` times as many cells along each axis, as bright as before.

    Its reflections are wider by 1 / factor, so that they touch observed ones from further away. A reflection's
    integrated intensity goes with the number of cells, which the fluence makes up for; where the number of cells is
    free, it is not here: see `carried`.
    """
    crystal, experiment = problem.space.start
    beam = replace(experiment.beam, fluence=experiment.beam.fluence / factor**3)
    cells = (factor * crystal.cells).clamp_min(2.0)
    start = Model(replace(crystal, cells=cells), replace(experiment, beam=beam))
    kept = tuple(p for p in problem.space.parameters if p.name != "cells")
    restraints = tuple(r for r in problem.restraints if r.parameter != "cells")
    return replace(problem, space=ParameterSpace(start, kept), restraints=restraints)


def carried(into: ParameterSpace, z: Tensor, source: ParameterSpace, values: Tensor) -> Tensor:
    """z (n,) of `into` with what it shares with `source` taken from that space's values (m,)."""
    found = {p.name: part for p, part in zip(source.parameters, source.split(values), strict=True)}
    return torch.cat([found.get(p.name, part) for p, part in zip(into.parameters, into.split(z), strict=True)])


def near_spots(problem: ImageProblem, spots: Spots, *models: Tensor) -> ImageProblem:
    """The problem on the pixels round observed spots and in those that the models of some z (n,) have: a few percent of
    them, with nearly all that is known of cell and orientation."""
    size = problem.observation.trusted.shape
    mask = np.zeros(size, bool)
    mask[spots.place] = True
    mask = ndimage.maximum_filter(mask, across(AROUND, mask), mode="constant")
    for z in models:
        mask |= _expected_spots(problem, z)
    pixels = problem.pixels
    return replace(problem, pixels=pixels[torch.from_numpy(mask).to(pixels.slow.device)[pixels.place]])


def _expected_spots(problem: ImageProblem, z: Tensor) -> np.ndarray:
    """Where the model is brighter than its background's noise, as a mask of the image or stack; sketched with the
    middles of the pixels and a few mosaic domains."""
    crystal, experiment = problem.space.to_model(z)
    mosaic = crystal.mosaic
    if isinstance(mosaic, Mosaic):
        mosaic = replace(mosaic, axes=mosaic.axes[:FEW_DOMAINS], fractions=mosaic.fractions[:FEW_DOMAINS])
    detector = replace(experiment.detector, oversample=1)
    sketched = replace(crystal, mosaic=mosaic), replace(experiment, detector=detector)
    image = expected_image(*sketched, interference=problem.interference, within=problem.observation.trusted)
    level, bright = experiment.background.photons(problem.pixels), torch.zeros_like(problem.observation.trusted)
    place = problem.pixels.place
    bright[place] = (image[place] - level) ** 2 > VISIBLE**2 * level.clamp_min(0.1)
    return bright.cpu().numpy()
