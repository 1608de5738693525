"""The crystal's part of the configuration, and what its space group asks of its cell."""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import gemmi
from pydantic import AfterValidator, Field, model_validator

from refine.app.config_base import (
    Count,
    FileName,
    NotNegative,
    Number,
    Positive,
    Problem,
    Section,
    Text,
    Vector,
    Whole,
    reject,
)

CELL_NAMES = ("a", "b", "c", "alpha", "beta", "gamma")
MOST_CELLS = 100_000  # along an axis: more than a crystal that is one block has
SYMMETRY_TOLERANCE = 1e-4  # relative; cells in files are rounded to about 1e-5
DEFAULT_SEED = -12345678  # nanoBragg.c's
DEFAULT_CELLS = (20.0, 20.0, 20.0)
MOST_STEPS = 100_000  # of phi, or domains: beyond it a run would not end
_FLAT_CELL = 1e-9  # (volume / abc)^2 below which three angles are taken to lie in a plane

CellValues = tuple[float, float, float, float, float, float]


def _real_cell(cell: CellValues) -> CellValues:
    x, y, z = (math.cos(math.radians(angle)) for angle in cell[3:])
    if 1 - x * x - y * y - z * z + 2 * x * y * z <= _FLAT_CELL:
        reject([Problem("", list(cell), _angle_condition(*cell[3:]))])
    return cell


def _angle_condition(alpha: float, beta: float, gamma: float) -> str:
    """The condition for a positive volume that these angles (degrees) miss most."""
    conditions = {
        "alpha + beta + gamma below 360": alpha + beta + gamma - 360,
        "alpha below beta + gamma": alpha - beta - gamma,
        "beta below alpha + gamma": beta - alpha - gamma,
        "gamma below alpha + beta": gamma - alpha - beta,
    }
    return f"angles in degrees that make a cell of positive volume: {max(conditions, key=lambda c: conditions[c])}"


_Length = Annotated[Number, Field(gt=1, lt=10_000, description="cell edge [Å]")]
_Angle = Annotated[Number, Field(gt=1, lt=179, description="cell angle [degrees]")]
Cell = Annotated[tuple[_Length, _Length, _Length, _Angle, _Angle, _Angle], AfterValidator(_real_cell)]


_PATTERNS: dict[str, tuple[str | float, ...]] = {
    "triclinic": CELL_NAMES,
    "orthorhombic": ("a", "b", "c", 90.0, 90.0, 90.0),
    "tetragonal": ("a", "a", "c", 90.0, 90.0, 90.0),
    "trigonal": ("a", "a", "c", 90.0, 90.0, 120.0),
    "hexagonal": ("a", "a", "c", 90.0, 90.0, 120.0),
    "cubic": ("a", "a", "a", 90.0, 90.0, 90.0),
}


def cell_pattern(group: gemmi.SpaceGroup) -> tuple[str | float, ...]:
    """The form of the group's cells: at a b c alpha beta gamma the name it equals, or its angle in degrees."""
    system = group.crystal_system_str()
    if system == "monoclinic":
        unique = "abc".index(group.monoclinic_unique_axis())
        form: list[str | float] = ["a", "b", "c", 90.0, 90.0, 90.0]
        form[3 + unique] = CELL_NAMES[3 + unique]
        return tuple(form)
    if system == "trigonal" and group.ext == "R":
        return ("a", "a", "a", "alpha", "alpha", "alpha")
    return _PATTERNS[system]


def fits_group(cell: Sequence[float], group: gemmi.SpaceGroup, tolerance: float = SYMMETRY_TOLERANCE) -> bool:
    """Whether a cell (Å, degrees) has the group's form, to a relative tolerance."""
    named = dict(zip(CELL_NAMES, cell, strict=True))
    ideal = (named[p] if isinstance(p, str) else p for p in cell_pattern(group))
    return all(abs(x - y) <= tolerance * y for x, y in zip(cell, ideal, strict=True))


def group_needs(group: gemmi.SpaceGroup) -> str:
    """What the group asks of a cell, such as 'a = b, alpha = beta = gamma = 90'."""
    ties: dict[str | float, list[str]] = {}
    for name, value in zip(CELL_NAMES, cell_pattern(group), strict=True):
        ties.setdefault(value, []).append(name)
    sides = [names if isinstance(value, str) else [*names, f"{value:g}"] for value, names in ties.items()]
    return ", ".join(" = ".join(side) for side in sides if len(side) > 1)


