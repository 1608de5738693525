"""XDS: XPARM.XDS and GXPARM.XDS of either layout, and XDS.INP.

The lab frame is XDS', which the file's own vectors fix; see https://xds.mr.mpg.de/html_doc/xds_files.html and
xds_parameters.html. The middle of the first pixel has the coordinates 1, 1, so its outer corner 0.5, 0.5; ORGX and ORGY
are those of the point of the detector's plane that is nearest to the crystal.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import gemmi
import numpy as np

from refine.errors import InputError
from refine.io.instruments import UM_PER_MM, Instrument, Rotation, Sensor, Vector, placed, silicon_attenuation_um, unit
from refine.io.reading import guarded, read_content

_TITLE = "XPARM.XDS"
_OLD_NUMBERS = 42
_KEYED = re.compile(r"([A-Z][A-Z0-9_'/.-]*)=", re.IGNORECASE)
_SQUARE = 1e-6  # relative difference of a pixel's edges
_UNTRUSTED = ("UNTRUSTED_RECTANGLE", "UNTRUSTED_ELLIPSE", "UNTRUSTED_QUADRILATERAL")
_NEEDED = (
    "X-RAY_WAVELENGTH", "DETECTOR_DISTANCE", "ORGX", "ORGY", "NX", "NY", "QX", "QY",
)  # fmt: skip


def is_xparm(head: bytes) -> bool:
    """Whether a file that begins so is an XPARM file of the newer layout."""
    return head.lstrip().startswith(_TITLE.encode())


def is_xds_input(content: bytes) -> bool:
    """Whether a text has the keys of XDS.INP."""
    keys = {key for key, _ in _entries(content.decode("latin-1"))}
    return {"ORGX", "ORGY"} <= keys or {"JOB", "NAME_TEMPLATE_OF_DATA_FRAMES"} <= keys


def is_old_xparm(content: bytes) -> bool:
    """Whether a text is of the older layout: nothing but so many numbers."""
    words = content.decode("latin-1").split()
    return len(words) == _OLD_NUMBERS and all(_number(word) is not None for word in words)


def read_xparm(path: str | Path) -> Instrument:
    """The instrument and crystal of an XPARM.XDS or GXPARM.XDS file, of either layout. Raises InputError."""
    path = Path(path)
    with guarded(path, "an XPARM file of XDS"):
        text = read_content(path).decode("latin-1")
        new = is_xparm(text.encode("latin-1"))
        words = iter(text.split("\n", 1)[1].split() if new else text.split())
        return _instrument(path, (_new if new else _old)(_Numbers(path, words)))


class _Numbers:
    """The numbers of a text, one after the other."""

    def __init__(self, path: Path, words: Iterator[str]) -> None:
        self.path, self.words = path, words

    def take(self, count: int) -> list[float]:
        found = [value for _ in range(count) if (value := _number(next(self.words, ""))) is not None]
        if len(found) < count:
            raise InputError(f"{self.path}: ends early, or has text among the numbers; accepted: a whole XPARM.XDS")
        return found


class _Xds(NamedTuple):
    """What XDS calls it: vectors as written, lengths mm."""

    rotation: Rotation
    axis: list[float]
    wavelength: float
    beam: list[float]
    size: tuple[int, int]  # NX, NY
    pixel: tuple[float, float]  # QX, QY
    org: tuple[float, float]
    distance: float
    x_axis: list[float]
    y_axis: list[float]
    group: int
    cell: list[float] | None
    real_space: list[float] | None  # a, b, c


def _new(numbers: _Numbers) -> _Xds:
    rotation, axis, wavelength, beam = _exposures(numbers)
    group, *cell = numbers.take(7)
    real_space = numbers.take(9)
    segments, nx, ny, qx, qy = numbers.take(5)
    if segments != 1:
        raise InputError(
            f"{numbers.path}: has {segments:g} detector segments; accepted: one. A detector of many is read from a"
            " DIALS .expt"
        )
    org_x, org_y, distance = numbers.take(3)
    x_axis, y_axis = numbers.take(3), numbers.take(3)
    place = ((int(nx), int(ny)), (qx, qy), (org_x, org_y), distance, x_axis, y_axis)
    return _Xds(rotation, axis, wavelength, beam, *place, int(group), cell, real_space)


def _old(numbers: _Numbers) -> _Xds:
    rotation, axis, wavelength, beam = _exposures(numbers)
    nx, ny, qx, qy = numbers.take(4)
    distance, org_x, org_y = numbers.take(3)
    x_axis, y_axis, _ = numbers.take(3), numbers.take(3), numbers.take(3)
    group, *cell = numbers.take(7)
    place = ((int(nx), int(ny)), (qx, qy), (org_x, org_y), distance, x_axis, y_axis)
    return _Xds(rotation, axis, wavelength, beam, *place, int(group), cell, numbers.take(9))


def _exposures(numbers: _Numbers) -> tuple[Rotation, list[float], float, list[float]]:
    first, start, width, *axis = numbers.take(6)
    wavelength, *beam = numbers.take(4)
    return Rotation(int(first), start, width), axis, wavelength, beam


def _instrument(path: Path, xds: _Xds) -> Instrument:
    qx, qy = xds.pixel
    if min(xds.size) < 1 or not (qx > 0 and abs(qx - qy) <= _SQUARE * qx):
        raise InputError(f"{path}: pixels are {qx:g} x {qy:g} mm, {xds.size} of them; accepted: square ones")
    if not xds.wavelength > 0:
        raise InputError(f"{path}: the wavelength is {xds.wavelength:g} Å; accepted: a number above 0")
    axes: dict[str, Vector] = {
        "beam": unit(xds.beam),
        "fast": unit(xds.x_axis),
        "slow": unit(xds.y_axis),
        "spindle": unit(xds.axis),
    }
    normal = np.cross(axes["fast"], axes["slow"])
    corner = (0.5 - xds.org[0]) * qx * np.array(axes["fast"]) + (0.5 - xds.org[1]) * qx * np.array(axes["slow"])
    try:
        place = placed(axes["beam"], axes["fast"], axes["slow"], corner + xds.distance * normal, qx)
    except ValueError as error:
        raise InputError(f"{path}: {error}; check the sign of the distance and the detector's axes") from error
    group = gemmi.find_spacegroup_by_number(xds.group) if xds.group else None
    return Instrument(
        convention="xds",
        wavelength=xds.wavelength,
        distance=place.distance,
        beam_center_px=place.beam_center_px,
        pixel_size=qx,
        size=(xds.size[1], xds.size[0]),
        axes=axes,
        rotation=xds.rotation,
        cell=None if xds.cell is None or not all(xds.cell) else tuple(xds.cell),
        space_group=None if group is None else group.xhm(),
        real_space=None if xds.real_space is None else _right_handed(path, xds.real_space),
    )


def _right_handed(path: Path, axes: Sequence[float]) -> np.ndarray:
    rows = np.array(axes).reshape(3, 3)
    if not np.linalg.det(rows) > 0:
        raise InputError(f"{path}: the axes a, b, c are not those of a right-handed cell; accepted: three vectors in Å")
    return rows


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def read_xds_input(path: str | Path) -> Instrument:
    """What an XDS.INP says of the instrument, and of the crystal where it does. Raises InputError."""
    path = Path(path)
    with guarded(path, "an XDS.INP"):
        return _from_input(path, dict(_entries(read_content(path).decode("latin-1"))))


def _entries(text: str) -> Iterator[tuple[str, str]]:
    """Keys and what stands behind each, comments left out; the last one of a name counts."""
    for line in text.splitlines():
        parts = _KEYED.split(line.partition("!")[0])
        yield from ((key.upper(), value.strip()) for key, value in zip(parts[1::2], parts[2::2], strict=True))


def _from_input(path: Path, keys: dict[str, str]) -> Instrument:
    missing = [key for key in _NEEDED if not keys.get(key)]
    if missing:
        raise InputError(f"{path}: has no {', '.join(missing)}; accepted: an XDS.INP that says where the detector is")

    def numbers(key: str, count: int, default: Sequence[float] | None = None) -> list[float]:
        words = keys.get(key, "").split()
        if not words and default is not None:
            return list(default)
        found = [value for word in words[:count] if (value := _number(word)) is not None]
        if len(found) < count:
            raise InputError(f"{path}: {key}= {keys.get(key, '')[:40]}; accepted: {count} number(s)")
        return found

    def one(key: str, default: float | None = None) -> float:
        return numbers(key, 1, None if default is None else [default])[0]

    (first, _), cell = numbers("DATA_RANGE", 2, (1, 1)), numbers("UNIT_CELL_CONSTANTS", 6, [0] * 6)
    axes = [numbers(f"UNIT_CELL_{name}-AXIS", 3, ()) for name in "ABC"]
    xds = _Xds(
        rotation=Rotation(int(one("STARTING_FRAME", first)), one("STARTING_ANGLE", 0), one("OSCILLATION_RANGE", 0)),
        axis=numbers("ROTATION_AXIS", 3, (1, 0, 0)),
        wavelength=one("X-RAY_WAVELENGTH"),
        beam=numbers("INCIDENT_BEAM_DIRECTION", 3, (0, 0, 1)),
        size=(int(one("NX")), int(one("NY"))),
        pixel=(one("QX"), one("QY")),
        org=(one("ORGX"), one("ORGY")),
        distance=one("DETECTOR_DISTANCE"),
        x_axis=numbers("DIRECTION_OF_DETECTOR_X-AXIS", 3, (1, 0, 0)),
        y_axis=numbers("DIRECTION_OF_DETECTOR_Y-AXIS", 3, (0, 1, 0)),
        group=int(one("SPACE_GROUP_NUMBER", 0)),
        cell=cell,
        real_space=[x for axis in axes for x in axis] if all(axes) else None,
    )
    return _completed(_instrument(path, xds), keys, one, numbers, int(first))


def _completed(
    found: Instrument,
    keys: dict[str, str],
    one: Callable[..., float],
    numbers: Callable[..., list[float]],
    first: int,
) -> Instrument:
    """With polarization, sensor, overload and images, and notes on what is not taken over."""
    normal = numbers("POLARIZATION_PLANE_NORMAL", 3, (0, 1, 0))
    electric = np.cross(normal, found.axes["beam"])
    axes = {**found.axes, "polarization": unit(electric)} if np.linalg.norm(electric) > 0 else found.axes
    left = [key for key in _UNTRUSTED if keys.get(key)]
    notes = [f"{key} is not taken over: give the area as detector.mask, 0 where it is not to be used" for key in left]
    return replace(
        found,
        axes=axes,
        polarization=2 * one("FRACTION_OF_POLARIZATION", 0.5) - 1,
        saturation=one("OVERLOAD") if keys.get("OVERLOAD") else None,
        sensor=_sensor(one("SENSOR_THICKNESS", 0), one("SILICON", -1), one("X-RAY_WAVELENGTH")),
        images=keys.get("NAME_TEMPLATE_OF_DATA_FRAMES", "").partition(" ")[0] or None,
        first_image=first,
        notes=tuple(notes),
    )


def _sensor(thickness: float, mu: float, wavelength: float) -> Sensor | None:
    """From mm, 1/mm and Å; mu is silicon's where it is not above 0, as XDS has it."""
    if thickness <= 0:
        return None
    return Sensor(thickness * UM_PER_MM, UM_PER_MM / mu if mu > 0 else silicon_attenuation_um(wavelength))
