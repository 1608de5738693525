"""Likelihoods, pixel by pixel."""

import numpy as np
import pytest
import torch
from builders import f64, largest, numbers, relative
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from refine.problem.noise import LEAST, NOISES, expected_poisson_deviance

NAMES = sorted(NOISES)
MU = f64([0.02, 0.5, 1.0, 3.7, 40.0, 2500.0])
READOUT = f64(2.25)


@pytest.mark.parametrize("name", NAMES)
@given(counts=st.lists(numbers(0, 60), min_size=6, max_size=6), readout=numbers(0.01, 30))
def test_slope_is_the_derivative_of_the_loss(name: str, counts: list[float], readout: float) -> None:
    noise, n, variance = NOISES[name], f64(counts), f64(readout)
    mu = MU.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(noise.loss(mu, n, variance).sum(), mu)
    assert largest((noise.slope(MU, n, variance) - wanted) / (1 + wanted.abs())) < 1e-12


@pytest.mark.parametrize("name", NAMES)
@given(counts=st.lists(numbers(0, 60), min_size=6, max_size=6), readout=numbers(0.01, 30))
def test_curvature_is_the_derivative_of_the_slope(name: str, counts: list[float], readout: float) -> None:
    noise, n, variance = NOISES[name], f64(counts), f64(readout)
    mu = MU.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(noise.slope(mu, n, variance).sum(), mu)
    assert largest((noise.derivatives(MU, n, variance).curvature - wanted) / (1 + wanted.abs())) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_negative_log_likelihood(name: str) -> None:
    n = f64([0.0, 2.0, 1.0, 9.0, 30.0, 2600.0])
    found = NOISES[name].loss(MU, n, READOUT)
    if name == "mse":
        wanted, dropped = -stats.norm.logpdf(n.numpy(), MU.numpy(), 1.0), f64(0.5 * np.log(2 * np.pi))
    elif name in ("poisson", "robust"):
        wanted = -stats.poisson.logpmf(n.numpy(), MU.numpy())
        dropped = torch.lgamma(n + 1)
    else:
        wanted = -stats.norm.logpdf(n.numpy(), MU.numpy(), np.sqrt(MU.numpy() + 2.25))
        dropped = f64(0.5 * np.log(2 * np.pi))
    assert relative(found + dropped, torch.from_numpy(wanted)) < 1e-12


def draws(name: str, rng: np.random.Generator, size: int) -> Tensor:
    counts = rng.poisson(MU.numpy(), (size, len(MU))).astype(float)
    if "gaussian" in name:
        counts = rng.normal(MU.numpy(), np.sqrt(MU.numpy() + float(READOUT)), (size, len(MU)))
    return torch.from_numpy(counts)


@pytest.mark.parametrize("name", NAMES)
def test_slope_has_no_mean_and_the_informations_variance(name: str) -> None:
    noise = NOISES[name]
    slopes = noise.slope(MU, draws(name, np.random.default_rng(4), 100_000), READOUT)
    information = (noise.scatter or noise.information)(MU, MU, f64(0.0) if name == "mse" else READOUT)
    assert largest(slopes.mean(0) / torch.sqrt(information / 100_000)) < 4
    assert largest((slopes.var(0) / information - 1) / torch.sqrt((2 + 1 / MU) / 100_000)) < 4


def test_poisson_information_by_summation() -> None:
    counts = torch.arange(4000, dtype=torch.float64)[:, None]
    probability = torch.from_numpy(stats.poisson.pmf(counts.numpy(), MU.numpy()))
    slopes = NOISES["poisson"].slope(MU, counts, READOUT)
    assert largest((probability * slopes).sum(0)) < 1e-10
    assert relative((probability * slopes**2).sum(0), NOISES["poisson"].information(MU, counts, READOUT)) < 1e-10


def test_readout_noise_counts_in_its_log_term() -> None:
    """The loss of a pixel is smallest, on average, at the truth: without the log term it would be at a larger one."""
    noise, truth = NOISES["gaussian"], 3.7
    rng = np.random.default_rng(6)
    n = torch.from_numpy(rng.normal(truth, np.sqrt(truth + 2.25), 200_000))
    grid = torch.linspace(3.0, 4.4, 29, dtype=torch.float64)
    mean = torch.stack([noise.loss(mu, n, READOUT).mean() for mu in grid])
    assert float(grid[mean.argmin()]) == pytest.approx(truth, abs=0.051)


