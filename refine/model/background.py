"""Background photons under the spots."""

from dataclasses import dataclass

import torch
from torch import Tensor

from refine.model.pixels import Pixels
from refine.physics.background import plane_background


@dataclass(frozen=True)
class Background:
    """coefficients (3,): photons at the middle of the image and their change per pixel along fast and slow, plus
    `factor` () times a known image (slow, fast) or (panels, slow, fast); `middle` (2,) slow, fast in pixels.

    water () is the edge in µm of a cube of water in the beam, or None. It scatters as the crystal does, so the forward
    model adds it to the Bragg intensity.
    """

    coefficients: Tensor
    middle: Tensor
    factor: Tensor
    image: Tensor | None = None
    water: Tensor | None = None

    @classmethod
    def plane(cls, coefficients: Tensor, size: tuple[int, int]) -> "Background":
        """A plane, or a constant where the slopes are 0, over an image of `size` (slow, fast)."""
        middle = (torch.tensor(size).to(coefficients) - 1) / 2
        return cls(coefficients, middle, torch.ones_like(coefficients[0]))

    def from_middle(self, pixels: Pixels) -> tuple[Tensor, Tensor]:
        """Fast and slow coordinates (P,), (P,) from the image's middle, in pixels."""
        return pixels.fast - self.middle[1], pixels.slow - self.middle[0]

    def photons(self, pixels: Pixels) -> Tensor:
        """Expected background (P,)."""
        fast, slow = self.from_middle(pixels)
        smooth = plane_background(self.coefficients, slow, fast)
        if self.image is None:
            return smooth
        return smooth + self.factor * self.image[pixels.place]
