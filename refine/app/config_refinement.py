"""The refinement's part of the configuration: what is refined, against what, and how."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool

from refine.app.config_base import Count, NotNegative, Number, Positive, Problem, Section, Text, Whole, reject
from refine.app.config_crystal import Cell

SOLVER_NAMES = (
    "lm",
    "trust-region",
    "newton-cg",
    "lbfgs",
    "adam",
    "nadam",
    "sgd",
    "scipy-least-squares",
    "scipy-l-bfgs-b",
    "scipy-trust-exact",
    "scipy-trust-krylov",
    "scipy-nelder-mead",
)

FreeName = Literal[
    "cell",
    "orientation",
    "scale",
    "cells",
    "mosaic",
    "b_factor",
    "wavelength",
    "distance",
    "beam_center",
    "detector_rotations",
    "detector_rotations.x",
    "detector_rotations.y",
    "detector_rotations.z",
    "twotheta",
    "polarization",
    "divergence",
    "dispersion",
    "bandwidth",
    "thickness",
    "attenuation",
    "background",
    "water",
    "amplitudes",
]
NOT_OF_SHOEBOXES = {"polarization", "dispersion", "thickness", "attenuation", "water"}


def _known_solver(name: str) -> str:
    if name not in SOLVER_NAMES:
        raise ValueError("unknown solver")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        reject([Problem("", [], "a list of 1 or more parameters, such as [cell, orientation, scale]")])
    repeated = [n for i, n in enumerate(names) if n in names[:i]]
    inside = [n for n in names if "." in n and n.split(".")[0] in names]
    if repeated or inside:
        reject([Problem("", list(names), f"each parameter once; {(repeated + inside)[0]!r} is there twice")])
    return names


class Resolution(Section):
    """The resolution range of the pixels used; null leaves that side open."""

    min: Positive | None = Field(default=None, description="high-resolution limit, d_min [Å]")
    max: Positive | None = Field(default=None, description="low-resolution limit, d_max [Å]")

    def problems(self) -> Iterator[Problem]:
        if self.min is not None and self.max is not None and self.min >= self.max:
            yield Problem("min", self.min, f"below max ({self.max}): min is the high-resolution limit, in Å")


class Optimizer(Section):
    """The solver and its own options."""

    name: Annotated[Text, AfterValidator(_known_solver)] = Field(
        default="lm", description="solver", json_schema_extra={"enum": list(SOLVER_NAMES)}
    )
    max_iterations: Count = Field(default=50, description="iterations at most [iterations]")
    options: dict[str, Number | Whole | StrictBool] = Field(default={}, description="options of the solver, by name")


_SigmaLength = Annotated[Positive, Field(description="esd of a cell edge [Å]")]
_SigmaAngle = Annotated[Positive, Field(description="esd of a cell angle [degrees]")]


class CellRestraint(Section):
    """A pull of the cell towards a known one."""

    target: Cell = Field(description="a b c, alpha beta gamma [Å and degrees]", examples=[[70, 80, 90, 85, 95, 105]])
    sigma: tuple[_SigmaLength, _SigmaLength, _SigmaLength, _SigmaAngle, _SigmaAngle, _SigmaAngle] = Field(
        description="esd of each target value [Å and degrees]", examples=[[0.1, 0.1, 0.1, 0.1, 0.1, 0.1]]
    )


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


class ValueRestraint(Section):
    """A pull of a parameter's values towards known ones; one value may stand without brackets."""

    target: Annotated[tuple[Number, ...], BeforeValidator(_listed)] = Field(
        description="known values, in their order in the results [the parameter's unit]", examples=[120.0]
    )
    sigma: Annotated[tuple[Positive, ...], BeforeValidator(_listed)] = Field(
        description="esd of each [the parameter's unit]", examples=[0.05]
    )

    def problems(self) -> Iterator[Problem]:
        if len(self.sigma) != len(self.target):
            yield Problem("sigma", list(self.sigma), f"{len(self.target)} numbers, one for each target")


class AmplitudeRestraint(Section):
    """How far intensities |F|^2 may be from the known ones."""

    relative_sigma: Positive = Field(description="esd of an intensity, as a fraction of it", examples=[0.3])


def _restraint(of: str) -> Any:
    return Field(default=None, description=f"restraint of {of}; null: none")


