"""The derivatives of a few numbers by z."""

from collections.abc import Sequence

import torch
from torch import Tensor


def jacobian(values: Tensor, *parts: Tensor) -> Tensor:
    """Derivatives (m, n) of a tensor of m values, made from z (n,), or its parts, with a graph that can be
    differentiated twice; 0 where z plays no part."""
    return columns(values, *parts).reshape(values.numel(), -1)


def columns(values: Tensor, *parts: Tensor, acting: Sequence[bool] | None = None) -> Tensor:
    """The same of a tensor (...) in its own shape: (..., n). Coordinates that are not `acting` (n,) are known to play
    no part.

    The product of any weights with the Jacobian is linear in them, so its derivatives by the weights are the
    Jacobian's columns: n passes in reverse mode, however many values there are, each through what its own part of z
    acts on. torch's forward mode and its batched reverse mode would be as fast, but import a compiler for it, which
    takes longer than many a refinement.
    """
    weights = torch.zeros_like(values, requires_grad=True)
    anyhow = sum(part.sum() for part in parts) * 0 * weights.sum()  # of z and the weights in any case
    products = torch.autograd.grad((values * weights).sum() + anyhow, parts, create_graph=True)
    found = torch.zeros(*values.shape, sum(map(len, parts)), dtype=values.dtype, device=values.device)
    for k, product in enumerate(one for part in products for one in part):
        if acting is None or acting[k]:
            found[..., k] = torch.autograd.grad(product, weights, retain_graph=True)[0]
    return found