def _known_group(name: str) -> str:
    # gemmi reads '0' as P 1, so a symbol without its lattice letter is refused here
    if not name.strip()[:1].isalpha() or gemmi.find_spacegroup_by_name(name) is None:
        reject([Problem("", name, _group_hint(name))])
    return name


def _group_hint(name: str) -> str:
    symbols = {s.replace(" ", "").lower(): s for g in gemmi.spacegroup_table() for s in (g.xhm(), g.hm)}
    near = [repr(symbols[s]) for s in difflib.get_close_matches(name.replace(" ", "").lower(), symbols, n=3)]
    hint = "a Hermann-Mauguin symbol such as 'P 21 21 21'"
    return f"{hint}; did you mean {' or '.join(near)}?" if near else hint


class Orientation(Section):
    """How the crystal stands in the lab frame: nanoBragg's default, a matrix file, a matrix or a DIALS file; then a
    rotation."""

    misset_deg: Vector = Field(
        default=(0.0, 0.0, 0.0), description="rotations about lab x, y and z, in that order [degrees]"
    )
    matrix: FileName | None = Field(
        default=None, description="MOSFLM-style A.mat file of the reciprocal matrix, as nanoBragg -mat"
    )
    a_matrix: tuple[Number, Number, Number, Number, Number, Number, Number, Number, Number] | None = Field(
        default=None, description="reciprocal matrix, rows x y z, columns a* b* c*, lab frame [1/Å]"
    )

    expt: FileName | None = Field(
        default=None, description="DIALS .expt that supplies cell, space group and orientation, and the beam's keys"
    )
    index: Annotated[Whole, Field(ge=0)] = Field(
        default=0, description="number of the experiment in expt, from 0 [experiments]"
    )

    @property
    def has_cell(self) -> bool:
        """Whether the orientation comes with a cell of its own."""
        return any(source is not None for source in (self.matrix, self.a_matrix, self.expt))

    def problems(self) -> Iterator[Problem]:
        if self.expt is None and self.index:
            yield Problem("index", self.index, "0 when there is no expt")
        if self.expt is not None and (self.matrix is not None or self.a_matrix is not None):
            yield Problem("expt", str(self.expt), "one of matrix, a_matrix and expt")
        if self.a_matrix is None:
            return
        if self.matrix is not None:
            yield Problem("matrix", str(self.matrix), "one of matrix and a_matrix, not both")
        a, b, c, d, e, f, g, h, i = self.a_matrix
        if not a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g) > 0:
            yield Problem("a_matrix", list(self.a_matrix), "9 numbers of a positive determinant (right-handed), in 1/Å")


class Mosaic(Section):
    """nanoBragg's mosaic, rigid domains drawn at random from a cap of directions; or a continuous Gaussian
    distribution of small rotations, in closed form."""

    model: Literal["domains", "gaussian"] = Field(default="domains", description="kind of mosaic distribution")
    spread_deg: NotNegative = Field(
        default=0.0,
        description="largest rotation of a domain; of gaussian the standard deviation about an axis [degrees]",
    )
    covariance_deg2: tuple[Number, Number, Number, Number, Number, Number] | None = Field(
        default=None,
        description="xx yy zz xy xz yz about the lab axes, of model gaussian instead of spread_deg [degrees^2]",
    )
    domains: Annotated[Count, Field(le=MOST_STEPS)] = Field(
        default=1, description="number of mosaic domains; the first is never rotated [domains]"
    )
    seed: Annotated[Whole, Field(ge=-(2**31), lt=2**31)] = Field(
        default=DEFAULT_SEED, description="seed of nanoBragg's generator of domains"
    )

    def problems(self) -> Iterable[Problem]:
        if self.model == "gaussian":
            yield from self._gaussian_problems()
        elif self.covariance_deg2 is not None:
            yield Problem("covariance_deg2", list(self.covariance_deg2), "null with model domains")
        elif self.spread_deg > 0 and self.domains == 1:
            accepted = "2 or more when spread_deg is above 0: one domain is always the identity, whatever the spread"
            yield Problem("domains", self.domains, accepted)

    def _gaussian_problems(self) -> Iterator[Problem]:
        if self.domains > 1:
            yield Problem("domains", self.domains, "1 with model gaussian, which is not sampled")
        if self.seed != DEFAULT_SEED:
            yield Problem("seed", self.seed, f"{DEFAULT_SEED}, the default, with model gaussian, which draws nothing")
        if (self.spread_deg > 0) == (self.covariance_deg2 is not None):
            yield Problem("spread_deg", self.spread_deg, "above 0, in degrees, or covariance_deg2, not both")
        elif self.covariance_deg2 is not None:
            xx, yy, zz, xy, xz, yz = self.covariance_deg2
            minors = (
                xx,
                xx * yy - xy * xy,
                xx * (yy * zz - yz * yz) - xy * (xy * zz - yz * xz) + xz * (xy * yz - yy * xz),
            )
            if not min(minors) > 0:
                accepted = "xx yy zz xy xz yz of a positive definite matrix, in degrees^2"
                yield Problem("covariance_deg2", list(self.covariance_deg2), accepted)

    @property
    def covariance(self) -> tuple[float, float, float, float, float, float]:
        """xx yy zz xy xz yz in degrees^2, of model gaussian."""
        square = self.spread_deg**2
        return self.covariance_deg2 or (square, square, square, 0.0, 0.0, 0.0)


