"""Rotations, against scipy's and against their own inverses."""

import numpy as np
import torch
from builders import f64, numbers, vectors
from hypothesis import assume, given
from scipy.spatial.transform import Rotation
from torch import Tensor

from refine.physics.rotation import (
    axis_rotation,
    cross_matrix,
    misset_angles,
    misset_rotation,
    rotation_vector,
    vector_rotation,
)


def unit(vector: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(vector)
    assume(float(length) > 1e-3)
    return vector / length


def off(found: Tensor, wanted: Tensor | np.ndarray) -> float:
    return float((found - torch.as_tensor(wanted)).abs().max())


@given(vectors(-1, 1), vectors(-1, 1))
def test_cross_matrix_is_the_cross_product(left: Tensor, right: Tensor) -> None:
    assert off(cross_matrix(left) @ right, torch.linalg.cross(left, right)) < 1e-15


@given(vectors(-1, 1), numbers(-7, 7))
def test_axis_rotation_is_scipys_and_orthonormal(axis: Tensor, angle: float) -> None:
    rotation = axis_rotation(unit(axis), f64(angle))
    assert off(rotation, Rotation.from_rotvec(angle * unit(axis).numpy()).as_matrix()) < 1e-14
    assert off(rotation @ rotation.T, torch.eye(3)) < 1e-14
    assert abs(float(torch.linalg.det(rotation)) - 1) < 1e-14


@given(vectors(-720, 720))
def test_misset_is_x_then_y_then_z_about_the_lab(angles: Tensor) -> None:
    assert off(misset_rotation(angles), Rotation.from_euler("xyz", angles.numpy(), degrees=True).as_matrix()) < 1e-13


@given(numbers(-180, 180), numbers(-89, 89), numbers(-180, 180))
def test_misset_angles_invert(x: float, y: float, z: float) -> None:
    angles = f64(x, y, z)
    found = misset_angles(misset_rotation(angles))
    difference = (found - angles + 180) % 360 - 180
    assert float(difference.abs().max()) < 1e-10


@given(vectors(-360, 360))
def test_misset_angles_give_the_rotation_back_whatever_the_branch(angles: Tensor) -> None:
    rotation = misset_rotation(angles)
    found = misset_angles(rotation)
    assert float(found[1].abs()) <= 90
    assert off(misset_rotation(found), rotation) < 1e-11


@given(vectors(-1, 1), numbers(0, 3.1))
def test_rotation_vector_inverts(axis: Tensor, angle: float) -> None:
    vector = unit(axis) * angle
    rotation = vector_rotation(vector)
    assert off(rotation, Rotation.from_rotvec(vector.numpy()).as_matrix()) < 1e-13
    assert off(rotation_vector(rotation), vector) < 1e-12


def test_rotation_vector_of_small_angles_keeps_its_digits() -> None:
    for size in (0.0, 1e-14, 1e-11, 1e-6):
        vector = f64(0.6, 0.0, -0.8) * size
        assert off(rotation_vector(vector_rotation(vector)), vector) <= 1e-3 * size


def test_vector_rotation_has_its_derivatives_at_zero() -> None:
    zero = f64(0.0, 0.0, 0.0)
    first = torch.func.jacfwd(vector_rotation)(zero)
    assert off(first.movedim(-1, 0), cross_matrix(torch.eye(3, dtype=torch.float64))) < 1e-15
    second = torch.func.jacfwd(torch.func.jacrev(vector_rotation))(zero)
    generators = cross_matrix(torch.eye(3, dtype=torch.float64))
    wanted = torch.einsum("iab,jbc->acij", generators, generators)
    assert off(second, (wanted + wanted.transpose(-1, -2)) / 2) < 1e-14
