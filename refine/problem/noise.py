"""Likelihoods, pixel by pixel: negative log-likelihood, its slope by the expectation, and the Fisher information.

With slope and information per pixel, Gauss-Newton (Fisher scoring) works alike for all of them, and every solver
minimises the same number.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaln, xlogy
from torch import Tensor

LEAST = 1e-9  # photons: an expectation below it counts as this, so that a stray photon on a dark model is finite

PixelTerm = Callable[[Tensor, Tensor, Tensor], Tensor]  # (expected, observed, readout variance) -> (P,)


@dataclass(frozen=True)
class Noise:
    """A likelihood. All four take expected (P,), observed (P,) photons and readout variance (), photons^2."""

    name: str
    loss: PixelTerm
    slope: PixelTerm
    information: PixelTerm
    deviance: PixelTerm


def _poisson_loss(mu: Tensor, n: Tensor, _: Tensor) -> Tensor:
    mu = mu.clamp_min(LEAST)
    return mu - n * torch.log(mu)


def _poisson_slope(mu: Tensor, n: Tensor, _: Tensor) -> Tensor:
    return torch.where(mu > LEAST, 1 - n / mu.clamp_min(LEAST), 0.0)


def _poisson_information(mu: Tensor, _n: Tensor, _: Tensor) -> Tensor:
    return torch.where(mu > LEAST, 1 / mu.clamp_min(LEAST), 0.0)


def _poisson_deviance(mu: Tensor, n: Tensor, _: Tensor) -> Tensor:
    mu = mu.clamp_min(LEAST)
    return 2 * (mu - n + torch.xlogy(n, n / mu))


def _variance(mu: Tensor, readout: Tensor) -> Tensor:
    return mu.clamp_min(0.0) + readout.clamp_min(LEAST)


def _gaussian_loss(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
    variance = _variance(mu, readout)
    return ((n - mu) ** 2 / variance + torch.log(variance)) / 2


def _gaussian_slope(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
    variance = _variance(mu, readout)
    pull = (n - mu) / variance
    return torch.where(mu > 0, (1 / variance - pull**2) / 2, 0.0) - pull


def _gaussian_information(mu: Tensor, _n: Tensor, readout: Tensor) -> Tensor:
    variance = _variance(mu, readout)
    return 1 / variance + torch.where(mu > 0, 1 / (2 * variance**2), 0.0)


def _gaussian_deviance(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
    return (n - mu) ** 2 / _variance(mu, readout)


NOISES = {
    "poisson": Noise("poisson", _poisson_loss, _poisson_slope, _poisson_information, _poisson_deviance),
    "gaussian": Noise("gaussian", _gaussian_loss, _gaussian_slope, _gaussian_information, _gaussian_deviance),
}


def expected_poisson_deviance(mu: Tensor) -> tuple[float, float]:
    """Sum of the means and of the variances of the Poisson deviance of counts with expectations (P,), by summation
    over the counts on a grid of expectations; near 1 and 2 a pixel where mu is large, far from it where it is not."""
    grid = np.logspace(-6, 3, 181)
    counts = np.arange(0, 1400)[:, None]
    probability = np.exp(xlogy(counts, grid) - grid - gammaln(counts + 1))
    deviance = 2 * (grid - counts + xlogy(counts, counts / grid))
    mean = (probability * deviance).sum(0)
    variance = (probability * deviance**2).sum(0) - mean**2
    at = np.log(np.clip(mu.detach().cpu().numpy(), grid[0], grid[-1]))
    return float(np.interp(at, np.log(grid), mean).sum()), float(np.interp(at, np.log(grid), variance).sum())
