"""The schema of a configuration: every key, its unit, range, default and meaning."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import gemmi
from pydantic import AfterValidator, Field, StrictBool, model_validator

from refine.app.config_base import Count, FileName, NotNegative, Number, Positive, Problem, Section, Text, Whole, reject
from refine.app.config_crystal import Crystal, fits_group, group_needs
from refine.app.config_refinement import Refinement

DEFAULT_FLUENCE = 1.2593201528622709e29  # photons/m^2; nanoBragg's, which makes r_e^2 * fluence = 1
MM_PER_M = 1e3
MOST_PIXELS = 200_000_000  # a tenth of it is a large detector


def _one_image(images: tuple["Image", ...]) -> tuple["Image", ...]:
    if len(images) > 1:
        reject([Problem("", [str(i.file) for i in images], "one image; several are not supported by this version yet")])
    return images


class Image(Section):
    """One observed image."""

    file: FileName = Field(description="image file, relative to the configuration; a glob is kept as given")
    mask: FileName | None = Field(default=None, description="file of the image's shape, nonzero = use the pixel")


class Divergence(Section):
    """The spread of the beam's directions."""

    horizontal_mrad: NotNegative = Field(default=0.0, description="full divergence along the polarization axis [mrad]")
    vertical_mrad: NotNegative = Field(default=0.0, description="full divergence across it [mrad]")
    steps: Count = Field(default=1, description="directions sampled along each divergence, both ends included [steps]")

    def problems(self) -> Iterator[Problem]:
        if self.steps < 2 and (self.horizontal_mrad > 0 or self.vertical_mrad > 0):
            yield Problem("steps", self.steps, "2 or more when a divergence is above 0")


class Dispersion(Section):
    """The spread of the beam's wavelengths."""

    percent: Annotated[NotNegative, Field(lt=100)] = Field(
        default=0.0, description="full spectral width over the wavelength [%]"
    )
    steps: Count = Field(default=1, description="wavelengths sampled, both ends included [steps]")

    def problems(self) -> Iterator[Problem]:
        if self.steps < 2 and self.percent > 0:
            yield Problem("steps", self.steps, "2 or more when percent is above 0")


