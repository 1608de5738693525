"""A refinable quantity, declared once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from refine.model.crystal import Crystal
from refine.model.experiment import Experiment


class Model(NamedTuple):
    """What a parameter acts on."""

    crystal: Crystal
    experiment: Experiment


@dataclass(frozen=True)
class Parameter:
    """One entry of `refinement.free`: `size` coordinates of z that stand for the physical values `labels`.

    read: coordinates (size,) -> physical values (len(labels),), in `units`.
    place: (model, coordinates) -> model with the values in it.
    encode: physical values -> coordinates.
    lower, upper: (len(labels),) the physical values a refinement may reach.
    All coordinates are 0 at the start, and scaled so that 1 is a change an image clearly shows.
    """

    name: str
    labels: tuple[str, ...]
    units: tuple[str, ...]
    size: int
    read: Callable[[Tensor], Tensor]
    place: Callable[[Model, Tensor], Model]
    encode: Callable[[Tensor], Tensor]
    lower: Tensor
    upper: Tensor
