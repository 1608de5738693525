"""The derivatives of a few numbers by z."""

from collections.abc import Sequence

import torch
from torch import Tensor


def jacobian(values: Tensor, z: Tensor) -> Tensor:
    """Derivatives (m, n) of a tensor of m values, made from z (n,) with a graph that can be differentiated twice; 0
    where z plays no part."""
    return columns(values, z).reshape(values.numel(), len(z))


def columns(values: Tensor, z: Tensor, acting: Sequence[bool] | None = None) -> Tensor:
    """The same of a tensor (...) in its own shape: (..., n). Coordinates that are not `acting` (n,) are known to play
    no part.

    The product of any weights with the Jacobian is linear in them, so its derivatives by the weights are the
    Jacobian's columns: n passes in reverse mode, however many values there are. torch's forward mode and its batched
    reverse mode would be as fast, but import a compiler for it, which takes longer than many a refinement.
    """
    weights = torch.zeros_like(values, requires_grad=True)
    product_sum = (values * weights).sum() + 0 * z.sum() * weights.sum()  # of z and the weights in any case
    (product,) = torch.autograd.grad(product_sum, z, create_graph=True)
    found = torch.zeros(*values.shape, len(z), dtype=values.dtype, device=values.device)
    for k, part in enumerate(product):
        if acting is None or acting[k]:
            found[..., k] = torch.autograd.grad(part, weights, retain_graph=True)[0]
    return found
