"""What each kind of file adds to a draft."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refine.app.dials import completed
from refine.app.importing.draft import Draft, Gap, Setting
from refine.app.importing.image import BLOCK as DEFAULT_BLOCK
from refine.app.importing.image import GUESSED, block_cells, scan_steps
from refine.errors import InputError
from refine.io.experiments import DialsExperiment
from refine.io.geometries import mosflm_space_group, read_mosflm_matrix
from refine.io.imagesets import existing, first_image
from refine.io.instruments import Instrument, Sensor, silicon_attenuation_um
from refine.io.reflection_tables import indexed, read_reflection_table
from refine.io.reflections import read_structure_factors
from refine.physics.cell import cell_of_rows

CSPAD_PANEL, CSPAD_UM = re.compile(r"ARRAY_D\d+Q\d+S\d+A\d+"), 500.0
BANDWIDTH_PERCENT = 0.1  # to start from
REACHED = 5  # per cent of the indexed spots are beyond the resolution limit that is proposed
SPREAD_DEG, BLOCK = (0.02, 0.3), (100.0, 2000.0)  # degrees; Å: what a still's estimates may ask for


def from_experiment(experiment: DialsExperiment, index: int) -> Draft:
    """Detector, crystal and image of a DIALS experiment."""
    path, panels = experiment.path, experiment.panels
    count = len(experiment.document["experiment"])
    keys = completed({"detector": {"file": str(path), "index": index}}, Path())
    place = "" if count == 1 else f", experiment {index} of 0 to {count - 1}"
    said = (
        f"{path.name}: {len(panels)} panel(s) of {' x '.join(map(str, panels[0].image_size))} pixels (fast x slow) at "
        f"{keys['detector']['distance']:.2f} mm, {keys['beam']['wavelength']:g} Å{place}"
    )
    number = [Setting("detector.index", index, "")] if index else []
    geometry = Draft((Setting("detector.file", path, "beam and detector, by DIALS"), *number), found=(said,))
    return geometry + _lost_sensor(experiment) + _image_of(experiment) + _crystal_of(experiment, index)


def _crystal_of(experiment: DialsExperiment, index: int) -> Draft:
    if experiment.crystal is None:
        return Draft()
    cell = ", ".join(f"{x:.3f}" for x in cell_of(experiment.crystal.real_space))
    said = f"cell {cell} (Å, degrees), {experiment.crystal.space_group}"
    orientation = {"expt": experiment.path, **({"index": index} if index else {})}
    settings = [Setting("crystal.orientation", orientation, f"{said}, and orientation"), *_mosaicity(experiment)]
    if experiment.rotation is not None:
        steps = scan_steps(experiment.rotation.width)
        settings.append(Setting("crystal.scan", {"steps": steps}, "spindle angles that the rotation is sampled at"))
    return Draft(tuple(settings), found=(f"{experiment.path.name}: {said}",))


def _mosaicity(experiment: DialsExperiment) -> tuple[Setting, ...]:
    """Spread and block size as DIALS estimates them for a still, within bounds that a refinement can start from."""
    assert experiment.crystal is not None
    model = experiment.document["crystal"][experiment.document["experiment"][experiment.index]["crystal"]]
    half, domain = model.get("ML_half_mosaicity_deg"), model.get("ML_domain_size_ang")
    edges, settings = np.linalg.norm(experiment.crystal.real_space, axis=1), []
    if isinstance(half, int | float) and half > 0:
        spread = round(float(np.clip(half, *SPREAD_DEG)), 4)
        settings.append(_spread(spread, f"degrees, a standard deviation; DIALS' half mosaicity is {half:.3g}"))
    if isinstance(domain, int | float) and domain > 0:
        cells = block_cells(edges, float(np.clip(domain, *BLOCK)))
        settings.append(Setting("crystal.cells", cells, f"unit cells; DIALS' domain size is {domain:.0f} Å"))
    else:
        settings.append(Setting("crystal.cells", block_cells(edges, DEFAULT_BLOCK), GUESSED))
    return tuple(settings)


def _spread(degrees: float, origin: str) -> Setting:
    return Setting("crystal.mosaic", {"model": "gaussian", "spread_deg": degrees}, origin)


def cell_of(real_space: Any) -> list[float]:
    """a b c (Å), alpha beta gamma (degrees) of rows a, b, c."""
    return [float(x) for x in cell_of_rows(torch.from_numpy(np.ascontiguousarray(real_space)))]


def _lost_sensor(experiment: DialsExperiment) -> Draft:
    """The sensor of a file that asks for its parallax but has lost it."""
    if not any(panel.parallax and panel.mu * panel.thickness <= 0 for panel in experiment.panels):
        return Draft()
    if _is_cspad(experiment):
        sensor = Sensor(CSPAD_UM, silicon_attenuation_um(experiment.beam.wavelength))
        origin = "a CSPAD's, which DIALS corrects for while processing and leaves out of the .expt"
        return Draft((Setting("detector.thickness", _thickness(sensor), origin),))
    return Draft(gaps=(Gap("detector.thickness", _thickness(Sensor(450.0, 260.0)), _PARALLAX),))


def of_pulse(experiment: DialsExperiment, draft: Draft) -> Draft:
    """The bandwidth of an X-ray laser's pulse, where the detector is one of theirs and the mosaic is Gaussian."""
    mosaic = draft.value("crystal.mosaic", dict) or {"model": "gaussian"}
    if not _is_cspad(experiment) or mosaic.get("model") != "gaussian":
        return Draft()
    origin = "per cent, a standard deviation; a guess: with a CSPAD the pulse is an X-ray laser's, not of one colour"
    return Draft((Setting("beam.gaussian", {"bandwidth_percent": BANDWIDTH_PERCENT}, origin),))


