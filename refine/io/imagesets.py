"""Where the images of a DIALS experiment are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from refine.io.experiments import DialsExperiment

_PACKED = ("", ".bz2", ".gz")


class ImagePlace(NamedTuple):
    """A file, and the number of the frame in it, from 1; None where the file is one image."""

    file: Path
    frame: int | None


def first_image(experiment: DialsExperiment) -> ImagePlace | None:
    """The experiment's first image by the name in its file, whether it exists or not; None where there is no name."""
    document = experiment.document
    pointer, sets = document["experiment"][experiment.index].get("imageset"), document.get("imageset")
    if not isinstance(pointer, int) or not isinstance(sets, list) or not 0 <= pointer < len(sets):
        return None
    entry = sets[pointer] if isinstance(sets[pointer], dict) else {}
    name, indices = _name(entry), entry.get("single_file_indices")
    if name is None:
        return None
    number = 1 if experiment.rotation is None else experiment.rotation.first
    if "#" in name:
        digits = name.count("#")
        return ImagePlace(Path(name.replace("#" * digits, f"{number:0{digits}}")), None)
    master = isinstance(indices, list) and indices and isinstance(indices[0], int)
    return ImagePlace(Path(name), indices[0] + 1 if master and indices is not None else None)


def _name(entry: dict[str, Any]) -> str | None:
    images = entry.get("images")
    name = entry.get("template", images[0] if isinstance(images, list) and images else None)
    return name if isinstance(name, str) and name and "\0" not in name else None


def existing(place: Path, folder: Path) -> Path | None:
    """The file as named, relative to a folder or beside other files there, packed or not; None where there is none."""
    return next((path for path in _candidates(place, folder) if path.is_file()), None)


def _candidates(place: Path, folder: Path) -> Iterator[Path]:
    for path in (folder / place, folder / place.name):
        yield from (path.with_name(path.name + ending) for ending in _PACKED)


def files_of(pattern: Path) -> list[Path]:
    """The files that a name stands for: itself, there or not, or all that fit a pattern."""
    if pattern.exists() or not any(sign in pattern.name for sign in "*?["):
        return [pattern]
    return sorted(pattern.parent.glob(pattern.name))
