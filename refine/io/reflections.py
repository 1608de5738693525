"""Structure factor lists: text, MTZ and SF-mmCIF read to one complete (P1) list of amplitudes."""

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content, read_head

if TYPE_CHECKING:
    import gemmi

_LARGEST_INDEX = 32767
_LARGEST_GRID = 200_000_000
_BYTE_ORDERS: tuple[Literal["little"], Literal["big"]] = ("little", "big")
_AMPLITUDES, _INTENSITIES = "FG", "JK"  # MTZ column types: mean, and one of an anomalous pair


@dataclass(frozen=True)
class ReflectionList:
    """Structure factor amplitudes as read.

    hkl:       int64 (n, 3) Miller indices, nothing left to expand.
    amplitude: float64 (n,), |F| in the file's own units (electrons on an absolute scale).
    note:      one line on what was recognised.
    """

    hkl: NDArray[np.int64]
    amplitude: NDArray[np.float64]
    note: str


@dataclass(frozen=True)
class _Choice:
    """A mean column (minus = plus), or an anomalous pair."""

    plus: str
    minus: str
    kind: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.plus, self.minus, f"{self.plus},{self.minus}")


def read_structure_factors(path: str | Path, column: str | None = None) -> ReflectionList:
    """Read `h k l F` text (.gz, .bz2 too; used as it is), MTZ or SF-mmCIF (.cif, .ent; both expanded to P1).

    `column` names the MTZ column (type F or J, or one of an anomalous pair G or K); None takes the only amplitude,
    else the only intensity. Intensities become sqrt(max(I, 0)). Of an anomalous pair F(-) goes to -h and its
    equivalents, a missing mate takes the other's value; without a pair F(-h) = F(h). Reflections without a value
    are dropped. Raises InputError.
    """
    path = Path(path)
    suffix = path.with_suffix("").suffix if path.suffix in (".gz", ".bz2") else path.suffix
    if read_head(path).startswith(b"MTZ ") or suffix.lower() == ".mtz":
        return _from_mtz(path, _open_mtz(path), column)
    if suffix.lower() in (".cif", ".ent", ".mmcif"):
        return _from_mtz(path, _open_cif(path), column)
    if column is not None:
        raise InputError(f"{path}: column '{column}' given, but a text list has no named columns; remove `column`")
    return _read_text(path)


def to_grid(
    hkl: NDArray[np.int64], amplitude: NDArray[np.float64], default: float
) -> tuple[NDArray[np.float64], tuple[int, int, int]]:
    """The list as a dense box over (h, k, l), `default` where it has none, and the lowest h, k, l.

    Raises InputError for an empty list, a box of more than 200 million entries, and a reflection listed twice with
    different amplitudes.
    """
    if len(hkl) == 0:
        raise InputError("the structure factor list is empty; give at least one reflection")
    low = hkl.min(axis=0)
    grid = empty_grid(low, hkl.max(axis=0), default)
    place = tuple((hkl - low).T)
    grid[place] = amplitude
    clash = np.flatnonzero(grid[place] != amplitude)
    if clash.size:
        index, first, last = hkl[clash[0]], amplitude[clash[0]], grid[place][clash[0]]
        raise InputError(
            f"reflection {' '.join(map(str, index))} is listed twice, with amplitudes {first:g} and {last:g}; "
            "keep one of them"
        )
    return grid, (int(low[0]), int(low[1]), int(low[2]))


def empty_grid(low: NDArray[np.int64], high: NDArray[np.int64], default: float) -> NDArray[np.float64]:
    """A dense box over h, k, l from `low` (3,) to `high` (3,), all `default`.

    Raises InputError for a box of more than 200 million entries.
    """
    size = [int(n) for n in high - low + 1]
    if math.prod(size) > _LARGEST_GRID:
        raise InputError(
            f"structure factors span {size[0]} x {size[1]} x {size[2]} indices, accepted are {_LARGEST_GRID} in all; "
            "cut the list to the resolution of the image, and look for stray indices"
        )
    return np.full(size, float(default))