def _is_cspad(experiment: DialsExperiment) -> bool:
    return all(CSPAD_PANEL.fullmatch(panel.name) for panel in experiment.panels)


_PARALLAX = "the .expt asks for the parallax of a sensor that it does not describe (thickness and attenuation in µm)"


def _thickness(sensor: Sensor) -> dict[str, Any]:
    attenuation = sensor.attenuation_um
    return {
        "um": round(sensor.um, 3),
        "attenuation_um": None if attenuation is None else round(attenuation, 3),
        "parallax": "dials",
    }


def _image_of(experiment: DialsExperiment) -> Draft:
    place = first_image(experiment)
    if place is None:
        return Draft()
    path = existing(place.file, experiment.path.parent)
    if path is None:
        return Draft(gaps=(Gap("images.0.file", place.file.name, f"{place.file}, named by the .expt, is not there"),))
    frame = () if place.frame is None else (Setting("images.0.frame", place.frame, "named by the .expt"),)
    return Draft((Setting("images.0.file", path, "named by the .expt"), *frame), found=(f"image {path}",))


def from_spots(path: Path, experiment: DialsExperiment | None) -> Draft:
    """The resolution that the indexed spots of the experiment reach; raises InputError where they are another's."""
    table = read_reflection_table(path)
    chosen = indexed(table, None if experiment is None else experiment.identifier)
    said = f"{path.name}: {chosen.sum()} indexed spots of {len(chosen)}"
    if experiment is None or experiment.crystal is None or not chosen.any():
        return Draft(found=(said,))
    a_matrix = np.linalg.inv(experiment.crystal.real_space)
    spacing = 1 / np.linalg.norm(table.hkl[chosen] @ a_matrix.T, axis=1)
    limit = round(float(np.percentile(spacing, REACHED)), 2)
    if table.predicted_px is not None:
        offset = np.linalg.norm((table.predicted_px - table.observed_px)[chosen, :2], axis=1)
        said += f", {np.median(offset):.2f} pixels (median) from DIALS' predictions"
    origin = f"Å; {100 - REACHED} % of the {chosen.sum()} indexed spots of {path.name} are within"
    return Draft((Setting("refinement.resolution", {"min": limit}, origin),), found=(said,))


