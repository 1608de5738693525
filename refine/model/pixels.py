"""Which pixels: a whole image, the survivors of a mask, shoeboxes and memory tiles are all one list."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from refine.physics.tile_sums import parts


@dataclass(frozen=True)
class Pixels:
    """Pixel coordinates slow (P,) and fast (P,), whole numbers in floating point, 0 at the first pixel of its panel;
    panel (P,) int64, or None where the detector is one panel."""

    slow: Tensor
    fast: Tensor
    panel: Tensor | None = None

    @classmethod
    def whole(cls, shape: tuple[int, ...], like: Tensor) -> "Pixels":
        """Every pixel of an image (slow, fast) or a stack (panels, slow, fast), rows first."""
        return cls.chosen(torch.ones(shape, dtype=torch.bool, device=like.device), like)

    @classmethod
    def chosen(cls, mask: Tensor, like: Tensor) -> "Pixels":
        """The pixels where a mask (slow, fast) or (panels, slow, fast) is true, in the dtype and on the device of
        `like`."""
        *panel, slow, fast = mask.nonzero(as_tuple=True)
        return cls(slow.to(like), fast.to(like), panel[0].to(like.device) if panel else None)

    def __len__(self) -> int:
        return len(self.slow)

    def __getitem__(self, part: slice | Tensor) -> "Pixels":
        """Some of them, by a slice or by their places (n,) in the list."""
        return Pixels(self.slow[part], self.fast[part], None if self.panel is None else self.panel[part])

    @property
    def place(self) -> tuple[Tensor, ...]:
        """The indices of these pixels in an image (slow, fast) or a stack (panels, slow, fast)."""
        inside = (self.slow.long(), self.fast.long())
        return inside if self.panel is None else (self.panel, *inside)

    def tiles(self, width: int) -> Iterator[tuple[slice, "Pixels"]]:
        """The list cut into pieces of at most `width` pixels, alike in length, each with its place."""
        for place in parts(len(self), width):
            yield place, self[place]
