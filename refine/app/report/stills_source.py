"""What the results directory of a run of stills holds of every image."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.app.report.source import Array, columns, rows_of
from refine.errors import InputError
from refine.io.reading import guarded


@dataclass(frozen=True)
class Boxes:
    """R boxes (R, n, n): observed and model photons, NaN where a pixel was not used; signal: the model's photons (R,)
    above its background."""

    observed: Array
    model: Array
    signal: Array


@dataclass(frozen=True)
class Still:
    """An image: its entry in result.yaml, columns of R reflections by name, and their boxes where there are some."""

    name: str
    record: dict[str, Any]
    reflections: dict[str, Array]
    boxes: Boxes | None

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which reflections (R,) were kept from the refinement."""
        return self.reflections["holdout"] > 0

    @property
    def reciprocal(self) -> Array:
        """1/d (R,) in 1/Å."""
        hkl = np.stack([self.reflections[key] for key in "hkl"])
        return np.asarray(np.linalg.norm(np.reshape(self.record["a_matrix"], (3, 3)) @ hkl, axis=0))

    @property
    def offset(self) -> Array:
        """Distance (R,) of model and observed spot in pixels, NaN where none was observed."""
        x, y = (self.reflections[f"{k}_model_px"] - self.reflections[f"{k}_obs_px"] for k in "xy")
        return np.hypot(x, y)


def read_stills(directory: Path, result: dict[str, Any]) -> tuple[Still, ...]:
    """The images of a run of stills, none where it was no such run. Raises InputError for damaged files."""
    records = result.get("images") or []
    if not records or "reflections" not in records[0]:
        return ()
    table = directory / "reflections.csv"
    head, *rows = rows_of(table) or [[]]
    files = [Path(str(record.get("file"))).name for record in records]
    stems = [str(record.get("name", file.partition(".")[0])) for record, file in zip(records, files, strict=True)]
    names = [file if files.count(file) == 1 else stem for file, stem in zip(files, stems, strict=True)]
    found = []
    for name, stem, record in zip(names, stems, records, strict=True):
        mine = columns(table, [head, *(row for row in rows if row[:1] == [name])])
        suffix = f"_{stem}" if len(names) > 1 else ""
        found.append(Still(name, record, mine, _boxes(directory / f"shoeboxes{suffix}.h5", mine)))
    return tuple(found)


def _boxes(path: Path, reflections: dict[str, Array]) -> Boxes | None:
    """The pictures of the reflections, in their order."""
    if not path.is_file() or not reflections:
        return None
    import h5py

    with guarded(path, "shoeboxes"), h5py.File(io.BytesIO(path.read_bytes()), "r") as file:
        observed, model, background, used = (file[key][()] for key in ("observed", "model", "background", "used"))
        numbers = file["miller_index"][()]
    if not np.array_equal(numbers, np.stack([reflections[key] for key in "hkl"], 1)):
        raise InputError(f"{path}: is of other reflections than reflections.csv; write both again")
    signal = ((model - background) * used).sum((1, 2))
    return Boxes(_masked(observed, used), _masked(model, used), signal)


def _masked(pictures: Array, used: NDArray[np.bool_]) -> Array:
    return np.where(used, pictures.astype(float), np.nan)
