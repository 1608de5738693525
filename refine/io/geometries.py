"""Crystal and experiment geometry files: MOSFLM orientation matrices and DIALS experiment lists."""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.atomic import write_text
from refine.io.reading import guarded, read_content

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_RUN_TOGETHER = re.compile(r"(?<=[\d.])(?=[-+])")  # Fortran columns without a blank before the sign
_CELL_TOLERANCE = 0.01

_MOSFLM_TO_DIALS = ((0, 0, 1), (0, 1, 0), (-1, 0, 0))
_HALF_TURN_ABOUT_X = ((1, 0, 0), (0, -1, 0), (0, 0, -1))
_IDENTITY = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
_FRAMES = {
    "mosflm": _MOSFLM_TO_DIALS,
    "denzo": _MOSFLM_TO_DIALS,
    "adxv": _HALF_TURN_ABOUT_X,
    "xds": _HALF_TURN_ABOUT_X,
    "dials": _HALF_TURN_ABOUT_X,
    "expt": _IDENTITY,
}


@dataclass(frozen=True)
class Panel:
    """One flat detector panel, DIALS lab frame.

    origin:        mm, outer corner of the first pixel; fast, slow: unit vectors of the pixel axes.
    image_size:    (fast, slow) pixels; pixel_size: (fast, slow) mm.
    trusted_range: (lowest, highest) ADU; gain: ADU per photon; pedestal: ADU.
    thickness:     mm and mu: 1/mm of the sensor; 0 where unknown.
    """

    origin: Sequence[float]
    fast: Sequence[float]
    slow: Sequence[float]
    image_size: tuple[int, int]
    pixel_size: tuple[float, float]
    trusted_range: tuple[float, float] = (0.0, 1e9)
    gain: float = 1.0
    pedestal: float = 0.0
    thickness: float = 0.0
    material: str = ""
    mu: float = 0.0
    name: str = "Panel"


def to_dials_frame(convention: str) -> NDArray[np.float64]:
    """The rotation (3, 3) from a convention's lab frame to that of DIALS (photons travel along -z).

    `convention`: mosflm or denzo (beam +x), adxv, xds or dials (beam +z; nanoBragg's frame of that name), or expt
    (DIALS' own frame: identity). Raises InputError.
    """
    if convention not in _FRAMES:
        raise InputError(f"detector convention '{convention}' is unknown; accepted are {', '.join(_FRAMES)}")
    return np.array(_FRAMES[convention], dtype=np.float64)


def read_mosflm_matrix(path: str | Path, wavelength: float, check_cell: bool = True) -> NDArray[np.float64]:
    """The setting matrix A (3, 3) of a MOSFLM .mat file: rows x y z, columns a* b* c*, MOSFLM lab frame, 1/Å.

    The file's first nine numbers are `wavelength` (Å) times A. In a complete file (30 numbers) the cell line must
    agree with A within 1 %, unless `check_cell` is off. Raises InputError.
    """
    path = Path(path)
    numbers = _leading_numbers(path)
    if len(numbers) < 9:
        raise InputError(f"{path}: begins with {len(numbers)} numbers; accepted is a MOSFLM matrix of at least nine")
    matrix = np.array(numbers[:9]).reshape(3, 3) / wavelength
    volume = np.linalg.det(matrix)
    if not np.isfinite(volume) or volume <= 1e-12 * np.prod(np.linalg.norm(matrix, axis=0)):
        raise InputError(
            f"{path}: the first nine numbers are no right-handed set of a*, b*, c* in columns; write it again"
        )
    if check_cell and len(numbers) >= 30:
        _check_cell_line(path, matrix, np.array(numbers[21:27]), wavelength)
    return matrix


