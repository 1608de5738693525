"""The simulator: crystal and experiment in, expected photons out."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.beam import THOMSON_CROSS_SECTION
from refine.model.crystal import Crystal, GaussianMosaic, Mosaic
from refine.model.detector import Sites
from refine.model.experiment import Experiment
from refine.model.pixels import Pixels
from refine.physics.absorption import absorbed_fraction
from refine.physics.background import water_scattering
from refine.physics.fused import FUSED
from refine.physics.gaussian_mosaic import Blur, gaussian_interference, reflection_widths
from refine.physics.interference import Steps, step_indices
from refine.physics.polarization import polarization
from refine.physics.scattering import rays, scattering_vectors
from refine.physics.solid_angle import tilted_solid_angle
from refine.physics.sources import PER_PERCENT, RADIAN_PER_MRAD
from refine.physics.structure_factor import debye_waller
from refine.physics.vectors import dot

CLOSED_FORM = 16  # arrays that a point of a Gaussian mosaic takes, where a sampled one takes one

Interference = Callable[[Tensor, Tensor, Tensor, Tensor, Steps, Tensor], Tensor]


def expected_photons(
    crystal: Crystal, experiment: Experiment, pixels: Pixels, interference: Interference = FUSED
) -> Tensor:
    """Expected photons (P,) in a list of pixels, background included.

    r_e^2 fluence sum_steps |F|^2 L times solid angle, polarisation, absorption and Debye-Waller factor, averaged over
    the sub-pixels and summed over the sensor's layers. Differentiable in every tensor of `crystal` and `experiment`;
    `interference` is the fused sum over the crystal's steps or its reference,
    `refine.physics.interference.interference`.
    """
    found = paths(experiment, pixels)
    weights = visible(crystal, experiment, found.scattering) * found.factors
    scattered = _crystal_sum(crystal, experiment, found.scattering.flatten(1), weights, interference)
    if experiment.background.water is not None:
        scattered = scattered + water_scattering(experiment.background.water) * found.factors.sum(0)
    return photons_per_electron(experiment) * scattered + experiment.background.photons(pixels)


def photons_per_electron(experiment: Experiment) -> Tensor:
    """Photons () in a pixel of 1 sr where one free electron a sub-pixel scatters all of the beam."""
    per_intensity = THOMSON_CROSS_SECTION * experiment.beam.fluence * experiment.scale
    return per_intensity / experiment.detector.oversample**2


class Paths(NamedTuple):
    """The R ways, incident rays times sub-pixels times layers, in which photons reach each of P pixels: scattering
    vectors (3, R, P) in 1/Å; factors (R, P): weight, polarisation, solid angle and absorption."""

    scattering: Tensor
    factors: Tensor


def paths(experiment: Experiment, pixels: Pixels) -> Paths:
    """All that beam and detector do to the crystal's photons."""
    sites = experiment.detector.sites(pixels)
    ray, distance = rays(sites.positions)
    scattering = _scattering(experiment, ray)  # (3, W, S, P)
    factors = _source_factor(experiment, ray) * _counted(experiment, sites, ray, distance)
    return Paths(scattering.flatten(1, 2), factors.expand(scattering.shape[1:]).flatten(0, 1))


def paths_per_pixel(experiment: Experiment) -> int:
    """R of `Paths`."""
    return experiment.detector.sites_per_pixel * len(experiment.beam.sources.weights)


def points_per_pixel(crystal: Crystal, experiment: Experiment) -> int:
    """Scattering vectors that are held in memory for a pixel: its paths; of a Gaussian mosaic, whose phi steps are too,
    each counted as the dozen arrays it needs."""
    points = paths_per_pixel(experiment)
    return points if isinstance(crystal.mosaic, Mosaic) else points * experiment.scan.steps * CLOSED_FORM