def from_matrix(path: Path, wavelength: float | None) -> Draft:
    """Orientation, cell and space group of a MOSFLM matrix, which is times the wavelength (Å)."""
    if wavelength is None:
        raise InputError(f"{path}: is times the wavelength; give a file that says it, or beam.wavelength=VALUE (Å)")
    cell = cell_of(np.linalg.inv(read_mosflm_matrix(path, wavelength)))
    said = f"{path.name}: cell {', '.join(f'{x:.3f}' for x in cell)} (Å, degrees)"
    group = mosflm_space_group(path)
    settings = [
        Setting("crystal.orientation", {"matrix": path}, "MOSFLM's matrix, with the cell"),
        Setting("crystal.cells", block_cells(cell[:3], DEFAULT_BLOCK), GUESSED),
    ]
    if group is not None:
        settings.append(Setting("crystal.space_group", group, f"{path.name}: SYMM"))
    gap = Gap("crystal.space_group", "P 1", "the matrix does not say it; it ties the cell's parameters")
    return Draft(tuple(settings), (gap,), (said,))


def from_amplitudes(path: Path, column: str | None) -> Draft:
    """Structure factors. Raises InputError."""
    found = read_structure_factors(path, column)
    return Draft((Setting("structure_factors.file", path, ""),), found=(f"{path.name}: {found.note}",))


def from_instrument(name: str, found: Instrument, image: int, whole: bool = True) -> Draft:
    """What another program's file says, of the image of a number; `whole`: with the geometry, not only with what needs
    no lab frame."""
    settings = [Setting(key, value, name) for key, value in _placed(found).items()] if whole else []
    settings += [Setting(key, value, name) for key, value in _frameless(found).items()]
    if whole and found.rotation is not None:
        turn = {"phi0": found.rotation.of(image), "osc": found.rotation.width}
        turn |= {"steps": scan_steps(found.rotation.width)} if found.rotation.width else {}
        settings.append(Setting("crystal.scan", turn, f"{name}, degrees, of image {image}"))
    notes = found.notes
    if found.sensor is not None and found.sensor.attenuation_um is None:
        notes = (*notes, f"the sensor is {found.sensor.um:g} µm thick; give detector.thickness with attenuation_um")
    return Draft(tuple(settings), found=tuple(f"{name}: {said}" for said in (_described(found), *notes)))


def _described(found: Instrument) -> str:
    named = {"Å": found.wavelength, "mm": found.distance}
    parts = [f"{value:g} {unit}" for unit, value in named.items() if value is not None]
    if found.size is not None:
        parts.append(f"{found.size[1]} x {found.size[0]} pixels (fast x slow)")
    if found.beam_center_px is not None:
        parts.append("beam centre {:.2f} (fast), {:.2f} (slow) pixels".format(*found.beam_center_px))
    return ", ".join(parts) or "nothing of the geometry"


def _placed(found: Instrument) -> dict[str, Any]:
    """Keys that belong together: the geometry, in one lab frame."""
    keys = {
        "detector.distance": found.distance,
        "detector.beam_center_px": found.beam_center_px,
        "detector.convention": None if found.convention == "mosflm" else found.convention,
        "detector.axes": {name: list(vector) for name, vector in found.axes.items()} or None,
    }
    if found.real_space is not None:
        matrix = np.linalg.inv(found.real_space).flatten().tolist()
        keys["crystal.orientation"] = {"a_matrix": matrix}
    return {key: value for key, value in keys.items() if value is not None}


def _frameless(found: Instrument) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "beam.wavelength": found.wavelength,
        "beam.polarization": found.polarization,
        "detector.pixel_size": found.pixel_size,
        "detector.size": found.size,
        "detector.offset": found.offset,
        "detector.saturation": found.saturation,
        "crystal.cell": found.cell,
        "crystal.space_group": found.space_group,
    }
    if found.sensor is not None and found.sensor.attenuation_um is not None:
        keys["detector.thickness"] = _thickness(found.sensor)
    return {key: value for key, value in keys.items() if value is not None}
