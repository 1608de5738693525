"""One image against its model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from refine.model.forward import Interference, expected_photons, points_per_pixel
from refine.model.observation import Observation
from refine.model.pixels import Pixels
from refine.parameters.space import ParameterSpace
from refine.physics.fused import FUSED
from refine.problem.noise import NOISES, Noise
from refine.problem.quadratic import Quadratic
from refine.problem.restraints import Restraint, restraint_quadratic, restraint_residuals
from refine.problem.tangent import Cotangent, Tangent, cotangent, tangent
from refine.solvers.protocol import Problem

TILE_POINTS = 1 << 17  # sub-pixels worked on at once; bounds the memory, cannot change the answer
TILE_STEPS = 1 << 20  # sub-pixels x steps at once where autograd keeps every step (second derivatives)


@dataclass
class Counts:
    """How often a problem was evaluated; a quadratic counts as one Jacobian."""

    values: int = 0
    gradients: int = 0
    jacobians: int = 0
    curvature_products: int = 0


class Counted(Problem, Protocol):
    """A problem that counts its evaluations."""

    @property
    def counts(self) -> Counts: ...


@dataclass(frozen=True)
class ImageProblem:
    """The loss of an observation as a function of z, and its derivatives, summed over tiles of the trusted pixels.

    A z outside the parameters' limits has an infinite loss.
    """

    space: ParameterSpace
    observation: Observation
    pixels: Pixels
    noise: Noise = NOISES["poisson"]
    restraints: tuple[Restraint, ...] = ()
    interference: Interference = FUSED
    counts: Counts = field(default_factory=Counts)

    @classmethod
    def of(cls, space: ParameterSpace, observation: Observation) -> "ImageProblem":
        """Poisson likelihood over every trusted pixel."""
        return cls(space, observation, observation.pixels())

    def expected(self, z: Tensor, pixels: Pixels) -> Tensor:
        """Expected photons (P,) at z, differentiable."""
        return expected_photons(*self.space.to_model(z), pixels, self.interference)

    def image(self, z: Tensor) -> Tensor:
        """Expected photons (P,) in all of the problem's pixels; no gradient. That of the last loss is there already,
        for who asks for it next."""
        if self._left and torch.equal(self._left[0][0], z):
            return self._left.pop()[1]
        self.counts.values += 1
        with torch.no_grad():
            model = self.space.to_model(z)
            tiles = (expected_photons(*model, part, self.interference) for part, _ in self._tiles())
            return torch.cat([z.new_zeros(0), *tiles])

    def loss(self, z: Tensor) -> Tensor:
        """Negative log-likelihood (), without terms that no parameter changes, plus the restraints."""
        if not self.space.admits(z):
            self.counts.values += 1
            return z.new_tensor(torch.inf)
        self._left.clear()
        image = self.image(z)
        self._left.append((z.clone(), image))
        return self.loss_of(z, image)

    def loss_of(self, z: Tensor, image: Tensor) -> Tensor:
        """The loss () at z, where its expected image (P,) is known."""
        with torch.no_grad():
            fit = self.noise.loss(image, self.observed(), self.observation.variance(self.pixels)).sum()
            return fit + (restraint_residuals(self.space, self.restraints, z) ** 2).sum() / 2

    def observed(self) -> Tensor:
        """Observed photons (P,) in all of the problem's pixels."""
        return self._observed

    @cached_property
    def _left(self) -> list[tuple[Tensor, Tensor]]:
        """The last loss's z (n,) and image (P,), until somebody has taken it."""
        return []

    @cached_property
    def _observed(self) -> Tensor:
        return self.observation.photons[self.pixels.place]

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and its gradient (n,), accumulated tile by tile."""
        self.counts.gradients += 1
        if not self.space.admits(z):
            return z.new_tensor(torch.inf), torch.zeros_like(z)
        about = cotangent(self.space, z, self.interference)
        parts = [self._tile_gradient(about, *tile) for tile in self._tiles()]
        prior = restraint_quadratic(self.space, self.restraints, z)
        if not parts:
            return prior.value, prior.gradient
        losses, pulled = zip(*parts, strict=True)
        return prior.value + sum(losses), prior.gradient + about.to_z(sum(pulled))

    def quadratic(self, z: Tensor) -> Quadratic:
        """Loss, gradient and Fisher information at z, accumulated tile by tile, and the image."""
        self.counts.jacobians += 1
        if not self.space.admits(z):
            return Quadratic.zero(z)._replace(value=z.new_tensor(torch.inf))
        about = tangent(self.space, z, self.interference)
        total, images = Quadratic.zero(about.by_z[:, 0]), [z.new_zeros(0)]
        for pixels, observed in self._tiles():
            part, image = self._tile_quadratic(about, pixels, observed)
            total, images = total + part, [*images, image]
        total = total._replace(image=torch.cat(images))
        return total.through(about.by_z) + restraint_quadratic(self.space, self.restraints, z)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """The exact Hessian of the loss times v (n,)."""
        self.counts.curvature_products += 1
        prior = restraint_residuals(self.space, self.restraints, at := z.clone().requires_grad_())
        product = self._directional(((prior**2).sum() / 2), at, v) if len(prior) else torch.zeros_like(z)
        crystal, experiment = self.space.start
        steps = crystal.domains * experiment.scan.steps
        for tile in self._tiles(max(1, TILE_STEPS // steps)):
            at = z.clone().requires_grad_()
            product = product + self._directional(self._tile_loss(at, *tile), at, v)
        return product

    @staticmethod
    def _directional(loss: Tensor, at: Tensor, v: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, at, create_graph=True)
        return torch.autograd.grad(gradient @ v, at)[0]

    def _tiles(self, points: int = TILE_POINTS) -> Iterator[tuple[Pixels, Tensor]]:
        """Pixel tiles with their observed photons (P,)."""
        width = max(1, points // points_per_pixel(*self.space.start))
        for place, part in self.pixels.tiles(width):
            yield part, self._observed[place]

    def _tile_loss(self, z: Tensor, pixels: Pixels, observed: Tensor) -> Tensor:
        return self.noise.loss(self.expected(z, pixels), observed, self.observation.variance(pixels)).sum()

    def _tile_gradient(self, about: Cotangent, pixels: Pixels, observed: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () of a tile and its derivatives (m,) by the numbers of a cotangent."""
        variance = self.observation.variance(pixels)

        def slope(mu: Tensor, part: slice) -> Tensor:
            return self.noise.slope(mu, observed[part], variance[part] if variance.dim() else variance)

        mu, found = about.pulled(pixels, slope)
        return self.noise.loss(mu, observed, variance).sum(), found

    def _tile_quadratic(self, about: Tangent, pixels: Pixels, observed: Tensor) -> tuple[Quadratic, Tensor]:
        """By the numbers of a tangent; and the expected photons (P,)."""
        mu, slopes = about.slopes(pixels)
        given = (mu, observed, self.observation.variance(pixels))
        slope, _, information = self.noise.derivatives(*given)
        gradient = slopes @ slope
        weighted = slopes.mul_(torch.sqrt(information))
        return Quadratic(self.noise.loss(*given).sum(), gradient, weighted @ weighted.T), mu