class Restraints(Section):
    """What is known beside the image, by the name of the parameter in `free`."""

    cell: CellRestraint | None = _restraint("the cell")
    orientation: ValueRestraint | None = _restraint("the three misset angles")
    scale: ValueRestraint | None = _restraint("the factor on the fluence")
    cells: ValueRestraint | None = _restraint("the unit cells along a, b, c")
    mosaic: ValueRestraint | None = _restraint("the mosaic spread, or the six covariances")
    b_factor: ValueRestraint | None = _restraint("B")
    wavelength: ValueRestraint | None = _restraint("the wavelength")
    distance: ValueRestraint | None = _restraint("the distance")
    beam_center: ValueRestraint | None = _restraint("the beam centre, fast and slow")
    detector_rotations: ValueRestraint | None = _restraint("the rotations about lab x, y, z")
    twotheta: ValueRestraint | None = _restraint("two-theta")
    polarization: ValueRestraint | None = _restraint("the Kahn factor")
    divergence: ValueRestraint | None = _restraint("the divergences that there are")
    dispersion: ValueRestraint | None = _restraint("the dispersion")
    bandwidth: ValueRestraint | None = _restraint("the bandwidth")
    thickness: ValueRestraint | None = _restraint("the sensor's thickness")
    attenuation: ValueRestraint | None = _restraint("the sensor's attenuation length")
    background: ValueRestraint | None = _restraint("the background's terms")
    water: ValueRestraint | None = _restraint("the edge of the water")
    amplitudes: AmplitudeRestraint | None = _restraint("the intensities of reflections, where they are free")

    def given(self) -> dict[str, CellRestraint | ValueRestraint]:
        """Those of parameters that are not null."""
        names = [name for name in type(self).model_fields if name != "amplitudes"]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Shoebox(Section):
    """Boxes of pixels round predicted spots, each with a background of its own; of stills of a Gaussian mosaic."""

    size: Annotated[Count, Field(ge=7, le=101)] = Field(default=15, description="edge of a box, an odd number [pixels]")
    min_signal: NotNegative = Field(
        default=5.0, description="least intensity of a reflection that is used [standard deviations]"
    )

    def problems(self) -> Iterator[Problem]:
        if self.size % 2 == 0:
            yield Problem("size", self.size, "an odd number of pixels, so that a spot can be in the middle")


class ShoeboxPixels(Section):
    """The pixels of shoeboxes alone."""

    shoebox: Shoebox = Field(description="boxes round predicted spots", examples=[{"size": 15}])


class Stage(Section):
    """One step of a strategy, from where the one before it ended."""

    stage: Literal["indexing", "pixels"] = Field(
        description="indexing: cell and orientation from the positions of spots; pixels: everything from the image"
    )
    cells_factor: Annotated[Positive, Field(le=1)] = Field(
        default=1.0, description="factor on the number of unit cells: below 1 the model's spots are wider"
    )
    spots_only: StrictBool = Field(default=False, description="only the pixels of observed and predicted spots")
    max_iterations: Count | None = Field(
        default=None, description="iterations at most; null: the optimizer's [iterations]"
    )

    def problems(self) -> Iterator[Problem]:
        if self.stage == "indexing" and not self._plain:
            yield Problem("stage", "indexing", "pixels where cells_factor, spots_only or max_iterations are given")

    @property
    def _plain(self) -> bool:
        return self.cells_factor == 1 and not self.spots_only and self.max_iterations is None

    @property
    def whole(self) -> bool:
        """Whether it is the refinement itself, rather than a stage on the way to it."""
        return self.stage == "pixels" and self._plain


class Refinement(Section):
    """What is refined, against what, and how."""

    free: Annotated[tuple[FreeName, ...], AfterValidator(_distinct)] = Field(
        default=("cell", "orientation", "scale"), description="parameters that are refined, by name"
    )
    loss: Literal["poisson", "gaussian", "mse", "robust"] = Field(
        default="poisson",
        description="likelihood; gaussian has photon + readout variance, mse weighs all pixels alike, robust bounds the"
        " pull of hot pixels and of what the model does not know",
    )
    pixels: Literal["all"] | ShoeboxPixels | None = Field(
        default=None,
        description="pixels that are compared; null: shoeboxes where structure_factors.unknown, all elsewhere",
        examples=[{"shoebox": {"size": 15}}],
    )
    holdout: Annotated[NotNegative, Field(lt=1)] = Field(
        default=0.0, description="fraction of the reflections whose shoeboxes are kept from the refinement"
    )
    resolution: Resolution = Field(default=Resolution(), description="range of d that is compared [Å]")
    optimizer: Optimizer = Field(default=Optimizer(), description="solver")
    strategy: Literal["auto", "single", "stages"] = Field(
        default="auto",
        description="auto: stages chosen from how far off the start looks; single: from the start as given; stages:"
        " those listed",
    )
    stages: tuple[Stage, ...] = Field(
        default=(), description="the way of strategy stages", examples=[[{"stage": "indexing"}, {"stage": "pixels"}]]
    )
    restraints: Restraints = Field(default=Restraints(), description="what is known beside the image")

    def problems(self) -> Iterator[Problem]:
        if (self.strategy == "stages") != bool(self.stages):
            needs = "a list of stages with strategy 'stages', and none with another"
            yield Problem("stages", len(self.stages), needs)
        elif self.stages and not self.stages[-1].whole:
            yield Problem("stages", len(self.stages), "stages of which the last is {stage: pixels}, without more")
