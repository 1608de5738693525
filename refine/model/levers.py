"""The few numbers through which crystal, scale and background act on an image, and its derivatives by them.

While beam and detector stay as they are, so do the paths of the photons, and all that a free parameter can do to
thousands of pixels goes through about twenty numbers. The image's derivatives by those are sums that the fused kernel
makes beside the image; what the numbers do as the parameters change is left to whoever chose the parameters.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.background import Background
from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.model.forward import crystal_steps, paths, photons_per_electron, visible
from refine.model.pixels import Pixels
from refine.physics.background import water_scattering
from refine.physics.interference import Steps
from refine.physics.tile_sums import EAGER, Execution, Inputs, Pull, Wanted, moments, pulled
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
    at = _Sum.of(crystal, experiment, pixels)
    sums = moments(at.inputs, at.steps, _wanted(moving), how, at.weights)
    scattered = sums.value + at.water()
    rows = {
        "real_space": lambda: sums.real_space,
        "cells": lambda: sums.cells,
        "angles": lambda: sums.angles,
        "b_factor": lambda: (sums.weights.reshape(at.weights.shape) * at.by_b_factor()).sum(0),
        "brightness": lambda: scattered,
    }
    rows |= at.smooth_rows(pixels)
    slopes = [rows[name]().reshape(-1, len(pixels)) for name in Levers._fields if name in moving]
    photons = scattered + experiment.background.photons(pixels)
    return photons, torch.cat([photons.new_zeros(0, len(pixels)), *slopes])


def photons_and_pulled(
    crystal: Crystal, experiment: Experiment, pixels: Pixels, moving: frozenset[str], pull: Pull, how: Execution = EAGER
) -> tuple[Tensor, Tensor]:
    """As `photons_and_slopes`, but the derivatives (m,) of a function of the photons, whose own by those of some pixels
    are `pull`."""
    at = _Sum.of(crystal, experiment, pixels)
    photons, slope = at.water() + experiment.background.photons(pixels), pixels.slow.new_empty(len(pixels))

    def pull_value(value: Tensor, columns: slice) -> Tensor:
        photons[columns] += value
        slope[columns] = found = pull(photons[columns], columns)
        return found

    value, sums = pulled(at.inputs, at.steps, _wanted(moving), how, at.weights, pull_value)
    numbers = {
        "real_space": lambda: sums.real_space,
        "cells": lambda: sums.cells,
        "angles": lambda: sums.angles,
        "b_factor": lambda: (sums.weights * at.by_b_factor()).sum(),
        "brightness": lambda: (value + at.water()) @ slope,
    }
    rows = at.smooth_rows(pixels)
    found = [numbers[k]() if k in numbers else rows[k]() @ slope for k in Levers._fields if k in moving]
    return photons, torch.cat([slope.new_zeros(0), *(number.reshape(-1) for number in found)])


def _wanted(moving: frozenset[str]) -> Wanted:
    sought = {name: name in moving for name in ("real_space", "cells", "angles")}
    return Wanted(**sought, weights="b_factor" in moving)


class _Sum(NamedTuple):
    """The crystal's photons in P pixels as a sum over steps: its inputs and weights (R, P), in photons an electron^2;
    with what else goes their paths: scattering vectors (3, R, P), photons (P,) of an electron^2 of water."""

    inputs: Inputs
    steps: Steps
    weights: Tensor
    scattering: Tensor
    wet: Tensor
    background: Background

    @classmethod
    def of(cls, crystal: Crystal, experiment: Experiment, pixels: Pixels) -> "_Sum":
        scattering, factors = paths(experiment, pixels)
        factors = photons_per_electron(experiment) * factors
        weights = visible(crystal, experiment, scattering) * factors
        steps, angles = crystal_steps(crystal, experiment)
        inputs = (scattering.flatten(1), crystal.real_space, crystal.cells, angles)
        return cls(inputs, steps, weights, scattering, factors.sum(0), experiment.background)

    def water(self) -> Tensor:
        """Photons () or (P,) of water."""
        water = self.background.water
        return self.wet.new_zeros(()) if water is None else water_scattering(water) * self.wet

    def by_b_factor(self) -> Tensor:
        """What the derivative (R, P) by the B factor has beyond the sums over steps."""
        return self.weights * dot(self.scattering, self.scattering) / -2

    def smooth_rows(self, pixels: Pixels) -> dict[str, Callable[[], Tensor]]:
        """Derivatives (m, P) or (P,) by the levers that leave the crystal alone."""
        return {
            "water": lambda: self.wet,
            "level": lambda: torch.ones_like(self.wet),
            "tilt": lambda: torch.stack(self.background.from_middle(pixels)),
            "known": lambda: (
                torch.zeros_like(self.wet) if self.background.image is None else self.background.image[pixels.place]
            ),
        }
