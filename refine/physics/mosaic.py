"""Mosaic domains as nanoBragg.c draws them, and the rotation of every step of the sum."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from refine.physics.rotation import axis_rotation, cross_matrix


def park_miller(seed: int) -> Iterator[float]:
    """Deviates in (0, 1), rounded to float32: the minimal standard generator of Park & Miller with a Bays-Durham
    shuffle of 32 places (Press et al., Numerical Recipes in C, section 7.1), which nanoBragg.c draws from."""
    multiplier, modulus, places = 16807, 2147483647, 32
    state = max(abs(seed), 1)
    warm_up = []
    for _ in range(places + 8):
        state = state * multiplier % modulus
        warm_up.append(state)
    shuffle = warm_up[:7:-1]
    last = shuffle[0]
    while True:
        state = state * multiplier % modulus
        place = last // (1 + (modulus - 1) // places)
        last, shuffle[place] = shuffle[place], state
        yield min(float(np.float32(last / modulus)), float(np.float32(1 - 1.2e-7)))


def mosaic_domains(domains: int, seed: int) -> tuple[Tensor, Tensor]:
    """Unit axes (domains, 3) and angles (domains,) as fractions of the spread.

    nanoBragg.c: axes uniform on the sphere, angle = spread (1 - u^2)^(1/3) with u uniform in [-1, 1]; the first
    domain is the identity, its random numbers drawn all the same.
    """
    draws = park_miller(seed)
    u = np.array([2 * next(draws) - 1 for _ in range(3 * domains)]).reshape(domains, 3)
    radius = np.sqrt(1 - u[:, 1] ** 2)
    axes = np.stack([radius * np.sin(np.pi * u[:, 0]), radius * np.cos(np.pi * u[:, 0]), u[:, 1]], 1)
    fractions = np.cbrt(1 - u[:, 2] ** 2)
    fractions[0] = 0
    return torch.from_numpy(axes), torch.from_numpy(fractions)


def step_rotations(angles: Tensor, axes: Tensor, fractions: Tensor, spindle: Tensor, phi_steps: int) -> Tensor:
    """Rotations (D * K, 3, 3) of the crystal in every step: the spindle's, then the domain's, in the lab frame.

    Args:
        angles: (3,) mosaic spread, first phi and phi range, in radians.
        axes, fractions: (D, 3) and (D,) from `mosaic_domains`.
        spindle: (3,) unit vector.
        phi_steps: K; each step stands at its left edge, phi0 + k osc / K.
    """
    spread, phi0, osc = angles.unbind()
    left_edges = torch.arange(phi_steps, dtype=angles.dtype, device=angles.device) / phi_steps
    turned = axis_rotation(spindle.expand(phi_steps, 3), phi0 + osc * left_edges)
    return (axis_rotation(axes, spread * fractions)[:, None] @ turned).flatten(0, 1)


def step_rotation_rates(angles: Tensor, axes: Tensor, fractions: Tensor, spindle: Tensor, phi_steps: int) -> Tensor:
    """Derivatives (3, D * K, 3, 3) of `step_rotations` by the three angles, per radian."""
    spread, phi0, osc = angles.unbind()
    left_edges = torch.arange(phi_steps, dtype=angles.dtype, device=angles.device) / phi_steps
    turned = axis_rotation(spindle.expand(phi_steps, 3), phi0 + osc * left_edges)
    domain = axis_rotation(axes, spread * fractions)[:, None]
    by_spread = (fractions[:, None, None] * cross_matrix(axes))[:, None] @ domain @ turned
    by_phi0 = domain @ cross_matrix(spindle) @ turned
    rates = torch.stack([by_spread, by_phi0, by_phi0 * left_edges[:, None, None]])
    return rates.flatten(1, 2)
