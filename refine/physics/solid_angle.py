"""Solid angle of a flat pixel."""

from torch import Tensor


def solid_angle(distance: Tensor, close_distance: Tensor, pixel_size: Tensor) -> Tensor:
    """Steradians (...) = p^2 / R^2 * (D / R), the last factor for the tilt of the pixel against the ray.

    Args:
        distance: (...) R, sample to pixel, mm.
        close_distance: () D, sample to the detector's plane, mm.
        pixel_size: () p, mm.
    """
    return pixel_size**2 * close_distance / distance**3
