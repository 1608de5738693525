"""Vectors as three floats, in the order of operations of nanoBragg.c.

Step and cell counts are rounded up from quotients that are often whole numbers: only the same roundings give the same
count.
"""

import math

Vector = tuple[float, float, float]


def dot(v: Vector, w: Vector) -> float:
    """The scalar product."""
    return v[0] * w[0] + v[1] * w[1] + v[2] * w[2]


def cross(v: Vector, w: Vector) -> Vector:
    """The vector product."""
    return (v[1] * w[2] - v[2] * w[1], v[2] * w[0] - v[0] * w[2], v[0] * w[1] - v[1] * w[0])


def length(v: Vector) -> float:
    """The Euclidean norm."""
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])


def scaled(v: Vector, factor: float) -> Vector:
    """`factor` times `v`."""
    return (factor * v[0], factor * v[1], factor * v[2])


def difference(v: Vector, w: Vector) -> Vector:
    """v - w."""
    return (v[0] - w[0], v[1] - w[1], v[2] - w[2])


def unit(v: Vector) -> Vector:
    """`v` over its length; zero stays zero."""
    norm = length(v)
    return (v[0] / norm, v[1] / norm, v[2] / norm) if norm else v


def combined(f: float, v: Vector, g: float, w: Vector, h: float, u: Vector) -> Vector:
    """f v + g w + h u."""
    x, y, z = (f * v[i] + g * w[i] + h * u[i] for i in range(3))
    return (x, y, z)


def turned(v: Vector, angles: Vector) -> Vector:
    """`v` rotated about x, then y, then z by `angles` in radians, right-handed."""
    x, y, z = v
    if angles[0]:
        cosine, sine = math.cos(angles[0]), math.sin(angles[0])
        y, z = y * cosine + z * -sine, y * sine + z * cosine
    if angles[1]:
        cosine, sine = math.cos(angles[1]), math.sin(angles[1])
        x, z = x * cosine + z * sine, x * -sine + z * cosine
    if angles[2]:
        cosine, sine = math.cos(angles[2]), math.sin(angles[2])
        x, y = x * cosine + y * -sine, x * sine + y * cosine
    return (x, y, z)


def turned_about(v: Vector, axis: Vector, angle: float) -> Vector:
    """`v` rotated about `axis` by `angle` in radians; a rotation only where `axis` has length 1."""
    cosine, sine = math.cos(angle), math.sin(angle)
    along = dot(axis, v) * (1.0 - cosine)
    across = cross(axis, v)
    x, y, z = (axis[i] * along + v[i] * cosine + across[i] * sine for i in range(3))
    return (x, y, z)
