"""Geometry of HDF5 masters: NXmx, by its chains of transformations, and Eiger files, by their single numbers.

The frame of NeXus has z along the beam and y up; here it is turned to that of DIALS, whose z points to the source.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refine.errors import InputError
from refine.io.hdf5_images import detector_group, entry_group
from refine.io.image_headers import MM_PER_M, UM_PER_M, sensor_of
from refine.io.instruments import Instrument, Rotation, Sensor, Vector, placed, unit
from refine.io.reading import guarded

if TYPE_CHECKING:
    import h5py

_NEXUS_TO_DIALS = np.diag([-1.0, 1.0, -1.0])
_BEAM: Vector = (0.0, 0.0, -1.0)
_SATURATION = ("saturation_value", "detectorSpecific/countrate_correction_count_cutoff")


def read_master(path: str | Path) -> Instrument:
    """What an Eiger or NXmx master says. Raises InputError."""
    import h5py
    import nxmx

    path = Path(path)
    with guarded(path, "an HDF5 master"), h5py.File(path, "r") as file:
        entries = nxmx.NXmx(file).entries
        return _from_nxmx(path, entries[0]) if entries else _from_eiger(entry_group(file))


def _from_nxmx(path: Path, entry: Any) -> Instrument:
    detector, beam = entry.instruments[0].detectors[0], entry.instruments[0].beams[0]
    if len(detector.modules) != 1:
        raise InputError(
            f"{path}: the detector has {len(detector.modules)} modules; accepted: one. A detector of many is read from"
            " a DIALS .expt"
        )
    (module,) = detector.modules
    fast, slow, origin = _module(module)
    pixel = [float(np.ravel(axis[()].to("mm").magnitude)[0]) for axis in (module.fast_pixel_direction,
             module.slow_pixel_direction)]  # fmt: skip
    if abs(pixel[0] - pixel[1]) > 1e-6 * pixel[0]:
        raise InputError(f"{path}: pixels are {pixel[0]:g} x {pixel[1]:g} mm; accepted: square ones")
    place = placed(_BEAM, fast, slow, origin, pixel[0])
    wavelength = float(np.ravel(beam.incident_wavelength.to("angstrom").magnitude)[0])
    rotation, axis = _nxmx_rotation(entry)
    limit = detector.saturation_value
    return Instrument(
        convention="expt",
        wavelength=wavelength,
        distance=place.distance,
        beam_center_px=place.beam_center_px,
        pixel_size=pixel[0],
        size=(int(module.data_size[-2]), int(module.data_size[-1])),
        axes={"fast": fast, "slow": slow, **({} if axis is None else {"spindle": axis})},
        saturation=None if limit is None else float(limit) + 1,
        sensor=_nxmx_sensor(detector, wavelength),
        rotation=rotation,
    )


def _module(module: Any) -> tuple[Vector, Vector, NDArray[np.float64]]:
    """Unit vectors along fast and slow, and the outer corner of the first pixel in mm."""
    import nxmx

    chain = module.fast_pixel_direction.depends_on
    motion = np.eye(4) if chain is None else nxmx.get_cumulative_transformation(nxmx.get_dependency_chain(chain))[0]
    turned = [
        _NEXUS_TO_DIALS @ motion[:3, :3] @ np.asarray(axis.vector, dtype=np.float64)
        for axis in (module.fast_pixel_direction, module.slow_pixel_direction)
    ]
    return unit(turned[0]), unit(turned[1]), _NEXUS_TO_DIALS @ motion[:3, 3]


def _nxmx_rotation(entry: Any) -> tuple[Rotation | None, Vector | None]:
    """The rotation of the axis that moves, or of the only one, and its direction."""
    import nxmx

    last = entry.samples[0].depends_on if entry.samples else None
    axes = [] if last is None else [a for a in nxmx.get_dependency_chain(last) if a.transformation_type == "rotation"]
    moving = [axis for axis in axes if len(axis) > 1] or axes[:1]
    if not moving:
        return None, None
    angles = np.ravel(moving[0][()].to("degree").magnitude)
    width = float(angles[1] - angles[0]) if len(angles) > 1 else 0.0
    direction = unit(_NEXUS_TO_DIALS @ np.asarray(moving[0].vector, dtype=np.float64))
    return Rotation(1, float(angles[0]), width), direction


def _nxmx_sensor(detector: Any, wavelength: float) -> Sensor | None:
    if "sensor_thickness" not in detector or "sensor_material" not in detector:
        return None
    return sensor_of(detector.sensor_material, float(detector.sensor_thickness.to("um").magnitude), wavelength)


def _from_eiger(entry: "h5py.Group") -> Instrument:
    detector = detector_group(entry)
    if detector is None:
        return Instrument(notes=("the file does not say where the detector is",))

    def one(name: str, group: "h5py.Group" = detector) -> float | None:
        value = group.get(name)
        found = None if value is None else np.ravel(value[()])
        return float(found[0]) if found is not None and found.size and found.dtype.kind in "iuf" else None

    wavelength, distance = one("instrument/beam/incident_wavelength", entry), one("detector_distance")
    center, pixel, thickness = (
        (one("beam_center_x"), one("beam_center_y")),
        one("x_pixel_size"),
        one("sensor_thickness"),
    )
    size = one("detectorSpecific/y_pixels_in_detector"), one("detectorSpecific/x_pixels_in_detector")
    start, width = one("sample/goniometer/omega", entry), one("sample/goniometer/omega_range_average", entry)
    limit = next((found for name in _SATURATION if (found := one(name)) is not None), None)
    material = np.ravel(detector["sensor_material"].asstr()[()])[0] if "sensor_material" in detector else ""
    return Instrument(
        wavelength=wavelength,
        distance=None if not distance else distance * MM_PER_M,
        beam_center_px=None if center[0] is None or center[1] is None else (center[0], center[1]),
        pixel_size=None if not pixel else pixel * MM_PER_M,
        size=None if size[0] is None or size[1] is None else (int(size[0]), int(size[1])),
        saturation=None if limit is None else limit + 1,
        sensor=None if not thickness else sensor_of(material, thickness * UM_PER_M, wavelength),
        rotation=None if start is None else Rotation(1, start, width or 0.0),
        notes=("the spindle is taken to be along the fast axis",) if width else (),
    )
