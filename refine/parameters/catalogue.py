"""Every parameter that can be refined, by the name it has in `refinement.free`.

Each maker takes the starting model and returns the `Parameter`. Steps of z: see `Parameter`.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from refine.errors import InputError
from refine.model.crystal import GaussianMosaic
from refine.parameters import instrument
from refine.parameters.blocks import block, put_background, put_crystal
from refine.parameters.parameter import Model, Parameter
from refine.parameters.symmetry import VOIGT, metric_basis
from refine.parameters.transforms import Transform, positive, shifted
from refine.physics.cell import cell_of_metric, reciprocal_metric
from refine.physics.rotation import misset_angles, misset_rotation, rotation_vector, vector_rotation

Maker = Callable[[Model], Parameter]
CELL_LABELS = ("a", "b", "c", "alpha", "beta", "gamma")
MOSAIC_LABELS = tuple(f"mosaic_{pair}" for pair in ("xx", "yy", "zz", "xy", "xz", "yz"))
MISSET_LABELS = ("misset_x", "misset_y", "misset_z")
LENGTH_RANGE = 0.2  # a cell edge further than this fraction from its start is another crystal
ANGLE_RANGE = 10.0  # likewise for a cell angle, degrees


def cell(start: Model) -> Parameter:
    """The reciprocal metric tensor in the basis the space group allows; a unit of z changes a* by about 0.1 %."""
    value = start.crystal.cell
    metric = reciprocal_metric(value)
    lengths = torch.sqrt(torch.diagonal(metric))
    basis = metric_basis(start.crystal.space_group).to(value)
    relative = basis / (lengths[:, None] * lengths)
    basis = basis * (2e-3 / relative.flatten(1).abs().amax(1))[:, None, None]
    flat = basis.flatten(1).T

    def read(z: Tensor) -> Tensor:
        return cell_of_metric(torch.linalg.inv(metric + (flat @ z).reshape(3, 3)))

    def encode(wanted: Tensor) -> Tensor:
        return torch.linalg.lstsq(flat, (reciprocal_metric(wanted) - metric).reshape(9, 1)).solution[:, 0]

    def place(model: Model, z: Tensor) -> Model:
        return model._replace(crystal=replace(model.crystal, cell=read(z)))

    reach = torch.cat([value[:3] * LENGTH_RANGE, torch.full_like(value[3:], ANGLE_RANGE)])
    units = ("Å",) * 3 + ("degrees",) * 3
    return Parameter("cell", CELL_LABELS, units, len(basis), read, place, encode, value - reach, value + reach)


def orientation(start: Model, misset_deg: Tensor | None = None) -> Parameter:
    """A small rotation of the starting orientation about the lab axes, reported as misset angles.

    `misset_deg` (3,) is the start as the user wrote it: reported angles are those from the same reference, on the
    same branch. A unit of z is 0.1 degrees.
    """
    turned = start.crystal.orientation
    first = turned.new_zeros(3) if misset_deg is None else misset_deg
    reference = misset_rotation(first).T @ turned

    def rotation(z: Tensor) -> Tensor:
        return vector_rotation(torch.deg2rad(0.1 * z)) @ turned

    def read(z: Tensor) -> Tensor:
        return _nearest_branch(misset_angles(rotation(z) @ reference.T), first)

    def encode(wanted: Tensor) -> Tensor:
        return 10 * torch.rad2deg(rotation_vector(misset_rotation(wanted) @ reference @ turned.T))

    def place(model: Model, z: Tensor) -> Model:
        return model._replace(crystal=replace(model.crystal, orientation=rotation(z)))

    anywhere = torch.full_like(first, torch.inf)
    return Parameter("orientation", MISSET_LABELS, ("degrees",) * 3, 3, read, place, encode, -anywhere, anywhere)


def _nearest_branch(angles: Tensor, near: Tensor) -> Tensor:
    """The same rotation's angles (3,) nearest `near`: (x, y, z) or (x + 180, 180 - y, z + 180), whole turns apart."""
    other = torch.stack([angles[0] + 180, 180 - angles[1], angles[2] + 180])
    both = [branch + 360 * torch.round((near - branch) / 360) for branch in (angles, other)]
    closer = torch.linalg.vector_norm(both[0] - near) <= torch.linalg.vector_norm(both[1] - near)
    return torch.where(closer, both[0], both[1])


def scale(start: Model) -> Parameter:
    """The factor on the fluence; z is its logarithm in percent."""
    value = start.experiment.scale.reshape(1)
    return block(
        "scale",
        ("scale",),
        "",
        positive(value),
        lambda m, v: m._replace(experiment=replace(m.experiment, scale=v[0])),
        value,
        1e-12,
        1e12,
    )


def cells(start: Model) -> Parameter:
    """Unit cells along a, b, c; more than 1 each."""
    value = start.crystal.cells
    if not bool((value > 1).all()):
        raise InputError(
            f"refinement.free: 'cells' needs crystal.cells above 1, not {value.tolist()}: one cell has no width"
        )
    return block(
        "cells",
        ("N_a", "N_b", "N_c"),
        "unit cells",
        positive(value, lowest=1.0),
        lambda m, v: put_crystal(m, cells=v),
        value,
        1.0,
        1e5,
    )


