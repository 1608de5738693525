"""What the makers of parameters share."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from refine.parameters.parameter import Model, Parameter
from refine.parameters.transforms import Transform


def block(
    name: str,
    labels: tuple[str, ...],
    unit: str,
    transform: Transform,
    put: Callable[[Model, Tensor], Model],
    start: Tensor,
    lower: float = -torch.inf,
    upper: float = torch.inf,
) -> Parameter:
    """A parameter whose coordinates stand one for one for its values (n,)."""

    def place(model: Model, z: Tensor) -> Model:
        return put(model, transform.decode(z))

    limits = (torch.full_like(start, limit) for limit in (lower, upper))
    units = (unit,) * len(labels)
    return Parameter(name, labels, units, len(labels), transform.decode, place, transform.encode, *limits)


def holding(parameter: Parameter, held: int) -> Parameter:
    """The parameter with the coordinate numbered `held` left at its start."""
    left = [k for k in range(parameter.size) if k != held]

    def whole(z: Tensor) -> Tensor:
        return z.new_zeros(parameter.size).index_put((torch.tensor(left, device=z.device),), z)

    return replace(
        parameter,
        size=len(left),
        read=lambda z: parameter.read(whole(z)),
        place=lambda model, z: parameter.place(model, whole(z)),
        encode=lambda values: parameter.encode(values)[left],
    )


def put_crystal(model: Model, **change: Any) -> Model:
    """The model with a changed crystal."""
    return model._replace(crystal=replace(model.crystal, **change))


def put_detector(model: Model, **change: Any) -> Model:
    """The model with a changed detector."""
    detector = replace(model.experiment.detector, **change)
    return model._replace(experiment=replace(model.experiment, detector=detector))


def put_beam(model: Model, **change: Any) -> Model:
    """The model with a changed beam."""
    beam = replace(model.experiment.beam, **change)
    return model._replace(experiment=replace(model.experiment, beam=beam))


def put_background(model: Model, **change: Any) -> Model:
    """The model with a changed background."""
    background = replace(model.experiment.background, **change)
    return model._replace(experiment=replace(model.experiment, background=background))
