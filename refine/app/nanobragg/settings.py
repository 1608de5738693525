"""Everything a nanoBragg.c command line resolves to.

Lengths on the detector in mm, the crystal's and the wavelength in Å, angles in degrees unless a name says otherwise;
vectors in the lab frame. Paths are complete.
"""

from dataclasses import dataclass
from pathlib import Path

from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.vectors import Vector


@dataclass(frozen=True)
class CrystalSettings:
    """The crystal at phi = 0, without mosaicity.

    a, b, c: Å. a_star, b_star, c_star: 1/Å, the reciprocal of a, b, c but for `Defects.triclinic_c_star`.
    volume: Å^3. cell: a, b, c (Å), alpha, beta, gamma (degrees) of a, b, c.
    misset: degrees about lab x, y, z, as given or drawn. cells: N along a, b, c, at least 1.
    shape: square, round, gauss or tophat; fudge: its parameter.
    mosaic_spread: degrees; mosaic_seed: at least 1, for `refine.physics.mosaic`.
    """

    a: Vector
    b: Vector
    c: Vector
    a_star: Vector
    b_star: Vector
    c_star: Vector
    volume: float
    cell: tuple[float, float, float, float, float, float]
    misset: Vector
    cells: tuple[int, int, int]
    shape: str
    fudge: float
    mosaic_spread: float
    mosaic_domains: int
    mosaic_seed: int


@dataclass(frozen=True)
class Source:
    """direction: unit vector from the sample to the source. weight: as given or 1 / sources. wavelength: Å."""

    direction: Vector
    weight: float
    wavelength: float


@dataclass(frozen=True)
class BeamSettings:
    """The incident beam.

    direction: unit vector the photons travel along; polarization: of the electric vector; vertical: their product.
    wavelength: Å, the central one. sources: every direction and wavelength of the sum; source_file: where they are
    listed, or None.
    dispersion: full width as a fraction of the wavelength; hdiv_range, vdiv_range: full divergences in mrad; with
    their steps, and whether directions are cut to an ellipse. Without effect where a source file was given.
    kahn: Kahn factor; polarized: whether the factor is applied.
    fluence: photons/m^2. flux: photons/s; exposure: s; size: mm, edge of the square beam.
    """

    direction: Vector
    polarization: Vector
    vertical: Vector
    wavelength: float
    source_file: Path | None
    sources: tuple[Source, ...]
    dispersion: float
    dispersion_steps: int
    hdiv_range: float
    hdiv_steps: int
    vdiv_range: float
    vdiv_steps: int
    round_divergence: bool
    kahn: float
    polarized: bool
    fluence: float
    flux: float
    exposure: float
    size: float


@dataclass(frozen=True)
class Place:
    """The detector in the lab, m: its origin and unit vectors, its distance along the beam and to its plane, and the
    pixel size; in nanoBragg.c's roundings, which decide whether a ray runs exactly along the beam."""

    origin: Vector
    fast: Vector
    slow: Vector
    normal: Vector
    distance: float
    close_distance: float
    pixel_size: float


@dataclass(frozen=True)
class DetectorSettings:
    """The detector as it stands, after its rotations.

    place: where, in m; the same as origin, fast, slow, normal, distance, close_distance and pixel_size.
    convention: mosflm, xds, adxv, denzo, dials or custom. pivot: beam or sample, what the rotations left in place.
    size: (slow, fast) pixels. extent: (slow, fast) mm, not always size times pixel_size. pixel_size: mm.
    origin: mm, outer corner of the first pixel. fast, slow, normal: unit vectors (normal: away from the sample).
    twotheta_axis: as given, of any length. rotations: degrees about lab x, y, z; twotheta: degrees.
    distance: mm along the beam, as nanoBragg.c reports it (twotheta not considered); close_distance: mm to the plane.
    header_beam: (Xbeam, Ybeam) mm as the convention has them, for image headers.
    beam: (fast, slow) mm, where nanoBragg.c reports the direct beam. close: (fast, slow) mm, the nearest point.
    given_close: (Xclose, Yclose) mm as given or by default. org: (ORGX, ORGY) pixels, the nearest point as XDS has it.
    dials_origin: mm, the origin in DIALS' frame where the convention is mosflm.
    curved: all pixels at `distance`. point_pixel: solid angle 1/R^2 with R in m.
    sensor_thickness: mm, 0 for none; layers of layer_thickness mm each. attenuation: 1/mm; None where not given.
    """

    place: Place
    convention: str
    pivot: str
    size: tuple[int, int]
    extent: tuple[float, float]
    pixel_size: float
    origin: Vector
    fast: Vector
    slow: Vector
    normal: Vector
    twotheta_axis: Vector
    rotations: Vector
    twotheta: float
    distance: float
    close_distance: float
    header_beam: tuple[float, float]
    beam: tuple[float, float]
    close: tuple[float, float]
    given_close: tuple[float, float]
    org: tuple[float, float]
    dials_origin: Vector
    curved: bool
    point_pixel: bool
    sensor_thickness: float
    layers: int
    layer_thickness: float
    attenuation: float | None


@dataclass(frozen=True)
class ScanSettings:
    """phi0, osc, step: degrees. spindle: unit vector.

    angles: radians, phi0 + k step in nanoBragg.c's rounding, which decides whether a step stands at 0 exactly.
    """

    phi0: float
    osc: float
    step: float
    steps: int
    spindle: Vector
    angles: tuple[float, ...]


@dataclass(frozen=True)
class SamplingSettings:
    """What is computed, and how finely.

    oversample: sub-pixels per pixel edge; recommended_oversample: what the crystal's size asks for.
    oversample_thickness, _polarization, _solid_angle: the factor in every sub-pixel, not once a pixel.
    steps: sub-pixels times sources times phi steps times mosaic domains, by which the sum is divided.
    roi: (fast from, fast to, slow from, slow to) pixels, ends included, possibly beyond the detector.
    mask: SMV image of the detector's size whose zeros are not computed. dmin: Å, 0 for no limit.
    """

    oversample: int
    recommended_oversample: int
    oversample_thickness: bool
    oversample_polarization: bool
    oversample_solid_angle: bool
    steps: int
    roi: tuple[int, int, int, int]
    mask: Path | None
    dmin: float


@dataclass(frozen=True)
class StructureFactorSettings:
    """hkl: list of h k l F, or None for `default` everywhere. interpolate: tricubically (at the first step)."""

    hkl: Path | None
    default: float
    interpolate: bool


@dataclass(frozen=True)
class OutputSettings:
    """Files to write, None for none.

    config_file: a configuration to write instead.
    int_scale: ADU per photon of int_file, None for 55000 at the maximum. pgm_scale: grey levels per photon, None for
    250 at five rmsd. adc_offset: ADU. seed: of the noise. printout: print pixels, only printout_pixel (fast, slow)
    where given. progress: show progress.
    """

    float_file: Path
    int_file: Path
    noise_file: Path | None
    pgm_file: Path | None
    config_file: Path | None
    int_scale: float | None
    pgm_scale: float | None
    adc_offset: float
    seed: int
    printout: bool
    printout_pixel: tuple[int, int] | None
    progress: bool


@dataclass(frozen=True)
class Settings:
    """A command line, resolved. water: µm, edge of a cube of water. notes: remarks for the user."""

    crystal: CrystalSettings
    beam: BeamSettings
    detector: DetectorSettings
    scan: ScanSettings
    sampling: SamplingSettings
    structure_factors: StructureFactorSettings
    water: float
    output: OutputSettings
    defects: Defects
    notes: tuple[str, ...]
