"""A list of structure factors as nanoBragg.c's fscanf reads it."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content
from refine.io.reflections import empty_grid

_WHOLE = rb"\s*+([-+]?+\d++)"
_REAL = rb"\s*+([-+]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][-+]?+\d++)?+)"
_REFLECTION, _NUMBERS = re.compile(_WHOLE * 3 + _REAL), re.compile(_REAL * 4)


def scanned_grid(path: Path, default: float) -> tuple[NDArray[np.float64], tuple[int, int, int], str]:
    """F as a dense box over (h, k, l), `default` where the list has none, the lowest h, k, l, and a remark.

    The box spans every four numbers up to the first word that is none, their indices cut to whole numbers; its
    entries end at the first index that is not written as one. Of a reflection listed twice the later holds.
    Raises InputError for a list without numbers, and for too large a box.
    """
    content = read_content(path)
    listed = list(_scan(_REFLECTION, content, 0))
    end = listed[-1].end() if listed else 0
    further = list(_scan(_NUMBERS, content, end))
    with guarded(path, "a list of h k l F"):
        spanned = np.array([_cut(match) for match in [*listed, *further]], dtype=np.int64).reshape(-1, 3)
    if not len(spanned):
        raise InputError(f"{path}: holds no reflection; accepted is a list of h k l F, without a title")
    low = spanned.min(axis=0)
    grid = empty_grid(low, spanned.max(axis=0), default)
    grid[tuple((spanned[: len(listed)] - low).T)] = [float(match[4]) for match in listed]
    return grid, (int(low[0]), int(low[1]), int(low[2])), _remark(path, content, end)


def _scan(pattern: re.Pattern[bytes], content: bytes, place: int) -> Iterator[re.Match[bytes]]:
    while match := pattern.match(content, place):
        yield match
        place = match.end()


def _cut(match: re.Match[bytes]) -> list[int]:
    return [int(word) if word.isdigit() else int(float(word)) for word in match.groups()[:3]]


def _remark(path: Path, content: bytes, end: int) -> str:
    left = content[end:].lstrip()
    if not left:
        return ""
    line = content[: len(content) - len(left)].count(b"\n") + 1
    shown = left.splitlines()[0][:40].decode("latin-1").strip()
    return f"-hkl: {path} is read up to line {line}, where '{shown}' is no h k l F, as nanoBragg.c does"
