"""Text files that describe a beam: spectra and lists of sources."""

import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content

MOST_RAYS = 1_000_000
_BETWEEN = re.compile(r"[\s,;:!]+")


def read_spectrum(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wavelengths (n,) in Å and weights (n,) of a text file of two columns; '#' begins a comment. Raises InputError."""
    accepted = "a wavelength in Å above 0 and a weight of 0 or above"
    rows = _rows(path, 2, 2, accepted)
    for number, (wavelength, weight) in rows:
        if not (wavelength > 0 and weight >= 0):
            raise InputError(f"{path}, line {number}: {wavelength:g} {weight:g}; accepted: {accepted}")
    table = np.array([row for _, row in rows])
    _require_weight(path, table[:, 1])
    return table[:, 0], table[:, 1]


def read_source_list(
    path: Path, wavelength: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Directions (n, 3), unit vectors from the sample to the source, weights (n,) and wavelengths (n,) in Å, of
    nanoBragg's source list: x y z of any unit, weight (1 where left out), wavelength in m (that of the beam, in Å
    here, where left out). '#' begins a comment. Raises InputError."""
    accepted = "x y z of the source, not all 0, then a weight of 0 or above, then a wavelength in m above 0"
    rows = []
    for number, row in _rows(path, 3, 5, accepted):
        x, y, z, weight, metres = (*row, *(1.0, wavelength * 1e-10)[len(row) - 3 :])
        size = math.hypot(x, y, z)
        if not (size > 0 and weight >= 0 and metres > 0):
            raise InputError(f"{path}, line {number}: {' '.join(f'{v:g}' for v in row)}; accepted: {accepted}")
        rows.append((x / size, y / size, z / size, weight, metres * 1e10))
    table = np.array(rows)
    _require_weight(path, table[:, 3])
    return table[:, :3], table[:, 3], table[:, 4]


def _rows(path: Path, fewest: int, most: int, accepted: str) -> list[tuple[int, tuple[float, ...]]]:
    """Numbers of the lines that hold any, with the line's number."""
    with guarded(path, "a text table"):
        lines = read_content(path).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        words = [word for word in _BETWEEN.split(line.partition("#")[0]) if word]
        if words:
            found.append((number, _numbers(path, number, words, fewest, most, accepted)))
    if not found or len(found) > MOST_RAYS:
        raise InputError(f"{path}: {len(found)} lines of numbers; accepted: 1 to {MOST_RAYS}, each {accepted}")
    return found


def _numbers(path: Path, number: int, words: list[str], fewest: int, most: int, accepted: str) -> tuple[float, ...]:
    try:
        values = tuple(map(float, words))
    except ValueError:
        values = ()
    if not fewest <= len(values) <= most or not all(map(math.isfinite, values)):
        raise InputError(f"{path}, line {number}: {' '.join(words)[:80]!r}; accepted: {accepted}")
    return values


def _require_weight(path: Path, weights: NDArray[np.float64]) -> None:
    if not weights.sum() > 0:
        raise InputError(f"{path}: all weights are 0; accepted: at least one above 0")
