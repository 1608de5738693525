"""The instrument's part of the configuration: beam and detector."""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, model_validator

from refine.app.config_base import (
    Count,
    FileName,
    NotNegative,
    Number,
    Positive,
    Problem,
    Section,
    Vector,
    Whole,
    reject,
)
from refine.model.conventions import CONVENTIONS

DEFAULT_FLUENCE = 1.2593201528622709e29  # photons/m^2; nanoBragg's, which makes r_e^2 * fluence = 1
MM_PER_M = 1e3
MOST_PIXELS = 200_000_000  # a tenth of it is a large detector
MOST_SUBPIXELS = 64
RIGHT_ANGLE = 1e-3  # cosine below which two axes are at right angles


def _not_zero(vector: Vector) -> Vector:
    if not any(vector):
        reject([Problem("", list(vector), "a vector other than 0 0 0")])
    return vector


def _ascending(span: tuple[int, int]) -> tuple[int, int]:
    if span[0] > span[1]:
        reject([Problem("", list(span), "first and last pixel, in ascending order")])
    return span


def _cross(one: Vector, other: Vector) -> Vector:
    (a, b, c), (x, y, z) = one, other
    return b * z - c * y, c * x - a * z, a * y - b * x


def _dot(one: Vector, other: Vector) -> float:
    return sum(x * y for x, y in zip(one, other, strict=True))


Direction = Annotated[Vector, AfterValidator(_not_zero)]
PixelIndex = Annotated[Whole, Field(ge=0)]


_Width = Annotated[NotNegative, Field(le=100)]


class Divergence(Section):
    """The spread of the beam's directions."""

    horizontal_mrad: _Width = Field(default=0.0, description="full divergence along the polarization axis [mrad]")
    vertical_mrad: _Width = Field(default=0.0, description="full divergence across it [mrad]")
    steps: Count | tuple[Count, Count] = Field(
        default=1,
        description="directions along each divergence, or along horizontal and vertical, both ends included [steps]",
    )
    round: StrictBool = Field(default=True, description="whether the grid of directions is cut to an ellipse")

    def problems(self) -> Iterator[Problem]:
        if any(width > 0 and count < 2 for width, count in zip(self.widths_mrad, self._each(), strict=True)):
            yield Problem("steps", self.steps, "2 or more along a divergence above 0")
        if max(self._each()) > 1 and max(self.widths_mrad) == 0:
            yield Problem("steps", self.steps, "1 without a divergence")
        if not self.round and min(self.widths_mrad) == 0:
            yield Problem("round", False, "true, unless both divergences are above 0")

    @property
    def widths_mrad(self) -> tuple[float, float]:
        """Full horizontal and vertical divergence."""
        return self.horizontal_mrad, self.vertical_mrad

    @property
    def counts(self) -> tuple[int, int]:
        """Directions along horizontal and vertical, one where there is no divergence."""
        horizontal, vertical = (n if w > 0 else 1 for n, w in zip(self._each(), self.widths_mrad, strict=True))
        return horizontal, vertical

    def _each(self) -> tuple[int, int]:
        return self.steps if isinstance(self.steps, tuple) else (self.steps, self.steps)


class Dispersion(Section):
    """The spread of the beam's wavelengths."""

    percent: Annotated[NotNegative, Field(lt=100)] = Field(
        default=0.0, description="full spectral width over the wavelength [%]"
    )
    steps: Count = Field(default=1, description="wavelengths sampled, both ends included [steps]")

    def problems(self) -> Iterator[Problem]:
        if self.steps < 2 and self.percent > 0:
            yield Problem("steps", self.steps, "2 or more when percent is above 0")
        if self.steps > 1 and self.percent == 0:
            yield Problem("steps", self.steps, "1 when percent is 0")


