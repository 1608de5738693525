"""A small still of a Gaussian mosaic, its image and its shoeboxes, that several tests use."""

from dataclasses import replace

import torch
from builders import crystal, experiment, f64

from refine.model.background import Background
from refine.model.crystal import GaussianMosaic
from refine.model.forward import expected_image
from refine.model.observation import Observation
from refine.model.prediction import predict_all
from refine.parameters.parameter import Model
from refine.problem.shoebox import Shoeboxes

COVARIANCE = f64([[0.10, 0.03, -0.02], [0.03, 0.07, 0.01], [-0.02, 0.01, 0.09]])  # degrees^2
D_MIN = 2.5


def model(
    size: tuple[int, int] = (192, 180),
    misset: tuple[float, float, float] = (9.0, 18.0, 27.0),
    level: float = 3.0,
    scale: float = 0.1,
) -> Model:
    """A crystal of some two hundred spots on a constant background of `level` photons a pixel."""
    sample = crystal(cells=(14.0, 12.0, 10.0), misset=misset, mosaic=GaussianMosaic.of(COVARIANCE))
    instrument = experiment(size=size)
    panel = replace(instrument.detector, pixel_size=f64(0.15))
    flat = Background.plane(f64(level, 0.0, 0.0), size)
    return Model(sample, replace(instrument, detector=panel, background=flat, scale=f64(scale)))


def counts(shown: Model, seed: int = 3) -> Observation:
    """Its image, with counting noise."""
    generator = torch.Generator().manual_seed(seed)
    return Observation.of(torch.poisson(expected_image(*shown), generator=generator))


def shoeboxes(shown: Model, observation: Observation, size: int = 11) -> Shoeboxes:
    """Boxes round everything that is predicted."""
    return Shoeboxes.place(shown, observation, predict_all(*shown, D_MIN), size)
