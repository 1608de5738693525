"""Where the detector stands: conventions, pivots, beam centres and rotations."""

import math
import sys
from dataclasses import dataclass, replace

from refine.app.nanobragg.given import Given
from refine.app.nanobragg.sampling import Steps
from refine.app.nanobragg.settings import DetectorSettings, Place
from refine.app.nanobragg.vectors import (
    Vector,
    combined,
    cross,
    difference,
    dot,
    length,
    scaled,
    turned,
    turned_about,
    unit,
)
from refine.errors import InputError

_X, _Y, _Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
_MINUS_X, _MINUS_Y, _MINUS_Z = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Frame:
    """Lab vectors of a convention: unit vectors, the two-theta axis of any length."""

    beam: Vector
    fast: Vector
    slow: Vector
    normal: Vector
    twotheta: Vector
    polarization: Vector
    spindle: Vector


_MOSFLM = Frame(_X, _Z, _MINUS_Y, _X, _MINUS_Z, _Z, _Z)
FRAMES = {
    "mosflm": _MOSFLM,
    "denzo": _MOSFLM,
    "adxv": Frame(_Z, _X, _MINUS_Y, _Z, _MINUS_X, _X, _X),
    "xds": Frame(_Z, _X, _Y, _Z, _X, _X, _X),
    "dials": Frame(_Z, _X, _Y, _Z, _Y, _Y, _Y),
}


@dataclass(frozen=True)
class Centre:
    """Beam centres in m before any rotation: as the header has it (x, y), on the detector and the nearest point
    (fast, slow), and the pivot."""

    header: tuple[float, float]
    given_close: tuple[float, float]
    beam: tuple[float, float]
    close: tuple[float, float]
    pivot: str


def frame(given: Given) -> Frame:
    """The convention's vectors; those given where it is custom, any named convention discards them."""
    if given.convention != "custom":
        return FRAMES[given.convention]
    fast, slow, normal = unit(given.fdet_vector), unit(given.sdet_vector), unit(given.odet_vector)
    if length(given.odet_vector) != 1.0:
        normal = unit(cross(fast, slow))
    polarization, spindle = unit(given.polar_vector), unit(given.spindle_axis)
    return Frame(unit(given.beam_vector), fast, slow, normal, given.twotheta_axis, polarization, spindle)


def sized(given: Given) -> Given:
    """`given` with both the pixels and the extent of the detector, each from the other. Raises InputError."""
    if given.pixel_size <= 0:
        raise InputError(f"-pixel {given.pixel_size * 1000:g}: accepted is a size in mm above 0")
    fast, slow = (
        given.pixel_size * pixels if pixels else extent
        for pixels, extent in ((given.pixels_fast, given.extent_fast), (given.pixels_slow, given.extent_slow))
    )
    pixels_fast, pixels_slow = (math.ceil(extent / given.pixel_size - 0.5) for extent in (fast, slow))
    if min(pixels_fast, pixels_slow) <= 0:
        raise InputError(f"the detector has {pixels_fast} x {pixels_slow} pixels; correct -detpixels or -detsize")
    return replace(given, extent_fast=fast, extent_slow=slow, pixels_fast=pixels_fast, pixels_slow=pixels_slow)


def centre(given: Given) -> Centre:
    """Beam centres by the rules of the convention; a named one also decides the pivot."""
    pixel, fast, slow = given.pixel_size, given.extent_fast, given.extent_slow
    close = (
        fast / 2.0 if given.org_x is None else (given.org_x - 0.5) * pixel,
        slow / 2.0 if given.org_y is None else (given.org_y - 0.5) * pixel,
    )
    given_close = (_or(given.x_close, close[0]), _or(given.y_close, close[1]))
    default = {
        "mosflm": ((slow + pixel) / 2.0, (fast + pixel) / 2.0),
        "denzo": ((slow + pixel) / 2.0, (fast + pixel) / 2.0),
        "adxv": ((fast + pixel) / 2.0, (slow - pixel) / 2.0),
    }.get(given.convention, given_close)
    x, y = _or(given.x_beam, default[0]), _or(given.y_beam, default[1])
    beam = {
        "mosflm": (y + 0.5 * pixel, x + 0.5 * pixel),
        "denzo": (y, x),
        "adxv": (x, slow - y),
    }.get(given.convention, (x, y))
    pivot = {"custom": given.pivot, "xds": "sample", "dials": "sample"}.get(given.convention, "beam")
    return Centre((x, y), given_close, beam, (x, y) if given.convention == "custom" else close, pivot)


