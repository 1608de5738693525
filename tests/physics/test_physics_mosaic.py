"""Mosaic domains and the rotations of the steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import f64, largest, relative
from scipy.spatial.transform import Rotation

from refine.physics.mosaic import mosaic_domains, park_miller, step_rotation_rates, step_rotations

GOLDEN = Path(__file__).parents[1] / "golden" / "images" / "mosaic.npz"
SPREAD = np.radians(0.8)
SEED = -12345678


def deviates_of(umat: np.ndarray) -> tuple[float, float, float]:
    """The three deviates a nanoBragg.c domain was made of, the last up to the sign of 2 u - 1."""
    vector = Rotation.from_matrix(umat).as_rotvec()
    angle = np.linalg.norm(vector)
    x, y, z = vector / angle
    return (np.arctan2(x, y) / np.pi + 1) / 2, (z + 1) / 2, np.sqrt(1 - (angle / SPREAD) ** 3) / 2


def test_deviates_are_those_in_nanobraggs_domains() -> None:
    with np.load(GOLDEN) as arrays:
        umats = arrays["mosaic_umats"].astype(float)
    draws = park_miller(SEED)
    found = [[next(draws) for _ in range(3)] for _ in range(len(umats))]
    assert len(found) == 12
    for (first, second, third), umat in zip(found[1:], umats[1:], strict=True):
        wanted = deviates_of(umat)
        assert first == pytest.approx(wanted[0], abs=2e-6)
        assert second == pytest.approx(wanted[1], abs=2e-6)
        assert abs(third - 0.5) == pytest.approx(wanted[2], abs=2e-6)


def test_deviates_are_uniform_float32_and_repeat() -> None:
    draws, again = park_miller(7), park_miller(-7)
    values = np.array([next(draws) for _ in range(4000)])
    assert values.tolist() == [next(again) for _ in range(4000)]
    assert np.array_equal(values, values.astype(np.float32))
    assert 0 < values.min() < 0.002
    assert 0.998 < values.max() < 1
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 400).max() < 4 * np.sqrt(360)
    assert next(park_miller(8)) != values[0]


def test_domains_are_unit_axes_within_the_spread_the_first_at_rest() -> None:
    axes, fractions = mosaic_domains(500, SEED)
    assert largest(torch.linalg.vector_norm(axes, dim=1) - 1) < 1e-14
    assert float(fractions[0]) == 0
    assert 0 <= float(fractions.min()) <= float(fractions.max()) <= 1
    assert float(fractions.mean()) == pytest.approx(0.85, abs=0.03)
    assert largest(axes.mean(0)) < 4 / np.sqrt(3 * 500)
    assert torch.equal(mosaic_domains(20, SEED)[0], axes[:20])


def test_steps_stand_at_left_edges_spindle_first_then_domain() -> None:
    axes, fractions = mosaic_domains(3, SEED)
    angles, spindle = f64(0.02, 0.3, 0.09), f64(0.0, 0.6, 0.8)
    found = step_rotations(angles, axes, fractions, spindle, 4).unflatten(0, (3, 4))
    for domain in range(3):
        for step in range(4):
            turned = Rotation.from_rotvec((0.3 + 0.09 * step / 4) * spindle.numpy())
            tilted = Rotation.from_rotvec(0.02 * float(fractions[domain]) * axes[domain].numpy())
            assert largest(found[domain, step] - torch.from_numpy((tilted * turned).as_matrix())) < 1e-14


def test_rates_are_the_derivatives_of_the_rotations() -> None:
    axes, fractions = mosaic_domains(5, SEED)
    fixed = (axes, fractions, f64(0.0, 0.6, 0.8), 3)
    angles = f64(0.02, 0.3, 0.09)
    wanted = torch.func.jacfwd(lambda at: step_rotations(at, *fixed))(angles).movedim(-1, 0)
    found = step_rotation_rates(angles, *fixed)
    assert all(relative(found[i], wanted[i]) < 1e-14 for i in range(3))
