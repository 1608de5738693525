"""A results directory as it was left on disk: all that a report knows."""

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.experiments import DialsExperiment, read_experiment
from refine.io.reading import guarded

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ParameterRow:
    """A line of parameters.csv; numbers that are not there are NaN. `state` is refined, tied to ..., by symmetry, or
    fixed."""

    name: str
    unit: str
    state: str
    start: float
    value: float
    esd: float
    lower: float
    upper: float

    @property
    def shift(self) -> float:
        """Value less start, in its unit."""
        return self.value - self.start

    @property
    def shift_over_esd(self) -> float:
        """NaN where there is no esd."""
        return self.shift / self.esd if self.esd > 0 else math.nan


@dataclass(frozen=True)
class Compared:
    """An image and its model: photons (slow, fast) or (panels, slow, fast), trusted of the same shape, readout
    variance (photons^2) of a shape that broadcasts."""

    name: str
    observed: Array
    model: Array
    trusted: NDArray[np.bool_]
    readout: Array


@dataclass(frozen=True)
class RunFiles:
    """What the files of one results directory hold; None or empty where a file is not there."""

    directory: Path
    result: dict[str, Any]
    config: dict[str, Any]
    trace: dict[str, Array]
    correlated: tuple[str, ...]
    correlation: Array
    parameters: tuple[ParameterRow, ...]
    images: tuple[Compared, ...]
    experiment: DialsExperiment | None
    reflections: dict[str, Array]

    @property
    def title(self) -> str:
        """The configuration's, or the directory's name."""
        return str(self.config.get("title") or self.directory.name)


def read_run(directory: Path) -> RunFiles:
    """Read a results directory. Raises InputError where result.yaml is missing or a file is damaged."""
    if not (directory / "result.yaml").is_file():
        raise InputError(f"{directory}: holds no result.yaml; accepted: a directory that `refine run` has written")
    result, config = (_mapping(directory / name) for name in ("result.yaml", "config.resolved.yaml"))
    table = rows_of(directory / "correlations.csv")
    with guarded(directory / "correlations.csv", "a table of correlations"):
        correlation = np.array([[float(x) for x in row[1:]] for row in table[1:]])
    return RunFiles(
        directory,
        result,
        config,
        _table(directory / "trace.csv"),
        tuple(table[0][1:]) if table else (),
        correlation,
        _parameters(directory / "parameters.csv"),
        _images(directory, result),
        _experiment(directory, config),
        _table(directory / "reflections.csv"),
    )


def _mapping(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with guarded(path, "YAML"):
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("no mapping")
        return found


def rows_of(path: Path) -> list[list[str]]:
    """The lines of a table, none where it is not there. Raises InputError."""
    if not path.is_file():
        return []
    with guarded(path, "a table"):
        return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def _table(path: Path) -> dict[str, Array]:
    return columns(path, rows_of(path))


def columns(path: Path, rows: list[list[str]]) -> dict[str, Array]:
    """The numbers of a table by the name of their column, NaN where there is none. Raises InputError."""
    with guarded(path, "a table"):
        parts = zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(rows[0] if rows else ())
        return {name: np.array([_number(x) for x in part]) for name, part in zip(*rows[:1], parts, strict=True)}


def _number(text: str) -> float:
    try:
        return float({"True": "1", "False": "0"}.get(text, text))
    except ValueError:
        return math.nan


def _parameters(path: Path) -> tuple[ParameterRow, ...]:
    with guarded(path, "a table of parameters"):
        return tuple(
            ParameterRow(name, unit, state, *(_number(x) for x in numbers))
            for name, unit, state, *numbers in rows_of(path)[1:]
        )


def _images(directory: Path, result: dict[str, Any]) -> tuple[Compared, ...]:
    """The image that both observed.npz and model.npz hold."""
    observed, model = directory / "observed.npz", directory / "model.npz"
    if not (observed.is_file() and model.is_file()):
        return ()
    with guarded(observed, "an observed image"), _opened(observed) as found:
        photons, trusted, readout = (found[key] for key in ("image", "trusted", "readout_variance"))
    with guarded(model, "a model image"), _opened(model) as found:
        expected = found["image"]
    if not photons.shape == expected.shape == trusted.shape:
        raise InputError(f"{model}: is {expected.shape}, {observed.name} {photons.shape}; write both again")
    name = Path(str(result.get("images", [{}])[0].get("file", "image"))).name
    variance = readout.reshape(-1, *[1] * 2) if readout.ndim else readout
    return (Compared(name, photons.astype(float), expected.astype(float), trusted.astype(bool), variance),)


def _opened(path: Path) -> Any:
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def _experiment(directory: Path, config: dict[str, Any]) -> DialsExperiment | None:
    """Geometry and crystal as refined, of the first image where there are several."""
    path = next(iter(sorted(directory.glob("refined*.expt"))), None)
    if path is None:
        return None
    detector = config.get("detector") or {}
    return read_experiment(path, int(detector.get("index") or 0) if detector.get("file") else 0)
