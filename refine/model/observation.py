"""An observed image, as a solver needs it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from refine.model.pixels import Pixels


@dataclass(frozen=True)
class Observation:
    """photons (slow, fast) or (panels, slow, fast), trusted bool of the same shape, readout_variance () photons^2, or
    (panels,)."""

    photons: Tensor
    trusted: Tensor
    readout_variance: Tensor

    @classmethod
    def of(cls, photons: Tensor) -> "Observation":
        """A perfect counting detector's image (slow, fast) or (panels, slow, fast); pixels that are not finite are
        left out."""
        return cls(photons, torch.isfinite(photons), photons.new_zeros(()))

    def pixels(self) -> Pixels:
        """The trusted pixels."""
        return Pixels.chosen(self.trusted, self.photons)

    def variance(self, pixels: Pixels) -> Tensor:
        """Readout variance () or (P,) of some pixels."""
        return self.readout_variance[pixels.panel] if self.readout_variance.dim() else self.readout_variance