class Scan(Section):
    """The rotation during the exposure, about the convention's spindle axis."""

    phi0: Number = Field(default=0.0, description="spindle angle at the start [degrees]")
    osc: Number = Field(default=0.0, description="rotation during the exposure [degrees]")
    steps: Annotated[Count, Field(le=MOST_STEPS)] = Field(
        default=1, description="spindle angles that the rotation is sampled at [steps]"
    )


_Cells = Annotated[Number, Field(ge=1, le=MOST_CELLS)]


class Crystal(Section):
    """The starting crystal."""

    cell: Cell | None = Field(
        default=None,
        description="a b c, alpha beta gamma [Å and degrees]; null only with a matrix, a_matrix or expt",
        examples=[[70, 80, 90, 85, 95, 105]],
    )
    space_group: Annotated[Text, AfterValidator(_known_group)] = Field(
        default="P1", description="Hermann-Mauguin symbol; it ties the cell's parameters"
    )
    orientation: Orientation = Field(default=Orientation(), description="orientation in the lab frame")
    cells: tuple[_Cells, _Cells, _Cells] | None = Field(
        default=None,
        description=f"size of a mosaic block along a, b and c; {DEFAULT_CELLS} where no size is given [unit cells]",
    )
    size_um: tuple[Positive, Positive, Positive] | None = Field(
        default=None,
        description="edges of a block along a, b and c, instead of cells; b and c at most beam.size [µm]",
    )
    shape: Literal["square", "round", "gauss", "tophat"] = Field(
        default="square", description="shape of a mosaic block's transform"
    )
    mosaic: Mosaic = Field(default=Mosaic(), description="mosaic domains")
    scan: Scan = Field(default=Scan(), description="rotation during the exposure")
    b_factor: Number = Field(default=0.0, description="isotropic B factor [Å^2]")

    @model_validator(mode="before")
    @classmethod
    def _default_cells(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.keys() & {"cells", "size_um"}:
            return {**data, "cells": DEFAULT_CELLS}
        return data

    def problems(self) -> Iterator[Problem]:
        if self.mosaic.model == "gaussian" and self.shape != "gauss":
            yield Problem(
                "shape", self.shape, "gauss with mosaic model gaussian: only that shape adds up in closed form"
            )
        if self.cells is None and self.size_um is None:
            yield Problem("cells", None, "3 numbers of unit cells, 1 to 100000, or size_um (µm)")
        if self.cells is not None and self.size_um is not None:
            yield Problem("size_um", list(self.size_um), "null beside cells: give one of them")
        if self.cell is None:
            if not self.orientation.has_cell:
                yield Problem("cell", None, "")
            return
        group = gemmi.find_spacegroup_by_name(self.space_group)
        if not fits_group(self.cell, group):
            yield Problem(
                "cell", list(self.cell), f"a cell of its space group: {group.xhm()} needs {group_needs(group)}"
            )
