"""The image's derivatives by z, as a product of what pixels do and what parameters do."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from refine.model.crystal import Mosaic
from refine.model.forward import Interference, expected_photons, paths
from refine.model.levers import Levers, photons_and_pulled, photons_and_slopes
from refine.model.pixels import Pixels
from refine.parameters.jacobian import jacobian
from refine.parameters.parameter import Model
from refine.parameters.space import ParameterSpace
from refine.physics.fused import FusedSum
from refine.physics.tile_sums import Execution, Pull


class Tangent(NamedTuple):
    """The image about some z: `slopes` gives the expected photons (P,) of P pixels and their derivatives (m, P) by m
    numbers, `by_z` (m, n) is the derivatives of the numbers by z."""

    slopes: Callable[[Pixels], tuple[Tensor, Tensor]]
    by_z: Tensor

    def photons_and_jacobian(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Expected photons (P,) and their Jacobian (P, n)."""
        photons, slopes = self.slopes(pixels)
        return photons, slopes.T @ self.by_z


class Cotangent(NamedTuple):
    """The same for one function of the image: `pulled` gives the expected photons (P,) of P pixels and the function's
    derivatives (m,) by m numbers, `to_z` its derivatives (n,) by z from the sum of those over all pixels."""

    pulled: Callable[[Pixels, Pull], tuple[Tensor, Tensor]]
    to_z: Callable[[Tensor], Tensor]


def tangent(space: ParameterSpace, z: Tensor, interference: Interference) -> Tangent:
    """By the levers of the image, where z (n,) acts through nothing else; else by forward mode through all of it, for
    which the numbers are z itself."""
    return _by_levers(space, z, interference) or _by_forward_mode(space, z, interference)


def cotangent(space: ParameterSpace, z: Tensor, interference: Interference) -> Cotangent:
    """By the levers likewise: no graph of the pixels is made, and one pass in reverse mode goes from all of them to z
    (n,); else by reverse mode through each list of pixels."""
    return _back_by_levers(space, z, interference) or _by_reverse_mode(space, z, interference)


class _Acting(NamedTuple):
    """z by parameter, the model there and its levers, with a graph between them."""

    z: list[Tensor]
    model: Model
    levers: Levers
    how: Execution


def _acting(space: ParameterSpace, z: Tensor, interference: Interference) -> _Acting | None:
    """None where z acts through something else than levers."""
    if not isinstance(interference, FusedSum) or not isinstance(space.start.crystal.mosaic, Mosaic):
        return None
    with torch.enable_grad():
        at = space.leaves(z)
        model = space.placed(at)
        return _Acting(at, model, Levers.of(*model), interference.how) if _paths_held(model) else None


def _by_levers(space: ParameterSpace, z: Tensor, interference: Interference) -> Tangent | None:
    """By the levers of the image, or None where z (n,) acts through something else."""
    if (acting := _acting(space, z, interference)) is None:
        return None
    rows = jacobian(torch.cat([part.reshape(-1) for part in acting.levers]), *acting.z)
    parts = dict(zip(Levers._fields, rows.split([part.numel() for part in acting.levers]), strict=True))
    moving = frozenset(name for name, part in parts.items() if bool((part != 0).any()))

    def slopes(pixels: Pixels) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return photons_and_slopes(*acting.model, pixels, moving, acting.how)

    return Tangent(slopes, torch.cat([z.new_zeros(0, len(z)), *(parts[k] for k in Levers._fields if k in moving)]))


def _back_by_levers(space: ParameterSpace, z: Tensor, interference: Interference) -> Cotangent | None:
    if (acting := _acting(space, z, interference)) is None:
        return None
    parts = {name: part for name, part in acting.levers._asdict().items() if part.requires_grad}

    def from_pixels(pixels: Pixels, pull: Pull) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return photons_and_pulled(*acting.model, pixels, frozenset(parts), pull, acting.how)

    def to_z(found: Tensor) -> Tensor:
        if not parts:
            return torch.zeros_like(z)
        levers = torch.cat([part.reshape(-1) for part in parts.values()])
        parts_z = torch.autograd.grad(levers, acting.z, found, retain_graph=True, materialize_grads=True)
        return torch.cat(parts_z)

    return Cotangent(from_pixels, to_z)


def _paths_held(model: Model) -> bool:
    """Whether the paths of the photons carry no derivative, though the model does."""
    panel = model.experiment.detector.panels
    corner = torch.zeros_like(model.experiment.scale.detach()).reshape(1)
    pixel = Pixels(corner, corner, None if panel is None else corner.long())
    return not any(part.requires_grad for part in paths(model.experiment, pixel))


def _by_forward_mode(space: ParameterSpace, z: Tensor, interference: Interference) -> Tangent:
    def slopes(pixels: Pixels) -> tuple[Tensor, Tensor]:
        def expected(at: Tensor) -> tuple[Tensor, Tensor]:
            photons = expected_photons(*space.to_model(at), pixels, interference)
            return photons, photons

        found, photons = torch.func.jacfwd(expected, has_aux=True)(z)
        return photons, found.T

    return Tangent(slopes, torch.eye(len(z)).to(z))


def _by_reverse_mode(space: ParameterSpace, z: Tensor, interference: Interference) -> Cotangent:
    def pulled(pixels: Pixels, pull: Pull) -> tuple[Tensor, Tensor]:
        at = z.detach().requires_grad_()
        with torch.enable_grad():
            photons = expected_photons(*space.to_model(at), pixels, interference) + 0 * at.sum()  # a graph in any case
        return photons.detach(), torch.autograd.grad(photons, at, pull(photons.detach(), slice(None)))[0]

    return Cotangent(pulled, lambda found: found)
