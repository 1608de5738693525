"""From a DIALS experiment to configuration keys, panels and masks, and a refined detector back to its file.

The reference panel, whose own frame `detector.distance`, `beam_center_px` and `axes` describe, is the one that the
direct beam hits, or else the one nearest to where it passes. The other panels move with it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refine.app.config_instrument import Detector as DetectorKeys
from refine.errors import InputError
from refine.io.experiments import DialsExperiment, Panel, read_experiment
from refine.physics.panel import PanelFrame, PanelSet

UM_PER_MM = 1e3
UNMOVED = 1e-9  # mm, and radians: what rounding makes of a panel's frame
_WHOLE = {"thickness"}  # mappings that replace what the file says as a whole

Array = NDArray[np.float64]
Item = TypeVar("Item")


class _Reference(NamedTuple):
    """The reference panel: its number, mm along the beam to its plane, and where the beam crosses it (fast, slow)."""

    number: int
    distance: float
    spot_px: tuple[float, float]


def completed(data: dict[str, Any], directory: Path) -> dict[str, Any]:
    """A configuration's plain values with those that the .expt files it names supply; what is given stays.

    detector.file supplies beam and detector; crystal.orientation.expt the space group, the rotation during the
    exposure, and the beam where there is no detector.file (its cell and orientation are read with the crystal). Where
    only the images have orientations, the first one's stands for the crystal's. Raises InputError.
    """
    data = _with_first_orientation(data)
    sections = ((_at(data, "detector"), "file"), (_at(data, "crystal", "orientation"), "expt"))
    wanted = [_named(section, key, directory) for section, key in sections]
    read = {place: read_experiment(*place) for place in wanted if place is not None}
    detector, crystal = (None if place is None else read[place] for place in wanted)
    supplied: dict[str, Any] = {}
    if (source := detector or crystal) is not None:
        supplied["beam"] = _beam_keys(source)
    if detector is not None:
        supplied["detector"] = _detector_keys(detector)
    if crystal is not None:
        supplied["crystal"] = _crystal_keys(crystal, data)
    return _under(supplied, data)


def _with_first_orientation(data: dict[str, Any]) -> dict[str, Any]:
    images, crystal = data.get("images"), data.get("crystal", {})
    first = images[0] if isinstance(images, list) and images else None
    own = first.get("orientation") if isinstance(first, dict) else None
    if own is None or not isinstance(crystal, dict) or "orientation" in crystal:
        return data
    return {**data, "crystal": {**crystal, "orientation": own}}


def lab_a_matrix(path: Path, index: int) -> Array:
    """Columns a*, b*, c* (3, 3) in 1/Å at rotation angle zero, in DIALS' lab frame. Raises InputError."""
    experiment = read_experiment(path, index)
    rows = experiment.required_crystal().real_space
    return np.asarray(np.linalg.inv(rows if experiment.rotation is None else rows @ experiment.rotation.mount.T))


def panel_set(experiment: DialsExperiment, like: Tensor) -> PanelSet | None:
    """The panels relative to the reference panel's frame; None where there is only one."""
    panels = experiment.panels
    if len(panels) == 1:
        return None
    reference = panels[_reference(experiment).number]
    axes = np.column_stack([reference.fast, reference.slow, np.cross(reference.fast, reference.slow)])
    columns = (
        np.array([p.origin for p in panels]) - np.array(reference.origin),
        np.array([p.fast for p in panels]),
        np.array([p.slow for p in panels]),
    )
    return PanelSet(*(torch.from_numpy(np.linalg.solve(axes, column.T)).to(like) for column in columns))