class Beam(Section):
    """The incident beam; its strength is `fluence`, or `flux`, `exposure` and `size` together."""

    wavelength: Positive = Field(description="X-ray wavelength [Å]", examples=[1.0])
    fluence: Positive | None = Field(
        default=None,
        description=f"photons through the crystal an area; {DEFAULT_FLUENCE} where no strength is given [photons/m^2]",
    )
    flux: Positive | None = Field(default=None, description="photons a second in the beam [photons/s]")
    exposure: Positive | None = Field(default=None, description="exposure time [s]")
    size: Positive | None = Field(default=None, description="edge of the square beam [mm]")
    polarization: Annotated[Number, Field(ge=-1, le=1)] | None = Field(
        default=0.0, description="Kahn polarization factor; null turns the correction off"
    )
    divergence: Divergence = Field(default=Divergence(), description="spread of directions, a round beam")
    dispersion: Dispersion = Field(default=Dispersion(), description="spread of wavelengths")

    @model_validator(mode="before")
    @classmethod
    def _default_fluence(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.keys() & {"fluence", "flux", "exposure", "size"}:
            return {**data, "fluence": DEFAULT_FLUENCE}
        return data

    def problems(self) -> Iterator[Problem]:
        parts = {"flux": self.flux, "exposure": self.exposure, "size": self.size}
        absent = [name for name, value in parts.items() if value is None]
        if self.fluence is not None and len(absent) < 3:
            yield Problem("fluence", self.fluence, "fluence, or flux + exposure + size, not both")
        elif self.fluence is None and absent:
            yield Problem(absent[0], None, "flux (photons/s) + exposure (s) + size (mm) together, or fluence")

    @property
    def fluence_value(self) -> float:
        """Fluence in photons/m^2, however it was given."""
        if self.flux is None or self.exposure is None or self.size is None:
            return DEFAULT_FLUENCE if self.fluence is None else self.fluence
        return self.flux * self.exposure / (self.size / MM_PER_M) ** 2


class Rotations(Section):
    """Rotations of the detector after the convention has placed it."""

    x: Number = Field(default=0.0, description="rotation about lab x [degrees]")
    y: Number = Field(default=0.0, description="rotation about lab y [degrees]")
    z: Number = Field(default=0.0, description="rotation about lab z [degrees]")
    twotheta: Number = Field(default=0.0, description="rotation about the convention's two-theta axis [degrees]")
    pivot: Literal["beam", "sample"] | None = Field(
        default=None, description="point that stays; null is the convention's own (mosflm beam, xds and dials sample)"
    )


_PixelCount = Annotated[Count, Field(le=100_000)]


class Detector(Section):
    """A flat detector and how it counts."""

    distance: Positive = Field(description="sample to the direct-beam spot [mm]", examples=[100.0])
    pixel_size: Positive = Field(description="edge of a square pixel [mm]", examples=[0.1])
    size: tuple[_PixelCount, _PixelCount] = Field(description="slow then fast [pixels]", examples=[[512, 512]])
    beam_center_px: tuple[Number, Number] = Field(
        description="fast then slow, from the outer corner of the first pixel [pixels]", examples=[[256.0, 256.0]]
    )
    convention: Literal["mosflm", "xds", "dials"] = Field(default="mosflm", description="lab frame")
    rotations: Rotations = Field(default=Rotations(), description="rotations of the detector")
    gain: Positive = Field(default=1.0, description="counts a photon makes [ADU/photon]")
    offset: Number = Field(default=0.0, description="counts at zero photons [ADU]")
    readout_noise: NotNegative = Field(default=0.0, description="rms noise of reading a pixel [ADU]")
    saturation: Number | None = Field(default=None, description="pixels at or above it are masked; null: none [ADU]")
    oversample: Annotated[Count, Field(le=64)] = Field(default=1, description="along each pixel edge [sub-pixels]")

    def problems(self) -> Iterator[Problem]:
        if self.size[0] * self.size[1] > MOST_PIXELS:
            yield Problem("size", list(self.size), f"at most {MOST_PIXELS} pixels in all")

    @property
    def pivot(self) -> Literal["beam", "sample"]:
        """The point that the rotations leave in place, the convention's own where none was given."""
        return self.rotations.pivot or ("beam" if self.convention == "mosflm" else "sample")


class StructureFactors(Section):
    """Where the structure-factor amplitudes come from."""

    file: FileName | None = Field(
        default=None, description="complete P1 list of h k l F as text (.gz too), or an .mtz", examples=["F.hkl"]
    )
    column: Text | None = Field(default=None, description="amplitude column of an .mtz; null picks it")
    default: NotNegative = Field(default=0.0, description="amplitude where the list has none [electrons]")

    def problems(self) -> Iterator[Problem]:
        if self.file is None and self.default == 0:
            yield Problem("file", None, "a file name, or a default above 0: the image would be zero everywhere")
        if self.file is None and self.column is not None:
            yield Problem("column", self.column, "null when there is no file")


class Background(Section):
    """The smooth part of the image."""

    model: Literal["none", "constant", "plane", "file"] = Field(default="none", description="kind of background")
    value: NotNegative = Field(default=0.0, description="constant, or plane at the middle of the image [photons/pixel]")
    slope: tuple[Number, Number] = Field(
        default=(0.0, 0.0), description="of the plane, fast then slow [photons/pixel per pixel]"
    )
    file: FileName | None = Field(default=None, description="image of model 'file', in photons/pixel")

    def problems(self) -> Iterator[Problem]:
        if self.value != 0 and self.model in ("none", "file"):
            yield Problem("value", self.value, f"0 with model {self.model!r}; model constant or plane has a value")
        if self.slope != (0.0, 0.0) and self.model != "plane":
            yield Problem("slope", list(self.slope), f"[0, 0] with model {self.model!r}; model plane has a slope")
        if self.model == "file" and self.file is None:
            yield Problem("file", None, "a file name when model is 'file'")
        if self.model != "file" and self.file is not None:
            yield Problem("file", str(self.file), f"null with model {self.model!r}; model file has a file")


class Output(Section):
    """Where results go."""

    directory: FileName = Field(default=Path("run"), description="folder of the results")


class Config(Section):
    """A whole configuration; its paths are absolute after loading."""

    title: Text = Field(default="", description="free text")
    images: Annotated[tuple[Image, ...], AfterValidator(_one_image)] = Field(
        default=(), description="observed images; a simulation needs none"
    )
    beam: Beam = Field(description="incident beam", examples=[{"wavelength": 1.0}])
    detector: Detector = Field(
        description="detector",
        examples=[{"distance": 100.0, "pixel_size": 0.1, "size": [512, 512], "beam_center_px": [256.0, 256.0]}],
    )
    crystal: Crystal = Field(description="starting crystal", examples=[{"cell": [70, 80, 90, 85, 95, 105]}])
    structure_factors: StructureFactors = Field(description="amplitudes", examples=[{"file": "F.hkl"}])
    background: Background = Field(default=Background(), description="background")
    refinement: Refinement = Field(default=Refinement(), description="refinement")
    output: Output = Field(default=Output(), description="results")
    compatibility: tuple[Literal["corner_factors"], ...] = Field(
        default=(),
        description="defects of nanoBragg.c to reproduce; corner_factors: solid angle and polarization at the first"
        " sub-pixel of each pixel, for all of them",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where tensors live")
    dtype: Literal["float64", "float32"] = Field(default="float64", description="precision of the computation")
    compile: Literal["auto"] | StrictBool = Field(
        default="auto", description="compile the sum over steps; auto: where that is predicted to save time"
    )
    threads: Annotated[Count, Field(le=1024)] | None = Field(
        default=None, description="CPU threads; null leaves PyTorch's choice [threads]"
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = Field(default=0, description="seed of every random draw but mosaic")

    def problems(self) -> Iterator[Problem]:
        free, mosaic = list(self.refinement.free), self.crystal.mosaic
        if "mosaic" in free and (mosaic.spread_deg == 0 or mosaic.domains == 1):
            needs = "mosaic only when crystal.mosaic has spread_deg above 0 and domains of 2 or more"
            yield Problem("refinement.free", free, needs)
        if self.refinement.loss == "gaussian" and self.detector.readout_noise == 0:
            needs = "above 0, in ADU, for refinement.loss gaussian, whose variance is photons + readout noise"
            yield Problem("detector.readout_noise", 0.0, needs)
        restraint, group = self.refinement.restraints.cell, gemmi.find_spacegroup_by_name(self.crystal.space_group)
        if restraint is not None and not fits_group(restraint.target, group):
            needs = f"a cell of the crystal's space group: {group.xhm()} needs {group_needs(group)}"
            yield Problem("refinement.restraints.cell.target", list(restraint.target), needs)
        if "background" in free and self.background.model == "none":
            yield Problem("refinement.free", free, "background only when background.model is not none")
