"""What a file says of beam, detector, rotation and crystal, whichever program wrote it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
# NIST's mass attenuation coefficients of silicon in cm^2/g, at keV (https://physics.nist.gov/PhysRefData/XrayMassCoef),
# the table that DIALS has its mu from
_SILICON_KEV = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 40.0)
_SILICON_CM2_PER_G = (2777.0, 978.4, 452.9, 245.0, 147.0, 64.68, 33.89, 10.34, 4.464, 1.436, 0.7012)
_SILICON_G_PER_CM3 = 2.33
KEV_ANGSTROM = 12.3984198
UM_PER_CM, UM_PER_MM = 1e4, 1e3


class Sensor(NamedTuple):
    """Thickness and length in which a ray falls to 1/e, µm; attenuation_um is None where it is not known."""

    um: float
    attenuation_um: float | None


class Rotation(NamedTuple):
    """The rotation during exposures: image number `first` begins at `start`, each takes `width`; degrees."""

    first: int
    start: float
    width: float

    def of(self, number: int) -> float:
        """Degrees at which the image of this number begins."""
        return self.start + self.width * (number - self.first)


class Placement(NamedTuple):
    """Where a flat panel stands: mm along the beam to its plane, and the spot there, fast and slow in pixels."""

    distance: float
    beam_center_px: tuple[float, float]


@dataclass(frozen=True)
class Instrument:
    """None, or nothing, stands for what the file does not say.

    convention:     the lab frame of the vectors, a name of `refine.model.conventions`.
    wavelength:     Å; polarization: the Kahn factor, -1 to 1.
    distance:       mm along the beam to the panel's plane; beam_center_px: the spot there, fast and slow from the
        outer corner of the first pixel.
    pixel_size:     mm; size: (slow, fast) pixels.
    axes:           unit vectors by name (beam, fast, slow, spindle, polarization), where they are not the convention's.
    offset:         counts at no photons; saturation: counts from which on a pixel is not to be trusted.
    cell:           a b c (Å), alpha beta gamma (degrees); space_group: Hermann-Mauguin symbol.
    real_space:     (3, 3) rows a, b, c in Å at rotation angle zero.
    images:         file name, '?' or '#' for the digits of the image's number; first_image: that of the first.
    notes:          what had to be assumed, and what is in the file and was not taken over.
    """

    convention: str = "mosflm"
    wavelength: float | None = None
    polarization: float | None = None
    distance: float | None = None
    beam_center_px: tuple[float, float] | None = None
    pixel_size: float | None = None
    size: tuple[int, int] | None = None
    axes: Mapping[str, Vector] = field(default_factory=dict)
    offset: float | None = None
    saturation: float | None = None
    sensor: Sensor | None = None
    rotation: Rotation | None = None
    cell: tuple[float, ...] | None = None
    space_group: str | None = None
    real_space: NDArray[np.float64] | None = None
    images: str | None = None
    first_image: int = 1
    notes: tuple[str, ...] = ()


def placed(beam: Vector, fast: Vector, slow: Vector, origin: Sequence[float] | NDArray[Any], pixel: float) -> Placement:
    """Of a panel of square pixels whose first pixel's outer corner is at `origin` (mm); unit vectors.

    Raises ValueError where the beam does not cross its plane behind the sample.
    """
    normal = np.cross(fast, slow)
    along = float(normal @ np.asarray(beam))
    distance = float(normal @ np.asarray(origin)) / along if along else 0.0
    if not 0 < distance < np.inf:
        raise ValueError("the direct beam does not cross the detector's plane behind the crystal")
    across = (distance * np.asarray(beam) - np.asarray(origin)) @ np.column_stack([fast, slow]) / pixel
    return Placement(distance, (float(across[0]), float(across[1])))


def unit(vector: Sequence[float] | NDArray[Any]) -> Vector:
    """The vector over its length. Raises ValueError where it has none."""
    length = float(np.linalg.norm(vector))
    if not 0 < length < np.inf:
        raise ValueError(f"a direction is {' '.join(f'{x:g}' for x in vector)}")
    x, y, z = (float(part) / length for part in vector)
    return x, y, z


def silicon_attenuation_um(wavelength: float) -> float:
    """Length in µm in which X-rays of a wavelength (Å, 0.31 to 6.2) fall to 1/e in silicon."""
    energy = KEV_ANGSTROM / wavelength
    per_gram = np.exp(np.interp(np.log(energy), np.log(_SILICON_KEV), np.log(_SILICON_CM2_PER_G)))
    return float(UM_PER_CM / (per_gram * _SILICON_G_PER_CM3))
