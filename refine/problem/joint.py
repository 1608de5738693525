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
from refine.solvers.arrow import Arrow
from refine.solvers.levenberg_marquardt import damped_shift
from refine.solvers.parted import Parted
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

    places: for every space where its coordinates (n_i,) are in z. seen: where they are among those it has a part in,
    the shared ones, of which there are `shared`, first.
    """

    spaces: tuple[ParameterSpace, ...]
    places: tuple[Tensor, ...]
    seen: tuple[Tensor, ...]
    shared: int
    size: int

    @classmethod
    def of(cls, spaces: Sequence[ParameterSpace], shared: Iterable[str]) -> "JointSpace":
        """The spaces must have the same start of what they share, so that its coordinates mean the same in all."""
        common, count, places, seen = set(shared), 0, [], []
        first: dict[str, Tensor] = {}
        for parameter in spaces[0].parameters:
            if parameter.name in common:
                first[parameter.name] = torch.arange(count, count := count + parameter.size)
        end = count
        for space in spaces:
            begin, parts = end, []
            for parameter in space.parameters:
                parts.append(
                    first[parameter.name] if parameter.name in first else torch.arange(end, end := end + parameter.size)
                )
            place = torch.cat([torch.arange(0), *parts])
            places.append(place)
            seen.append(torch.where(place < count, place, place - begin + count))
        return cls(tuple(spaces), tuple(places), tuple(seen), count, end)

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

    def parted(self, quadratics: Sequence[QuadraticModel]) -> Parted:
        """The sum of quadratics, each of one space's own z (n_i,)."""
        arrow = self.arrow([one.curvature for one in quadratics])
        gradients = torch.zeros_like(arrow.parts[..., 0])
        for row, seen, one in zip(gradients, self.seen, quadratics, strict=True):
            row[seen] = one.gradient
        return Parted(torch.stack([one.value for one in quadratics]), gradients, arrow)

    def arrow(self, matrices: Sequence[Tensor]) -> Arrow:
        """The sum of matrices (n_i, n_i), each of one space's own z."""
        own = torch.tensor([int((place >= self.shared).sum()) for place in self.places])
        most = int(own.max())
        parts = matrices[0].new_zeros(len(matrices), self.shared + most, self.shared + most)
        for part, seen, matrix in zip(parts, self.seen, matrices, strict=True):
            part[seen[:, None], seen] = matrix
        return Arrow(parts, (torch.arange(most) < own[:, None]).to(parts.device))


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
        about_zero = []
        for problem, z in zip(self.problems, parts, strict=True):
            there = problem.quadratic(z)
            about_zero.append(Quadratic(there.value, there.gradient - there.curvature @ z, there.curvature))
        mean, found = self.space.joined(parts), damped_shift(self.space.parted(about_zero), SLIGHT)
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
        total, gradient = prior.value, torch.zeros_like(z).index_add(0, self.space.places[0], prior.gradient)
        for problem, place in self._parts():
            value, part = problem.loss_and_gradient(z[place])
            total, gradient = total + value, gradient.index_add(0, place, part)
        return total, gradient

    def quadratic(self, z: Tensor) -> Parted:
        """Loss, gradient and Fisher information, problem by problem; the restraints are with the first."""
        self.counts.jacobians += 1
        first, *others = (problem.quadratic(z[place]) for problem, place in self._parts())
        first = self._prior(z) + Quadratic(first.value, first.gradient, first.curvature)
        return self.space.parted([first, *others])

    def curvature_product(self, z: Tensor, v: Tensor) -> Tensor:
        """Curvature times v (n,)."""
        self.counts.curvature_products += 1
        first = self.space.places[0]
        product = torch.zeros_like(z).index_add(0, first, self._prior(z).curvature @ v[first])
        for problem, place in self._parts():
            product = product.index_add(0, place, problem.curvature_product(z[place], v[place]))
        return product

    def prior_curvature(self, z: Tensor) -> Arrow:
        """Information (n, n) that is not the images'."""
        own = [restraint_quadratic(problem.space, problem.restraints, z[place]) for problem, place in self._parts()]
        first = self._prior(z) + own[0]
        return self.space.arrow([one.curvature for one in (first, *own[1:])])

    def _prior(self, z: Tensor) -> Quadratic:
        """Of the first space's coordinates."""
        return restraint_quadratic(self.space.spaces[0], self.restraints, z[self.space.places[0]])

    def _parts(self) -> Iterable[tuple[Problem, Tensor]]:
        return zip(self.problems, self.space.places, strict=True)
