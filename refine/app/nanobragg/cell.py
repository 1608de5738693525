"""The crystal's vectors: from a cell or a MOSFLM matrix, a missetting and a size."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.files import named
from refine.app.nanobragg.given import Given
from refine.app.nanobragg.vectors import Vector, cross, dot, length, scaled, turned
from refine.errors import InputError
from refine.io.geometries import read_mosflm_matrix
from refine.physics.mosaic import park_miller

Triple = tuple[Vector, Vector, Vector]


class Cell(NamedTuple):
    """Lengths in Å, angles in radians, volume in Å^3."""

    lengths: Vector
    angles: Vector
    volume: float


class Lattice(NamedTuple):
    """Rows a, b, c in Å and a*, b*, c* in 1/Å; the volume in Å^3."""

    direct: Triple
    reciprocal: Triple
    volume: float


def completed_cell(given: Given) -> Cell:
    """The cell of `-cell`: lengths default to the first, angles to 90 degrees. Raises InputError."""
    lengths = (given.cell_a, given.cell_b or given.cell_a, given.cell_c or given.cell_a)
    alpha, beta, gamma = (angle or math.pi / 2 for angle in (given.cell_alpha, given.cell_beta, given.cell_gamma))
    half = (alpha + beta + gamma) / 2
    skew = math.sin(half) * math.sin(half - alpha) * math.sin(half - beta) * math.sin(half - gamma)
    if skew <= 0:
        degrees = " ".join(f"{math.degrees(angle):g}" for angle in (alpha, beta, gamma))
        raise InputError(f"-cell: no cell has the angles {degrees}; each must be less than the sum of the others")
    a, b, c = lengths
    return Cell(lengths, (alpha, beta, gamma), 2.0 * a * b * c * math.sqrt(skew))


def default_reciprocal(cell: Cell, defects: Defects) -> Triple:
    """a* along x, b* in the x-y plane; 1/Å."""
    (a, b, c), (alpha, beta, gamma), volume = cell
    v_star = 1.0 / volume
    a_star = b * c * math.sin(alpha) * v_star
    b_star = c * a * math.sin(beta) * v_star
    c_star = a * b * math.sin(gamma) * v_star
    sin_gamma_star = min(c * v_star / a_star / b_star, 1.0)
    cosine, sine = (
        (math.cos(alpha), math.cos(beta), math.cos(gamma)),
        (math.sin(alpha), math.sin(beta), math.sin(gamma)),
    )
    cos_alpha_star = (cosine[1] * cosine[2] - cosine[0]) / (sine[1] * sine[2])
    cos_beta_star = (cosine[2] * cosine[0] - cosine[1]) / (sine[2] * sine[0])
    cos_gamma_star = (cosine[0] * cosine[1] - cosine[2]) / (sine[0] * sine[1])
    ratio = (volume, a * b * c) if defects.triclinic_c_star else (v_star, a_star * b_star * c_star)
    c_star_y = c_star * (cos_alpha_star - cos_beta_star * cos_gamma_star) / sin_gamma_star
    return (
        (a_star, 0.0, 0.0),
        (b_star * cos_gamma_star, b_star * sin_gamma_star, 0.0),
        (c_star * cos_beta_star, c_star_y, c_star * ratio[0] / (ratio[1] * sin_gamma_star)),
    )


def oriented_reciprocal(given: Given, directory: Path, defects: Defects, misset: Vector) -> tuple[Triple, Cell | None]:
    """a*, b*, c* in 1/Å after missetting by `misset` (radians), and the cell whose lengths they must have."""
    cell = completed_cell(given) if given.cell_a else None
    if given.mat is not None:
        unrotated = _matrix_columns(directory / given.mat, given.wavelength)
    elif cell is not None:
        unrotated = default_reciprocal(cell, defects)
    else:
        raise InputError("no unit cell: give -cell a b c alpha beta gamma, or -mat FILE")
    a_star, b_star, c_star = (turned(vector, misset) for vector in unrotated)
    return (a_star, b_star, c_star), cell


def lattice(reciprocal: Triple, cell: Cell | None) -> Lattice:
    """Direct vectors, with lengths and volume of `cell` where given, and the reciprocal ones made anew from them."""
    products = _products(reciprocal)
    v_star = dot(reciprocal[0], products[0])
    if cell is not None:
        products = _rescaled(products, cell)
        v_star = 1.0 / cell.volume
    volume = 1.0 / v_star
    a, b, c = (scaled(product, volume) for product in products)
    a_star, b_star, c_star = (scaled(product, v_star) for product in _products((a, b, c)))
    return Lattice((a, b, c), (a_star, b_star, c_star), volume)


def cell_parameters(crystal: Lattice) -> tuple[float, float, float, float, float, float]:
    """a, b, c in Å, alpha, beta, gamma in degrees, of the direct vectors."""
    lengths = [length(vector) for vector in crystal.direct]
    stars = [length(vector) for vector in crystal.reciprocal]
    angles = []
    for i, (j, k) in enumerate(((1, 2), (0, 2), (0, 1))):
        sine = stars[i] * crystal.volume / lengths[j] / lengths[k]
        cosine = dot(crystal.direct[j], crystal.direct[k]) / lengths[j] / lengths[k]
        angles.append(math.degrees(math.atan2(min(sine, 1.0), cosine)))
    return (*lengths, *angles)  # type: ignore[return-value]


def random_misset(seed: int) -> Vector:
    """Missetting in radians of `-misset random`.

    A rotation about a random axis by 90 (1 - u^2)^(1/3) radians, meant as degrees, the product in single precision:
    one unit in its last place is 4e-4 degrees.
    """
    draws = park_miller(seed)
    turn, z, u = (2.0 * next(draws) - 1.0 for _ in range(3))
    radius = math.sqrt(1.0 - z * z)
    axis = np.array([radius * math.sin(math.pi * turn), radius * math.cos(math.pi * turn), z])
    third = float(np.float32(1.0 / 3.0))
    angle = float(np.float32(90) * np.float32(float(np.float32(1.0 - u * u)) ** third))
    x, y, z = axis
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = math.cos(angle) * np.eye(3) + (1 - math.cos(angle)) * np.outer(axis, axis) + math.sin(angle) * skew
    return _misset_angles(matrix / np.linalg.norm(matrix, axis=1, keepdims=True))


def _misset_angles(rotation: np.ndarray) -> Vector:
    y = math.atan2(-rotation[2, 0], math.hypot(rotation[2, 1], rotation[2, 2]))
    return (math.atan2(rotation[2, 1], rotation[2, 2]), y, math.atan2(rotation[1, 0], rotation[0, 0]))


def _matrix_columns(path: Path, wavelength: float) -> Triple:
    with named("-mat"):
        matrix = read_mosflm_matrix(path, 1.0, check_cell=False)
    a_star, b_star, c_star = (scaled((x, y, z), 1e-10 / wavelength) for x, y, z in matrix.T.tolist())
    return a_star, b_star, c_star


def _products(vectors: Triple) -> Triple:
    """b x c, c x a, a x b."""
    a, b, c = vectors
    return cross(b, c), cross(c, a), cross(a, b)


def _rescaled(products: Triple, cell: Cell) -> Triple:
    a, b, c = (
        scaled(product, edge / cell.volume / length(product))
        for product, edge in zip(products, cell.lengths, strict=True)
    )
    return a, b, c
