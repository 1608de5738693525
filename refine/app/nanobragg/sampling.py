"""Steps over angles, wavelengths, layers and sub-pixels."""

import math
from typing import NamedTuple

from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.given import RADIAN_IN_DEGREES, Given
from refine.errors import InputError


class Steps(NamedTuple):
    """`steps` steps of size `step` over `span`."""

    steps: int
    span: float
    step: float


_ONE = Steps(1, 0.0, 0.0)


def spread(given: Steps, default_span: float, first_step: float = 1.0) -> Steps:
    """Steps over a divergence, dispersion or thickness, both ends included; -1 stands for 'not given'.

    A span alone gives two steps `first_step` of the span apart; a number alone steps over `default_span`.
    """
    steps, span, step = given
    if span < 0 and step > 0:
        found = Steps(2, step, step)
    elif span < 0:
        found = Steps(steps, default_span, default_span / steps) if steps > 0 else _ONE
    elif step > 0:
        found = given if steps > 0 else Steps(math.ceil(span / step), span, step)
    elif steps > 0:
        several = max(steps, 2)
        found = Steps(several, span, span / (several - 1))
    else:
        found = Steps(2, span, span * first_step)
    return found if min(found) > 0 else _ONE


def hdiv(given: Given) -> Steps:
    """Horizontal divergence, radians."""
    return spread(Steps(given.hdiv_steps, given.hdiv_range, given.hdiv_step), 1.0)


def vdiv(given: Given) -> Steps:
    """Vertical divergence, radians."""
    return spread(Steps(given.vdiv_steps, given.vdiv_range, given.vdiv_step), 1.0)


def dispersion(given: Given) -> Steps:
    """Fractions of the wavelength."""
    return spread(Steps(given.dispersion_steps, given.dispersion, -1.0), 1.0)


def sensor_layers(given: Given, defects: Defects) -> Steps:
    """Layers of the sensor, m; without the defect they add up to its thickness."""
    if defects.layers_beyond_sensor or given.sensor_thickness <= 0 or given.sensor_layers <= 0:
        return spread(Steps(given.sensor_layers, given.sensor_thickness, -1.0), 0.5e-6, 0.5)
    return Steps(given.sensor_layers, given.sensor_thickness, given.sensor_thickness / given.sensor_layers)


def phi(given: Given) -> Steps:
    """Rotation steps and range, radians. Raises InputError where no step is left."""
    steps, span, step = given.phi_steps, given.osc, given.phi_step
    if span < 0 and step > 0:
        return Steps(2, step, step)
    if steps < 0 and span < 0:
        return _ONE
    if steps < 0 and step <= 0:
        return Steps(2, span, span / 2.0)
    if steps < 0:
        if span == 0:
            raise InputError("-osc 0 with -phistep leaves no step to compute; give -phisteps or leave out -osc")
        return Steps(math.ceil(span / step), span, step)
    steps = max(steps, 1)
    if span < 0:
        span = 1.0 / RADIAN_IN_DEGREES
        return Steps(steps, span, span / steps)
    return Steps(steps, span, span / steps if step < 0 else step)


def mosaic(given: Given) -> tuple[int, float]:
    """Number of domains, and spread in radians: ten domains by default, one where there is no spread."""
    if given.mosaic_spread <= 0:
        return 1, 0.0
    return (given.mosaic_domains if given.mosaic_domains > 0 else 10), given.mosaic_spread


def recommended_oversample(largest: float, wavelength: float, distance: float, pixel_size: float) -> int:
    """Sub-pixels per edge that resolve the fringes of a crystal `largest` m across."""
    return max(math.ceil(3.0 * largest / (wavelength * distance / pixel_size)), 1)
