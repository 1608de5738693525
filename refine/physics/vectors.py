"""Vectors by components: (3, ...), the components first, so that each is one stretch of memory."""

import torch
from torch import Tensor


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Scalar products (...) of vectors (3, ...) and (3, ...), shapes that broadcast; half the passes over memory of
    (one * other).sum(0)."""
    (ax, ay, az), (bx, by, bz) = one.unbind(), other.unbind()
    return torch.addcmul(torch.addcmul(ax * bx, ay, by), az, bz)
