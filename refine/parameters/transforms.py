"""How one number z stands for a physical value; z = 0 is always the start."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Transform(NamedTuple):
    """physical = decode(z), z = encode(physical), elementwise."""

    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]


def shifted(start: Tensor, scale: float) -> Transform:
    """start + scale z: for values of either sign; `scale` is a change that an image clearly shows."""
    return Transform(lambda z: start + scale * z, lambda value: (value - start) / scale)


def positive(start: Tensor, scale: float = 0.01, lowest: float = 0.0) -> Transform:
    """lowest + (start - lowest) exp(scale z): never at or below `lowest`."""
    if not bool((start > lowest).all()) or math.isinf(scale):
        raise ValueError(f"a start above {lowest} is needed, not {start.tolist()}")
    return Transform(
        lambda z: lowest + (start - lowest) * torch.exp(scale * z),
        lambda value: torch.log((value - lowest) / (start - lowest)) / scale,
    )
