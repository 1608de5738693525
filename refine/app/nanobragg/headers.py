"""What `-img` and `-mask` take over from the header of an SMV image."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from refine.app.nanobragg.given import RADIAN_IN_DEGREES, Given
from refine.app.nanobragg.words import Lenient
from refine.errors import InputError
from refine.io.reading import read_content

_FIELDS: Mapping[str, tuple[str, float]] = {
    "PIXEL_SIZE": ("pixel_size", 1000.0),
    "DISTANCE": ("distance", 1000.0),
    "CLOSE_DISTANCE": ("close_distance", 1000.0),
    "WAVELENGTH": ("wavelength", 1e10),
    "BEAM_CENTER_X": ("x_beam", 1000.0),
    "BEAM_CENTER_Y": ("y_beam", 1000.0),
    "ORGX": ("org_x", 1.0),
    "ORGY": ("org_y", 1.0),
    "PHI": ("phi0", RADIAN_IN_DEGREES),
    "OSC_RANGE": ("osc", RADIAN_IN_DEGREES),
}


def inherit(given: Given, path: Path, y_from_bottom: bool) -> Given:
    """`given` with what the header says; BEAM_CENTER_Y counted from the detector's other edge where `y_from_bottom`.

    Raises InputError where `path` is not an SMV image.
    """
    header = _header(path)
    found: dict[str, Any] = {
        field: value / divisor
        for keyword, (field, divisor) in _FIELDS.items()
        if (value := header_value(header, keyword)) is not None
    }
    fast, slow = _size(header, path)
    read = replace(given, **found, pixels_fast=fast, pixels_slow=slow)
    read = replace(read, extent_fast=read.pixel_size * fast, extent_slow=read.pixel_size * slow)
    if y_from_bottom and "y_beam" in found:
        return replace(read, y_beam=read.extent_slow - found["y_beam"])
    return read


def header_value(header: str, keyword: str) -> float | None:
    """The number behind the last place where `keyword` stands, in another keyword too, as nanoBragg.c seeks it.

    So DISTANCE finds CLOSE_DISTANCE where that comes later. 0 where no number follows, None where `keyword` is not.
    """
    place = header.rfind(keyword)
    if place < 0:
        return None
    _, sign, value = header[place + len(keyword) :].partition("=")
    return Lenient().number(value) if sign else 0.0


def _header(path: Path) -> str:
    content = read_content(path)
    if not content.startswith(b"{\nHEADER_BYT"):
        raise InputError(f"{path} is not an SMV image (it begins {content[:12]!r})")
    length = int(header_value(content[:512].decode("latin-1"), "HEADER_BYTES") or 0)
    if not 0 < length <= len(content):
        raise InputError(f"{path} is shorter than its header, which says HEADER_BYTES={length}")
    return content[:length].decode("latin-1")


def _size(header: str, path: Path) -> tuple[int, int]:
    fast, slow = (int(header_value(header, keyword) or 0) for keyword in ("SIZE1", "SIZE2"))
    if not fast:
        fast = slow = int(header_value(header, "DETECTOR_DIMENSIONS") or 0)
    if fast <= 0 or slow <= 0:
        raise InputError(f"{path}: the header has no size; SIZE1 and SIZE2 are the pixels fast and slow")
    return fast, slow
