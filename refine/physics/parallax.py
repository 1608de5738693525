"""Parallax: a ray is recorded where it is absorbed, deeper in the sensor than where it enters."""

import torch
from torch import Tensor

from refine.physics.vectors import dot

PASSES = 4  # each multiplies what is left of the error by about depth / distance


def mean_path(obliquity: Tensor, thickness: Tensor, attenuation: Tensor) -> Tensor:
    """Length (...) in mm of the path in the sensor, to the place where a ray is recorded on average:
    1 / mu - (t / c + 1 / mu) exp(-mu t / c).

    Args:
        obliquity: (...) c, cosine of the angle between the ray and the sensor's normal.
        thickness: () t, mm.
        attenuation: () mu, 1/mm.

    This is the integral of mu l exp(-mu l) over the sensor, without division by the fraction absorbed, as DIALS has
    it (dxtbx, ParallaxCorrectedPxMmStrategy and attenuation_length in model/parallax_correction.h): its geometries
    were refined with this.
    """
    through = thickness / obliquity
    return 1 / attenuation - (through + 1 / attenuation) * torch.exp(-attenuation * through)


def path_deviation(obliquity: Tensor, thickness: Tensor, attenuation: Tensor) -> Tensor:
    """Standard deviation (...) in mm of the paths in the sensor of the rays that are absorbed there; arguments as for
    `mean_path`. An exponential distribution cut off at t / c has (1 - x^2 e^-x / (1 - e^-x)^2) / mu^2, x = mu t / c.
    """
    depths = attenuation * thickness / obliquity
    lost = depths**2 * torch.exp(-depths) / torch.expm1(-depths) ** 2
    return torch.sqrt((1 - lost).clamp_min(0.0)) / attenuation


def recorded_shift(ray: Tensor, fast: Tensor, slow: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Shifts (...) in mm along fast and slow, (3, ...), of rays, unit vectors (3, ...), that end `path` (...) mm
    behind the point where they enter."""
    return path * (ray * fast).sum(0), path * (ray * slow).sum(0)


def absorbed_at(surface: Tensor, normals: Tensor, thickness: Tensor, attenuation: Tensor) -> Tensor:
    """Lab positions (3, ...) in mm at which the photons are absorbed that count as those of `surface` (3, ...).

    Args:
        surface: (3, ...) mm, points of the sensor's front.
        normals: (3, ...) unit vectors of the front, away from the sample.
        thickness, attenuation: (), () as in `mean_path`.

    They are behind the points of the front, along the normal, so deep that the ray from the sample has gone its
    mean path: the inverse of `recorded_shift`.
    """
    position = surface
    for _ in range(PASSES):
        obliquity = dot(position, normals) / torch.sqrt(dot(position, position))
        position = surface + normals * (obliquity * mean_path(obliquity, thickness, attenuation))
    return position
