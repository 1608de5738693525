"""Parallax against quadrature, and both of its directions against each other."""

import numpy as np
import torch
from builders import f64, largest, numbers
from hypothesis import given
from scipy.integrate import quad

from refine.physics.parallax import absorbed_at, mean_path, path_deviation


@given(numbers(0.2, 1.0), numbers(0.05, 1.0), numbers(0.5, 20.0))
def test_mean_path_is_the_integral_over_the_sensor(obliquity, thickness, attenuation):
    wanted, _ = quad(lambda path: attenuation * path * np.exp(-attenuation * path), 0, thickness / obliquity)
    found = mean_path(f64(obliquity, 1.0), f64([thickness])[0], f64([attenuation])[0])[0]
    assert abs(float(found) - wanted) < 1e-10


@given(numbers(-60, 60), numbers(-60, 60), numbers(30, 200))
def test_photons_are_absorbed_on_the_ray_that_enters_there(across, up, distance):
    surface, normal = f64(across, up, -distance)[:, None], f64(0, 0, -1)[:, None]
    thickness, attenuation = f64([0.45])[0], f64([3.8])[0]
    found = absorbed_at(surface, normal, thickness, attenuation)
    ray = found / torch.linalg.vector_norm(found)
    entered = ray * distance / -ray[2]
    path = torch.linalg.vector_norm(found - entered, dim=0)
    assert largest(path - mean_path(-ray[2], thickness, attenuation)) < 1e-8  # mm
    assert largest((found - surface)[:2]) == 0


@given(numbers(0.2, 1.0), numbers(0.05, 1.0), numbers(0.5, 20.0))
def test_path_deviation_is_that_of_the_rays_absorbed(obliquity, thickness, attenuation):
    def moment(order: int) -> float:
        return quad(lambda path: path**order * np.exp(-attenuation * path), 0, thickness / obliquity)[0]

    mean = moment(1) / moment(0)
    wanted = np.sqrt(moment(2) / moment(0) - mean**2)
    found = path_deviation(f64([obliquity])[0], f64([thickness])[0], f64([attenuation])[0])
    assert abs(float(found) - wanted) < 1e-6 * wanted + 1e-9
