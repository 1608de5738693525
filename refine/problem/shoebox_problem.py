"""The shoeboxes of a still against its crystal, backgrounds and intensities eliminated."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from refine.model.forward import Paths, paths
from refine.model.pixels import Pixels
from refine.model.prediction import spots_of
from refine.parameters.jacobian import columns
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics.gaussian_spots import Profiles, profiles
from refine.problem.noise import Noise
from refine.problem.problem import Counts
from refine.problem.quadratic import Quadratic
from refine.problem.restraints import Restraint, restraint_quadratic, restraint_residuals
from refine.problem.separable import PASSES, Amplitudes, BoxData, BoxFit, box_losses, fit_boxes, inverse_product
from refine.problem.shoebox import Shoeboxes

TILE_BOXES = 1024  # worked on at once; bounds the memory, cannot change the answer
Shape = Literal["constant", "plane"]


class Boxed(NamedTuple):
    """A tile of boxes at some z: profiles (R, P) for |F| = 1, factors included, with what they come from; the linear
    fit."""

    profile: Profiles
    fit: BoxFit


@dataclass(frozen=True)
class ShoeboxProblem:
    """The loss of a still's shoeboxes as a function of z, least over every box's background and, where the structure
    factors leave it open, intensity. A z outside the parameters' limits has an infinite loss.

    Its gradient is that at fixed linear values (they are at their best), its curvature the Fisher information that is
    left when those of the linear values is taken out.
    """

    space: ParameterSpace
    boxes: Shoeboxes
    noise: Noise
    amplitudes: Amplitudes
    background: Shape = "constant"
    restraints: tuple[Restraint, ...] = ()
    passes: int = PASSES
    counts: Counts = field(default_factory=Counts)

    def chosen(self, which: Tensor) -> "ShoeboxProblem":
        """The problem of some of the boxes, by a mask or by their places; it counts by itself."""
        return replace(self, boxes=self.boxes.chosen(which), amplitudes=self.amplitudes.chosen(which), counts=Counts())

    def loss(self, z: Tensor) -> Tensor:
        """Negative log-likelihood () without terms that nothing changes, plus the restraints."""
        self.counts.values += 1
        if not self.space.admits(z):
            return z.new_tensor(torch.inf)
        with torch.no_grad():
            model = self.space.to_model(z)
            total = (restraint_residuals(self.space, self.restraints, z) ** 2).sum() / 2
            for tile in self._tiles:
                total = total + tile._loss_of(tile.fitted(model).fit)
            return total

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and its gradient (n,)."""
        self.counts.gradients += 1
        found = self._quadratic(z)
        return found.value, found.gradient

    def quadratic(self, z: Tensor) -> Quadratic:
        """Loss, gradient and Fisher information at z, accumulated tile by tile."""
        self.counts.jacobians += 1
        return self._quadratic(z)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """The Fisher information times v (n,): Gauss-Newton, not the exact Hessian."""
        self.counts.curvature_products += 1
        return self._quadratic(z).curvature @ v

    def fit(self, z: Tensor) -> BoxFit:
        """The linear fits of all boxes at z."""
        with torch.no_grad():
            model = self.space.to_model(z)
            parts = [tile.fitted(model).fit for tile in self._tiles]
            return BoxFit(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def scores(self, z: Tensor) -> Tensor:
        """The gradient (R, n) of every box: what they scatter by is what the data, whatever their errors are, leave
        open about z (the sandwich of Huber 1967 and White 1982, with boxes as the independent observations)."""
        parts = [gradients for gradients, _, _ in self._by_box(z)]
        return torch.cat([z.new_zeros(0, len(z)), *parts])

    def fitted(self, model: Model) -> Boxed:
        """All of the boxes at a model."""
        found = profiles(spots_of(*model, self.boxes.spots.indices, self.boxes.recorded), self._scattering(model))
        photons = found.values * self._start_paths.factors
        return Boxed(found, fit_boxes(photons, self._data, self.noise, self.amplitudes, self.passes))

    @property
    def terms(self) -> Tensor:
        """Shapes (T, P) of the background."""
        level = torch.ones_like(self.boxes.across[:1])
        return torch.cat([level, self.boxes.across]) if self.background == "plane" else level

    @property
    def _data(self) -> BoxData:
        boxes = self.boxes
        return BoxData(boxes.observed, boxes.readout, boxes.beside, boxes.use, self.terms)

    @cached_property
    def _tiles(self) -> tuple["ShoeboxProblem", ...]:
        if len(self.boxes) <= TILE_BOXES:
            return (self,)
        places = torch.arange(len(self.boxes), device=self.boxes.use.device)
        return tuple(self.chosen(part) for part in places.split(TILE_BOXES))

    @cached_property
    def _start_paths(self) -> Paths:
        """What beam and detector do in the start: scattering vectors (3, R, P) and factors (R, P)."""
        with torch.no_grad():
            found = _at_centres(self.space.start, self.boxes.pixels)
            shape = self.boxes.use.shape
            return Paths(found.scattering[:, 0].unflatten(1, shape), found.factors[0].reshape(shape))

    def _scattering_of(self, model: Model) -> Tensor:
        """(3, R, P)."""
        return _at_centres(model, self.boxes.pixels).scattering[:, 0].unflatten(1, self.boxes.use.shape)

    @cached_property
    def _moving(self) -> list[bool]:
        """Which coordinates (n,) of z act on the scattering vectors of the pixels."""
        one = Pixels(*(torch.zeros_like(self.boxes.pixels.slow[:1]),) * 2, _first(self.boxes.pixels.panel))
        moving = list[bool]()
        for parameter in self.space.parameters:
            with torch.enable_grad():
                z = self.space.zero()[: parameter.size].requires_grad_()
                acts = _at_centres(parameter.place(self.space.start, z), one).scattering.requires_grad
            moving += [acts] * parameter.size
        return moving

    def _scattering(self, model: Model) -> Tensor:
        return self._scattering_of(model) if any(self._moving) else self._start_paths.scattering

    def _loss_of(self, fit: BoxFit) -> Tensor:
        """The loss () of the boxes."""
        return box_losses(fit.intensities, fit.expected, self._data, self.noise, self.amplitudes).sum()

    def _quadratic(self, z: Tensor) -> Quadratic:
        if not self.space.admits(z):
            return Quadratic.zero(z)._replace(value=z.new_tensor(torch.inf))
        total = restraint_quadratic(self.space, self.restraints, z)
        for gradients, curvature, loss in self._by_box(z):
            total = total + Quadratic(loss, gradients.sum(0), curvature)
        return total

    def _by_box(self, z: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Tile by tile: gradients (R, n), curvature (n, n) and loss ()."""
        for tile in self._tiles:
            with torch.enable_grad():
                at = self.space.leaves(z)
                model = self.space.placed(at)
                packed = spots_of(*model, tile.boxes.spots.indices, tile.boxes.recorded).packed()
                by_z = columns(packed, *at)
                moves = any(self._moving)
                moved = columns(tile._scattering_of(model), *at, acting=self._moving) if moves else None
            with torch.no_grad():
                yield tile._projected(model, by_z, moved)

    def _projected(self, model: Model, by_z: Tensor, moved: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """`by_z` (R, 10, n): of the packed spots; `moved` (3, R, P, n): of the scattering vectors."""
        profile, fit = self.fitted(model)
        rows = profile.slopes()  # of the logarithm of the reflection's photons, by the packed spots or by z
        if moved is not None:
            rows = by_z.mT @ rows - torch.einsum("crp,crpn->rnp", profile.pulls, moved)
            by_z = torch.eye(rows.shape[1]).to(rows)
        rows = rows * fit.spot[:, None]
        gradients = ((rows @ fit.slopes[:, :, None]).mT @ by_z)[:, 0]
        weighted = rows * fit.weights[:, None]
        shared = fit.columns @ weighted.mT @ by_z  # (R, T + 1, n)
        lost = shared.mT @ inverse_product(fit.normal, fit.free, shared)
        curvature = (by_z.mT @ (weighted @ rows.mT) @ by_z - lost).sum(0)
        return gradients, curvature, self._loss_of(fit)


def _at_centres(model: Model, pixels: Pixels) -> Paths:
    """Of the pixels' centres alone: their area is in the spots' `recorded` spread."""
    experiment = model.experiment
    return paths(replace(experiment, detector=replace(experiment.detector, oversample=1)), pixels)


def _first(panel: Tensor | None) -> Tensor | None:
    return None if panel is None else panel[:1]
