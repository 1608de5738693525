"""The incident beam: its directions and wavelengths, and how many photons it has."""

import re
from dataclasses import replace
from pathlib import Path

from refine.app.nanobragg.files import named
from refine.app.nanobragg.geometry import Frame
from refine.app.nanobragg.given import Given
from refine.app.nanobragg.sampling import Steps, dispersion, hdiv, vdiv
from refine.app.nanobragg.settings import BeamSettings, Source
from refine.app.nanobragg.vectors import Vector, cross, length, scaled, turned_about, unit
from refine.app.nanobragg.words import Strict
from refine.errors import InputError
from refine.io.reading import read_content

_SOURCE_DISTANCE = 10.0  # m, where a source file does not say
_COLUMNS = 5
_MOST_SOURCES = 1_000_000
_ANGSTROM = 1e10


def beam(given: Given, lab: Frame, directory: Path) -> BeamSettings:
    """The beam of an `illuminated` command line. Raises InputError for a source file that cannot be used."""
    horizontal, vertical, bands = hdiv(given), vdiv(given), dispersion(given)
    across = unit(cross(lab.beam, lab.polarization))
    return BeamSettings(
        direction=lab.beam,
        polarization=lab.polarization,
        vertical=across,
        wavelength=given.wavelength * _ANGSTROM,
        source_file=None if given.source_file is None else directory / given.source_file,
        sources=_from_file(given, lab.beam, directory) or _from_ranges(given, lab, across),
        dispersion=bands.span,
        dispersion_steps=bands.steps,
        hdiv_range=horizontal.span * 1000.0,
        hdiv_steps=horizontal.steps,
        vdiv_range=vertical.span * 1000.0,
        vdiv_steps=vertical.steps,
        round_divergence=given.round_divergence,
        kahn=given.kahn,
        polarized=given.polarized,
        fluence=given.fluence,
        flux=given.flux,
        exposure=given.exposure,
        size=given.beam_size * 1000.0,
    )


def illuminated(given: Given) -> Given:
    """Fluence from the flux or the flux from the fluence, and the sample clipped by the beam in y and z (not x).

    Raises InputError.
    """
    if given.wavelength <= 0:
        raise InputError(f"-lambda {given.wavelength * _ANGSTROM:g}: accepted is a wavelength in Å above 0")
    fluence, flux, size = given.fluence, given.flux, given.beam_size
    if flux and given.exposure > 0 and size >= 0:
        if not size:
            raise InputError("-beamsize 0 with -flux: the fluence is infinite; give a size in mm above 0")
        fluence = flux * given.exposure / size / size
    if given.exposure > 0:
        flux = fluence / given.exposure * size * size
    lit = replace(given, fluence=fluence, flux=flux)
    if size < 0:
        return lit
    return replace(lit, sample_y=min(given.sample_y, size), sample_z=min(given.sample_z, size))


def _from_ranges(given: Given, lab: Frame, across: Vector) -> tuple[Source, ...]:
    """Horizontal turns are about the vertical axis, vertical ones, applied first, about the electric vector."""
    bands, axis = dispersion(given), scaled(lab.beam, -_SOURCE_DISTANCE)
    if bands.steps > _MOST_SOURCES:
        raise InputError(f"the dispersion asks for {bands.steps} wavelengths; give fewer -dispsteps")
    factors = [1.0 + bands.step * i - bands.span / 2.0 for i in range(bands.steps)]
    directions = [
        turned_about(turned_about(axis, lab.polarization, vertical), across, horizontal)
        for horizontal, vertical in _divergences(hdiv(given), vdiv(given), given.round_divergence)
    ]
    weight = 1.0 / (len(directions) * len(factors))
    return tuple(
        Source(unit(direction), weight, given.wavelength * factor * _ANGSTROM)
        for direction in directions
        for factor in factors
    )


def _divergences(horizontal: Steps, vertical: Steps, rounded: bool) -> list[tuple[float, float]]:
    """Angles in radians on a grid; cut to an ellipse where asked for and where both ranges are above 0.

    Raises InputError for too many, and for none.
    """
    if horizontal.steps * vertical.steps > _MOST_SOURCES:
        raise InputError(f"the divergence asks for {horizontal.steps * vertical.steps} sources; give fewer steps")
    grid = [
        (horizontal.step * i - horizontal.span / 2.0, vertical.step * j - vertical.span / 2.0)
        for i in range(horizontal.steps)
        for j in range(vertical.steps)
    ]
    if not rounded or not horizontal.span or not vertical.span:
        return grid
    kept = [(h, v) for h, v in grid if (_reduced_square(h, horizontal) + _reduced_square(v, vertical)) * 4.0 <= 1.1]
    if not kept:
        raise InputError("the divergence's ellipse leaves no source; give -square_div, or other ranges and steps")
    return kept


def _reduced_square(angle: float, steps: Steps) -> float:
    """Square of `angle` over the range, less that of the half step by which an even grid misses the centre."""
    half_step_square = steps.step * steps.step / 4.0 * (1 - steps.steps % 2)
    return (angle * angle - half_step_square) / steps.span / steps.span


def _from_file(given: Given, beam_direction: Vector, directory: Path) -> tuple[Source, ...]:
    """One source a line: x, y, z in m, weight, wavelength in m; columns left out have defaults."""
    if given.source_file is None:
        return ()
    path = directory / given.source_file
    with named("-sourcefile"):
        lines = read_content(path).decode("latin-1").splitlines()
    default = (*scaled(beam_direction, -_SOURCE_DISTANCE), 1.0, given.wavelength)
    rows = [(number, re.split(r"[\s,;:!]+", line.strip(" \t\r,;:!"))) for number, line in enumerate(lines, 1)]
    found = tuple(_source(words, default, f"-sourcefile {path}, line {number}") for number, words in rows if words[0])
    if not found:
        raise InputError(f"-sourcefile: {path} lists no source")
    return found


def _source(words: list[str], default: tuple[float, ...], place: str) -> Source:
    try:
        given = tuple(Strict().number(word) for word in words[:_COLUMNS])
    except ValueError as error:
        raise InputError(f"{place}: {error}; accepted is x y z (m) weight wavelength (m)") from None
    x, y, z, weight, wavelength = given + default[len(given) :]
    if not length((x, y, z)) or wavelength <= 0:
        raise InputError(f"{place}: a source needs a place other than 0 0 0 and a wavelength in m above 0")
    return Source(unit((x, y, z)), weight, wavelength * _ANGSTROM)
