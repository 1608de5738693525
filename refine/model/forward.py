"""The simulator: crystal and experiment in, expected photons out."""

from collections.abc import Callable

import torch
from torch import Tensor

from refine.model.beam import THOMSON_CROSS_SECTION
from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.model.pixels import Pixels
from refine.physics.fused import fused_interference
from refine.physics.interference import Steps, step_indices
from refine.physics.polarization import polarization
from refine.physics.scattering import rays, scattering_vectors
from refine.physics.solid_angle import solid_angle
from refine.physics.structure_factor import debye_waller

Interference = Callable[[Tensor, Tensor, Tensor, Tensor, Steps], Tensor]


def expected_photons(
    crystal: Crystal, experiment: Experiment, pixels: Pixels, interference: Interference = fused_interference
) -> Tensor:
    """Expected photons (P,) in a list of pixels, background included.

    r_e^2 fluence sum_steps |F|^2 L times solid angle, polarisation and Debye-Waller factor, averaged over the
    sub-pixels. Differentiable in every tensor of `crystal` and `experiment`; `interference` is the fused sum over
    the crystal's steps or its reference, `refine.physics.interference.interference`.
    """
    beam = experiment.beam
    ray, distance = rays(experiment.detector.positions(pixels))
    scattering = _scattering(experiment, ray)  # (3, W, S, P)
    steps, angles = _steps(crystal, experiment)
    points = interference(scattering.flatten(1), crystal.real_space, crystal.cells, angles, steps)
    bragg = points.reshape(scattering.shape[1:]) * debye_waller(scattering, crystal.b_factor)
    intensity = (bragg * _source_factor(experiment, ray)).sum(0) * _solid_angle(experiment, distance)
    per_intensity = THOMSON_CROSS_SECTION * beam.fluence * experiment.scale
    return per_intensity * intensity.mean(0) + experiment.background.photons(pixels)


def expected_image(
    crystal: Crystal, experiment: Experiment, tile: int = 1 << 16, interference: Interference = fused_interference
) -> Tensor:
    """Expected photons (slow, fast) of the whole detector, computed in tiles of at most `tile` pixels; no gradient."""
    pixels = Pixels.whole(experiment.detector.size, experiment.detector.distance)
    with torch.no_grad():
        tiles = [expected_photons(crystal, experiment, part, interference) for _, part in pixels.tiles(tile)]
    return torch.cat(tiles).reshape(experiment.detector.size)


def miller_indices(crystal: Crystal, experiment: Experiment, pixels: Pixels) -> Tensor:
    """Fractional Miller indices (3, M, S, P) of S sub-pixels, times incident rays, of P pixels in each of M steps."""
    ray, _ = rays(experiment.detector.positions(pixels))
    scattering = _scattering(experiment, ray)
    steps, angles = _steps(crystal, experiment)
    found = step_indices(scattering.flatten(1), crystal.real_space, angles, steps)
    return found.reshape(3, found.shape[1], -1, len(pixels))


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


def _solid_angle(experiment: Experiment, distance: Tensor) -> Tensor:
    """Solid angle (S, P) of sub-pixels `distance` (S, P) mm away; nanoBragg.c, without -oversample_omega, takes the
    first one's (1, P) for all."""
    detector = experiment.detector
    at = distance[:1] if detector.corner_factors else distance
    return solid_angle(at, detector.frame().normal_distance, detector.pixel_size)


def _steps(crystal: Crystal, experiment: Experiment) -> tuple[Steps, Tensor]:
    """What the sum over steps holds fixed, and its angles (3,) in radians: mosaic spread, phi0, osc."""
    factors, mosaic, scan = experiment.structure_factors, crystal.mosaic, experiment.scan
    angles = torch.deg2rad(torch.stack([mosaic.spread_deg, scan.phi0, scan.osc]))
    fixed = (mosaic.axes, mosaic.fractions, scan.axis, scan.steps, factors.intensity, factors.lowest, crystal.shape)
    return Steps(*fixed), angles
