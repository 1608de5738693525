"""Structure factors on a dense box of Miller indices."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StructureFactors:
    """|F|^2 by Miller index: intensity (H, K, L) in electrons^2, lowest (3,) the indices of its first entry. The
    outermost layer is the value for everything outside.

    amplitude: (H, K, L) F of the same box, where it is interpolated between the reflections; None for the nearest's.
    d_min: Å, beyond which there is no reflection, or None.
    """

    intensity: Tensor
    lowest: Tensor
    amplitude: Tensor | None = None
    d_min: float | None = None

    @classmethod
    def uniform(cls, amplitude: Tensor) -> "StructureFactors":
        """The same amplitude () for every reflection."""
        return cls((amplitude**2).reshape(1, 1, 1), amplitude.new_zeros(3))

    @classmethod
    def from_grid(
        cls, amplitude: Tensor, lowest: tuple[int, int, int], default: float = 0.0, interpolate: bool = False
    ) -> "StructureFactors":
        """From amplitudes (H, K, L) whose first entry has the indices `lowest`; `default` outside."""
        padded = torch.nn.functional.pad(amplitude, (1,) * 6, value=default)
        return cls(padded**2, torch.tensor(lowest).to(amplitude) - 1, padded if interpolate else None)
