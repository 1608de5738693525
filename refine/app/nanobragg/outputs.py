"""The image files: raw floats, SMV integers, SMV with noise, PGM."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine.app.nanobragg.image import Image, region
from refine.app.nanobragg.settings import Settings
from refine.io.atomic import write_bytes
from refine.io.beam_keys import beam_keys

Number = int | float
_LARGEST, _GREY = 65535.0, 255.0
_FULL_SCALE, _GREY_SCALE = 55000.0, 250.0
_NORMAL_ABOVE = 1e6  # photons beyond which nanoBragg.c draws the noise from a normal distribution
_BLOCK = 512


class Statistics(NamedTuple):
    """Of the computed pixels, but for rmsd, which counts masked ones in the region of interest; sums over n - 1."""

    maximum: float
    place: tuple[int, int]
    mean: float
    rms: float
    rmsd: float


class Noisy(NamedTuple):
    """counts: uint16 (slow, fast); photons: their sum without offset; overloads: pixels cut at 65535."""

    counts: NDArray[np.uint16]
    photons: float
    overloads: int


def statistics(image: Image, settings: Settings) -> Statistics:
    """What nanoBragg.c prints of an image; place is (slow, fast)."""
    values = image.values.astype(np.float64)
    computed = values[image.computed]
    mean = float(computed.sum() / max(computed.size, 1))
    rms = float(np.sqrt((computed**2).sum() / max(computed.size - 1, 1)))
    around = values[region(settings)] - mean
    rmsd = float(np.sqrt((around**2).sum() / max(around.size - 1, 1)))
    slow, fast = np.unravel_index(int(values.argmax()), values.shape)
    return Statistics(float(values.max()), (int(slow), int(fast)), mean, rms, rmsd)


def int_scale(settings: Settings, found: Statistics) -> float:
    """ADU per photon of `-intfile`."""
    if settings.output.int_scale is not None:
        return settings.output.int_scale
    return _FULL_SCALE / found.maximum if found.maximum > 0 else 1.0


def pgm_scale(settings: Settings, found: Statistics) -> float:
    """Grey levels per photon of `-pgmfile`."""
    if settings.output.pgm_scale is not None:
        return settings.output.pgm_scale
    return _GREY_SCALE / (5.0 * found.rmsd) if found.rmsd > 0 else int_scale(settings, found)


def scaled_counts(image: Image, settings: Settings, scale: float) -> NDArray[np.uint16]:
    """The image times `scale`, with the offset, rounded and cut to 16 bits; 0 outside the region of interest."""
    counts = np.clip(image.values.astype(np.float64) * scale + settings.output.adc_offset, 0.0, _LARGEST)
    rounded = np.floor((counts + 0.5).astype(np.float32)).clip(0, _LARGEST)
    return np.where(region(settings), rounded, 0).astype(np.uint16)


def noisy_counts(image: Image, settings: Settings) -> Noisy:
    """Photons drawn from Poisson distributions, with the offset; 0 outside the region of interest.

    The statistics are nanoBragg.c's, its random numbers are not: they are numpy's, from `-seed`.
    """
    draws = np.random.default_rng(abs(settings.output.seed))
    expected, inside = image.values.astype(np.float64), region(settings)
    many = expected > _NORMAL_ABOVE
    photons = draws.poisson(np.where(many, 0.0, expected)).astype(np.float64)
    photons[many] = expected[many] + np.sqrt(expected[many]) * draws.standard_normal(int(many.sum()))
    counts = photons + settings.output.adc_offset
    cut = np.where(inside, np.clip(counts, 0.0, _LARGEST), 0).astype(np.uint16)
    return Noisy(cut, float(photons[inside].sum()), int((counts[inside] > _LARGEST).sum()))


def grey_levels(image: Image, settings: Settings, scale: float) -> NDArray[np.uint8]:
    """The image times `scale` in 8 bits, 0 outside the region of interest."""
    grey = np.clip(image.values.astype(np.float64) * scale, 0.0, _GREY)
    return np.where(region(settings), grey, 0).astype(np.uint8)


def header(settings: Settings) -> dict[str, str]:
    """SMV keys and values, nanoBragg.c's, in full precision; lengths in mm, angles in degrees."""
    panel, scan = settings.detector, settings.scan
    (fast, slow), pixel = panel.beam, panel.pixel_size
    numbers: dict[str, Number] = {
        "SIZE1": panel.size[1], "SIZE2": panel.size[0], "PIXEL_SIZE": pixel, "DISTANCE": panel.distance,
        "WAVELENGTH": settings.beam.wavelength,
        "BEAM_CENTER_X": panel.header_beam[0], "BEAM_CENTER_Y": panel.header_beam[1],
        **beam_keys(fast, slow, pixel, panel.extent[0]),
    }  # fmt: skip
    rest: dict[str, Number] = {
        "XDS_ORGX": panel.org[0], "XDS_ORGY": panel.org[1], "CLOSE_DISTANCE": panel.close_distance,
        "PHI": scan.phi0, "OSC_START": scan.phi0, "OSC_RANGE": scan.osc, "TWOTHETA": panel.twotheta,
    }  # fmt: skip
    first = {"DIM": "2", "BYTE_ORDER": "little_endian", "TYPE": "unsigned_short"}
    origin = {"DIALS_ORIGIN": ",".join(map(shortest, panel.dials_origin))}
    return {
        **first,
        **{key: shortest(value) for key, value in numbers.items()},
        **origin,
        **{key: shortest(value) for key, value in rest.items()},
        "DETECTOR_SN": "000",
        "BEAMLINE": "fake",
    }