def expected_image(
    crystal: Crystal,
    experiment: Experiment,
    tile: int = 1 << 17,
    interference: Interference = FUSED,
    within: Tensor | None = None,
) -> Tensor:
    """Expected photons (slow, fast), or (panels, slow, fast), of the whole detector, computed in tiles of about `tile`
    points; no gradient. Where `within`, bool of the same shape, is given, only there, and 0 elsewhere."""
    width = max(1, tile // points_per_pixel(crystal, experiment))
    shape, like = experiment.detector.shape, experiment.detector.distance
    pixels = Pixels.whole(shape, like) if within is None else Pixels.chosen(within, like)
    image = like.new_zeros(shape)
    with torch.no_grad():
        for _, part in pixels.tiles(width):
            photons = expected_photons(crystal, experiment, part, interference)
            image[part.place] = photons
    return image


def miller_indices(crystal: Crystal, experiment: Experiment, pixels: Pixels) -> Tensor:
    """Fractional Miller indices (3, M, S, P) of S sub-pixels, times incident rays, of P pixels in each of M steps."""
    scattering = pixel_scattering(experiment, pixels)
    steps, angles = crystal_steps(crystal, experiment)
    found = step_indices(scattering.flatten(1), crystal.real_space, angles, steps)
    return found.reshape(3, found.shape[1], -1, len(pixels))


def widest_reflection(crystal: Crystal, experiment: Experiment, pixels: Pixels) -> Tensor:
    """Largest standard deviation () in h, k or l of the reflections of a Gaussian mosaic nearest some pixels; 0 of
    sampled domains."""
    if isinstance(crystal.mosaic, Mosaic):
        return torch.zeros_like(experiment.scale)
    steps, angles = crystal_steps(crystal, experiment)
    scattering = pixel_scattering(experiment, pixels).flatten(1)
    spread = blur(crystal.mosaic, experiment)
    return reflection_widths(scattering, crystal.real_space, crystal.cells, spread, angles, steps).max()


def pixel_scattering(experiment: Experiment, pixels: Pixels) -> Tensor:
    """Scattering vectors (3, W, S, P) in 1/Å of W incident rays and S sites in each of P pixels."""
    return _scattering(experiment, rays(experiment.detector.sites(pixels).positions)[0])


def _scattering(experiment: Experiment, ray: Tensor) -> Tensor:
    """Scattering vectors (3, W, S, P) for rays (3, S, P) to the sub-pixels."""
    sources = experiment.beam.sources
    return scattering_vectors(ray, sources.directions, sources.wavelength_ratios * experiment.beam.wavelength)


def _source_factor(experiment: Experiment, ray: Tensor) -> Tensor:
    """Weight times polarisation (W, S, P) of every incident ray, or a shape that broadcasts to it.

    nanoBragg.c, without -oversample_polar, takes the polarisation of the first ray at the first sub-pixel for all.
    """
    beam, sources = experiment.beam, experiment.beam.sources
    weights = sources.weights[:, None, None]
    if beam.polarization is None:
        return weights
    directions = sources.directions
    if experiment.detector.corner_factors:
        ray, directions = ray[:, :1], directions[:1]
    incident = directions.T[:, :, None, None]
    return weights * polarization(incident, ray[:, None], beam.polarization_axis, beam.polarization)


def _crystal_sum(
    crystal: Crystal, experiment: Experiment, scattering: Tensor, weights: Tensor, interference: Interference
) -> Tensor:
    """Weighted sums (P,) of the interference function at scattering vectors (3, R P), weights (R, P): by
    `interference`, or in closed form."""
    steps, angles = crystal_steps(crystal, experiment)
    if isinstance(crystal.mosaic, Mosaic):
        return interference(scattering, crystal.real_space, crystal.cells, angles, steps, weights)
    spread = blur(crystal.mosaic, experiment)
    points = gaussian_interference(scattering, crystal.real_space, crystal.cells, spread, angles, steps)
    return (points.reshape(weights.shape) * weights).sum(0)


def blur(mosaic: GaussianMosaic, experiment: Experiment) -> Blur:
    """What spreads the reflections of a Gaussian mosaic."""
    beam = experiment.beam
    rotations = torch.deg2rad(mosaic.factor)
    if beam.gaussian is None:
        return Blur(rotations, torch.zeros_like(beam.wavelength), beam.direction.new_zeros(0, 3))
    magnetic = torch.linalg.cross(beam.direction, beam.polarization_axis)
    magnetic = magnetic / torch.linalg.vector_norm(magnetic)
    across = torch.stack([torch.linalg.cross(magnetic, beam.direction), magnetic])
    sigmas = beam.gaussian.divergence * RADIAN_PER_MRAD / beam.wavelength
    return Blur(rotations, beam.gaussian.bandwidth * PER_PERCENT, sigmas[:, None] * across)


def visible(crystal: Crystal, experiment: Experiment, scattering: Tensor) -> Tensor:
    """Debye-Waller factor (R, P) at scattering vectors (3, R, P), 0 beyond the resolution limit of the structure
    factors."""
    factor, d_min = debye_waller(scattering, crystal.b_factor), experiment.structure_factors.d_min
    return factor if d_min is None else factor * (dot(scattering, scattering) <= d_min**-2)


def _counted(experiment: Experiment, sites: Sites, ray: Tensor, distance: Tensor) -> Tensor:
    """Solid angle times absorbed fraction (S, P) of the sites along rays (3, S, P), `distance` (S, P) mm away;
    nanoBragg.c, without -oversample_omega, takes the first site's solid angle (1, P) for all."""
    detector, sensor = experiment.detector, experiment.detector.sensor
    obliquity = dot(sites.normals, ray)
    at = slice(1) if detector.corner_factors else slice(None)
    tilt = torch.ones_like(obliquity) if detector.point_pixel else obliquity
    angle = tilted_solid_angle(distance[at], tilt[at], detector.pixel_size)
    if sensor is None:
        return angle
    _, attenuation = sensor.in_mm
    return angle * absorbed_fraction(sites.depths, sensor.layer, attenuation, obliquity)


def crystal_steps(crystal: Crystal, experiment: Experiment) -> tuple[Steps, Tensor]:
    """What the sum over steps holds fixed, and its angles (3,) in radians: mosaic spread, phi0, osc."""
    factors, mosaic, scan = experiment.structure_factors, crystal.mosaic, experiment.scan
    none = torch.zeros_like(scan.phi0)
    if isinstance(mosaic, Mosaic):
        spread, axes, fractions = mosaic.spread_deg, mosaic.axes, mosaic.fractions
    else:
        spread, axes, fractions = none, none.new_zeros(1, 3), none.new_zeros(1)
    angles = torch.deg2rad(torch.stack([spread, scan.phi0, scan.osc]))
    fixed = (axes, fractions, scan.axis, scan.steps, factors.intensity, factors.lowest, crystal.shape)
    return Steps(*fixed, factors.amplitude), angles
