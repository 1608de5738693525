"""Solid angle of a pixel."""

from torch import Tensor


def solid_angle(distance: Tensor, close_distance: Tensor, pixel_size: Tensor) -> Tensor:
    """Steradians (...) of a flat panel's pixel: p^2 / R^2 * (D / R), the last factor for its tilt against the ray.

    Args:
        distance: (...) R, sample to pixel, mm.
        close_distance: () D, sample to the detector's plane, mm.
        pixel_size: () p, mm.
    """
    return tilted_solid_angle(distance, close_distance / distance, pixel_size)


def tilted_solid_angle(distance: Tensor, obliquity: Tensor, pixel_size: Tensor) -> Tensor:
    """Steradians (...) = p^2 / R^2 * c: R and p as above, obliquity (...) c the cosine of the angle between the ray
    and the pixel's normal."""
    return pixel_size**2 * obliquity / distance**2
