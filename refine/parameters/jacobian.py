"""The derivatives of a few numbers by z."""

import torch
from torch import Tensor


def jacobian(values: Tensor, z: Tensor) -> Tensor:
    """Derivatives (m, n) of a tensor of m values, made from z (n,), by reverse mode, one pass for all values at once; 0
    where z plays no part.

    torch's forward mode would be as fast, but imports a compiler for it, which takes longer than many a refinement.
    """
    if not values.requires_grad:
        return z.new_zeros(values.numel(), len(z))
    units = torch.eye(values.numel()).to(values).reshape(-1, *values.shape)
    (rows,) = torch.autograd.grad(values, z, units, retain_graph=True, allow_unused=True, is_grads_batched=True)
    return z.new_zeros(values.numel(), len(z)) if rows is None else rows


def columns(values: Tensor, z: Tensor) -> Tensor:
    """Derivatives (..., n) of a tensor of many values (...), made from z (n,) with a graph that can be differentiated
    twice: the product of any weights with the Jacobian is linear in them, so its derivatives by the weights are the
    Jacobian's columns. n passes, where `jacobian` takes one a value; 0 where z plays no part.
    """
    if not values.requires_grad:
        return values.new_zeros(*values.shape, len(z))
    weights = torch.zeros_like(values, requires_grad=True)
    (product,) = torch.autograd.grad((values * weights).sum(), z, create_graph=True)
    found = [torch.autograd.grad(part, weights, retain_graph=True)[0] for part in product]
    return torch.stack(found, -1)