def mosaic(start: Model) -> Parameter:
    """The spread of sampled domains, positive; or all six components of a Gaussian distribution's covariance."""
    sampled = start.crystal.mosaic
    if isinstance(sampled, GaussianMosaic):
        return _mosaic_covariance(sampled)
    value = sampled.spread_deg.reshape(1)
    if not bool((value > 0).all()) or start.crystal.domains < 2:
        raise InputError(
            "refinement.free: 'mosaic' needs crystal.mosaic.spread_deg above 0 and at least 2 domains to start from"
        )
    return block(
        "mosaic",
        ("mosaic_spread",),
        "degrees",
        positive(value),
        lambda m, v: put_crystal(m, mosaic=replace(sampled, spread_deg=v[0])),
        value,
        0.0,
        20.0,
    )


def _mosaic_covariance(start: GaussianMosaic) -> Parameter:
    """S = L E E^T L^T, L L^T the start and E lower triangular with a positive diagonal: positive definite whatever z.
    A unit of z is 1 % of a standard deviation, or a correlation of 1 %."""
    factor = start.factor
    rows, columns = torch.tril_indices(3, 3).to(factor.device)
    diagonal = rows == columns

    def moved(z: Tensor) -> GaussianMosaic:
        values = torch.where(diagonal, torch.exp(0.01 * z), 0.01 * z)
        return GaussianMosaic(factor @ torch.zeros_like(factor).index_put((rows, columns), values))

    def read(z: Tensor) -> Tensor:
        covariance = moved(z).covariance
        return torch.stack([covariance[i, j] for i, j in VOIGT])

    def encode(wanted: Tensor) -> Tensor:
        matrix = torch.zeros_like(factor)
        for (i, j), value in zip(VOIGT, wanted, strict=True):
            matrix[i, j] = matrix[j, i] = value
        inverse = torch.linalg.inv(factor)
        change = torch.linalg.cholesky(inverse @ matrix @ inverse.T)[rows, columns]
        return 100 * torch.where(diagonal, torch.log(change), change)

    def place(model: Model, z: Tensor) -> Model:
        return put_crystal(model, mosaic=moved(z))

    anywhere = torch.full((6,), torch.inf).to(factor)
    limit = torch.tensor([25.0] * 3 + [torch.inf] * 3).to(factor)
    lowest = torch.cat([torch.zeros(3).to(factor), -anywhere[3:]])
    return Parameter("mosaic", MOSAIC_LABELS, ("degrees^2",) * 6, 6, read, place, encode, lowest, limit)


def b_factor(start: Model) -> Parameter:
    """The Debye-Waller B of the intensities; a unit of z is 0.1 Å^2."""
    value = start.crystal.b_factor.reshape(1)
    return block(
        "b_factor",
        ("b_factor",),
        "Å^2",
        shifted(value, 0.1),
        lambda m, v: put_crystal(m, b_factor=v[0]),
        value,
        -500.0,
        500.0,
    )


def background(start: Model, plane: bool = False) -> Parameter:
    """The background's linear terms: the factor of a known image, a level, or a level and two slopes."""
    level = start.experiment.background
    if level.image is not None:
        value = level.factor.reshape(1)
        return block(
            "background",
            ("background_factor",),
            "",
            shifted(value, 0.01),
            lambda m, v: put_background(m, factor=v[0]),
            value,
        )
    terms = 3 if plane else 1
    value = level.coefficients[:terms]
    unit = torch.stack([level.coefficients[0].abs().clamp_min(1.0) * 0.01, *(1e-2 / (1 + level.middle.flip(0)))])[
        :terms
    ]
    transform = Transform(lambda z: value + unit * z, lambda v: (v - value) / unit)
    labels = ("background", "background_slope_fast", "background_slope_slow")[:terms]

    def put_terms(m: Model, v: Tensor) -> Model:
        return put_background(m, coefficients=torch.cat([v, level.coefficients[terms:]]))

    return replace(
        block("background", labels, "photons/pixel", transform, put_terms, value),
        units=("photons/pixel", "photons/pixel^2", "photons/pixel^2")[:terms],
    )


def water(start: Model) -> Parameter:
    """The edge of the cube of water in the beam; positive."""
    edge = start.experiment.background.water
    if edge is None:
        raise InputError("refinement.free: 'water' needs background.water_um above 0 to start from")
    value = edge.reshape(1)
    return block(
        "water", ("water",), "µm", positive(value), lambda m, v: put_background(m, water=v[0]), value, 0.0, 1e5
    )


CATALOGUE: dict[str, Maker] = {
    "cell": cell,
    "orientation": orientation,
    "scale": scale,
    "cells": cells,
    "mosaic": mosaic,
    "b_factor": b_factor,
    "wavelength": instrument.wavelength,
    "distance": instrument.distance,
    "beam_center": instrument.beam_center,
    "detector_rotations": instrument.detector_rotations,
    "detector_rotations.x": lambda start: instrument.detector_rotations(start, (0,)),
    "detector_rotations.y": lambda start: instrument.detector_rotations(start, (1,)),
    "detector_rotations.z": lambda start: instrument.detector_rotations(start, (2,)),
    "twotheta": instrument.twotheta,
    "polarization": instrument.polarization,
    "divergence": instrument.divergence,
    "dispersion": instrument.dispersion,
    "bandwidth": instrument.bandwidth,
    "thickness": instrument.thickness,
    "attenuation": instrument.attenuation,
    "background": background,
    "water": water,
}
