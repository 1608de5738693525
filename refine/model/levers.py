"""The few numbers through which crystal, scale and background act on an image, and its derivatives by them.

While beam and detector stay as they are, so do the paths of the photons, and all that a free parameter can do to
thousands of pixels goes through about twenty numbers. The image's derivatives by those are sums that the fused kernel
makes beside the image; what the numbers do as the parameters change is left to whoever chose the parameters.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.model.forward import crystal_steps, paths, photons_per_electron, visible
from refine.model.pixels import Pixels
from refine.physics.background import water_scattering
from refine.physics.fused import EAGER, Execution, Wanted, moments
from refine.physics.vectors import dot


class Levers(NamedTuple):
    """real_space (3, 3) Å; cells (3,); angles (3,) of the crystal's steps, radians; b_factor () Å^2; brightness (), the
    logarithm of `photons_per_electron`; water () electrons^2; level (), tilt (2,) and known (): the
    terms of the background, a plane and an image."""

    real_space: Tensor
    cells: Tensor
    angles: Tensor
    b_factor: Tensor
    brightness: Tensor
    water: Tensor
    level: Tensor
    tilt: Tensor
    known: Tensor

    @classmethod
    def of(cls, crystal: Crystal, experiment: Experiment) -> "Levers":
        """Those of a model of sampled domains."""
        smooth = experiment.background
        return cls(
            crystal.real_space,
            crystal.cells,
            crystal_steps(crystal, experiment)[1],
            crystal.b_factor,
            torch.log(photons_per_electron(experiment)),
            torch.zeros_like(experiment.scale) if smooth.water is None else water_scattering(smooth.water),
            smooth.coefficients[0],
            smooth.coefficients[1:],
            smooth.factor,
        )


def photons_and_slopes(
    crystal: Crystal, experiment: Experiment, pixels: Pixels, moving: frozenset[str], how: Execution = EAGER
) -> tuple[Tensor, Tensor]:
    """Expected photons (P,) of a crystal of sampled domains, and their derivatives (m, P) by the `moving` levers, in
    the order of `Levers`, a row a number; the model must carry no derivative itself."""
    scattering, factors = paths(experiment, pixels)
    weights = photons_per_electron(experiment) * visible(crystal, experiment, scattering) * factors
    steps, angles = crystal_steps(crystal, experiment)
    inputs = (scattering.flatten(1), crystal.real_space, crystal.cells, angles)
    sought = {name: name in moving for name in ("real_space", "cells", "angles")}
    wanted = Wanted(**sought, weights="b_factor" in moving)
    sums = moments(inputs, steps, wanted, how, weights)
    smooth, scattered, wet = experiment.background, sums.value, photons_per_electron(experiment) * factors.sum(0)
    if smooth.water is not None:
        scattered = scattered + water_scattering(smooth.water) * wet
    rows = {
        "real_space": lambda: sums.real_space,
        "cells": lambda: sums.cells,
        "angles": lambda: sums.angles,
        "b_factor": lambda: (sums.weights.reshape(weights.shape) * weights * dot(scattering, scattering)).sum(0) / -2,
        "brightness": lambda: scattered,
        "water": lambda: wet,
        "level": lambda: torch.ones_like(wet),
        "tilt": lambda: torch.stack(smooth.from_middle(pixels)),
        "known": lambda: torch.zeros_like(wet) if smooth.image is None else smooth.image[pixels.place],
    }
    slopes = [rows[name]().reshape(-1, len(pixels)) for name in Levers._fields if name in moving]
    return scattered + smooth.photons(pixels), torch.cat([wet.new_zeros(0, len(pixels)), *slopes])
