"""The crystal's vectors in every step of the sum over phi and mosaic domains."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from refine.app.nanobragg.settings import CrystalSettings, Settings
from refine.physics.mosaic import mosaic_domains
from refine.physics.rotation import axis_rotation


class Orientations(NamedTuple):
    """Vectors a, b, c in Å (3, M, 3): axis, step (phi, then domain within it), lab.

    first: those of the very first time that the steps are computed, where they differ; see `phi_zero_not_applied`.
    """

    vectors: Tensor
    first: Tensor | None


def orientations(settings: Settings) -> Orientations:
    """The vectors in the steps' order."""
    real_space = torch.tensor([settings.crystal.a, settings.crystal.b, settings.crystal.c], dtype=torch.float64)
    domains = domain_rotations(settings.crystal, settings.defects.mosaic_spread_float32)
    angles = settings.scan.angles
    zeros = next((i for i, angle in enumerate(angles) if angle), len(angles))
    if not settings.defects.phi_zero_not_applied:
        return Orientations(_vectors(real_space, domains, _turns(settings, list(angles))), None)
    kept = _kept(angles)
    first = _vectors(real_space, domains, _turns(settings, [0.0] * zeros + kept[zeros:]))
    if not 0 < zeros < len(angles):
        return Orientations(first, None)
    return Orientations(_vectors(real_space, domains, _turns(settings, kept)), first)


def domain_rotations(crystal: CrystalSettings, single: bool) -> Tensor:
    """Rotations (D, 3, 3) of the mosaic domains; `single` rounds spread and angles as C's float does."""
    spread = math.radians(crystal.mosaic_spread)
    axes, fractions = mosaic_domains(crystal.mosaic_domains, crystal.mosaic_seed)
    if not single:
        return axis_rotation(axes, spread * fractions)
    squares = (fractions.numpy() ** 3).astype(np.float32).astype(np.float64)  # 1 - u^2
    powers = (squares ** float(np.float32(1 / 3))).astype(np.float32)
    rounded = (np.float32(spread) * powers).astype(np.float64)
    return axis_rotation(axes, torch.from_numpy(rounded))


def _kept(angles: tuple[float, ...]) -> list[float]:
    """The angles with each 0 replaced by the angle computed before it, cyclically."""
    last = next((angle for angle in reversed(angles) if angle), 0.0)
    kept = []
    for angle in angles:
        last = angle or last
        kept.append(last)
    return kept


def _turns(settings: Settings, angles: list[float]) -> Tensor:
    spindle = torch.tensor(settings.scan.spindle, dtype=torch.float64)
    return axis_rotation(spindle.expand(len(angles), 3), torch.tensor(angles, dtype=torch.float64))


def _vectors(real_space: Tensor, domains: Tensor, turns: Tensor) -> Tensor:
    rotations = (domains @ turns[:, None]).flatten(0, 1)
    return (real_space @ rotations.mT).transpose(0, 1).contiguous()