class GaussianSpread(Section):
    """Standard deviations of a spectrum and divergence that are not sampled."""

    bandwidth_percent: NotNegative = Field(default=0.0, description="of the wavelength over its mean [%]")
    horizontal_mrad: NotNegative = Field(default=0.0, description="along the polarization axis [mrad]")
    vertical_mrad: NotNegative = Field(default=0.0, description="across it [mrad]")

    @property
    def given(self) -> bool:
        """Whether any of them is above 0."""
        return max(self.bandwidth_percent, self.horizontal_mrad, self.vertical_mrad) > 0


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
    divergence: Divergence = Field(default=Divergence(), description="spread of directions")
    dispersion: Dispersion = Field(default=Dispersion(), description="evenly spread wavelengths")
    gaussian: GaussianSpread = Field(
        default=GaussianSpread(),
        description="Gaussian spectrum and divergence, with mosaic model gaussian",
    )
    spectrum: FileName | None = Field(
        default=None, description="text file of wavelengths [Å] and weights, two columns, instead of dispersion"
    )
    sources: FileName | None = Field(
        default=None,
        description="nanoBragg's source list, a line a ray: place x y z of the source seen from the sample, weight,"
        " wavelength [m]; instead of divergence, dispersion and spectrum",
    )

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
        if self.gaussian.given and (self._spreads or self.spectrum is not None or self.sources is not None):
            yield Problem("gaussian", self.gaussian.model_dump(), "zeros beside sampled divergence, colours or sources")
        if self.spectrum is not None and self.dispersion.percent > 0:
            yield Problem("spectrum", str(self.spectrum), "a spectrum or dispersion.percent above 0, not both")
        if self.sources is not None and (self.spectrum is not None or self._spreads):
            accepted = "a source list alone, without divergence, dispersion and spectrum"
            yield Problem("sources", str(self.sources), accepted)

    @property
    def _spreads(self) -> bool:
        return max(*self.divergence.widths_mrad, self.dispersion.percent) > 0

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
        default=None, description="point that stays; null: the convention's own (xds and dials sample, the others beam)"
    )


_PixelCount = Annotated[Count, Field(le=100_000)]


