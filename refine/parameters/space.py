"""The only place where an order of parameters exists: the vector z of a refinement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from refine.errors import InputError
from refine.model.crystal import Crystal
from refine.model.experiment import Experiment
from refine.parameters import catalogue
from refine.parameters.jacobian import jacobian
from refine.parameters.parameter import Model, Parameter


@dataclass(frozen=True)
class ParameterSpace:
    """The free parameters of a starting model, as one vector z (n,) that is zero at the start."""

    start: Model
    parameters: tuple[Parameter, ...]

    @classmethod
    def of(
        cls,
        crystal: Crystal,
        experiment: Experiment,
        free: Sequence[str] = ("cell", "orientation", "scale"),
        misset_deg: Tensor | None = None,
        plane_background: bool = False,
    ) -> "ParameterSpace":
        """The space of the parameters named in `free`.

        `misset_deg` (3,): the starting orientation's angles as given, which reported angles continue.
        Raises InputError for an unknown name or one that the start does not support.
        """
        unknown = [name for name in free if name not in catalogue.CATALOGUE]
        if unknown or not free:
            raise InputError(
                f"refinement.free: {unknown or 'nothing'} cannot be refined; accepted: {', '.join(catalogue.CATALOGUE)}"
            )
        if twice := [name for k, name in enumerate(free) if name in free[:k] or name.split(".")[0] in free[:k]]:
            raise InputError(f"refinement.free: {twice[0]!r} is there twice; accepted: each parameter once")
        makers = catalogue.CATALOGUE | {
            "orientation": partial(catalogue.orientation, misset_deg=misset_deg),
            "background": partial(catalogue.background, plane=plane_background),
        }
        start = Model(crystal, experiment)
        return cls(start, tuple(makers[name](start) for name in free))

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of the physical values, in order."""
        return tuple(label for parameter in self.parameters for label in parameter.labels)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the physical values, in the same order."""
        return tuple(unit for parameter in self.parameters for unit in parameter.units)

    @property
    def size(self) -> int:
        """Length of z: less than the number of values where symmetry ties them."""
        return sum(parameter.size for parameter in self.parameters)

    def zero(self) -> Tensor:
        """The start, z = 0 (n,)."""
        return self.start.crystal.cell.new_zeros(self.size)

    def split(self, z: Tensor) -> tuple[Tensor, ...]:
        """z by parameter."""
        return z.split([parameter.size for parameter in self.parameters])

    def leaves(self, z: Tensor) -> list[Tensor]:
        """z by parameter, each to be differentiated by."""
        return [part.detach().clone().requires_grad_() for part in self.split(z)]

    def to_model(self, z: Tensor) -> Model:
        """Crystal and experiment at z."""
        return self.placed(self.split(z))

    def placed(self, parts: Sequence[Tensor]) -> Model:
        """The same for a z that is given by parameter."""
        model = self.start
        for parameter, part in zip(self.parameters, parts, strict=True):
            model = parameter.place(model, part)
        return model

    def physical(self, z: Tensor) -> Tensor:
        """Physical values (len(names),) at z."""
        return torch.cat([p.read(part) for p, part in zip(self.parameters, self.split(z), strict=True)])

    def to_z(self, values: Mapping[str, Tensor]) -> Tensor:
        """z of physical values given by parameter name (tied values of a cell by least squares); the rest at start.

        Raises InputError for a name that is not free.
        """
        if unknown := set(values) - {p.name for p in self.parameters}:
            raise InputError(f"{sorted(unknown)} are not free here; accepted: {[p.name for p in self.parameters]}")
        return torch.cat(
            [
                p.encode(values[p.name].to(z)) if p.name in values else z
                for p, z in zip(self.parameters, self.split(self.zero()), strict=True)
            ]
        )

    def rates(self, z: Tensor) -> Tensor:
        """Derivatives (len(names), n) of the physical values by z."""
        with torch.enable_grad():
            parts = self.leaves(z)
            blocks = [jacobian(p.read(part), part) for p, part in zip(self.parameters, parts, strict=True)]
        return torch.block_diag(*blocks)

    def covariance(self, z: Tensor, covariance: Tensor) -> Tensor:
        """Covariance of the physical values from that of z (n, n), to first order."""
        rates = self.rates(z)
        return rates @ covariance @ rates.T

    def admits(self, z: Tensor) -> bool:
        """Whether every physical value at z is a number within its parameter's limits."""
        values = self.physical(z)
        lower, upper = (torch.cat([getattr(p, side) for p in self.parameters]) for side in ("lower", "upper"))
        return bool(((values >= lower) & (values <= upper)).all())