def shortest(value: Number) -> str:
    """As few digits as give the number back."""
    return text if float(text := f"{value:g}") == value else repr(float(value))


def smv(counts: NDArray[np.uint16], keys: dict[str, str]) -> bytes:
    """An SMV file: a header of 512 bytes, or as many times that as its digits need, then 16-bit integers."""
    lines = "".join(f"{key}={value};\n" for key, value in keys.items())
    size = _BLOCK
    while len(text := f"{{\nHEADER_BYTES={size};\n{lines}}}\f") > size:
        size += _BLOCK
    return text.ljust(size).encode("ascii") + counts.astype("<u2").tobytes()


def pgm(grey: NDArray[np.uint8], scale: float) -> bytes:
    """A PGM file, P5."""
    slow, fast = grey.shape
    return f"P5\n{fast} {slow}\n# pixels scaled by {scale:g}\n255\n".encode("ascii") + grey.tobytes()


def write(image: Image, settings: Settings, found: Statistics) -> list[str]:
    """Write the files asked for, each atomically; returns what there is to say. Raises InputError."""
    output, keys, scale = settings.output, header(settings), int_scale(settings, found)
    write_bytes(output.float_file, image.values.astype("<f4").tobytes())
    write_bytes(output.int_file, smv(scaled_counts(image, settings, scale), keys))
    said = [
        f"wrote {output.float_file.name} as {image.values.size} 4-byte floats",
        f"intfile_scale = {scale:g}",
        f"wrote {output.int_file.name} as 2-byte integers",
    ]
    if output.pgm_file is not None:
        grey = pgm_scale(settings, found)
        write_bytes(output.pgm_file, pgm(grey_levels(image, settings, grey), grey))
        said += [f"pgm_scale = {grey:g}", f"wrote {output.pgm_file.name} as 1-byte integers"]
    if output.noise_file is not None:
        noisy = noisy_counts(image, settings)
        write_bytes(output.noise_file, smv(noisy.counts, keys))
        said += [
            f"{noisy.photons:.0f} photons on noise image ({noisy.overloads} overloads), seed {output.seed}",
            f"wrote {output.noise_file.name} as 2-byte integers",
        ]
    return said