def expand_to_p1(
    hkl: NDArray[np.int64], plus: NDArray[np.float64], minus: NDArray[np.float64], rotations: Sequence[NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All distinct symmetry equivalents of `hkl` (n, 3) and their Friedel mates, sorted by h, k, l.

    `plus` (n,) belongs to h and h R, `minus` (n,) to -h and -h R, for each `rotations` R (3, 3), the identity first:
    what the list itself says wins over what an equivalent says. NaN amplitudes are dropped.
    """
    indices = np.concatenate([sign * (hkl @ R) for R in rotations for sign in (1, -1)])
    amplitudes = np.concatenate([plus, minus] * len(rotations))
    known = ~np.isnan(amplitudes)
    indices, amplitudes = indices[known], amplitudes[known]
    span = 2 * int(np.abs(indices).max(initial=0)) + 1
    key = (indices[:, 0] * span + indices[:, 1]) * span + indices[:, 2]
    _, first = np.unique(key, return_index=True)
    return indices[first], amplitudes[first]


def _read_text(path: Path) -> ReflectionList:
    content = read_content(path)
    try:
        with guarded(path, "a list of h k l F"):
            table = np.loadtxt(io.BytesIO(content), usecols=(0, 1, 2, 3), ndmin=2, comments="#", encoding="latin-1")
            hkl = _indices(table[:, :3])
            if np.any(np.isinf(table[:, 3])):
                raise ValueError("infinite amplitude")
    except InputError:
        _name_bad_line(path, content)
        raise
    return _listed(path, hkl, table[:, 3], "text list of h k l F")


def _name_bad_line(path: Path, content: bytes) -> None:
    """Raise InputError with the number of the first line that is not `h k l F`; the fast parser does not know it."""
    for number, line in enumerate(content.decode("latin-1").split("\n"), 1):
        fields = line.split("#")[0].split()
        if fields and not _is_reflection(fields):
            raise InputError(
                f"{path}: line {number} is '{line.strip()[:60]}'; accepted is `h k l F`, three integers and a number, "
                "comments after #"
            )


def _is_reflection(fields: list[str]) -> bool:
    try:
        values = [float(field) for field in fields[:4]]
    except ValueError:
        return False
    whole = all(value.is_integer() and abs(value) <= _LARGEST_INDEX for value in values[:3])
    return len(values) == 4 and whole and not math.isinf(values[3])


def _indices(columns: NDArray[Any]) -> NDArray[np.int64]:
    """Miller indices from a (n, 3) float array; raises ValueError unless all are small whole numbers."""
    good = (np.abs(columns) <= _LARGEST_INDEX) & (columns == np.rint(columns))
    if not np.all(good):
        raise ValueError(f"Miller index {columns[~good][0]}")
    return columns.astype(np.int64)


def _listed(path: Path, hkl: NDArray[np.int64], amplitude: NDArray[np.float64], kind: str) -> ReflectionList:
    known = ~np.isnan(amplitude)
    if not np.any(known):
        raise InputError(f"{path}: holds no reflection with an amplitude; accepted is a list of at least one")
    return ReflectionList(hkl[known], amplitude[known], f"{kind}, {np.sum(known)} reflections")


def _open_mtz(path: Path) -> "gemmi.Mtz":
    import gemmi

    content = read_content(path)
    with guarded(path, "an MTZ file"):
        _check_header(content)
        mtz = gemmi.read_mtz_file(str(path))
        if len(mtz.batches):
            raise InputError(
                f"{path}: is unmerged ({len(mtz.batches)} batches); accepted is a merged MTZ: scale and merge"
            )
        return mtz


def _check_header(content: bytes) -> None:
    """Refuse a damaged header before gemmi asks for the memory that it claims to need."""
    starts = [4 * int.from_bytes(content[4:8], order) - 4 for order in _BYTE_ORDERS]
    if not any(content[start : start + 4] == b"VERS" and b"END " in content[start:] for start in starts if start > 0):
        raise ValueError("the header at the end of the file is missing or cut")
    claimed = re.search(rb"NCOL +(\d+) +(\d+)", content)
    if claimed and 4 * int(claimed[1]) * int(claimed[2]) > len(content):
        raise ValueError(f"{claimed[2].decode()} reflections claimed, the file has {len(content)} bytes")


def _open_cif(path: Path) -> "gemmi.Mtz":
    import gemmi

    with guarded(path, "an SF-mmCIF file"):
        blocks = gemmi.as_refln_blocks(gemmi.cif.read(str(path)))
        return gemmi.CifToMtz().convert_block_to_mtz(blocks[0])


def _from_mtz(path: Path, mtz: "gemmi.Mtz", column: str | None) -> ReflectionList:
    with guarded(path, "an MTZ file"):
        choice = _choose(path, mtz, column)
        group = mtz.spacegroup
        if group is None:
            raise InputError(f"{path}: names no known space group ('{mtz.spacegroup_name}'); write it into the header")
        table = {label: np.asarray(mtz.column_with_label(label), dtype=np.float64) for label in choice.names[:2]}
        hkl = _indices(np.asarray(mtz.array[:, :3], dtype=np.float64))
        plus, minus = _amplitudes(table[choice.plus], table[choice.minus], choice.kind)
        rotations = [np.array(op.rot, dtype=np.int64) // op.DEN for op in group.operations().sym_ops]
        hkl, amplitude = expand_to_p1(hkl, plus, minus, rotations)
    label = choice.plus if choice.plus == choice.minus else f"{choice.plus} and {choice.minus}"
    return _listed(path, hkl, amplitude, f"column {label}, expanded from {group.hm} to P1")


def _amplitudes(
    plus: NDArray[np.float64], minus: NDArray[np.float64], kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if np.any(np.isinf(plus)) or np.any(np.isinf(minus)):
        raise ValueError("infinite amplitude")
    if kind in _INTENSITIES:
        plus, minus = np.sqrt(np.maximum(plus, 0)), np.sqrt(np.maximum(minus, 0))
    return np.where(np.isnan(plus), minus, plus), np.where(np.isnan(minus), plus, minus)


def _choose(path: Path, mtz: "gemmi.Mtz", column: str | None) -> _Choice:
    types = {item.label: item.type for item in mtz.columns}
    choices = _choices(types)
    if column is not None:
        chosen = [choice for choice in choices if column in choice.names]
    else:
        chosen = _default(choices, _AMPLITUDES) or _default(choices, _INTENSITIES)
    if len(chosen) == 1:
        return chosen[0]
    listing = ", ".join(f"{label} (type {kind})" for label, kind in types.items())
    found = "does not name one column once" if column is None else f"'{column}' is not a column of amplitudes"
    raise InputError(
        f"{path}: structure_factors.column {found}; accepted are columns of type F (amplitude), J (intensity) or a "
        f"pair of type G or K; the file has {listing}"
    )


def _choices(types: dict[str, str]) -> list[_Choice]:
    means = [_Choice(label, label, kind) for label, kind in types.items() if kind in "FJ"]
    mates = {label: label.replace("(+)", "(-)") for label, kind in types.items() if kind in "GK" and "(+)" in label}
    return means + [_Choice(plus, minus, types[plus]) for plus, minus in mates.items() if minus in types]


def _default(choices: list[_Choice], kinds: str) -> list[_Choice]:
    """The one anomalous pair, else the one mean; all of them where either is ambiguous."""
    means = [choice for choice in choices if choice.kind == kinds[0]]
    pairs = [choice for choice in choices if choice.kind == kinds[1]]
    return pairs or means if len(means) < 2 and len(pairs) < 2 else means + pairs
