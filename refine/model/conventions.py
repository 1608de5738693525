"""Lab frames by name: the vectors that nanoBragg.c's options of these names select, and the frame of DIALS' files."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Vector = tuple[float, float, float]


class Convention(NamedTuple):
    """Unit vectors in the lab frame, and what a detector rotation leaves in place."""

    beam: Vector
    fast: Vector
    slow: Vector
    spindle: Vector
    twotheta: Vector
    polarization: Vector
    pivot: str

    def with_axes(self, axes: Mapping[str, Vector]) -> "Convention":
        """The same with some vectors, by name, replaced."""
        return Convention(**{**self._asdict(), **axes})


CONVENTIONS = {
    "mosflm": Convention((1, 0, 0), (0, 0, 1), (0, -1, 0), (0, 0, 1), (0, 0, -1), (0, 0, 1), "beam"),
    "denzo": Convention((1, 0, 0), (0, 0, 1), (0, -1, 0), (0, 0, 1), (0, 0, -1), (0, 0, 1), "beam"),
    "adxv": Convention((0, 0, 1), (1, 0, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0), (1, 0, 0), "beam"),
    "xds": Convention((0, 0, 1), (1, 0, 0), (0, 1, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0), "sample"),
    "dials": Convention((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), (0, 1, 0), "sample"),
    "expt": Convention((0, 0, -1), (1, 0, 0), (0, -1, 0), (1, 0, 0), (1, 0, 0), (1, 0, 0), "beam"),
}


def frame_change(source: str, target: str) -> np.ndarray:
    """Rotation (3, 3) of vector components from one convention's lab frame to another's, beam on beam, the detector's
    fast axis on its fast axis."""
    frames = [np.array([CONVENTIONS[name].beam, CONVENTIONS[name].fast], dtype=float) for name in (source, target)]
    whole = [np.column_stack([beam, fast, np.cross(beam, fast)]) for beam, fast in frames]
    return np.asarray(whole[1] @ whole[0].T)
