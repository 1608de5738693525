"""Smooth background under the spots, photons a pixel."""

from torch import Tensor


def plane_background(coefficients: Tensor, slow: Tensor, fast: Tensor) -> Tensor:
    """Photons (P,) of a plane: coefficients (3,) are the value at the given coordinates' zero and the slopes along
    fast and slow; coordinates (P,) in pixels."""
    value, by_fast, by_slow = coefficients.unbind()
    return value + by_fast * fast + by_slow * slow
