"""From a configuration to beam, detector and scan."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from refine.app.config import Config
from refine.app.config_instrument import MOST_PIXELS, MOST_SUBPIXELS, Thickness
from refine.app.dials import panel_set
from refine.errors import InputError
from refine.io.beams import read_source_list, read_spectrum
from refine.io.experiments import DialsExperiment
from refine.model.beam import Beam, GaussianBeam
from refine.model.conventions import CONVENTIONS, Convention
from refine.model.crystal import Crystal
from refine.model.detector import Detector, Sensor
from refine.model.scan import Scan
from refine.physics.sources import Sources, Spread, even_steps, tilt_grid

FARTHEST = 2.0  # factor between the wavelengths of one beam
FRINGES = 3.0  # sub-pixels per fringe of the crystal's largest edge, nanoBragg.c's recommendation
_DETECTOR_AXES = {"fast": "fast", "slow": "slow", "beam": "beam", "twotheta_axis": "twotheta"}


def lab_axes(config: Config) -> Convention:
    """The convention with the axes given instead of its own."""
    return CONVENTIONS[config.detector.convention].with_axes(config.detector.axes.given)


def build_beam(config: Config, like: Tensor) -> Beam:
    """The incident beam. Raises InputError for a spectrum or source list that cannot be used."""
    axes, beam = lab_axes(config), config.beam
    kahn = None if beam.polarization is None else like.new_tensor(beam.polarization)
    direction, electric = like.new_tensor(axes.beam), like.new_tensor(axes.polarization)
    one = Beam(like.new_tensor(beam.wavelength), direction, like.new_tensor(beam.fluence_value), kahn, electric)
    sigmas = beam.gaussian
    gaussian = GaussianBeam(
        like.new_tensor(sigmas.bandwidth_percent), like.new_tensor((sigmas.horizontal_mrad, sigmas.vertical_mrad))
    )
    rays = _rays(config, direction) if beam.sources else _spread(config, like)
    return replace(one, spread=rays, gaussian=gaussian if sigmas.given else None)


def _spread(config: Config, like: Tensor) -> Spread | None:
    """A divergent or polychromatic beam, None for one ray."""
    beam = config.beam
    divergence, dispersion = beam.divergence, beam.dispersion
    if max(divergence.widths_mrad) == 0 and dispersion.percent == 0 and beam.spectrum is None:
        return None
    colours = even_steps(dispersion.steps if dispersion.percent > 0 else 1).to(like)
    ratios = weights = torch.ones_like(colours)
    if beam.spectrum is not None:
        wavelengths, weights = (torch.from_numpy(column).to(like) for column in read_spectrum(beam.spectrum))
        _require_near(beam.spectrum, wavelengths, beam.wavelength)
        ratios, colours = wavelengths / beam.wavelength, torch.zeros_like(wavelengths)
    return Spread(
        divergence=like.new_tensor(divergence.widths_mrad),
        tilts=tilt_grid(divergence.counts, divergence.round).to(like),
        dispersion=like.new_tensor(dispersion.percent),
        colours=colours,
        ratios=ratios,
        weights=weights / weights.sum(),
    )


def _rays(config: Config, direction: Tensor) -> Sources:
    """The rays of a source list, one by one."""
    beam = config.beam
    assert beam.sources is not None
    towards, weights, wavelengths = (
        torch.from_numpy(part).to(direction) for part in read_source_list(beam.sources, beam.wavelength)
    )
    _require_near(beam.sources, wavelengths, beam.wavelength)
    if not bool((-towards @ direction > 0).all()):
        raise InputError(
            f"{beam.sources}: a source lies where the beam goes to; accepted: places x y z from where it comes, such as"
            f" {' '.join(f'{-10 * x:g}' for x in direction.tolist())}"
        )
    return Sources(-towards, wavelengths / beam.wavelength, weights / weights.sum())


def _require_near(path: Path, wavelengths: Tensor, middle: float) -> None:
    """Raise InputError where a wavelength (n,) in Å is so far from the beam's that it will be in another unit."""
    far = (wavelengths > FARTHEST * middle) | (wavelengths < middle / FARTHEST)
    if bool(far.any()):
        raise InputError(
            f"{path}: wavelength {float(wavelengths[far][0]):g} Å, but beam.wavelength is {middle:g} Å; accepted:"
            f" within a factor of {FARTHEST:g} (a spectrum is in Å, a list of sources in m)"
        )


def build_detector(config: Config, crystal: Crystal, source: DialsExperiment | None) -> Detector:
    """The detector at the start, with the panels of `source` where the keys describe one of many; how finely `auto`
    oversamples follows from the crystal's size. Raises InputError."""
    given, axes, like = config.detector, lab_axes(config), crystal.cell
    panels = None if source is None else panel_set(source, like)
    if panels is not None and given.curved:
        raise InputError(f"key 'detector.curved' is true; accepted: false for the many panels of {given.file}")
    if panels is not None and panels.origins.shape[1] * given.size[0] * given.size[1] > MOST_PIXELS:
        raise InputError(
            f"{given.file}: {panels.origins.shape[1]} panels of {given.size}; accepted: {MOST_PIXELS} pixels"
        )
    turned = given.rotations
    vectors = {ours: like.new_tensor(getattr(axes, theirs)) for ours, theirs in _DETECTOR_AXES.items()}
    return Detector(
        size=given.size,
        pixel_size=like.new_tensor(given.pixel_size),
        distance=like.new_tensor(given.distance),
        beam_center=like.new_tensor(given.beam_center_px),
        rotations=like.new_tensor((turned.x, turned.y, turned.z)),
        twotheta=like.new_tensor(turned.twotheta),
        fast=vectors["fast"],
        slow=vectors["slow"],
        beam=vectors["beam"],
        twotheta_axis=vectors["twotheta_axis"],
        pivot=given.pivot,
        oversample=_resolving(config, crystal) if given.oversample == "auto" else given.oversample,
        sensor=_sensor(given.thickness, "layers_beyond_sensor" in config.compatibility, like),
        curved=given.curved,
        point_pixel=given.point_pixel,
        corner_factors="corner_factors" in config.compatibility,
        panels=panels,
    )


def _resolving(config: Config, crystal: Crystal) -> int:
    """Sub-pixels a pixel edge that resolve the crystal's fringes (nanoBragg.c's recommendation)."""
    largest = float((crystal.cell[:3] * crystal.cells).max())
    fringe = config.beam.wavelength * config.detector.distance / largest
    found = max(1, int(torch.ceil(torch.tensor(FRINGES * config.detector.pixel_size / fringe))))
    if found > MOST_SUBPIXELS:
        raise InputError(
            f"key 'detector.oversample': auto asks for {found} sub-pixels to resolve the fringes of a crystal of"
            f" {largest:.0f} Å; accepted: a whole number from 1 to {MOST_SUBPIXELS}"
        )
    return found


def _sensor(given: Thickness, beyond: bool, like: Tensor) -> Sensor | None:
    """The absorbing layers; `beyond` the sensor, as nanoBragg.c has them: n of thickness / (n - 1), 2 at least."""
    if given.um == 0:
        return None
    layers = max(2, given.steps) if beyond else given.steps
    length = like.new_tensor(given.attenuation_um)
    return Sensor(like.new_tensor(given.um), length, layers, given.parallax == "dials", beyond)


def build_scan(config: Config, like: Tensor) -> Scan:
    """The crystal's rotation during the exposure."""
    scan, axis = config.crystal.scan, lab_axes(config).spindle
    return Scan(like.new_tensor(scan.phi0), like.new_tensor(scan.osc), scan.steps, like.new_tensor(axis))
