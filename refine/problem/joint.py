"""Several problems that share some of their parameters."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from refine.parameters.space import ParameterSpace
from refine.problem.problem import Counts
from refine.problem.quadratic import Quadratic
from refine.problem.restraints import Restraint, restraint_quadratic
from refine.solvers.levenberg_marquardt import damped_shift
from refine.solvers.protocol import Problem as SolverProblem
from refine.solvers.protocol import Quadratic as QuadraticModel

SLIGHT = 1e-9  # damping, relative, for what nothing determines


class Problem(SolverProblem, Protocol):
    """A problem with a space of its own."""

    @property
    def space(self) -> ParameterSpace: ...
    @property
    def restraints(self) -> tuple[Restraint, ...]: ...


@dataclass(frozen=True)
class JointSpace:
    """One vector z for several spaces: the parameters named `shared`, which all of them have, once and first; then each
    space's own.

    places: for every space where its coordinates (n_i,) are in z.
    """

    spaces: tuple[ParameterSpace, ...]
    places: tuple[Tensor, ...]
    size: int

    @classmethod
    def of(cls, spaces: Sequence[ParameterSpace], shared: Iterable[str]) -> "JointSpace":
        """The spaces must have the same start of what they share, so that its coordinates mean the same in all."""
        common, end, places = set(shared), 0, []
        first: dict[str, Tensor] = {}
        for parameter in spaces[0].parameters:
            if parameter.name in common:
                first[parameter.name] = torch.arange(end, end := end + parameter.size)
        for space in spaces:
            parts = []
            for parameter in space.parameters:
                parts.append(
                    first[parameter.name] if parameter.name in first else torch.arange(end, end := end + parameter.size)
                )
            places.append(torch.cat([torch.arange(0), *parts]))
        return cls(tuple(spaces), tuple(places), end)

    def zero(self) -> Tensor:
        """The start, z = 0 (n,)."""
        return self.spaces[0].zero().new_zeros(self.size)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """z (n,) of the spaces' own (n_i,); what is shared is their mean."""
        total, count = self.zero(), self.zero()
        for place, part in zip(self.places, parts, strict=True):
            total = total.index_add(0, place, part)
            count = count.index_add(0, place, torch.ones_like(part))
        return total / count.clamp_min(1)


@dataclass(frozen=True)
class JointProblem:
    """The sum of problems' losses as a function of one z, and of restraints of what they share: of the first space."""

    space: JointSpace
    problems: tuple[Problem, ...]
    restraints: tuple[Restraint, ...] = ()
    counts: Counts = field(default_factory=Counts)

    def combined(self, parts: Sequence[Tensor]) -> Tensor:
        """z (n,) nearest to the problems' own (n_i,), each by its quadratic model there: a problem has its say in what
        it knows of what they share, and its other parameters follow. Their mean where that has the lower loss."""
        mean, total = self.space.joined(parts), Quadratic.zero(self.space.zero())
        for (problem, place), z in zip(self._parts(), parts, strict=True):
            there = problem.quadratic(z)
            gradient = there.gradient - there.curvature @ z
            total = total + _spread_out(Quadratic(there.value, gradient, there.curvature), place, mean)
        found = damped_shift(total, SLIGHT)
        return found if bool(self.loss(found) < self.loss(mean)) else mean

    def loss(self, z: Tensor) -> Tensor:
        """()"""
        self.counts.values += 1
        losses = [problem.loss(z[place]) for problem, place in self._parts()]
        return torch.stack(losses).sum() + self._prior(z).value

    def loss_and_gradient(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The loss () and its gradient (n,)."""
        self.counts.gradients += 1
        prior = self._prior(z)
        total, gradient = prior.value, prior.gradient
        for problem, place in self._parts():
            value, part = problem.loss_and_gradient(z[place])
            total, gradient = total + value, gradient.index_add(0, place, part)
        return total, gradient

    def quadratic(self, z: Tensor) -> Quadratic:
        """Loss, gradient and Fisher information, each problem's in its own rows and columns."""
        self.counts.jacobians += 1
        total = self._prior(z)
        for problem, place in self._parts():
            total = total + _spread_out(problem.quadratic(z[place]), place, z)
        return total

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """Curvature times v (n,)."""
        self.counts.curvature_products += 1
        product = self._prior(z).curvature @ v
        for problem, place in self._parts():
            product = product.index_add(0, place, problem.curvature_product(z[place], v[place]))
        return product

    def prior_curvature(self, z: Tensor) -> Tensor:
        """Information (n, n) that is not the images'."""
        total = self._prior(z)
        for problem, place in self._parts():
            total = total + _spread_out(restraint_quadratic(problem.space, problem.restraints, z[place]), place, z)
        return total.curvature

    def _prior(self, z: Tensor) -> Quadratic:
        place = self.space.places[0]
        return _spread_out(restraint_quadratic(self.space.spaces[0], self.restraints, z[place]), place, z)

    def _parts(self) -> Iterable[tuple[Problem, Tensor]]:
        return zip(self.problems, self.space.places, strict=True)


def _spread_out(part: QuadraticModel, place: Tensor, z: Tensor) -> Quadratic:
    """A quadratic of some of the coordinates, those at `place` (n_i,), as one of all of z (n,)."""
    curvature = z.new_zeros(len(z), len(z))
    curvature[place[:, None], place] = part.curvature
    return Quadratic(part.value, torch.zeros_like(z).index_add(0, place, part.gradient), curvature)
