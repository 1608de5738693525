"""The Gaussian mosaic in closed form against the sum over an ensemble of turned crystals."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import TRICLINIC, f64, largest, relative
from torch import Tensor

from refine.physics.cell import real_space_vectors
from refine.physics.gaussian_mosaic import Blur, gaussian_interference
from refine.physics.interference import Steps, interference
from refine.physics.mosaic import mosaic_domains
from refine.physics.rotation import misset_rotation, vector_rotation

CELLS = f64(12.0, 9.0, 15.0)
COVARIANCE = f64([[4.0, 1.5, -0.5], [1.5, 2.0, 0.8], [-0.5, 0.8, 3.0]]) * 1e-6  # radians^2: about 0.1 degrees
SHARP = Blur(torch.zeros(3, 3, dtype=torch.float64), f64(0.0), torch.zeros(0, 3, dtype=torch.float64))


def still() -> tuple[Tensor, Steps]:
    """Real-space rows and the steps of a still, F different for every reflection."""
    rows = real_space_vectors(f64(TRICLINIC)) @ misset_rotation(f64(9.0, 18.0, 27.0)).T
    draws = torch.from_numpy(np.random.default_rng(2).gamma(4.0, 50.0, (17, 17, 17)))
    return rows, Steps(*mosaic_domains(1, 1), f64(0.0, 0.0, 1.0), 1, draws, f64(-8.0, -8.0, -8.0), "gauss")


def near_reflections(rows: Tensor, width: float = 0.05) -> Tensor:
    """Scattering vectors (3, Q) about some reflections."""
    generator = torch.Generator().manual_seed(5)
    whole = torch.randint(-5, 6, (3, 40), generator=generator).double().repeat_interleave(8, 1)
    return torch.linalg.solve(rows, whole + width * torch.randn(whole.shape, generator=generator, dtype=torch.float64))


def nodes(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Hermite places and weights of a unit normal."""
    places, weights = np.polynomial.hermite_e.hermegauss(order)
    return places, weights / weights.sum()


ANGLES = f64(0.0, 0.0, 0.0)


def test_without_spread_it_is_the_gauss_shape() -> None:
    rows, steps = still()
    q = near_reflections(rows)
    wanted = interference(q, rows, CELLS, ANGLES, steps)
    assert float(wanted.max()) > 1e6
    assert relative(gaussian_interference(q, rows, CELLS, SHARP, ANGLES, steps), wanted) < 1e-12


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_it_is_the_mean_over_turned_crystals(scale: float) -> None:
    """Against quadrature over the rotations of the whole crystal; what is left falls with the spread squared, as the
    first order in the rotation must."""
    rows, steps = still()
    q = near_reflections(rows, 0.03)
    factor = torch.linalg.cholesky(COVARIANCE * scale**2)
    places, weights = nodes(14)
    total = torch.zeros(q.shape[1], dtype=torch.float64)
    for (i, x), (j, y), (k, z) in itertools.product(enumerate(places), repeat=3):
        turn = vector_rotation(factor @ f64(float(x), float(y), float(z)))
        weight = weights[i] * weights[j] * weights[k]
        total += weight * interference(q, rows @ turn.T, CELLS, ANGLES, steps)
    found = gaussian_interference(q, rows, CELLS, SHARP._replace(rotations=factor), ANGLES, steps)
    assert relative(found, total) < 2e-3 * scale
    sharp = gaussian_interference(q, rows, CELLS, SHARP, ANGLES, steps)
    assert relative(sharp, total) > 0.05 * scale**2


def test_it_is_the_mean_over_colours_and_directions() -> None:
    """A Gaussian spectrum scales q, a Gaussian divergence shifts it."""
    rows, steps = still()
    q = near_reflections(rows, 0.03)
    bandwidth, divergence = 2e-3, f64([[0.0, 1e-3, 0.0], [0.0, 0.0, 5e-4]])
    places, weights = nodes(14)
    total = torch.zeros(q.shape[1], dtype=torch.float64)
    for (i, x), (j, y), (k, z) in itertools.product(enumerate(places), repeat=3):
        moved = q * (1 + bandwidth * float(x)) + (float(y) * divergence[0] + float(z) * divergence[1])[:, None]
        total += weights[i] * weights[j] * weights[k] * interference(moved, rows, CELLS, ANGLES, steps)
    blur = SHARP._replace(bandwidth=f64(bandwidth), divergence=divergence)
    assert relative(gaussian_interference(q, rows, CELLS, blur, ANGLES, steps), total) < 5e-3


def test_integrated_intensity_does_not_depend_on_the_spread() -> None:
    """A reflection's sum over reciprocal space is |F|^2 P^2 (2 pi)^(3/2) sqrt(det D), whatever blurs it."""
    rows, steps = still()
    uniform = replace(steps, intensity=f64([[[1.0]]]), lowest=f64(0.0, 0.0, 0.0))
    line = torch.linspace(-0.5, 0.5, 61, dtype=torch.float64)[:-1] + 1 / 120
    delta = torch.cartesian_prod(line, line, line).T
    q = torch.linalg.solve(rows, f64(1.0, -2.0, 2.0)[:, None] + delta)
    wide = SHARP._replace(rotations=torch.linalg.cholesky(COVARIANCE * 30))
    sums = [gaussian_interference(q, rows, CELLS / 2, blur, ANGLES, uniform).mean() for blur in (SHARP, wide)]
    peak = (CELLS / 2).prod()
    wanted = peak**2 * (2 * torch.pi) ** 1.5 * torch.sqrt((0.63 / 4 / (CELLS / 2) ** 2).prod())
    assert float(sums[0]) == pytest.approx(float(wanted), rel=1e-6)
    assert float(sums[1]) == pytest.approx(float(wanted), rel=1e-3)


def test_a_rotation_of_everything_changes_nothing() -> None:
    rows, steps = still()
    q, turn = near_reflections(rows), misset_rotation(f64(40.0, -70.0, 15.0))
    factor = torch.linalg.cholesky(COVARIANCE)
    blur = Blur(factor, f64(1e-3), f64([[0.0, 1e-3, 0.0]]))
    turned = Blur(turn @ factor, blur.bandwidth, blur.divergence @ turn.T)
    wanted = gaussian_interference(q, rows, CELLS, blur, ANGLES, steps)
    assert relative(gaussian_interference(turn @ q, rows @ turn.T, CELLS, turned, ANGLES, steps), wanted) < 1e-11
    assert largest(wanted) > 1e5


def test_phi_steps_are_averaged() -> None:
    rows, steps = still()
    q, angles = near_reflections(rows), f64(0.0, 0.02, 0.004)
    blur = SHARP._replace(rotations=torch.linalg.cholesky(COVARIANCE))
    two = gaussian_interference(q, rows, CELLS, blur, angles, replace(steps, phi_steps=2))
    each = [gaussian_interference(q, rows, CELLS, blur, f64(0.0, phi, 0.0), steps) for phi in (0.02, 0.02 + 0.002)]
    assert relative(two, (each[0] + each[1]) / 2) < 1e-12
