"""Every option nanoBragg.c knows, and the reading of its command line."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from refine.app.nanobragg.given import Given
from refine.app.nanobragg.option import (
    DEGREES,
    MILLIMETRES,
    MILLIRADIANS,
    PERCENT,
    Option,
    attenuation_fields,
    cell_count,
    cell_fields,
    flag,
    from_electronvolts,
    ignored,
    integer,
    integers,
    misset_count,
    misset_fields,
    number,
    over,
    pivot_fields,
    text,
    times,
    vector,
)
from refine.app.nanobragg.words import Lenient, Strict
from refine.errors import InputError

_CRYSTAL = (
    integer("-Na", "cells", "unit cells along a", "n_a"),
    integer("-Nb", "cells", "unit cells along b", "n_b"),
    integer("-Nc", "cells", "unit cells along c", "n_c"),
    integer("-N", "cells", "unit cells along a, b and c", "n_a", "n_b", "n_c", exact=True),
    Option(
        ("-cell",),
        "a b c alpha beta gamma",
        "unit cell, Å and degrees; b and c default to a, angles to 90",
        cell_fields,
        cell_count,
    ),
    text("-mat", "file", "MOSFLM matrix: wavelength times a*, b*, c* in columns", "mat"),
    Option(
        ("-misset",),
        "x y z",
        "rotation of the crystal about lab x, y, z in degrees; or: random",
        misset_fields,
        misset_count,
    ),
    number(
        "-samplesize -sample_size -xtalsize -xtal_size",
        "mm",
        "edge of the crystal, sets N",
        "sample_x",
        "sample_y",
        "sample_z",
        unit=MILLIMETRES,
    ),
    number("-sample_thick -sample_x -xtal_thick -xtal_x", "mm", "its size along a", "sample_x", unit=MILLIMETRES),
    number(
        "-sample_width -sample_y -xtal_width -xtal_y -width", "mm", "its size along b", "sample_y", unit=MILLIMETRES
    ),
    number(
        "-sample_heigh -sample_z -xtal_heigh -xtal_z -heigh", "mm", "its size along c", "sample_z", unit=MILLIMETRES
    ),
    flag("-square_xtal", "parallelepiped crystal (default)", shape="square"),
    flag("-round_xtal", "ellipsoidal crystal", shape="round"),
    flag("-gauss_xtal", "Gaussian spots", shape="gauss"),
    flag("-binary_spots -tophat_spots", "spots with a flat top", shape="tophat"),
    number("-fudge", "factor", "shape parameter of round, gauss and tophat", "fudge"),
    number("-mosaic", "degrees", "mosaic spread", "mosaic_spread", unit=DEGREES, exact=True),
    number("-mosaici -mosaic_spr", "degrees", "mosaic spread", "mosaic_spread", unit=DEGREES),
    integer("-mosaic_dom", "domains", "mosaic domains", "mosaic_domains"),
    integer("-mosaic_seed", "seed", "seed of the mosaic domains", "mosaic_seed"),
    integer("-misset_seed", "seed", "seed of -misset random", "misset_seed"),
)

_BEAM = (
    number("-lambda -wave", "Å", "wavelength", "wavelength", unit=over(1.0e10)),
    number("-energy", "eV", "photon energy, instead of -lambda", "wavelength", unit=from_electronvolts),
    number("-dispersion", "percent", "full width of the spectrum", "dispersion", unit=PERCENT),
    integer("-dispsteps", "steps", "wavelengths over that width", "dispersion_steps"),
    number("-divergence", "mrad", "full divergence, both directions", "hdiv_range", "vdiv_range", unit=MILLIRADIANS),
    number("-hdivrange", "mrad", "full horizontal divergence", "hdiv_range", unit=MILLIRADIANS),
    number("-vdivrange", "mrad", "full vertical divergence", "vdiv_range", unit=MILLIRADIANS),
    number("-hdivstep", "mrad", "horizontal step", "hdiv_step", unit=MILLIRADIANS, exact=True),
    number("-vdivstep", "mrad", "vertical step", "vdiv_step", unit=MILLIRADIANS, exact=True),
    integer("-hdivsteps", "steps", "horizontal directions", "hdiv_steps"),
    integer("-vdivsteps", "steps", "vertical directions", "vdiv_steps"),
    integer("-divsteps", "steps", "directions, each way", "hdiv_steps", "vdiv_steps"),
    flag("-round_div", "directions within an ellipse (default)", round_divergence=True),
    flag("-square_div", "directions on the full grid", round_divergence=False),
    text("-sourcefile", "file", "sources: x y z (m), weight, wavelength (m) a line", "source_file"),
    number("-fluence", "photons/m^2", "fluence", "fluence"),
    number("-flux", "photons/s", "flux, with -exposure and -beamsize instead of -fluence", "flux"),
    number("-exposure", "s", "exposure", "exposure"),
    number("-beamsize", "mm", "edge of the beam, clips the crystal", "beam_size", unit=MILLIMETRES),
    number("-polar", "Kahn", "Kahn polarisation factor, -1 to 1", "kahn", exact=True, polarized=True),
    flag("-nopolar", "no polarisation factor", polarized=False),
)

_DETECTOR = (
    number("-distance", "mm", "sample to direct-beam spot", "distance", unit=MILLIMETRES, pivot="beam"),
    number("-close_distance", "mm", "sample to detector plane", "close_distance", unit=MILLIMETRES, pivot="sample"),
    number("-detsize", "mm", "edge of the detector", "extent_fast", "extent_slow", unit=MILLIMETRES, exact=True),
    number("-detsize_f", "mm", "its fast edge", "extent_fast", unit=MILLIMETRES),
    number("-detsize_s", "mm", "its slow edge", "extent_slow", unit=MILLIMETRES),
    integer("-detpixels", "pixels", "pixels per edge, instead of -detsize", "pixels_fast", "pixels_slow", exact=True),
    integer("-detpixels_f -detpixels_x", "pixels", "pixels along fast", "pixels_fast"),
    integer("-detpixels_s -detpixels_y", "pixels", "pixels along slow", "pixels_slow"),
    number("-pixel", "mm", "pixel size", "pixel_size", unit=MILLIMETRES),
    number("-Xbeam", "mm", "direct beam, as the convention has it", "x_beam", unit=MILLIMETRES, pivot="beam"),
    number("-Ybeam", "mm", "direct beam, as the convention has it", "y_beam", unit=MILLIMETRES, pivot="beam"),
    number("-Xclose", "mm", "nearest point, fast", "x_close", unit=MILLIMETRES, pivot="sample"),
    number("-Yclose", "mm", "nearest point, slow", "y_close", unit=MILLIMETRES, pivot="sample"),
    number("-ORGX", "pixels", "nearest point as XDS has it, fast", "org_x", pivot="sample"),
    number("-ORGY", "pixels", "nearest point as XDS has it, slow", "org_y", pivot="sample"),
    Option(("-pivot",), "beam|sample", "what a detector rotation leaves in place", pivot_fields),
    flag("-mosflm", "lab frame and beam centre of MOSFLM (default)", convention="mosflm", pivot="beam"),
    flag("-xds", "those of XDS", convention="xds", pivot="sample"),
    flag("-adxv", "those of ADXV", convention="adxv", pivot="beam"),
    flag("-denzo", "those of DENZO", convention="denzo", pivot="beam"),
    flag("-dials", "those of DIALS", convention="dials", pivot="beam"),
    vector("-fdet_vector", "direction of the fast axis", "fdet_vector"),
    vector("-sdet_vector", "direction of the slow axis", "sdet_vector"),
    vector("-odet_vector", "direction from the sample to the detector", "odet_vector"),
    vector("-beam_vector", "direction of the beam", "beam_vector"),
    vector("-polar_vector", "direction of the electric vector", "polar_vector"),
    vector("-spindle_axis", "axis of phi", "spindle_axis"),
    number("-twotheta", "degrees", "swing of the detector", "twotheta", unit=DEGREES, pivot="sample"),
    vector("-twotheta_axis", "axis of the swing", "twotheta_axis"),
    Option(
        ("-pix0_vector",), "x y z", "without effect but for -convention custom", lambda w, r: {"convention": "custom"}
    ),
    number("-detector_rotx", "degrees", "rotation about lab x", "rot_x", unit=DEGREES),
    number("-detector_roty", "degrees", "rotation about lab y", "rot_y", unit=DEGREES),
    number("-detector_rotz", "degrees", "rotation about lab z", "rot_z", unit=DEGREES),
    Option(("-detector_abs",), "um", "attenuation depth of the sensor, or: inf", attenuation_fields),
    number("-detector_thick", "um", "thickness of the sensor", "sensor_thickness", unit=times(1e-6), exact=True),
    integer("-detector_thicksteps -thicksteps", "layers", "layers of the sensor", "sensor_layers"),
    flag("-curved_det", "all pixels at the same distance", curved=True),
    flag("-point_pixel", "solid angle 1/R^2", point_pixel=True),
)

_SAMPLING = (
    number("-phi", "degrees", "first rotation angle", "phi0", unit=DEGREES, exact=True),
    number("-osc", "degrees", "rotation range", "osc", unit=DEGREES),
    number("-phistep", "degrees", "rotation step", "phi_step", unit=DEGREES, exact=True),
    integer("-phisteps", "steps", "rotation steps", "phi_steps"),
    flag("-oversample_thick", "absorption of every sub-pixel", final=True, oversample_thickness=True),
    flag("-oversample_polar", "polarisation of every sub-pixel", final=True, oversample_polarization=True),
    flag("-oversample_omega", "solid angle of every sub-pixel", final=True, oversample_solid_angle=True),
    integer("-oversample", "n", "sub-pixels per pixel edge; default: from the crystal's size", "oversample"),
    integers("-roi", "xmin xmax ymin ymax", "pixels to compute, both ends included", "roi"),
    number("-dmin", "Å", "no scattering beyond this resolution", "dmin", unit=times(1e-10)),
    number("-water", "um", "edge of a cube of water in the beam", "water", unit=over(1e6)),
    text("-img", "file", "SMV image whose header sets the detector", "img"),
    text("-mask", "file", "SMV image whose zeros are left out; its header sets the detector", "mask"),
    text("-hkl", "file", "structure factors: h k l F a line", "hkl"),
    number("-default_F", "F", "structure factor where none is listed", "default_f"),
    flag("-interpolate", "interpolate structure factors", interpolate=True),
    flag("-nointerpolate", "never interpolate", interpolate=False),
)

_OUTPUT = (
    text("-floatfile -floatimage", "file", "image, 4-byte floats", "float_file"),
    text("-intfile -intimage", "file", "image, SMV", "int_file"),
    text("-pgmfile -pgmimage", "file", "image, 8 bits", "pgm_file", pgm=True),
    text("-noisefile -noiseimage", "file", "image with Poisson noise, SMV", "noise_file", noise=True),
    flag("-nonoise", "no noise image", noise=False),
    flag("-nopgm", "no 8-bit image", pgm=False),
    number("-scale", "factor", "of -intfile; default: 55000 at the maximum", "int_scale"),
    number("-pgmscale", "factor", "of -pgmfile; default: 250 at 5 rmsd", "pgm_scale", pgm=True),
    text("-config", "file", "write a configuration of it instead of images; ours", "config", exact=True),
    number("-adc", "ADU", "offset of the SMV images", "adc_offset"),
    integer("-seed", "seed", "seed of the noise; default: the clock", "seed"),
    flag("-printout", "print every pixel", printout=True),
    integers("-printout_pixel", "fast slow", "print this pixel", "printout_pixel"),
    flag("-noprogress", "no progress meter", progress=False),
    flag("-progress", "progress meter (default)", progress=True),
)

_IGNORED = (
    ignored("-dispstep", "percent", "ignored by nanoBragg.c; use -dispsteps", exact=True),
    ignored("-hdiv", "mrad", "ignored by nanoBragg.c; use -hdivrange", exact=True),
    ignored("-vdiv", "mrad", "ignored by nanoBragg.c; use -vdivrange", exact=True),
    ignored("-source_dist", "mm", "ignored by nanoBragg.c"),
    ignored("-density -sample_den -molec", "value", "no effect in nanoBragg.c"),
    ignored("-MW", "g/mol", "no effect in nanoBragg.c", exact=True),
    ignored("-coherent", "", "no effect in nanoBragg.c"),
    ignored("-stolout", "file", "no effect in nanoBragg.c"),
    text("-stol -4stol -Q", "file", "no effect in nanoBragg.c", "stol", exact=True),
    ignored("-dump", "file", "no structure factors are cached; give -hkl in every run"),
)

OPTIONS: tuple[Option, ...] = (*_CRYSTAL, *_BEAM, *_DETECTOR, *_SAMPLING, *_OUTPUT, *_IGNORED)
_NOTHING = Given()


class Parsed(NamedTuple):
    """The fields that the options set, and remarks for the user."""

    given: Given
    notes: tuple[str, ...]


def parse(arguments: Sequence[str], start: Given = _NOTHING) -> Parsed:
    """Read a command line over `start`; a later option overrides an earlier one.

    nanoBragg.c finds an option by its name anywhere in a word, so a word can be several: `-twotheta_axis x y z` is
    `-twotheta x` as well, and `-misset_seed` followed by three words is `-misset`. Raises InputError for an option it
    does not know, a word that belongs to none, a value missing or not a number.
    """
    given, notes, position = start, list[str](), 0
    while position < len(arguments):
        word, following = arguments[position], arguments[position + 1 :]
        meant, others = _matches(word)
        if "-curved_det" in word and not following:
            notes.append(f"{word} is ignored where it is the last word, as nanoBragg.c does")
            break
        for option in others:
            if len(following) >= (count := option.count_in(following)):
                given = replace(given, **option.sets(following, Lenient()))
                if count:
                    values = " ".join(following[:count])
                    notes.append(f"{word} {values} is also read as {option.names[0]} {values}, as nanoBragg.c does")
        given = replace(given, **_fields(word, meant, following))
        notes += _remarks(word, meant)
        position += 1 + meant.count_in(following)
    return Parsed(given, tuple(notes))


def usage() -> str:
    """One line an option: names, values, meaning."""
    return "\n".join(f"  {' '.join(o.names)} {o.values}".ljust(44) + f" {o.meaning}" for o in OPTIONS)


def _matches(word: str) -> tuple[Option, list[Option]]:
    """The option with the longest name in `word`, and the others that nanoBragg.c finds there too."""
    found = [option for option in OPTIONS if word.startswith("-") and option.name_in(word)]
    if not found:
        raise InputError(_unknown(word))
    meant = max(found, key=lambda option: len(option.name_in(word)))
    return meant, [] if meant.final else [option for option in found if option is not meant]


def _unknown(word: str) -> str:
    names = [name for option in OPTIONS for name in option.names]
    near = difflib.get_close_matches(word if word.startswith("-") else f"-{word}", names, 3)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; see the list of options"
    if not word.startswith("-"):
        return f"'{word}' belongs to no option{hint}"
    return f"option {word} is not known to nanoBragg.c (which would ignore it){hint}"


def _fields(word: str, option: Option, following: Sequence[str]) -> dict[str, Any]:
    count = option.count_in(following)
    if len(following) < count:
        found = " ".join(following) or "nothing"
        raise InputError(f"{word} needs {option.values} behind it ({option.meaning}), found {found}")
    try:
        return option.sets(following[:count], Strict())
    except ValueError as error:
        raise InputError(f"{word}: {error}; accepted is {option.values} ({option.meaning})") from None


def _remarks(word: str, meant: Option) -> list[str]:
    if meant in _IGNORED:
        return [f"{word} has no effect: {meant.meaning}"]
    name = meant.name_in(word)
    return [] if word.startswith(name) else [f"{word} is read as {name}"]
