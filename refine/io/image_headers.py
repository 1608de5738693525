"""Geometry from the headers of single images: miniCBF and SMV. A panel at right angles to the beam is assumed."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from refine.errors import InputError
from refine.io.image_writers import CBF_BINARY_START
from refine.io.instruments import Instrument, Rotation, Sensor, silicon_attenuation_um
from refine.io.reading import guarded, read_content

MM_PER_M, UM_PER_M = 1e3, 1e6
_NONE = "the header does not say where the detector is"


def image_number(path: Path) -> int:
    """The last number in the name of a file, 1 where it has none."""
    digits = re.findall(r"\d+", path.name.partition(".")[0])
    return int(digits[-1]) if digits else 1


def read_header(path: str | Path) -> Instrument:
    """What the header of a miniCBF or SMV image says, gzip and bzip2 unpacked. Raises InputError for other files."""
    path = Path(path)
    content = read_content(path)
    if content.startswith(b"###CBF"):
        with guarded(path, "the header of a CBF image"):
            return _from_minicbf(path, content[: content.find(CBF_BINARY_START)].decode("latin-1"))
    if content.startswith(b"{") and b"HEADER_BYTES" in content[:64]:
        with guarded(path, "the header of an SMV image"):
            return _from_smv(path, smv_header(content))
    raise InputError(f"{path}: has no header of CBF or SMV ({len(content)} bytes, begins {content[:8]!r})")


def smv_header(content: bytes) -> dict[str, str]:
    """Keys and values of the header of an SMV file; the last one of a name counts. Raises ValueError."""
    size = re.search(rb"HEADER_BYTES\s*=\s*(\d{1,9})", content[:512])
    if size is None:
        raise ValueError("HEADER_BYTES missing from the header")
    text = content[: int(size[1])].decode("latin-1")
    return {key: value.strip() for key, value in re.findall(r"(\w+)\s*=([^;\n}]*)", text)}


def _from_minicbf(path: Path, text: str) -> Instrument:
    size = [re.search(rf"X-Binary-Size-{name}-Dimension: *(\d{{1,9}})", text) for name in ("Second", "Fastest")]
    shape = (int(size[0][1]), int(size[1][1])) if size[0] and size[1] else None
    if "_array_data.header_contents" not in text or shape is None:
        return Instrument(size=shape, notes=(_NONE,))
    found = _keywords(text.split("_array_data.header_contents", 1)[1].split("_array_data.data", 1)[0])
    wavelength = _positive(found.get("Wavelength"))
    pixel = found.get("Pixel_size", (None, None))
    beam, distance = found.get("Beam_xy"), _positive(found.get("Detector_distance"))
    polarization = found.get("Polarization")
    return Instrument(
        wavelength=wavelength,
        polarization=None if polarization is None or not 0 <= polarization <= 1 else 2 * polarization - 1,
        distance=None if distance is None else distance * MM_PER_M,
        beam_center_px=None if beam is None or not any(beam) else (float(beam[0]), float(beam[1])),
        pixel_size=None if _positive(pixel[0]) is None or pixel[0] != pixel[1] else pixel[0] * MM_PER_M,
        size=shape,
        saturation=_above(found.get("Count_cutoff")),
        sensor=_sensor(found.get("sensor"), wavelength),
        rotation=_minicbf_rotation(path, found),
        notes=_minicbf_notes(found),
    )


def _keywords(contents: str) -> dict[str, Any]:
    """The values that fabio knows of, each line by itself: a line that it stumbles over says nothing."""
    from fabio.cbfimage import PilatusHeader

    found: dict[str, Any] = {}
    for line in contents.splitlines():
        with suppress(ValueError, IndexError):
            header = PilatusHeader(line)
            found |= {key: header[key] for key in PilatusHeader.KEYWORDS if key in header}
    return found


def _minicbf_rotation(path: Path, found: Mapping[str, Any]) -> Rotation | None:
    if "Start_angle" not in found:
        return None
    return Rotation(image_number(path), found["Start_angle"], found.get("Angle_increment", 0.0))


def _minicbf_notes(found: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if abs(found.get("Detector_2theta", 0.0)) > 0:
        notes.append(f"Detector_2theta {found['Detector_2theta']:g}: not taken over, give detector.rotations")
    if found.get("Angle_increment", 0.0):
        axis = found.get("Oscillation_axis", "not named")
        notes.append(f"the spindle is taken to be along the fast axis; in the header it is {axis}")
    return tuple(notes)


def _sensor(sensor: tuple[str, float] | None, wavelength: float | None) -> Sensor | None:
    if sensor is None or _positive(sensor[1]) is None:
        return None
    return sensor_of(sensor[0], sensor[1] * UM_PER_M, wavelength)


def sensor_of(material: str, um: float, wavelength: float | None) -> Sensor:
    """A sensor of a material and thickness (µm), its attenuation computed where it is of silicon."""
    silicon = material.lower() in ("si", "silicon") and wavelength is not None
    return Sensor(um, silicon_attenuation_um(wavelength) if silicon and wavelength is not None else None)


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value < np.inf else None


def _above(value: Any) -> float | None:
    """The count from which on pixels are not trusted, where this one is still."""
    return None if _positive(value) is None else float(value) + 1


def _from_smv(path: Path, header: Mapping[str, str]) -> Instrument:
    def number(*keys: str) -> float | None:
        for key in keys:
            if re.fullmatch(r"[-+]?[\d.]+([eE][-+]?\d+)?", header.get(key, "")):
                return float(header[key])
        return None

    size = number("SIZE2"), number("SIZE1")
    pixel, start = _positive(number("PIXEL_SIZE")), number("OSC_START", "PHI")
    center, notes = _smv_center(header, number, pixel)
    twotheta = number("TWOTHETA") or 0.0
    return Instrument(
        wavelength=_positive(number("WAVELENGTH")),
        distance=_positive(number("DISTANCE")),
        beam_center_px=center,
        pixel_size=pixel,
        size=None if size[0] is None or size[1] is None else (int(size[0]), int(size[1])),
        offset=number("IMAGE_PEDESTAL", "ADC_OFFSET"),
        rotation=None if start is None else Rotation(image_number(path), start, number("OSC_RANGE") or 0.0),
        notes=(*notes, *([f"TWOTHETA {twotheta:g}: not taken over, give detector.rotations"] if twotheta else [])),
    )


def _smv_center(
    header: Mapping[str, str], number: Any, pixel: float | None
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Fast and slow in pixels from the outer corner, and how it was understood: the keys have no one meaning."""
    org = number("XDS_ORGX"), number("XDS_ORGY")
    if None not in org and not number("TWOTHETA"):
        return (org[0] - 0.5, org[1] - 0.5), ()
    denzo = number("DENZO_Y_BEAM"), number("DENZO_X_BEAM")
    if None not in denzo and pixel:
        return (denzo[0] / pixel, denzo[1] / pixel), ()
    x, y = number("BEAM_CENTER_X"), number("BEAM_CENTER_Y")
    if x is None or y is None or not pixel:
        return None, ()
    extent = pixel * max(number("SIZE1") or 0, number("SIZE2") or 0)
    if max(x, y) > extent:
        return (x, y), (f"BEAM_CENTER_X, _Y = {x:g}, {y:g} are taken as pixels, fast and slow: mm would be outside",)
    taken = f"BEAM_CENTER_X, _Y = {x:g}, {y:g} are taken as mm from the corner, X along slow: check the beam centre"
    return (y / pixel, x / pixel), (taken,)
