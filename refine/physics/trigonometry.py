"""Sines and cosines as the sum over steps needs them.

Compiled code is fastest with polynomials, which become a few multiply-adds a number; uncompiled code with the
library's functions, which are one pass over memory.
"""

import torch
from torch import Tensor

# Coefficients in x^2 of sin(x) / x and cos(x), by interpolation in the Chebyshev points of 0 <= x^2 <= (pi/2)^2
_SINE = {  # error 4.29e-9 and 1.37e-16
    torch.float32: (
        0.999999995698809,
        -0.16666657947846011,
        0.008333050170671773,
        -0.00019809017408678003,
        2.605107635334788e-06,
    ),
    torch.float64: (
        0.9999999999999999,
        -0.16666666666666072,
        0.008333333333282756,
        -0.00019841269824861897,
        2.7557316609073673e-06,
        -2.505188194671259e-08,
        1.6048168318165643e-10,
        -7.374387503862757e-13,
    ),
}
_COSINE = {  # error 2.21e-10 and 5.35e-17
    torch.float32: (
        0.999999999779154,
        -0.4999999935543786,
        0.04166663615972319,
        -0.0013888360284403018,
        2.4760109673159873e-05,
        -2.6050657493719744e-07,
    ),
    torch.float64: (
        1.0,
        -0.4999999999999997,
        0.04166666666666388,
        -0.001388888888877299,
        2.4801587277414926e-05,
        -2.755731639102575e-07,
        2.0876561839933163e-09,
        -1.1462901901757276e-11,
        4.608977003001797e-14,
    ),
}


def angle(half_turns: Tensor) -> Tensor:
    """pi times a number of half turns (...). Compiled, it is brought within pi/2 by whole half turns: its sine and
    cosine may both change sign, which no intensity shows."""
    if torch.compiler.is_compiling():
        half_turns = half_turns - half_turns.round()
    return torch.pi * half_turns


def sine(x: Tensor) -> Tensor:
    """sin(x) (...) of an `angle`."""
    return x * _polynomial(_SINE[x.dtype], x * x) if torch.compiler.is_compiling() else torch.sin(x)


def cosine(x: Tensor) -> Tensor:
    """cos(x) (...) of an `angle`."""
    return _polynomial(_COSINE[x.dtype], x * x) if torch.compiler.is_compiling() else torch.cos(x)


def _polynomial(coefficients: tuple[float, ...], y: Tensor) -> Tensor:
    *rest, last = coefficients
    value = torch.full_like(y, last)
    for coefficient in reversed(rest):
        value = value * y + coefficient
    return value
