"""The schema of a configuration: every key, its unit, range, default and meaning."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import gemmi
from pydantic import Field, StrictBool

from refine.app.config_base import Count, FileName, NotNegative, Number, Positive, Problem, Section, Text, Whole
from refine.app.config_crystal import Crystal, Orientation, fits_group, group_needs
from refine.app.config_instrument import Beam, Detector
from refine.app.config_refinement import NOT_OF_SHOEBOXES, Refinement, Shoebox, ShoeboxPixels


class ImageBeam(Section):
    """What differs from image to image in the beam."""

    wavelength: Positive | None = Field(default=None, description="photon wavelength; null: that of the beam [Å]")


class Image(Section):
    """One observed image."""

    file: FileName = Field(description="image file, relative to the configuration; a glob is kept as given")
    mask: FileName | None = Field(default=None, description="file of the image's shape, nonzero = use the pixel")
    frame: Count | None = Field(
        default=None, description="number in a file of many, from 1, over all data files of a master [frames]"
    )
    orientation: Orientation | None = Field(
        default=None, description="the crystal's in this image; null: that of crystal.orientation"
    )
    beam: ImageBeam = Field(default=ImageBeam(), description="this image's beam")
    scale: Positive = Field(default=1.0, description="factor on the fluence to start from")
    spots: FileName | None = Field(
        default=None, description="DIALS .refl of indexed spots, whose places the results are compared with"
    )


class StructureFactors(Section):
    """Where the structure-factor amplitudes come from."""

    file: FileName | None = Field(
        default=None, description="complete P1 list of h k l F as text (.gz too), or an .mtz", examples=["F.hkl"]
    )
    column: Text | None = Field(default=None, description="amplitude column of an .mtz; null picks it")
    unknown: StrictBool = Field(
        default=False, description="whether every reflection's amplitude is found from the image itself"
    )
    default: NotNegative = Field(default=0.0, description="amplitude where the list has none [electrons]")
    interpolate: StrictBool = Field(
        default=False, description="amplitudes between the reflections by tricubic interpolation, not the nearest's"
    )
    d_min: Positive | None = Field(
        default=None, description="no reflections beyond this resolution; null: no limit [Å]"
    )

    def problems(self) -> Iterator[Problem]:
        if self.file is None and self.interpolate:
            yield Problem("interpolate", True, "false when there is no file")
        if self.unknown and (self.file is not None or self.default > 0):
            yield Problem("unknown", True, "false where there is a file or a default; free them: refinement.free")
        if self.file is None and self.default == 0 and not self.unknown:
            yield Problem("file", None, "a file name, unknown: true, or a default above 0")
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
    water_um: NotNegative = Field(
        default=0.0, description="edge of a cube of water in the beam, whose scattering is added to any model [µm]"
    )

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
    report: StrictBool = Field(default=True, description="write report.html; it can be made later, too")


class Config(Section):
    """A whole configuration; its paths are absolute after loading."""

    title: Text = Field(default="", description="free text")
    images: tuple[Image, ...] = Field(default=(), description="observed images; a simulation needs none")
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
    compatibility: tuple[Literal["corner_factors", "layers_beyond_sensor"], ...] = Field(
        default=(),
        description="defects of nanoBragg.c to reproduce; corner_factors: solid angle and polarization at the first"
        " sub-pixel of each pixel, for all of them; layers_beyond_sensor: n layers of thickness / (n - 1)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where tensors live")
    dtype: Literal["float64", "float32"] = Field(default="float64", description="precision of the computation")
    compile: Literal["auto"] | StrictBool = Field(
        default="auto", description="compile the sum over steps; auto: where that is predicted to save time"
    )
    threads: Annotated[Count, Field(le=1024)] | None = Field(
        default=None, description="CPU threads; null leaves PyTorch's choice, one where shoeboxes are refined [threads]"
    )
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = Field(default=0, description="seed of every random draw but mosaic")

    @property
    def shoebox(self) -> Shoebox | None:
        """How shoeboxes are chosen; None where all pixels are compared."""
        given = self.refinement.pixels
        if isinstance(given, ShoeboxPixels):
            return given.shoebox
        return Shoebox() if given is None and self.structure_factors.unknown else None

    def problems(self) -> Iterator[Problem]:
        yield from self._shoebox_problems() if self.shoebox else self._whole_image_problems()
        free, mosaic = list(self.refinement.free), self.crystal.mosaic
        if self.beam.gaussian.given and mosaic.model != "gaussian":
            yield Problem(
                "beam.gaussian", self.beam.gaussian.model_dump(), "zeros unless crystal.mosaic.model is gaussian"
            )
        if mosaic.model == "gaussian" and self.dtype != "float64":
            yield Problem("dtype", self.dtype, "float64 with crystal.mosaic.model gaussian")
        if mosaic.model == "gaussian" and self.compile is True:
            yield Problem("compile", True, "auto or false with crystal.mosaic.model gaussian, which is not compiled")
        if "layers_beyond_sensor" in self.compatibility and self.detector.thickness.um == 0:
            yield Problem("compatibility", list(self.compatibility), "layers_beyond_sensor only with a thickness")
        if mosaic.model == "gaussian" and self.structure_factors.interpolate:
            yield Problem("structure_factors.interpolate", True, "false with crystal.mosaic.model gaussian")
        if "mosaic" in free and mosaic.model == "domains" and (mosaic.spread_deg == 0 or mosaic.domains == 1):
            needs = "mosaic only when crystal.mosaic has spread_deg above 0 and domains of 2 or more"
            yield Problem("refinement.free", free, needs)
        if "layers_beyond_sensor" in self.compatibility and self.detector.thickness.parallax == "dials":
            needs = "without layers_beyond_sensor where detector.thickness.parallax is dials"
            yield Problem("compatibility", list(self.compatibility), needs)
        if self.refinement.loss == "gaussian" and self.detector.readout_noise == 0:
            needs = "above 0, in ADU, for refinement.loss gaussian, whose variance is photons + readout noise"
            yield Problem("detector.readout_noise", 0.0, needs)
        restraint, group = self.refinement.restraints.cell, gemmi.find_spacegroup_by_name(self.crystal.space_group)
        if restraint is not None and not fits_group(restraint.target, group):
            needs = f"a cell of the crystal's space group: {group.xhm()} needs {group_needs(group)}"
            yield Problem("refinement.restraints.cell.target", list(restraint.target), needs)
        if "background" in free and self.background.model == "none":
            yield Problem("refinement.free", free, "background only when background.model is not none")

    def _whole_image_problems(self) -> Iterator[Problem]:
        settings = self.refinement
        if self.structure_factors.unknown:
            yield Problem("refinement.pixels", "all", "null or shoebox where structure_factors.unknown is true")
        if settings.holdout:
            yield Problem("refinement.holdout", settings.holdout, "0 without refinement.pixels: {shoebox: {}}")
        if "amplitudes" in settings.free:
            needs = "amplitudes only with refinement.pixels: {shoebox: {}}"
            yield Problem("refinement.free", list(settings.free), needs)
        if len(self.images) > 1:
            needs = "one image without refinement.pixels: {shoebox: {}}"
            yield Problem("images", [str(image.file) for image in self.images], needs)
        if settings.restraints.amplitudes is not None:
            needs = "null without refinement.pixels: {shoebox: {}}"
            yield Problem("refinement.restraints.amplitudes", settings.restraints.amplitudes.model_dump(), needs)
        for number, image in enumerate(self.images):
            if image.spots is not None:
                needs = "null without refinement.pixels: {shoebox: {}}"
                yield Problem(f"images.{number}.spots", str(image.spots), needs)

    def _shoebox_problems(self) -> Iterator[Problem]:
        settings, scan = self.refinement, self.crystal.scan
        if self.crystal.mosaic.model != "gaussian":
            yield Problem("crystal.mosaic.model", self.crystal.mosaic.model, "gaussian for shoeboxes")
        if scan.osc != 0:
            yield Problem("crystal.scan.osc", scan.osc, "0 for shoeboxes, which are of stills")
        if self.background.model == "file" or self.background.water_um:
            needs = "none, constant or plane, without water, for shoeboxes, each of which has its own"
            yield Problem("background.model", self.background.model, needs)
        if idle := [name for name in settings.free if name in NOT_OF_SHOEBOXES]:
            yield Problem("refinement.free", list(settings.free), f"for shoeboxes parameters other than {idle[0]}")
        if settings.strategy == "stages":
            yield Problem("refinement.strategy", "stages", "auto or single for shoeboxes")
        if settings.loss == "mse":
            yield Problem("refinement.loss", "mse", "poisson, gaussian or robust for shoeboxes")
        free = self.structure_factors.unknown or "amplitudes" in settings.free
        if settings.restraints.amplitudes is not None and (self.structure_factors.unknown or not free):
            needs = "null unless amplitudes are in refinement.free and structure_factors has a file or a default"
            yield Problem("refinement.restraints.amplitudes", settings.restraints.amplitudes.model_dump(), needs)
