"""DIALS reflection tables of a few spots, as tests need them."""

from pathlib import Path
from typing import Any

import msgpack
import numpy as np

HKL = np.array([[1, -2, 3], [0, 0, 0], [4, 5, -6], [2, 2, 2], [7, 0, 1]])
PANEL = np.array([0, 1, 3, 2, 0])
PLACE = np.array([[10.5, 20.25, 0.5], [3, 4, 0.5], [70.0, 60.5, 0.5], [1, 2, 0.5], [33.3, 44.4, 0.5]])
EXPERIMENT = np.array([0, -1, 0, 1, 0])
FLAGS = np.array([4 | 32, 32, 4 | 8 | 32, 4 | 32, 32])  # the last one has indices, but is not indexed


def columns(**more: Any) -> dict[str, Any]:
    """By name [type, [rows, bytes]]; `more` replaces or adds some, None removes one."""
    whole = {
        "id": _packed("int", EXPERIMENT.astype("<i4")),
        "panel": _packed("std::size_t", PANEL.astype("<u8")),
        "miller_index": _packed("cctbx::miller::index<>", HKL.astype("<i4")),
        "xyzobs.px.value": _packed("vec3<double>", PLACE.astype("<f8")),
        "xyzcal.px": _packed("vec3<double>", (PLACE + 0.25).astype("<f8")),
        "flags": _packed("std::size_t", FLAGS.astype("<u8")),
        "intensity.sum.value": _packed("double", (100.0 * np.arange(5)).astype("<f8")),
        "intensity.sum.variance": _packed("double", (100.0 * np.arange(5) + 7).astype("<f8")),
        "shoebox": ["Shoebox<>", [5, b"\x01\x02\x03"]],
        **more,
    }
    return {name: column for name, column in whole.items() if column is not None}


def _packed(kind: str, values: Any) -> list[Any]:
    return [kind, [len(values), values.tobytes()]]


def table(**more: Any) -> list[Any]:
    """A table of five spots, three of them of experiment "one", which has two indexed ones."""
    content = {"identifiers": {0: "one", 1: "two"}, "nrows": 5, "data": columns(), **more}
    return ["dials::af::reflection_table", 1, content]


def written(path: Path, content: Any) -> Path:
    """The table as a file."""
    path.write_bytes(msgpack.packb(content))
    return path