class Axes(Section):
    """Vectors of the lab frame instead of the convention's, of any length; null is the convention's own."""

    beam: Direction | None = Field(default=None, description="the way the photons travel [any unit]")
    fast: Direction | None = Field(default=None, description="along a row of pixels [any unit]")
    slow: Direction | None = Field(default=None, description="down the columns, at right angles to fast [any unit]")
    spindle: Direction | None = Field(default=None, description="rotation axis of the crystal [any unit]")
    twotheta: Direction | None = Field(default=None, description="axis of detector.rotations.twotheta [any unit]")
    polarization: Direction | None = Field(default=None, description="electric vector of the beam [any unit]")

    @property
    def given(self) -> dict[str, Direction]:
        """Unit vectors by name, of those that are not null."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: _unit(vector) for name, vector in named if vector is not None}


def _unit(vector: Direction) -> Direction:
    x, y, z = (value / math.hypot(*vector) for value in vector)
    return x, y, z


class Thickness(Section):
    """The absorbing sensor; 0 counts every photon at the surface."""

    um: NotNegative = Field(default=0.0, description="thickness of the sensor [µm]")
    attenuation_um: NotNegative = Field(default=0.0, description="depth in which the beam falls to 1/e [µm]")
    steps: Annotated[Count, Field(le=1000)] = Field(
        default=1, description="layers of equal thickness, each at its front [layers]"
    )
    parallax: Literal["layers", "dials"] = Field(
        default="layers",
        description="where photons are counted; layers: at the front of each; dials: at a ray's mean path, as DIALS'"
        " ParallaxCorrectedPxMmStrategy",
    )

    def problems(self) -> Iterator[Problem]:
        if self.um > 0 and self.attenuation_um == 0:
            yield Problem("attenuation_um", 0.0, "above 0, in µm, when um is above 0")
        if self.um == 0 and self.attenuation_um > 0:
            yield Problem("um", 0.0, "above 0, in µm, when attenuation_um is given")
        if self.um == 0 and self.steps > 1:
            yield Problem("steps", self.steps, "1 when um is 0")
        if self.parallax == "dials" and (self.um == 0 or self.steps > 1):
            yield Problem("parallax", "dials", "layers, or dials with um above 0 and steps of 1")


Span = Annotated[tuple[PixelIndex, PixelIndex], AfterValidator(_ascending)]


class Region(Section):
    """The part of the detector that is computed and compared; first and last pixels are both in it."""

    fast: Span | None = Field(default=None, description="first and last along fast; null: all [pixels]")
    slow: Span | None = Field(default=None, description="first and last along slow; null: all [pixels]")


class Detector(Section):
    """A detector and how it counts; a DIALS file supplies the keys that are not given, and the panels where it has
    many, which the keys then move together."""

    distance: Positive = Field(description="sample to the direct-beam spot [mm]", examples=[100.0])
    pixel_size: Positive = Field(description="edge of a square pixel [mm]", examples=[0.1])
    size: tuple[_PixelCount, _PixelCount] = Field(description="slow then fast [pixels]", examples=[[512, 512]])
    beam_center_px: tuple[Number, Number] = Field(
        description="fast then slow, from the outer corner of the first pixel [pixels]", examples=[[256.0, 256.0]]
    )
    convention: Literal["mosflm", "denzo", "adxv", "xds", "dials", "expt"] = Field(
        default="mosflm", description="lab frame; expt is that of DIALS' files"
    )
    axes: Axes = Field(default=Axes(), description="vectors instead of the convention's, in its lab frame")
    rotations: Rotations = Field(default=Rotations(), description="rotations of the detector")
    gain: Positive | tuple[Positive, ...] = Field(
        default=1.0, description="counts a photon makes, or a list of one a panel [ADU/photon]"
    )
    offset: Number | tuple[Number, ...] = Field(
        default=0.0, description="counts at zero photons, or a list of one a panel [ADU]"
    )
    readout_noise: NotNegative = Field(default=0.0, description="rms noise of reading a pixel [ADU]")
    saturation: Number | None = Field(default=None, description="pixels at or above it are masked; null: none [ADU]")
    thickness: Thickness = Field(default=Thickness(), description="absorbing sensor")
    curved: StrictBool = Field(default=False, description="bent so that all pixels are at the same distance")
    point_pixel: StrictBool = Field(
        default=False, description="solid angle without the pixel's tilt against the ray, p^2 / R^2"
    )
    oversample: Annotated[Count, Field(le=MOST_SUBPIXELS)] | Literal["auto"] = Field(
        default=1, description="along each pixel edge; auto: as many as resolve the crystal's fringes [sub-pixels]"
    )
    roi: Region = Field(default=Region(), description="part of the detector that is computed and compared")
    mask: FileName | None = Field(
        default=None, description="file of the detector's shape, nonzero = use the pixel, for every image"
    )
    file: FileName | None = Field(
        default=None, description="DIALS .expt that supplies beam and detector, photons along -z; null: the keys alone"
    )
    index: PixelIndex = Field(default=0, description="number of the experiment in the file, from 0 [experiments]")

    def problems(self) -> Iterator[Problem]:
        if self.file is not None and self.convention != "expt":
            yield Problem("convention", self.convention, "expt beside a file, whose lab frame is kept; leave it out")
        if self.file is None and self.index:
            yield Problem("index", self.index, "0 when there is no file")
        if self.size[0] * self.size[1] > MOST_PIXELS:
            yield Problem("size", list(self.size), f"at most {MOST_PIXELS} pixels in all")
        for name, size in zip(("slow", "fast"), self.size, strict=True):
            span = getattr(self.roi, name)
            if span is not None and span[1] >= size:
                yield Problem(f"roi.{name}", list(span), f"pixels from 0 to {size - 1}")
        yield from self._axis_problems()

    def _axis_problems(self) -> Iterator[Problem]:
        axes = CONVENTIONS[self.convention].with_axes(self.axes.given)
        if abs(_dot(axes.fast, axes.slow)) > RIGHT_ANGLE:
            accepted = "fast and slow at right angles: pixels are square"
            yield Problem("axes", {"fast": list(axes.fast), "slow": list(axes.slow)}, accepted)
        if abs(_dot(axes.beam, _cross(axes.fast, axes.slow))) < RIGHT_ANGLE:
            yield Problem("axes.beam", list(axes.beam), "a direction that is not in the detector's plane")
        if self.curved and max(abs(_dot(axes.beam, axes.fast)), abs(_dot(axes.beam, axes.slow))) > RIGHT_ANGLE:
            yield Problem("curved", True, "false unless fast and slow are at right angles to the beam")
        if abs(_dot(axes.beam, axes.polarization)) > 1 - RIGHT_ANGLE:
            yield Problem("axes.polarization", list(axes.polarization), "a direction other than the beam's")

    @property
    def pivot(self) -> str:
        """The point that the rotations leave in place, the convention's own where none was given."""
        return self.rotations.pivot or CONVENTIONS[self.convention].pivot
