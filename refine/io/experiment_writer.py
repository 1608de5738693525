"""Writes DIALS experiment lists (.expt): a new one of one image, or one that was read with its refined models."""

import copy
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.atomic import write_text
from refine.io.experiments import DialsExperiment, Panel, local_frame

# What DIALS derived from the crystal as it was.
_OUTDATED = re.compile(r"B_covariance|.*_at_scan_points|recalculated_.*")


def experiment_list(
    *,
    beam_direction: Sequence[float],
    wavelength: float,
    polarization_normal: Sequence[float],
    polarization_fraction: float,
    panels: Sequence[Panel],
    real_space: Sequence[Sequence[float]],
    space_group: str,
    image: str | Path,
    scan: tuple[float, float] | None = None,
    spindle: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A DIALS ExperimentList of one image, all vectors in the DIALS lab frame.

    beam_direction: unit vector the photons travel along (the file stores its negative, sample to source).
    wavelength: Å. polarization_normal: unit vector; polarization_fraction: 0..1.
    real_space: rows a, b, c in Å, at rotation angle zero. space_group: any name gemmi knows.
    scan: (start angle, width) in degrees about the unit vector `spindle`; None for a still. Raises InputError.
    """
    if (scan is None) != (spindle is None):
        raise InputError("an experiment list needs both scan and spindle for a rotation image, neither for a still")
    models: dict[str, Any] = {
        "imageset": [_imageset(str(image), scan)],
        "beam": [_beam(beam_direction, wavelength, polarization_normal, polarization_fraction)],
        "detector": [_detector(panels)],
        "goniometer": [] if spindle is None else [_goniometer(spindle)],
        "scan": [] if scan is None else [_scan(str(image), *scan)],
        "crystal": [_crystal(real_space, space_group)],
    }
    # The same content gets the same identifier, so that a repeated run writes the same file.
    identifier = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(models, sort_keys=True)))
    experiment = {
        "__id__": "Experiment",
        "identifier": identifier,
        **{name: 0 for name, model in models.items() if model},
    }
    return {"__id__": "ExperimentList", "experiment": [experiment], **models, "profile": [], "scaling_model": []}


def write_expt(path: str | Path, experiments: dict[str, Any]) -> None:
    """Write an experiment list as a DIALS .expt file, atomically; raises InputError, also for NaN or infinity."""
    try:
        text = json.dumps(experiments, indent=2, allow_nan=False)
    except ValueError as error:
        raise InputError(
            f"{path}: the experiment list holds NaN or infinite values; accepted are finite ones"
        ) from error
    write_text(path, text + "\n")


def refined_document(
    source: DialsExperiment,
    *,
    real_space: NDArray[np.float64],
    space_group: str,
    beam: Mapping[str, float],
    motion: NDArray[np.float64] | None,
) -> dict[str, Any]:
    """The document that `source` was read from, with its experiment's refined models in place of the old ones.

    real_space: (3, 3) rows a, b, c in Å, lab frame, at rotation angle zero. space_group: any name gemmi knows.
    beam: new values of the beam's keys, such as wavelength (Å). motion: (4, 4), mm, that takes the detector as a rigid
    body to its refined place; None where it stays. Every other key, identifiers included, stays; only what DIALS had
    derived from the old crystal (its covariance, its change along a scan) is left out. A model that other experiments
    of the file share is copied first. Raises InputError.
    """
    document = copy.deepcopy(source.document)
    mount = np.eye(3) if source.rotation is None else source.rotation.mount
    crystal = _own(document, source.index, "crystal", {"__id__": "crystal"})
    for key in [key for key in crystal if _OUTDATED.fullmatch(key)]:
        del crystal[key]
    renewed = _crystal((real_space @ mount).tolist(), space_group)
    if source.crystal is not None and source.crystal.space_group == gemmi.find_spacegroup_by_name(space_group).xhm():
        del renewed["space_group_hall_symbol"]
    crystal.update(renewed)
    if beam:
        _own(document, source.index, "beam").update(beam)
    if motion is not None:
        _move(_own(document, source.index, "detector"), motion)
    return document


def _own(document: dict[str, Any], index: int, kind: str, new: dict[str, Any] | None = None) -> dict[str, Any]:
    """The experiment's own model of a kind: the one it has, or a copy where others have it too, or `new`."""
    experiments, models = document["experiment"], document.setdefault(kind, [])
    number = experiments[index].get(kind)
    if number is None or sum(other.get(kind) == number for other in experiments) > 1:
        models.append(new if number is None else copy.deepcopy(models[number]))
        number = experiments[index][kind] = len(models) - 1
    model: dict[str, Any] = models[number]
    return model


def _move(detector: dict[str, Any], motion: NDArray[np.float64]) -> None:
    """Move the outermost groups, or the panels where there is no group but the root, by a motion of the lab frame."""
    panels, hierarchy = detector["panels"], detector.get("hierarchy")
    root = np.eye(4) if hierarchy is None else local_frame(hierarchy)
    children = [{"panel": number} for number in range(len(panels))] if hierarchy is None else hierarchy["children"]
    inside = np.linalg.inv(root) @ motion @ root
    for child in children:
        moved = panels[child["panel"]] if "panel" in child else child
        frame = inside @ local_frame(moved)
        columns = zip(("fast_axis", "slow_axis", "origin"), (0, 1, 3), strict=True)
        moved.update({name: frame[:3, column].tolist() for name, column in columns})


def _floats(values: Sequence[float]) -> list[float]:
    return [float(value) for value in values]


def _numbered(image: str) -> tuple[str, int]:
    """The file name template of a sequence ('x_0007.cbf' -> 'x_####.cbf', 7); 1 where the name has no number."""
    folder, name = str(Path(image).parent), Path(image).name
    match = re.match(r"(.*?)(\d+)(\.[^\d.][^/]*|)$", name)
    if match is None:
        return image, 1
    template = f"{match[1]}{'#' * len(match[2])}{match[3]}"
    return (template if folder == "." else f"{folder}/{template}"), int(match[2])


def _imageset(image: str, scan: tuple[float, float] | None) -> dict[str, Any]:
    source: dict[str, Any] = {"__id__": "ImageSet", "images": [image]}
    if scan is not None:
        source = {"__id__": "ImageSequence", "template": _numbered(image)[0]}
    return source | {"mask": None, "gain": None, "pedestal": None, "dx": None, "dy": None, "params": {}}


def _beam(direction: Sequence[float], wavelength: float, normal: Sequence[float], fraction: float) -> dict[str, Any]:
    return {
        "__id__": "monochromatic",
        "direction": [0.0 - value for value in _floats(direction)],
        "wavelength": float(wavelength),
        "divergence": 0.0,
        "sigma_divergence": 0.0,
        "polarization_normal": _floats(normal),
        "polarization_fraction": float(fraction),
        "flux": 0.0,
        "transmission": 1.0,
        "probe": "x-ray",
        "sample_to_source_distance": 0.0,
    }


def _detector(panels: Sequence[Panel]) -> dict[str, Any]:
    root = Panel((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0), (0.0, 0.0), (0.0, 0.0), name="")
    children = [{"panel": index} for index in range(len(panels))]
    hierarchy = {**_panel(root), "type": "", "children": children}
    return {"panels": [_panel(panel) for panel in panels], "hierarchy": hierarchy}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "name": panel.name,
        "type": "SENSOR_PAD",
        "fast_axis": _floats(panel.fast),
        "slow_axis": _floats(panel.slow),
        "origin": _floats(panel.origin),
        "raw_image_offset": [0, 0],
        "image_size": [int(size) for size in panel.image_size],
        "pixel_size": _floats(panel.pixel_size),
        "trusted_range": _floats(panel.trusted_range),
        "thickness": float(panel.thickness),
        "material": panel.material,
        "mu": float(panel.mu),
        "identifier": "",
        "mask": [list(rectangle) for rectangle in panel.mask],
        "gain": float(panel.gain),
        "pedestal": float(panel.pedestal),
        "px_mm_strategy": {"type": panel.strategy},
    }


def _goniometer(spindle: Sequence[float]) -> dict[str, Any]:
    identity = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    return {"rotation_axis": _floats(spindle), "fixed_rotation": identity, "setting_rotation": identity}


def _scan(image: str, start: float, width: float) -> dict[str, Any]:
    number = _numbered(image)[1]
    times: dict[str, Any] = {"exposure_time": [0.0], "epochs": [0.0]}
    return {
        "image_range": [number, number],
        "batch_offset": 0,
        # dxtbx before 3.16 reads the angles here, later ones in `properties`.
        "oscillation": [float(start), float(width)],
        **times,
        "properties": {"oscillation": [float(start)], "oscillation_width": [float(width)], **times},
        "valid_image_ranges": {},
    }


def _crystal(real_space: Sequence[Sequence[float]], space_group: str) -> dict[str, Any]:
    group = gemmi.find_spacegroup_by_name(space_group)
    if group is None:
        raise InputError(f"space group '{space_group}' is unknown; accepted is a name like P1, P 21 21 21 or R 3:H")
    axes = {f"real_space_{name}": _floats(vector) for name, vector in zip("abc", real_space, strict=True)}
    return {"__id__": "crystal", **axes, "space_group_hall_symbol": group.hall}