def mosflm_matrix_text(a_matrix: NDArray[np.float64], wavelength: float, cell: Sequence[float]) -> str:
    """A complete MOSFLM .mat file of 30 numbers: wavelength * A, missetting angles 0, U, the cell, missetting angles 0.

    a_matrix: (3, 3), rows x y z, columns a* b* c*, MOSFLM lab frame, 1/Å; wavelength: Å; cell: a b c (Å), alpha beta
    gamma (degrees). U is that of A = U B with a* along x and b* in the x-y plane.
    """
    zeros = "".join(f"{0:12.3f}" for _ in range(3))
    a_rows = ["".join(f"{value:15.10f}" for value in row) for row in np.asarray(a_matrix) * wavelength]
    u_matrix = np.asarray(a_matrix) @ np.linalg.inv(_reciprocal_basis(cell))
    u_rows = ["".join(f"{value:12.7f}" for value in row) for row in u_matrix]
    cell_row = "".join(f"{value:12.4f}" for value in cell)
    return "\n".join([*a_rows, zeros, *u_rows, cell_row, zeros]) + "\n"


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


def _leading_numbers(path: Path) -> list[float]:
    with guarded(path, "a MOSFLM matrix"):
        text = read_content(path).decode("latin-1")
        words = _RUN_TOGETHER.sub(" ", re.sub("[dD](?=[-+0-9])", "e", text)).split()
    return [float(word) for word in takewhile(_NUMBER.fullmatch, words)]


def _check_cell_line(path: Path, matrix: NDArray[np.float64], cell: NDArray[np.float64], wavelength: float) -> None:
    found = _cell_of(matrix)
    if np.all(np.abs(found - cell) <= _CELL_TOLERANCE * np.abs(cell)):
        return
    fitting = wavelength * float(np.median(cell[:3] / found[:3]))
    raise InputError(
        f"{path}: with wavelength {wavelength:g} Å the matrix has cell {_six(found)}, the file's cell line says "
        f"{_six(cell)}; the wavelength is probably not the file's (about {fitting:.5g} Å fits): set beam.wavelength "
        "to the one the matrix was made with, or correct the file"
    )


def _six(cell: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.2f}" for value in cell)


def _cell_of(a_matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    rows = np.linalg.inv(a_matrix)
    lengths = np.linalg.norm(rows, axis=1)
    pairs = ((1, 2), (0, 2), (0, 1))
    angles = [np.degrees(np.arccos(rows[i] @ rows[j] / (lengths[i] * lengths[j]))) for i, j in pairs]
    return np.concatenate([lengths, angles])


def _reciprocal_basis(cell: Sequence[float]) -> NDArray[np.float64]:
    """B: columns a* b* c* in 1/Å, a* along x, b* in the x-y plane (Busing & Levy, doi 10.1107/S0365110X67000970)."""
    a, b, c = cell[:3]
    cosines, sines = np.cos(np.radians(cell[3:])), np.sin(np.radians(cell[3:]))
    root = np.sqrt(1 - cosines @ cosines + 2 * np.prod(cosines))
    a_star, b_star, c_star = sines / (np.array([a, b, c]) * root)
    cos_beta_star = (cosines[0] * cosines[2] - cosines[1]) / (sines[0] * sines[2])
    cos_gamma_star = (cosines[0] * cosines[1] - cosines[2]) / (sines[0] * sines[1])
    sin_beta_star, sin_gamma_star = np.sqrt(1 - cos_beta_star**2), np.sqrt(1 - cos_gamma_star**2)
    return np.array(
        [
            [a_star, b_star * cos_gamma_star, c_star * cos_beta_star],
            [0, b_star * sin_gamma_star, -c_star * sin_beta_star * cosines[0]],
            [0, 0, 1 / c],
        ]
    )


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
        "mask": [],
        "gain": float(panel.gain),
        "pedestal": float(panel.pedestal),
        "px_mm_strategy": {"type": "SimplePxMmStrategy"},
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
    import gemmi

    group = gemmi.find_spacegroup_by_name(space_group)
    if group is None:
        raise InputError(f"space group '{space_group}' is unknown; accepted is a name like P1, P 21 21 21 or R 3:H")
    axes = {f"real_space_{name}": _floats(vector) for name, vector in zip("abc", real_space, strict=True)}
    return {"__id__": "crystal", **axes, "space_group_hall_symbol": group.hall}