@pytest.mark.parametrize("name", NAMES)
def test_dark_and_negative_expectations_stay_finite(name: str) -> None:
    noise = NOISES[name]
    mu, n = f64(0.0, 0.0, -1.0, -1.0), f64(0.0, 3.0, 0.0, 3.0)
    for term in (noise.loss, noise.slope, noise.information, noise.deviance):
        assert bool(torch.isfinite(term(mu, n, f64(0.5))).all())
    assert bool(torch.isfinite(NOISES["poisson"].loss(f64(0.0), f64(5.0), f64(0.0))))
    assert LEAST < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_deviance_is_zero_at_the_observed_and_positive_elsewhere(name: str) -> None:
    noise = NOISES[name]
    assert largest(noise.deviance(MU, MU, READOUT)) < 1e-12
    assert float(noise.deviance(MU, MU + 0.7, READOUT).min()) > 0
    wanted = 4.0 if name in ("poisson", "mse", "robust") else 2.0
    assert float(noise.deviance(f64([2.0]), f64([0.0]), f64(0.0))[0]) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["robust", "robust gaussian"])
def test_robust_tails_bound_the_pull_of_an_outlier(name: str) -> None:
    """The pull first grows with the distance, as the plain loss's does, then falls."""
    plain, noise = NOISES["poisson" if name == "robust" else "gaussian"], NOISES[name]
    mu, far = torch.full((4,), 10.0).double(), f64(20.0, 60.0, 1000.0, 1e6)
    pull, before = noise.slope(mu, far, READOUT).abs(), plain.slope(mu, far, READOUT).abs()
    assert float(pull[0]) == float(before[0])
    assert float(pull[3]) < float(before[3]) / 1e4
    assert float(noise.information(mu, far, READOUT)[3]) < 1e-3 * float(noise.information(mu, mu, READOUT)[3])
    grid = torch.linspace(10, 3000, 50_000, dtype=torch.float64)
    deviance = noise.deviance(torch.full_like(grid, 10.0), grid, READOUT)
    assert float(torch.diff(deviance).min()) > 0
    slopes = torch.diff(deviance)
    assert largest(torch.diff(slopes)) < 0.02 * largest(slopes)  # no kink


@pytest.mark.parametrize("name", NAMES)
def test_information_is_the_mean_second_derivative(name: str) -> None:
    mu, noise = MU[2:].clone(), NOISES[name]
    n = draws(name, np.random.default_rng(9), 200_000)[:, 2:]
    step = 1e-4 * mu
    ahead, behind = (noise.slope(mu + sign * step, n, READOUT) for sign in (1, -1))
    bend = (ahead - behind) / (2 * step)
    error = bend.std(0) / len(n) ** 0.5
    off = (bend.mean(0) - noise.information(mu, mu, READOUT)).abs()
    assert bool((off < 5 * error + 1e-3 * noise.information(mu, mu, READOUT)).all())


@pytest.mark.parametrize("name", NAMES)
def test_expected_deviance_of_every_loss_against_simulation(name: str) -> None:
    rng = np.random.default_rng(10)
    for mu in (1.0, 30.0, 800.0):
        readout = f64(0.0 if name in ("poisson", "robust", "mse") else 2.25)
        n = torch.from_numpy(rng.poisson(mu, 200_000) + rng.normal(0, float(readout) ** 0.5, 200_000))
        deviance = NOISES[name].deviance(torch.full_like(n, mu), n, readout)
        mean, variance = NOISES[name].expected_deviance(f64([mu]), readout)
        assert abs(float(deviance.mean()) - mean) < 4 * float(deviance.std()) / len(n) ** 0.5
        assert float(deviance.var()) == pytest.approx(variance, rel=0.05)


def test_expected_deviance_against_simulation() -> None:
    rng = np.random.default_rng(8)
    for mu in (1e-3, 0.05, 0.3, 1.0, 4.0, 30.0, 800.0):
        n = torch.from_numpy(rng.poisson(mu, 200_000).astype(float))
        deviance = NOISES["poisson"].deviance(torch.full_like(n, mu), n, f64(0.0))
        mean, variance = expected_poisson_deviance(f64([mu]))
        error = float(deviance.std()) / np.sqrt(len(n))
        assert abs(float(deviance.mean()) - mean) < 4 * error
        assert float(deviance.var()) == pytest.approx(variance, rel=0.08)


def test_expected_deviance_adds_up_and_tends_to_chi_squared() -> None:
    parts = [expected_poisson_deviance(f64([mu])) for mu in (0.2, 7.0, 900.0)]
    assert expected_poisson_deviance(f64([0.2, 7.0, 900.0])) == pytest.approx(tuple(np.sum(parts, 0)))
    assert parts[2] == pytest.approx((1, 2), rel=2e-3)
    assert expected_poisson_deviance(f64([5e4])) == pytest.approx((1, 2), rel=2e-3)
