"""Where a still's spots are against where its crystal has them: the way to a start that is several spot widths off.

A model's sharp spot tells nothing of an observed one that it does not touch. Their distance does, and so does that a
spot is there at all: its reflection cannot be far from the Ewald sphere (Sauter et al. 2014, Acta Cryst. D70, 3299).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from refine.model.prediction import Predicted, predict
from refine.parameters.jacobian import columns
from refine.parameters.space import ParameterSpace
from refine.problem.problem import Counts
from refine.problem.quadratic import Quadratic
from refine.problem.restraints import Restraint, restraint_quadratic, restraint_residuals
from refine.problem.shoebox import Shoeboxes

FREEDOM = 4.0  # of Student's t: a box that holds a neighbour's spot, and there are many, counts for little
FINEST = 0.5  # pixels: the brightest of them tells no more
MISSED = 100.0  # widths, without a slope: a spot that leaves the detector explains nothing


@dataclass(frozen=True)
class Positions:
    """R reflections, where they were predicted, and the places of their spots (R, 2) in pixels, fast and slow, right to
    within `width` pixels, as a problem of z."""

    space: ParameterSpace
    spots: Predicted
    places: Tensor
    width: float
    restraints: tuple[Restraint, ...] = ()
    counts: Counts = field(default_factory=Counts)

    def loss(self, z: Tensor) -> Tensor:
        """() Student's t of offsets and of distances from the Ewald sphere; infinite outside the limits."""
        self.counts.values += 1
        if not self.space.admits(z):
            return z.new_tensor(torch.inf)
        with torch.no_grad():
            prior = (restraint_residuals(self.space, self.restraints, z) ** 2).sum() / 2
            return _student(self._residuals(z)) + prior

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and its gradient (n,)."""
        found = self.quadratic(z)
        return found.value, found.gradient

    def quadratic(self, z: Tensor) -> Quadratic:
        """Loss, gradient and the curvature of least squares with the weights of the residuals' sizes."""
        self.counts.jacobians += 1
        if not self.space.admits(z):
            return Quadratic.zero(z)._replace(value=z.new_tensor(torch.inf))
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            residuals = self._residuals(at)
            rates = columns(residuals, at)
        residuals = residuals.detach()
        weighted = rates * (1 / (1 + (residuals**2).sum(1) / FREEDOM))[:, None, None]
        gradient = torch.einsum("rin,ri->n", weighted, residuals)
        curvature = torch.einsum("rin,rim->nm", weighted, rates)
        return restraint_quadratic(self.space, self.restraints, z) + Quadratic(_student(residuals), gradient, curvature)

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """The curvature times v (n,)."""
        return self.quadratic(z).curvature @ v

    def _residuals(self, z: Tensor) -> Tensor:
        """(R, 3): fast and slow in widths, the Ewald sphere in standard deviations; `MISSED` off the detector."""
        found = predict(*self.space.to_model(z), self.spots.indices)
        away = (torch.stack([found.fast, found.slow], 1) - self.places) / self.width
        residuals = torch.cat([away, found.distance[:, None]], 1)
        return torch.where((found.panel == self.spots.panel)[:, None], residuals, MISSED)


def positions(space: ParameterSpace, boxes: Shoeboxes, restraints: tuple[Restraint, ...] = ()) -> Positions:
    """The brightest places of boxes, right to within the middle of their distances from the predicted ones; without
    those whose spots a small move would take off their panel."""
    boxes = boxes.chosen(_whole(space, boxes))
    places, spots = brightest(boxes), boxes.spots
    off = torch.linalg.vector_norm(places - torch.stack([spots.fast, spots.slow], 1), dim=1)
    width = max(FINEST, float(off.median())) if len(off) else FINEST
    return Positions(space, spots, places, width, restraints)


def _whole(space: ParameterSpace, boxes: Shoeboxes) -> Tensor:
    """Which boxes (R,) do not reach over the edge of their panel."""
    half = round(boxes.use.shape[1] ** 0.5) / 2
    sides = zip((boxes.spots.slow, boxes.spots.fast), space.start.experiment.detector.size, strict=True)
    inside = [(place > half) & (place < size - half) for place, size in sides]
    return inside[0] & inside[1]


def brightest(boxes: Shoeboxes) -> Tensor:
    """Middles (R, 2), fast and slow, of the pixels round which most photons are."""
    edge = round(boxes.use.shape[1] ** 0.5)
    photons = torch.where(boxes.use, boxes.observed, 0.0).reshape(-1, 1, edge, edge)
    around = avg_pool2d(photons, 3, stride=1, padding=1).flatten(1)
    peak = torch.where(boxes.use, around, -torch.inf).argmax(1, keepdim=True)
    parts = (part.reshape(boxes.use.shape) for part in (boxes.pixels.fast, boxes.pixels.slow))
    return torch.cat([part.gather(1, peak) + 0.5 for part in parts], 1)


def _student(residuals: Tensor) -> Tensor:
    """() of residuals (R, i)."""
    return FREEDOM / 2 * torch.log1p((residuals**2).sum(1) / FREEDOM).sum()
