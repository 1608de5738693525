"""A list of structure factors as nanoBragg.c's fscanf reads it."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import read_content
from refine.io.reflections import empty_grid

_LARGEST_INDEX = 2**31 - 1
_WHOLE = rb"\s*+[-+]?+\d++(?!\.)"
_REAL = rb"\s*+[-+]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][-+]?+\d++)?+(?!\.)"
_REFLECTIONS = re.compile(rb"(?:" + _WHOLE * 3 + _REAL + rb")*+")
_FOURS = re.compile(rb"(?:" + _REAL * 4 + rb")*+")
_RUN_TOGETHER = re.compile(rb"(?<=[\d.])(?=[-+])")


def scanned_grid(path: Path, default: float) -> tuple[NDArray[np.float64], tuple[int, int, int], str]:
    """F as a dense box over (h, k, l), `default` where the list has none, the lowest h, k, l, and a remark.

    The box spans every four numbers up to the first word that is none, their indices cut to whole numbers; its
    entries end at the first index that is not written as one. Of a reflection listed twice the later holds.
    Raises InputError for a list without numbers, and for too large a box.
    """
    content = read_content(path)
    listed, end = _numbers(_REFLECTIONS, content, 0)
    further, _ = _numbers(_FOURS, content, end)
    if not len(listed) + len(further):
        raise InputError(f"{path}: holds no reflection; accepted is a list of h k l F, without a title")
    indices = np.concatenate([listed, further])[:, :3]
    if np.abs(indices).max() > _LARGEST_INDEX:
        raise InputError(f"{path}: holds an index beyond {_LARGEST_INDEX}; accepted is a list of h k l F")
    spanned = indices.astype(np.int64)
    low = spanned.min(axis=0)
    grid = empty_grid(low, spanned.max(axis=0), default)
    grid[tuple((spanned[: len(listed)] - low).T)] = listed[:, 3]
    return grid, (int(low[0]), int(low[1]), int(low[2])), _remark(path, content, end)


def _numbers(fours: re.Pattern[bytes], content: bytes, start: int) -> tuple[NDArray[np.float64], int]:
    """The numbers (n, 4) that `fours` matches from `start` on, and where they end."""
    match = fours.match(content, start)
    assert match  # none at all is a match too
    return np.fromstring(_RUN_TOGETHER.sub(b" ", match[0]), sep=" ").reshape(-1, 4), match.end()


def _remark(path: Path, content: bytes, end: int) -> str:
    left = content[end:].lstrip()
    if not left:
        return ""
    line = content[: len(content) - len(left)].count(b"\n") + 1
    shown = left.splitlines()[0][:40].decode("latin-1").strip()
    return f"-hkl: {path} is read up to line {line}, where '{shown}' is no h k l F, as nanoBragg.c does"
