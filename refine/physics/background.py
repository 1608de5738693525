"""Smooth background under the spots."""

from torch import Tensor

AVOGADRO = 6.02214179e23
WATER_F = 2.57  # electrons a molecule, nanoBragg.c's flat form factor of water
WATER_G_PER_MOL = 18.0
CM_PER_UM = 1e-4


def plane_background(coefficients: Tensor, slow: Tensor, fast: Tensor) -> Tensor:
    """Photons (P,) of a plane: coefficients (3,) are the value at the given coordinates' zero and the slopes along
    fast and slow; coordinates (P,) in pixels."""
    value, by_fast, by_slow = coefficients.unbind()
    return value + by_fast * fast + by_slow * slow


def water_scattering(edge: Tensor) -> Tensor:
    """electrons^2 () that the molecules of a cube of water of the given edge () in µm scatter, alike in all directions:
    2.57^2 N_A V / M at 1 g/cm^3 (nanoBragg.c's -water)."""
    return WATER_F**2 * AVOGADRO / WATER_G_PER_MOL * (edge * CM_PER_UM) ** 3
