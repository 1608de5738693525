"""DIALS reflection tables (.refl): the spots of an experiment list, column by column.

A table is a MessagePack list ["dials::af::reflection_table", version, {identifiers, nrows, data}], each column of
`data` [type, [rows, bytes]], little-endian (dials/array_family/boost_python/flex_table_suite.h).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, read_content

INDEXED = 1 << 2  # bit of `flags`
_KIND, _VERSION = "dials::af::reflection_table", 1
_ACCEPTED = "a reflection table such as indexed.refl, as DIALS writes it"
_LONGEST_LIST, _LONGEST_TEXT = 16, 1 << 16  # the lists of a table have two or three members
_LARGEST_PANEL = 1 << 20
_TYPES = {  # type of a number, and how many there are a row
    "int": ("<i4", 1),
    "std::size_t": ("<u8", 1),
    "double": ("<f8", 1),
    "vec3<double>": ("<f8", 3),
    "cctbx::miller::index<>": ("<i4", 3),
}


@dataclass(frozen=True)
class ReflectionTable:
    """n reflections as read.

    identifiers:   of the experiments, by the numbers in `experiment`; empty in tables of old versions.
    experiment:    int64 (n,), -1 where a spot belongs to none.
    panel:         int64 (n,), from 0.
    hkl:           int64 (n, 3) Miller indices, 0 0 0 where a spot has none.
    observed_px, predicted_px: float64 (n, 3), fast and slow in pixels from the outer corner of the first pixel, and
        the place in the scan; predicted_px is None where the table has none.
    flags:         uint64 (n,), DIALS' bits.
    intensity, variance: float64 (n,) of the summed counts, None where the table has none.
    """

    path: Path
    identifiers: Mapping[int, str]
    experiment: NDArray[np.int64]
    panel: NDArray[np.int64]
    hkl: NDArray[np.int64]
    observed_px: NDArray[np.float64]
    predicted_px: NDArray[np.float64] | None
    flags: NDArray[np.uint64]
    intensity: NDArray[np.float64] | None
    variance: NDArray[np.float64] | None


class Spots(NamedTuple):
    """n indexed spots of one experiment: Miller indices int64 (n, 3), panels int64 (n,) from 0, and observed places
    float64 (n, 2), fast and slow in pixels from the outer corner of the first pixel."""

    hkl: NDArray[np.int64]
    panel: NDArray[np.int64]
    xy: NDArray[np.float64]


def read_spots(path: str | Path, identifier: str | None = None) -> Spots:
    """The indexed spots of one experiment in a DIALS .refl file, in the file's order.

    `identifier` is the experiment's in its .expt file; None takes the only experiment there is. Raises InputError, also
    where the table is of other experiments.
    """
    table = read_reflection_table(path)
    chosen = indexed(table, identifier)
    return Spots(table.hkl[chosen], table.panel[chosen], table.observed_px[chosen, :2])


def indexed(table: ReflectionTable, identifier: str | None = None) -> NDArray[np.bool_]:
    """Which reflections (n,) are indexed spots of an experiment, chosen as by `read_spots`. Raises InputError."""
    spots = ((table.flags & np.uint64(INDEXED)) != 0) & (table.hkl != 0).any(axis=1) & (table.experiment >= 0)
    chosen = spots & (table.experiment == _number(table, spots, identifier))
    if not np.isfinite(table.observed_px[chosen]).all() or (table.panel[chosen] > _LARGEST_PANEL).any():
        raise InputError(f"{table.path}: indexed spots have no place on the detector; write the file again")
    return chosen


def read_reflection_table(path: str | Path) -> ReflectionTable:
    """A DIALS .refl file (also packed by gzip or bzip2). Raises InputError, which names file and column, for anything
    else and for what is missing or of another size than the table."""
    path = Path(path)
    with guarded(path, "a DIALS reflection table"):
        return _table(path, _content(path))


def _content(path: Path) -> dict[str, Any]:
    """The members of the table, nothing in them looked at."""
    packed = read_content(path)
    whole = msgpack.unpackb(
        packed,
        strict_map_key=False,
        max_array_len=_LONGEST_LIST,
        max_str_len=_LONGEST_TEXT,
        max_ext_len=0,
    )
    if not isinstance(whole, list) or whole[:1] != [_KIND]:
        raise InputError(f"{path}: is no reflection table ({len(packed)} bytes, begins {packed[:8]!r}); {_accepted()}")
    if whole[1:2] != [_VERSION] or len(whole) != 3 or not isinstance(whole[2], dict):
        raise InputError(f"{path}: is a reflection table of version {whole[1:2]}; accepted: version {_VERSION}")
    content: dict[str, Any] = whole[2]
    return content


def _accepted() -> str:
    return f"accepted: {_ACCEPTED}"


def _table(path: Path, content: dict[str, Any]) -> ReflectionTable:
    rows, columns = content.get("nrows"), content.get("data")
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 0 or not isinstance(columns, dict):
        raise InputError(f"{path}: has no number of rows or no columns; {_accepted()}")

    def column(name: str, kind: str) -> NDArray[Any] | None:
        return None if name not in columns else _column(path, name, columns[name], kind, rows)

    def required(name: str, kind: str) -> NDArray[Any]:
        found = column(name, kind)
        if found is None:
            raise InputError(f"{path}: has no column '{name}'; {_accepted()}")
        return found

    panel = required("panel", "std::size_t")
    return ReflectionTable(
        path=path,
        identifiers=_identifiers(path, content.get("identifiers", {})),
        experiment=required("id", "int").astype(np.int64),
        panel=np.minimum(panel, _LARGEST_PANEL + 1).astype(np.int64),
        hkl=required("miller_index", "cctbx::miller::index<>").astype(np.int64),
        observed_px=required("xyzobs.px.value", "vec3<double>"),
        predicted_px=column("xyzcal.px", "vec3<double>"),
        flags=required("flags", "std::size_t"),
        intensity=column("intensity.sum.value", "double"),
        variance=column("intensity.sum.variance", "double"),
    )


def _column(path: Path, name: str, entry: Any, kind: str, rows: int) -> NDArray[Any]:
    try:
        found, (count, packed) = entry
    except (TypeError, ValueError):
        raise InputError(f"{path}: column '{name}' is not of the form [type, [rows, bytes]]; {_accepted()}") from None
    if found != kind:
        raise InputError(f"{path}: column '{name}' is of type {str(found)[:40]!r}; accepted: {kind!r}")
    number, width = _TYPES[kind]
    expected = rows * width * np.dtype(number).itemsize
    if count != rows or not isinstance(packed, bytes) or len(packed) != expected:
        size = len(packed) if isinstance(packed, bytes) else 0
        raise InputError(
            f"{path}: column '{name}' has {size} bytes for {str(count)[:40]} rows; accepted: {expected} bytes for the"
            f" table's {rows} rows: the file is damaged, write it again"
        )
    values: NDArray[Any] = np.frombuffer(packed, number, rows * width)
    return values if width == 1 else values.reshape(rows, width)


def _identifiers(path: Path, entry: Any) -> dict[int, str]:
    if not isinstance(entry, dict) or not all(isinstance(k, int) and isinstance(v, str) for k, v in entry.items()):
        raise InputError(f"{path}: the experiments' identifiers are not texts by number; {_accepted()}")
    return entry


def _number(table: ReflectionTable, spots: NDArray[np.bool_], identifier: str | None) -> int:
    """The number in the table of the experiment with an identifier, or of the only one that has spots."""
    if identifier is not None:
        for number, found in table.identifiers.items():
            if found == identifier:
                return number
        listed = ", ".join(list(table.identifiers.values())[:3]) or "none"
        raise InputError(
            f"{table.path}: is of other experiments (identifiers: {listed}), not of {identifier}; accepted: the .refl"
            " that DIALS wrote beside the .expt"
        )
    numbers = np.unique(table.experiment[spots])
    if len(numbers) != 1:
        raise InputError(
            f"{table.path}: has indexed spots of {len(numbers)} experiments; accepted: of one, or the identifier of one"
        )
    return int(numbers[0])
