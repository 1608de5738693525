"""Likelihoods, pixel by pixel: negative log-likelihood, its slope by the expectation, and the Fisher information.

With slope and information per pixel, Gauss-Newton (Fisher scoring) works alike for all of them, and every solver
minimises the same number.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import gammaln, xlogy
from torch import Tensor

LEAST = 1e-9  # photons: an expectation below it counts as this, so that a stray photon on a dark model is finite


class Derivatives(NamedTuple):
    """Of a loss by the expectations (P,), pixel by pixel: slope, the first; curvature, the second; information, the
    second one's expectation, 0 or above."""

    slope: Tensor
    curvature: Tensor
    information: Tensor


PixelTerm = Callable[[Tensor, Tensor, Tensor], Tensor]  # (expected, observed, readout variance) -> (P,)
PixelDerivatives = Callable[[Tensor, Tensor, Tensor], Derivatives]
Expectation = Callable[[Tensor, Tensor], tuple[float, float]]  # (expected, readout variance) -> sums over the pixels
TAIL = 5.0  # standard deviations: beyond them the robust losses have the tails of Student's t


@dataclass(frozen=True)
class Noise:
    """A likelihood, or what stands for one. Every term takes expected (P,), observed (P,) photons and readout
    variance (), photons^2.

    deviance: twice the loss above that of a perfect model. expected_deviance: the sums of its means and of its
    variances over pixels of given expectations, under counting noise.
    scatter: variance of the slope under counting noise, where it is not the information. tail: square root of the
    deviance beyond which a pixel pulls less the farther it is off; such losses may have several minima.
    """

    name: str
    loss: PixelTerm
    derivatives: PixelDerivatives
    deviance: PixelTerm
    expected_deviance: Expectation
    scatter: PixelTerm | None = None
    tail: float = float("inf")

    def slope(self, mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
        """First of the `derivatives`."""
        return self.derivatives(mu, n, readout).slope

    def information(self, mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
        """Last of the `derivatives`."""
        return self.derivatives(mu, n, readout).information

    def informed(self, information: PixelTerm) -> "Noise":
        """The same with another information."""
        return replace(self, derivatives=lambda *at: self.derivatives(*at)._replace(information=information(*at)))


def _poisson_loss(mu: Tensor, n: Tensor, _: Tensor) -> Tensor:
    mu = mu.clamp_min(LEAST)
    return mu - n * torch.log(mu)


def _poisson_derivatives(mu: Tensor, n: Tensor, _: Tensor) -> Derivatives:
    lit = mu > LEAST
    inverse = torch.where(lit, 1 / mu.clamp_min(LEAST), 0.0)
    share = n * inverse
    return Derivatives(lit.to(mu) - share, share * inverse, inverse)


def _poisson_deviance(mu: Tensor, n: Tensor, _: Tensor) -> Tensor:
    mu = mu.clamp_min(LEAST)
    return 2 * (mu - n + n * torch.log((n / mu).clamp_min(1e-300)))


def _variance(mu: Tensor, readout: Tensor) -> Tensor:
    return mu.clamp_min(0.0) + readout.clamp_min(LEAST)


def _gaussian_loss(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
    variance = _variance(mu, readout)
    return ((n - mu) ** 2 / variance + torch.log(variance)) / 2


def _gaussian_derivatives(mu: Tensor, n: Tensor, readout: Tensor) -> Derivatives:
    precision, positive = 1 / _variance(mu, readout), mu > 0
    pull, by_log = (n - mu) * precision, torch.where(positive, precision / 2, 0.0)
    slope = by_log - torch.where(positive, pull**2 / 2, 0.0) - pull
    curvature = precision * torch.where(positive, (1 + pull) ** 2, 1.0) - 2 * by_log**2
    return Derivatives(slope, curvature, precision + 2 * by_log**2)


def _gaussian_deviance(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
    return (n - mu) ** 2 / _variance(mu, readout)


def _gaussian_expected(mu: Tensor, readout: Tensor) -> tuple[float, float]:
    """The fourth cumulant of the counts, mu, adds mu / variance^2 to the normal's 2."""
    variance = _variance(mu, readout)
    return float(len(mu)), float((2 + mu.clamp_min(0.0) / variance**2).sum())


def _square_expected(mu: Tensor, readout: Tensor) -> tuple[float, float]:
    variance = _variance(mu, readout)
    return float(variance.sum()), float((2 * variance**2 + mu.clamp_min(0.0)).sum())


def _weight(deviance: Tensor) -> Tensor:
    return torch.where(deviance > TAIL**2, TAIL**2 / deviance.clamp_min(TAIL**2), 1.0)


def _tailed(deviance: Tensor) -> Tensor:
    return torch.where(deviance > TAIL**2, TAIL**2 * (1 + torch.log(deviance.clamp_min(TAIL**2) / TAIL**2)), deviance)


def robust(base: Noise, log_derivatives: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Noise:
    """A likelihood with heavier tails: its deviance D, beyond D = k^2, grows as k^2 (1 + log(D / k^2)) only, as a
    Student t's of k^2 - 1 degrees of freedom does, so that the pull of an outlier falls as 1 / sqrt(D).

    With k = 5 counting noise hardly gets there: nothing is lost in precision, and nothing biased by the skewness of
    small counts, as it would be with the usual k near 1.3 (Huber 1964, Ann. Math. Stat. 35, 73). `log_derivatives`,
    of (expected, readout variance), are the first and second of what the loss has beside half the deviance.
    """

    def loss(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
        deviance = base.deviance(mu, n, readout)
        return base.loss(mu, n, readout) + (_tailed(deviance) - deviance) / 2

    def derivatives(mu: Tensor, n: Tensor, readout: Tensor) -> Derivatives:
        weight = _weight(base.deviance(mu, n, readout))
        slope, curvature, information = base.derivatives(mu, n, readout)
        other, bend = log_derivatives(mu, readout)
        pull = weight * (slope - other)
        fall = torch.where(weight < 1, 2 * (pull / TAIL) ** 2, 0.0)
        return Derivatives(other + pull, bend + weight * (curvature - bend) - fall, weight * information)

    def deviance(mu: Tensor, n: Tensor, readout: Tensor) -> Tensor:
        return _tailed(base.deviance(mu, n, readout))

    return Noise("robust", loss, derivatives, deviance, base.expected_deviance, tail=TAIL)


_POISSON = Noise(
    "poisson", _poisson_loss, _poisson_derivatives, _poisson_deviance, lambda mu, _: expected_poisson_deviance(mu)
)
_GAUSSIAN = Noise("gaussian", _gaussian_loss, _gaussian_derivatives, _gaussian_deviance, _gaussian_expected)
_MSE = Noise(
    "mse",
    lambda mu, n, _: (n - mu) ** 2 / 2,
    lambda mu, n, _: Derivatives(mu - n, torch.ones_like(mu), torch.ones_like(mu)),
    lambda mu, n, _: (n - mu) ** 2,
    _square_expected,
    lambda mu, _, readout: _variance(mu, readout),
)


def _no_log(mu: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(mu), torch.zeros_like(mu)


def _gaussian_log(mu: Tensor, readout: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.where(mu > 0, 1 / (2 * _variance(mu, readout)), 0.0)
    return slope, -2 * slope**2


NOISES = {
    "poisson": _POISSON,
    "gaussian": _GAUSSIAN,
    "mse": _MSE,
    "robust": robust(_POISSON, _no_log),
    "robust gaussian": robust(_GAUSSIAN, _gaussian_log),
}


def choose_noise(loss: str, readout_variance: float) -> Noise:
    """The likelihood of a configuration's loss; 'robust' has the one that the detector's readout noise asks for."""
    return NOISES["robust gaussian" if loss == "robust" and readout_variance > 0 else loss]


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
