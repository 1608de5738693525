"""Absorption in the layers of a sensor."""

import torch
from torch import Tensor


def absorbed_fraction(depth: Tensor, thickness: Tensor, attenuation: Tensor, obliquity: Tensor) -> Tensor:
    """Fraction (...) of the photons that one layer absorbs: exp(-mu z / c) - exp(-mu (z + t) / c) (Beer-Lambert).

    Args:
        depth: () z, from the sensor's front to the layer's, mm.
        thickness: () t, of the layer, mm.
        attenuation: () mu, 1/mm.
        obliquity: (...) c, cosine of the angle between the ray and the sensor's normal.

    Layers that fill a sensor add up to what the sensor as a whole absorbs.
    """
    return torch.exp(-attenuation * depth / obliquity) - torch.exp(-attenuation * (depth + thickness) / obliquity)