def placed(given: Given) -> Place:
    """The detector of a `sized` command line after its rotations. Raises InputError where it meets the sample."""
    lab, middle = frame(given), centre(given)
    rotations = (given.rot_x, given.rot_y, given.rot_z)

    def swung(vector: Vector) -> Vector:
        return turned_about(turned(vector, rotations), lab.twotheta, given.twotheta)

    ratio = dot(lab.beam, turned(lab.normal, rotations)) or sys.float_info.min
    near = abs(ratio * given.distance) if given.close_distance is None else given.close_distance
    fast, slow, normal = swung(lab.fast), swung(lab.slow), swung(lab.normal)
    if middle.pivot == "sample":
        origin = swung(combined(-middle.close[0], lab.fast, -middle.close[1], lab.slow, near, lab.normal))
    else:
        origin = combined(-middle.beam[0], fast, -middle.beam[1], slow, near / ratio, lab.beam)
    near = dot(origin, normal)
    if not near or not math.isfinite(near):
        raise InputError(f"the detector's plane is {near:g} m from the sample; give another -distance or other vectors")
    return Place(origin, fast, slow, normal, near / ratio, near, given.pixel_size)


def detector(given: Given, place: Place, layers: Steps) -> DetectorSettings:
    """The record of a `sized` command line's detector and the layers of its sensor."""
    lab, middle = frame(given), centre(given)
    close = (-dot(place.origin, place.fast), -dot(place.origin, place.slow))
    spot = difference(scaled(lab.beam, place.distance), place.origin)
    return DetectorSettings(
        place=place,
        convention=given.convention,
        pivot=middle.pivot,
        size=(given.pixels_slow, given.pixels_fast),
        extent=_mm(given.extent_slow, given.extent_fast),
        pixel_size=given.pixel_size * 1000.0,
        origin=scaled(place.origin, 1000.0),
        fast=place.fast,
        slow=place.slow,
        normal=place.normal,
        twotheta_axis=lab.twotheta,
        rotations=(math.degrees(given.rot_x), math.degrees(given.rot_y), math.degrees(given.rot_z)),
        twotheta=math.degrees(given.twotheta),
        distance=place.distance * 1000.0,
        close_distance=place.close_distance * 1000.0,
        header_beam=_mm(*middle.header),
        beam=_mm(dot(place.fast, spot), dot(place.slow, spot)),
        close=_mm(*close),
        given_close=_mm(*middle.given_close),
        org=(close[0] / given.pixel_size + 0.5, close[1] / given.pixel_size + 0.5),
        dials_origin=scaled((place.origin[2], place.origin[1], -place.origin[0]), 1000.0),
        curved=given.curved,
        point_pixel=given.point_pixel,
        sensor_thickness=layers.span * 1000.0,
        layers=layers.steps,
        layer_thickness=layers.step * 1000.0,
        attenuation=_attenuation(given, layers.span),
    )


def _attenuation(given: Given, thickness: float) -> float | None:
    """1/mm; by default that which lets 1/e through a sensor of the given thickness (m)."""
    if given.attenuation >= 0:
        return given.attenuation / 1000.0
    return 1.0 / thickness / 1000.0 if thickness > 0 else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _mm(first: float, second: float) -> tuple[float, float]:
    return (first * 1000.0, second * 1000.0)
