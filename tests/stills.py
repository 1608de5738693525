"""A small still of a Gaussian mosaic, its image and its shoeboxes, that several tests use."""

from dataclasses import replace

import torch
from builders import TRICLINIC, crystal, experiment, f64

from refine.model.background import Background
from refine.model.crystal import GaussianMosaic
from refine.model.forward import expected_image, paths
from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.model.prediction import Predicted, predict_all, recording, spots_of
from refine.parameters.parameter import Model
from refine.physics.gaussian_spots import profiles
from refine.problem.shoebox import Shoeboxes

COVARIANCE = f64([[0.10, 0.03, -0.02], [0.03, 0.07, 0.01], [-0.02, 0.01, 0.09]])  # degrees^2
D_MIN = 2.5


def model(
    size: tuple[int, int] = (192, 180),
    misset: tuple[float, float, float] = (9.0, 18.0, 27.0),
    level: float = 3.0,
    scale: float = 0.1,
    larger: float = 1.0,
    broader: float = 1.0,
) -> Model:
    """A crystal of some two hundred spots on a constant background of `level` photons a pixel; of a `larger` cell and
    `broader` mosaic so many times nearer to each other and as wide."""
    cell = tuple(edge * larger for edge in TRICLINIC[:3]) + TRICLINIC[3:]
    cells = tuple(n / larger for n in (14.0, 12.0, 10.0))
    sample = crystal(cell, cells=cells, misset=misset, mosaic=GaussianMosaic.of(COVARIANCE * broader**2))  # type: ignore[arg-type]
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


def crowded(shown: Model, mean: float, seed: int = 3) -> tuple[Predicted, torch.Tensor, Observation]:
    """Spots whose tails add up, their intensities (R,), exponentially distributed, and the image with counting noise:
    every pixel has photons of every spot, where `expected_image` takes the nearest reflection's alone."""
    generator = torch.Generator().manual_seed(seed)
    spots = predict_all(*shown, D_MIN)
    intensities = -mean * torch.rand(len(spots), generator=generator, dtype=torch.float64).log()
    height, width = shown.experiment.detector.size
    slow, fast = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    there = paths(shown.experiment, Pixels(slow.flatten(), fast.flatten()))
    spread = spots_of(*shown, spots.indices, recording(shown.experiment, spots))
    photons = torch.full_like(there.factors[0], float(shown.experiment.background.coefficients[0]))
    for k in range(len(spots)):
        one = spread._replace(**{name: getattr(spread, name)[k : k + 1] for name in spread._fields})
        photons += intensities[k] * profiles(one, there.scattering[:, :1]).values[0] * there.factors[0]
    return spots, intensities, Observation.of(torch.poisson(photons, generator=generator).reshape(height, width))
