"""The derivatives of a few numbers by z."""

import torch
from torch import Tensor


def jacobian(values: Tensor, z: Tensor) -> Tensor:
    """Derivatives (m, n) of a tensor of m values, made from z (n,), by reverse mode, one value after the other; 0 where
    z plays no part.

    torch's forward mode would take fewer passes, but imports a compiler for it, which takes longer than many a
    refinement.
    """
    if not values.requires_grad:
        return z.new_zeros(values.numel(), len(z))
    rows = [torch.autograd.grad(v, z, retain_graph=True, allow_unused=True)[0] for v in values.reshape(-1)]
    return torch.stack([torch.zeros_like(z) if row is None else row for row in rows])
