"""Frames of HDF5 files: Eiger and NXmx masters with their data files, and plain datasets."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.reading import guarded, require_bounded

if TYPE_CHECKING:
    import h5py

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_IMAGE, _FRAMES, _FIRST = "image", "data/data", "data/data_000001"
_MASKS = ("pixel_mask", "detectorSpecific/pixel_mask")
_LIMITS = ("saturation_value", "detectorSpecific/countrate_correction_count_cutoff")


class Frame(NamedTuple):
    """One frame: its pixels, (slow, fast) or (panels, slow, fast); the dataset it is from; bool of the shape of the
    pixels, where the file marks them as bad or saturated, None where it marks none."""

    array: NDArray[Any]
    name: str
    masked: NDArray[np.bool_] | None


def read_frame(path: Path, dims: int, frame: int | None) -> Frame:
    """One frame of `dims` dimensions; `frame` counts from 1, over all data files of a master, None takes the only one.

    Raises InputError.
    """
    import h5py
    import hdf5plugin  # noqa: F401  (registers the compression filters of Eiger files)

    with guarded(path, "an HDF5 image"), h5py.File(path, "r") as file:
        entry = entry_group(file)
        stack, place = _place(path, list(_datasets(path, file, entry, dims)), dims, frame)
        require_bounded(math.prod(stack.shape[-dims:]) * stack.dtype.itemsize)
        array = np.asarray(stack[place])
        return Frame(array, str(stack.name), _masked(entry, array))


def frame_count(path: Path) -> int:
    """How many frames of (slow, fast) pixels the file has. Raises InputError."""
    import h5py

    with guarded(path, "an HDF5 image"), h5py.File(path, "r") as file:
        return sum(_length(stack, 2) for stack in _datasets(path, file, entry_group(file), 2))


def detector_group(entry: "h5py.Group") -> "h5py.Group | None":
    """The first detector of an entry."""
    import h5py

    instrument = entry.get("instrument")
    if not isinstance(instrument, h5py.Group):
        return None
    groups = [node for node in instrument.values() if isinstance(node, h5py.Group)]
    named = [node for node in groups if _class(node) == "NXdetector"]
    return next(iter([*named, *(node for node in groups if node.name.endswith("/detector"))]), None)


def entry_group(file: "h5py.File") -> "h5py.Group":
    """The group 'entry', or the first of class NXentry, or the file itself."""
    import h5py

    groups = {name: node for name, node in file.items() if isinstance(node, h5py.Group)}
    found = [node for node in groups.values() if _class(node) == "NXentry"]
    return next(iter([*([groups["entry"]] if "entry" in groups else []), *found]), file)


def _class(node: "h5py.Group") -> str:
    name = node.attrs.get("NX_class", "")
    return name.decode() if isinstance(name, bytes) else str(name)


def _datasets(path: Path, file: "h5py.File", entry: "h5py.Group", dims: int) -> "Iterator[h5py.Dataset]":
    """The datasets that hold the frames, in their order."""
    import h5py

    for group, name in ((file, _IMAGE), (entry, _FRAMES)):
        if isinstance(found := _linked(path, group, name), h5py.Dataset):
            yield found
            return
    if isinstance(_linked(path, entry, _FIRST), h5py.Dataset):
        names = sorted(name for name in entry["data"] if name.startswith("data_"))
        yield from (_linked(path, entry, f"data/{name}") for name in names)
        return
    yield _only(path, file, dims)


def _linked(path: Path, group: "h5py.Group", name: str) -> Any:
    """What is behind a name, None where there is nothing. Raises InputError where it is in a file that is not there."""
    import h5py

    found = group.get(name)
    if found is None and isinstance(link := group.get(name, getlink=True), h5py.ExternalLink):
        raise _absent(path, link.filename)
    if isinstance(found, h5py.Dataset) and found.is_virtual:  # HDF5 fills up what it does not find
        for source in found.virtual_sources():
            if source.file_name != "." and not (path.parent / source.file_name).exists():
                raise _absent(path, source.file_name)
    return found


def _absent(path: Path, name: str) -> InputError:
    return InputError(f"{path}: its pixels are in {name}, which cannot be opened; put it beside this file")


def _only(path: Path, file: "h5py.File", dims: int) -> "h5py.Dataset":
    import h5py

    found: dict[str, h5py.Dataset] = {}
    file.visititems(lambda name, node: found.update({name: node} if isinstance(node, h5py.Dataset) else {}))
    flat = [node for node in found.values() if node.ndim == dims]
    if len(flat) == 1:
        return flat[0]
    names = ", ".join(f"{name} {node.shape}" for name, node in list(found.items())[:5]) or "none"
    raise InputError(f"{path}: no dataset 'image' or 'entry/data/data', nor a single {dims}-D one (found: {names})")


def _place(
    path: Path, stacks: "list[h5py.Dataset]", dims: int, frame: int | None
) -> "tuple[h5py.Dataset, tuple[int, ...]]":
    """The dataset that a frame is in, and its place there."""
    lengths = [_length(stack, dims) for stack in stacks]
    chosen = frame_number(path, sum(lengths), frame)
    for stack, length in zip(stacks, lengths, strict=True):
        if chosen < length:
            leading = stack.shape[:-dims]
            return stack, tuple(int(i) for i in np.unravel_index(chosen, leading)) if leading else ()
        chosen -= length
    raise InputError(f"{path}: has no frames")


def frame_number(path: Path, count: int, frame: int | None) -> int:
    """The frame's place, from 0, among `count`; None stands for the only one. Raises InputError."""
    if frame is None and count != 1:
        raise InputError(f"{path}: has {count} frames; give the number of one as images.0.frame: 1 to {count}")
    if frame is not None and not 1 <= frame <= count:
        raise InputError(f"{path}: has {count} frames, not one of number {frame}; accepted: 1 to {count}")
    return (frame or 1) - 1


def _length(stack: "h5py.Dataset", dims: int) -> int:
    return int(np.prod(stack.shape[:-dims])) if stack.ndim >= dims else 0


def _masked(entry: "h5py.Group", array: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels that the detector's mask or its saturation value rules out."""
    import h5py

    detector = detector_group(entry)
    if detector is None:
        return None
    masked = np.zeros(array.shape, dtype=np.bool_)
    for name in _MASKS:
        if isinstance(mask := detector.get(name), h5py.Dataset) and mask.size == array.size:
            masked |= mask[()].reshape(array.shape) != 0
            break
    for name in _LIMITS:
        if isinstance(limit := detector.get(name), h5py.Dataset) and limit.size == 1 and limit.dtype.kind in "iuf":
            masked |= array > np.squeeze(limit[()])
            break
    return masked
