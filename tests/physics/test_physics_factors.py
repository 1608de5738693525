"""The smooth factors of a pixel: polarisation, solid angle, structure factors, Debye-Waller, background."""

import math

import numpy as np
import pytest
import torch
from builders import f64, largest, numbers, vectors
from hypothesis import assume, given
from torch import Tensor

from refine.physics.background import plane_background
from refine.physics.polarization import polarization
from refine.physics.solid_angle import solid_angle
from refine.physics.structure_factor import debye_waller, nearest_intensity


def kahn_by_angles(ray: np.ndarray, beam: np.ndarray, axis: np.ndarray, kahn: float) -> float:
    """(1 + cos^2 2theta)/2 - K/2 cos(2 psi) sin^2 2theta, both angles measured, psi from the electric vector."""
    two_theta = math.acos(np.clip(ray @ beam, -1, 1))
    electric = axis - (axis @ beam) * beam
    electric = electric / np.linalg.norm(electric)
    psi = math.atan2(ray @ np.cross(beam, electric), ray @ electric)
    return (1 + math.cos(two_theta) ** 2) / 2 - kahn / 2 * math.cos(2 * psi) * math.sin(two_theta) ** 2


@given(vectors(-1, 1), vectors(-1, 1), vectors(-1, 1), numbers(-1, 1))
def test_polarization_is_kahns(ray: Tensor, beam: Tensor, axis: Tensor, kahn: float) -> None:
    assume(min(float(torch.linalg.vector_norm(v)) for v in (ray, beam, torch.linalg.cross(beam, axis))) > 0.05)
    ray, beam = ray / torch.linalg.vector_norm(ray), beam / torch.linalg.vector_norm(beam)
    found = polarization(beam[:, None], ray[:, None], axis, f64(kahn))
    assert float(found[0]) == pytest.approx(kahn_by_angles(ray.numpy(), beam.numpy(), axis.numpy(), kahn), abs=1e-12)


def test_polarization_of_known_rays() -> None:
    beam, electric = f64(0.0, 0.0, 1.0)[:, None], f64(1.0, 0.0, 0.0)
    rays = torch.eye(3, dtype=torch.float64)  # along the electric vector, along the magnetic one, along the beam
    incident = beam.expand(3, 3)
    assert largest(polarization(incident, rays, electric, f64(1.0)) - f64(0.0, 1.0, 1.0)) < 1e-15
    assert largest(polarization(incident, rays, electric, f64(0.0)) - f64(0.5, 0.5, 1.0)) < 1e-15
    assert largest(polarization(incident, rays, electric, f64(-1.0)) - f64(1.0, 0.0, 1.0)) < 1e-15


def test_polarization_keeps_the_shape_of_the_rays_and_has_a_slope_at_the_beam() -> None:
    beam, axis = f64(0.0, 0.0, 1.0), f64(1.0, 0.0, 0.0)
    rays = f64([0.3, 0.1, 0.9])[:, None, None].expand(3, 4, 7)
    assert polarization(beam[:, None, None], rays, axis, f64(0.9)).shape == (4, 7)
    slope = torch.func.jacrev(lambda ray: polarization(beam[:, None], ray[:, None], axis, f64(0.9))[0])(beam)
    assert bool(torch.isfinite(slope).all())


def test_solid_angles_of_half_the_sphere() -> None:
    """A panel of half-width w at distance d subtends 4 asin(w^2 / (w^2 + d^2)), 2 pi in the limit."""
    width, close = 300.0, 5.0
    edges = torch.sinh(torch.linspace(-math.asinh(width), math.asinh(width), 1401, dtype=torch.float64))
    centres, sizes = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
    distance = torch.sqrt(centres[:, None] ** 2 + centres**2 + close**2)
    # unequal cells: each counted with its own area in units of the pixel's
    angle = solid_angle(distance, f64(close), f64(0.1)) / 0.1**2 * sizes[:, None] * sizes
    wanted = 4 * math.asin(width**2 / (width**2 + close**2))
    assert float(angle.sum()) == pytest.approx(wanted, rel=1e-4)
    assert float(angle.sum()) == pytest.approx(2 * math.pi, rel=0.02)


def test_solid_angle_of_a_pixel_face_on() -> None:
    assert float(solid_angle(f64(100.0), f64(100.0), f64(0.2))) == pytest.approx(4e-6)
    assert float(solid_angle(f64(100.0), f64(50.0), f64(0.2))) == pytest.approx(2e-6)


def test_nearest_intensity_inside_and_outside() -> None:
    box = torch.arange(4 * 5 * 6, dtype=torch.float64).reshape(4, 5, 6)
    lowest = f64(-1.0, -2.0, 3.0)
    inside = f64([[0, -1, 4], [1, 1, 7], [-1, -2, 3], [2, 2, 8]]).T
    wanted = f64([box[1, 1, 1], box[2, 3, 4], box[0, 0, 0], box[3, 4, 5]])
    assert torch.equal(nearest_intensity(inside, box, lowest), wanted)
    outside = f64([[-9, 0, 5], [50, 0, 5], [0, -99, 5], [0, 99, 5], [0, 0, -7], [0, 0, 1e6]]).T
    wanted = f64([box[0, 2, 2], box[3, 2, 2], box[1, 0, 2], box[1, 4, 2], box[1, 2, 0], box[1, 2, 5]])
    assert torch.equal(nearest_intensity(outside, box, lowest), wanted)


def test_nearest_intensity_leaves_its_indices_alone_and_knows_a_constant() -> None:
    indices = f64([[5.0, -5.0], [0.0, 1.0], [9.0, -9.0]])
    before = indices.clone()
    nearest_intensity(indices, torch.rand(3, 3, 3, dtype=torch.float64), f64(-1.0, -1.0, -1.0))
    assert torch.equal(indices, before)
    assert nearest_intensity(indices, f64([[[7.0]]]), f64(0.0, 0.0, 0.0)).tolist() == [7.0, 7.0]


@given(vectors(-0.5, 0.5), numbers(-50, 200))
def test_debye_waller_is_the_square_of_the_amplitudes_factor(q: Tensor, b: float) -> None:
    s = float(torch.linalg.vector_norm(q)) / 2  # sin(theta) / lambda
    assert float(debye_waller(q[:, None], f64(b))[0]) == pytest.approx(math.exp(-b * s**2) ** 2, rel=1e-12)


def test_plane_background() -> None:
    slow, fast = f64(0.0, 1.0, -2.0), f64(0.0, 3.0, 5.0)
    assert plane_background(f64(2.0, 0.1, -0.01), slow, fast).tolist() == pytest.approx([2.0, 2.29, 2.52])
