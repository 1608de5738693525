"""Lab frames of the programs, and MOSFLM orientation matrices."""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_RUN_TOGETHER = re.compile(r"(?<=[\d.])(?=[-+])")  # Fortran columns without a blank before the sign
_CELL_TOLERANCE = 0.01

_MOSFLM_TO_DIALS = ((0, 0, 1), (0, 1, 0), (-1, 0, 0))
_HALF_TURN_ABOUT_X = ((1, 0, 0), (0, -1, 0), (0, 0, -1))
_IDENTITY = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_FRAMES = {
    "mosflm": _MOSFLM_TO_DIALS,
    "denzo": _MOSFLM_TO_DIALS,
    "adxv": _HALF_TURN_ABOUT_X,
    "xds": _HALF_TURN_ABOUT_X,
    "dials": _HALF_TURN_ABOUT_X,
    "expt": _IDENTITY,
}


def to_dials_frame(convention: str) -> NDArray[np.float64]:
    """The rotation (3, 3) from a convention's lab frame to that of DIALS (photons travel along -z).

    `convention`: mosflm or denzo (beam +x), adxv, xds or dials (beam +z; nanoBragg's frame of that name), or expt
    (DIALS' own frame: identity). Raises InputError.
    """
    if convention not in _FRAMES:
        raise InputError(f"detector convention '{convention}' is unknown; accepted are {', '.join(_FRAMES)}")
    return np.array(_FRAMES[convention], dtype=np.float64)


def read_mosflm_matrix(path: str | Path, wavelength: float, check_cell: bool = True) -> NDArray[np.float64]:
    """The setting matrix A (3, 3) of a MOSFLM .mat file: rows x y z, columns a* b* c*, MOSFLM lab frame, 1/Å.

    The file's first nine numbers are `wavelength` (Å) times A. In a complete file (30 numbers) the cell line must
    agree with A within 1 %, unless `check_cell` is off. Raises InputError.
    """
    path = Path(path)
    numbers = _leading_numbers(path)
    if len(numbers) < 9:
        raise InputError(f"{path}: begins with {len(numbers)} numbers; accepted is a MOSFLM matrix of at least nine")
    matrix = np.array(numbers[:9]).reshape(3, 3) / wavelength
    volume = np.linalg.det(matrix)
    if not np.isfinite(volume) or volume <= 1e-12 * np.prod(np.linalg.norm(matrix, axis=0)):
        raise InputError(
            f"{path}: the first nine numbers are no right-handed set of a*, b*, c* in columns; write it again"
        )
    if check_cell and len(numbers) >= 30:
        _check_cell_line(path, matrix, np.array(numbers[21:27]), wavelength)
    return matrix


def mosflm_matrix_text(a_matrix: NDArray[np.float64], wavelength: float, cell: Sequence[float]) -> str:
    """A complete MOSFLM .mat file of 30 numbers: wavelength * A, missetting angles 0, U, the cell, missetting angles 0.

    a_matrix: (3, 3), rows x y z, columns a* b* c*, MOSFLM lab frame, 1/Å; wavelength: Å; cell: a b c (Å), alpha beta
    gamma (degrees). U is that of A = U B with a* along x and b* in the x-y plane.
    """
    zeros = "".join(f"{0:12.3f}" for _ in range(3))
    a_rows = ["".join(f"{value:15.10f}" for value in row) for row in np.asarray(a_matrix) * wavelength]
    u_matrix = np.asarray(a_matrix) @ np.linalg.inv(_reciprocal_basis(cell))
    u_rows = ["".join(f"{value:12.7f}" for value in row) for row in u_matrix]
    cell_row = "".join(f"{value:12.4f}" for value in cell)
    return "\n".join([*a_rows, zeros, *u_rows, cell_row, zeros]) + "\n"


def is_mosflm_matrix(content: bytes) -> bool:
    """Whether a text begins with three lines of three numbers."""
    lines = [_words(line) for line in content.decode("latin-1").splitlines() if line.strip()][:3]
    return len(lines) == 3 and all(len(line) == 3 and all(map(_NUMBER.fullmatch, line)) for line in lines)


def mosflm_space_group(path: str | Path) -> str | None:
    """The space group that a MOSFLM .mat file names behind its numbers, None where it names none. Raises InputError."""
    named = re.search(r"^\s*SYMM\s+(\S+)", read_content(Path(path)).decode("latin-1"), re.MULTILINE)
    group = None if named is None else gemmi.find_spacegroup_by_name(named[1])
    return None if group is None else group.xhm()


def _leading_numbers(path: Path) -> list[float]:
    with guarded(path, "a MOSFLM matrix"):
        words = _words(read_content(path).decode("latin-1"))
    return [float(word) for word in takewhile(_NUMBER.fullmatch, words)]


def _words(text: str) -> list[str]:
    return _RUN_TOGETHER.sub(" ", re.sub("[dD](?=[-+0-9])", "e", text)).split()


def _check_cell_line(path: Path, matrix: NDArray[np.float64], cell: NDArray[np.float64], wavelength: float) -> None:
    found = _cell_of(matrix)
    if np.all(np.abs(found - cell) <= _CELL_TOLERANCE * np.abs(cell)):
        return
    fitting = wavelength * float(np.median(cell[:3] / found[:3]))
    raise InputError(
        f"{path}: with wavelength {wavelength:g} Å the matrix has cell {_six(found)}, the file's cell line says "
        f"{_six(cell)}; the wavelength is probably not the file's (about {fitting:.5g} Å fits): set beam.wavelength "
        "to the one the matrix was made with, or correct the file"
    )


def _six(cell: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.2f}" for value in cell)


def _cell_of(a_matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = np.linalg.inv(a_matrix)
    lengths = np.linalg.norm(rows, axis=1)
    pairs = ((1, 2), (0, 2), (0, 1))
    angles = [np.degrees(np.arccos(rows[i] @ rows[j] / (lengths[i] * lengths[j]))) for i, j in pairs]
    return np.concatenate([lengths, angles])


def _reciprocal_basis(cell: Sequence[float]) -> NDArray[np.float64]:
    """B: columns a* b* c* in 1/Å, a* along x, b* in the x-y plane (Busing & Levy, doi 10.1107/S0365110X67000970)."""
    a, b, c = cell[:3]
    cosines, sines = np.cos(np.radians(cell[3:])), np.sin(np.radians(cell[3:]))
    root = np.sqrt(1 - cosines @ cosines + 2 * np.prod(cosines))
    a_star, b_star, c_star = sines / (np.array([a, b, c]) * root)
    cos_beta_star = (cosines[0] * cosines[2] - cosines[1]) / (sines[0] * sines[2])
    cos_gamma_star = (cosines[0] * cosines[1] - cosines[2]) / (sines[0] * sines[1])
    sin_beta_star, sin_gamma_star = np.sqrt(1 - cos_beta_star**2), np.sqrt(1 - cos_gamma_star**2)
    return np.array(
        [
            [a_star, b_star * cos_gamma_star, c_star * cos_beta_star],
            [0, b_star * sin_gamma_star, -c_star * sin_beta_star * cosines[0]],
            [0, 0, 1 / c],
        ]
    )