def unmasked(experiment: DialsExperiment, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (panels, slow, fast) outside the untrusted rectangles."""
    use = np.ones((len(experiment.panels), *size), dtype=np.bool_)
    for chosen, panel in zip(use, experiment.panels, strict=True):
        for first_fast, first_slow, end_fast, end_slow in panel.mask:
            chosen[first_slow:end_slow, first_fast:end_fast] = False
    return use


def trusted_ranges(experiment: DialsExperiment) -> tuple[Array, Array]:
    """Lowest and highest trusted counts (panels, 1, 1), both trusted themselves, in ADU."""
    low, high = np.array([panel.trusted_range for panel in experiment.panels]).T[:, :, None, None]
    return low, high


def lost_parallax(keys: DetectorKeys, source: DialsExperiment | None) -> tuple[str, ...]:
    """A note where the file asks for a parallax correction whose sensor it does not describe."""
    if source is None or keys.thickness.um > 0:
        return ()
    if not any(panel.parallax and panel.mu * panel.thickness <= 0 for panel in source.panels):
        return ()
    return (
        f"{source.path} asks for the parallax of a sensor whose thickness and mu it does not give: none is applied;"
        " give detector.thickness: {um: , attenuation_um: , parallax: dials}",
    )


def motion(experiment: DialsExperiment, frame: PanelFrame) -> Array | None:
    """The rigid motion (4, 4), mm, that takes the file's reference panel to a frame; None where it is there already."""
    panel = experiment.panels[_reference(experiment).number]
    before = _placement(np.array(panel.origin), np.array(panel.fast), np.array(panel.slow))
    moved = _placement(*(vector.cpu().numpy() for vector in frame)) @ np.linalg.inv(before)
    return None if np.abs(moved - np.eye(4)).max() < UNMOVED else moved


def _placement(origin: Array, fast: Array, slow: Array) -> Array:
    placed = np.eye(4)
    placed[:3] = np.column_stack([fast, slow, np.cross(fast, slow), origin])
    return placed


def _named(section: Any, key: str, directory: Path) -> tuple[Path, int] | None:
    """File and number of the experiment that a section of plain values names; None where it names none, or wrongly."""
    if not isinstance(section, dict) or not isinstance(section.get(key), str) or not section[key]:
        return None
    index = section.get("index", 0)
    sound = isinstance(index, int) and not isinstance(index, bool) and index >= 0
    return directory / section[key], index if sound else 0


def _at(data: Any, *path: str) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else None
    return data


def _under(supplied: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, with what only `supplied` has, mapping by mapping."""
    merged = {**supplied, **given}
    for key in supplied.keys() & given.keys() - _WHOLE:
        if isinstance(supplied[key], dict) and (given[key] is None or isinstance(given[key], dict)):
            merged[key] = _under(supplied[key], given[key] or {})
    return merged


def _beam_keys(experiment: DialsExperiment) -> dict[str, Any]:
    beam = experiment.beam
    kahn = {} if beam.polarization is None else {"polarization": 2 * beam.polarization[1] - 1}
    return {"wavelength": beam.wavelength, **kahn}


def _crystal_keys(experiment: DialsExperiment, data: dict[str, Any]) -> dict[str, Any]:
    keys: dict[str, Any] = {"space_group": experiment.required_crystal().space_group}
    rotation = experiment.rotation
    if rotation is not None and not {"phi0", "osc"} <= set(_at(data, "crystal", "scan") or {}):
        start = rotation.start + rotation.width * (_image_number(experiment, data) - rotation.first)
        keys["scan"] = {"phi0": start, "osc": rotation.width}
    return keys


def _image_number(experiment: DialsExperiment, data: dict[str, Any]) -> int:
    """Which image of a scan the configuration's is, by its frame or the number in its file name; the first where it
    has none."""
    rotation, images = experiment.rotation, data.get("images")
    assert rotation is not None
    image = images[0] if isinstance(images, list) and images else None
    name, frame = _at(image, "file"), _at(image, "frame")
    if isinstance(frame, int) and rotation.first <= frame <= rotation.last:
        return frame
    if rotation.first == rotation.last or not isinstance(name, str):
        return rotation.first
    numbers = [int(digits) for digits in re.findall(r"\d+", Path(name).name)]
    found = [number for number in numbers if rotation.first <= number <= rotation.last]
    if not found:
        raise InputError(
            f"{experiment.path}: is of images {rotation.first} to {rotation.last}, and the name of image {name} has no "
            "such number; give crystal.scan: {phi0: , osc: } in degrees"
        )
    return found[-1]


def _detector_keys(experiment: DialsExperiment) -> dict[str, Any]:
    panels, reference = experiment.panels, _reference(experiment)
    panel = panels[reference.number]
    width, height = _common(experiment, "image_size", (p.image_size for p in panels))
    across, down = _common(experiment, "pixel_size", (p.pixel_size for p in panels))
    if abs(across - down) > 1e-9 * across:
        raise InputError(f"{experiment.path}: pixels are {across:g} x {down:g} mm; accepted: square ones")
    return {
        "distance": reference.distance,
        "pixel_size": across,
        "size": [height, width],
        "beam_center_px": list(reference.spot_px),
        "convention": "expt",
        "axes": _axes(experiment, panel),
        "gain": _each_or_one([p.gain for p in panels]),
        "offset": _each_or_one([p.pedestal for p in panels]),
        **_sensor_keys(experiment),
    }


def _axes(experiment: DialsExperiment, panel: Panel) -> dict[str, list[float]]:
    beam, rotation = experiment.beam, experiment.rotation
    axes: dict[str, Iterable[float]] = {"beam": beam.direction, "fast": panel.fast, "slow": panel.slow}
    if beam.polarization is not None:
        axes["polarization"] = np.cross(beam.polarization[0], beam.direction)
    if rotation is not None:
        axes["spindle"] = rotation.axis
    return {name: [float(x) for x in vector] for name, vector in axes.items()}


def _sensor_keys(experiment: DialsExperiment) -> dict[str, Any]:
    sensors = ((p.parallax, p.thickness, p.mu) for p in experiment.panels)
    parallax, thickness, mu = _common(experiment, "px_mm_strategy, thickness, mu", sensors)
    if not parallax or thickness <= 0 or mu <= 0:
        return {}
    keys = {"um": thickness * UM_PER_MM, "attenuation_um": UM_PER_MM / mu, "parallax": "dials"}
    return {"thickness": keys}


def _each_or_one(values: list[float]) -> float | list[float]:
    return values[0] if len(set(values)) == 1 else values


def _common(experiment: DialsExperiment, name: str, values: Iterable[Item]) -> Item:
    found = set(values)
    if len(found) > 1:
        shown = ", ".join(map(str, sorted(found, key=str)[:3]))
        raise InputError(f"{experiment.path}: panels differ in {name} ({shown}); accepted: the same for all panels")
    return found.pop()


def _reference(experiment: DialsExperiment) -> _Reference:
    """Of the panels whose plane the beam crosses, the one it hits or passes most closely; the first of equals."""
    beam, best, closest = experiment.beam.direction, None, np.inf
    for number, panel in enumerate(experiment.panels):
        with np.errstate(all="ignore"):  # a spot that is not finite is not close
            found, off = _spot(number, panel, beam)
        if off < closest:
            best, closest = found, off
    if best is None:
        raise InputError(
            f"{experiment.path}: the direct beam crosses no panel's plane behind the crystal; accepted: a detector "
            "with one panel that it does cross"
        )
    return best


def _spot(number: int, panel: Panel, beam: NDArray[np.float64]) -> tuple[_Reference, float]:
    """Where the beam crosses a panel's plane, and how far beside the panel (mm), NaN or infinite where it does not."""
    normal, origin = np.cross(panel.fast, panel.slow), np.array(panel.origin)
    distance = (normal @ origin) / (normal @ beam)
    across = (distance * beam - origin) @ np.column_stack([panel.fast, panel.slow])
    spot = across / np.array(panel.pixel_size)
    beside = spot - np.clip(spot, 0, np.array(panel.image_size))
    off = float(np.linalg.norm(beside * np.array(panel.pixel_size))) if 0 < distance < np.inf else np.inf
    return _Reference(number, float(distance), (float(spot[0]), float(spot[1]))), off
