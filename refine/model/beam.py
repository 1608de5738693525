"""The incident beam."""

from dataclasses import dataclass

from torch import Tensor

from refine.physics.sources import Sources, Spread, single_source, spread_sources

THOMSON_CROSS_SECTION = 7.94079248018965e-30  # m^2, classical electron radius squared, nanoBragg.c's value
UNIT_FLUENCE = 1 / THOMSON_CROSS_SECTION  # photons/m^2 that make the prefactor of the image 1


@dataclass(frozen=True)
class GaussianBeam:
    """Standard deviations of a Gaussian spectrum and divergence, for crystals of a Gaussian mosaic: bandwidth () in %,
    divergence (2,) in mrad, horizontal (along the electric vector) and vertical."""

    bandwidth: Tensor
    divergence: Tensor


@dataclass(frozen=True)
class Beam:
    """The incident beam, one ray of one colour unless `spread` says otherwise.

    wavelength: () Å, of the middle of the spectrum; where rays are listed, the one by which resolution is reckoned.
    direction: (3,) unit vector the photons travel along, lab frame.
    fluence: () photons/m^2. polarization: () Kahn factor, or None for no correction.
    polarization_axis: (3,) direction of the electric vector.
    spread: a divergent or polychromatic beam, or its rays one by one; None for one ray.
    gaussian: a spread in closed form, or None.
    """

    wavelength: Tensor
    direction: Tensor
    fluence: Tensor
    polarization: Tensor | None
    polarization_axis: Tensor
    spread: Sources | Spread | None = None
    gaussian: GaussianBeam | None = None

    @property
    def sources(self) -> Sources:
        """The rays, one or many."""
        if isinstance(self.spread, Spread):
            return spread_sources(self.direction, self.polarization_axis, self.spread)
        return single_source(self.direction) if self.spread is None else self.spread
