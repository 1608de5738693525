"""Which pixels: a whole image, the survivors of a mask, shoeboxes and memory tiles are all one list."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Pixel coordinates slow (P,) and fast (P,), whole numbers in floating point, 0 at the first pixel."""

    slow: Tensor
    fast: Tensor

    @classmethod
    def whole(cls, size: tuple[int, int], like: Tensor) -> "Pixels":
        """Every pixel of an image (slow, fast), rows first."""
        return cls.chosen(torch.ones(size, dtype=torch.bool, device=like.device), like)

    @classmethod
    def chosen(cls, mask: Tensor, like: Tensor) -> "Pixels":
        """The pixels where a mask (slow, fast) is true, in the dtype and on the device of `like`."""
        return cls(*(index.to(like) for index in mask.nonzero(as_tuple=True)))

    def __len__(self) -> int:
        return len(self.slow)

    def tiles(self, width: int) -> Iterator[tuple[slice, "Pixels"]]:
        """The list cut into pieces of at most `width` pixels, each with its place."""
        for start in range(0, len(self), width):
            place = slice(start, start + width)
            yield place, Pixels(self.slow[place], self.fast[place])
