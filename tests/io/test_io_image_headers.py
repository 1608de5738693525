"""Headers of single images, and the masters of Eiger and NXmx."""

import h5py
import numpy as np
import pytest
from expt import FAST, ORIGIN, PIXEL, SIZE, SLOW

from refine.errors import InputError
from refine.io.image_headers import read_header
from refine.io.image_writers import CBF_BINARY_START
from refine.io.instruments import Rotation, placed, silicon_attenuation_um
from refine.io.nexus import read_master

PILATUS = """###CBF: VERSION 1.5\r\ndata_x\r\n_array_data.header_convention "PILATUS_1.2"\r\n_array_data.header_contents
;
# Detector: PILATUS3 6M
# Pixel_size 172e-6 m x 172e-6 m
# Silicon sensor, thickness 0.000450 m
# Count_cutoff 115897 counts
# Comment:
# Flux
# Tau = unknown s
# Wavelength 0.96859 A
# Detector_distance 0.35100 m
# Beam_xy (1261.61, 1306.96) pixels
# Start_angle 89.5 deg.
# Angle_increment 0.1000 deg.
# Detector_2theta 0.0000 deg.
# Polarization 0.990
# Oscillation_axis X.CW +SLOW
;
_array_data.data
;
X-Binary-Size-Fastest-Dimension: 2463
X-Binary-Size-Second-Dimension: 2527
"""


def minicbf(folder, text=PILATUS):
    (folder / "x_0007.cbf").write_bytes(text.encode() + CBF_BINARY_START)
    return read_header(folder / "x_0007.cbf")


def smv(folder, **keys):
    fixed = {"HEADER_BYTES": "512", "SIZE1": 800, "SIZE2": 600, "PIXEL_SIZE": 0.1, "DISTANCE": 150.0, "WAVELENGTH": 0.9}
    lines = "".join(f"{key}={value};\n" for key, value in (fixed | keys).items())
    (folder / "x_3_012.img").write_bytes(f"{{\n{lines}}}\n".ljust(512).encode())
    return read_header(folder / "x_3_012.img")


def test_a_pilatus_header(tmp_path):
    found = minicbf(tmp_path)
    assert (found.convention, found.wavelength, found.polarization) == ("mosflm", 0.96859, pytest.approx(0.98))
    assert (found.distance, found.pixel_size) == (pytest.approx(351.0), pytest.approx(0.172))
    assert (found.beam_center_px, found.size) == ((1261.61, 1306.96), (2527, 2463))
    assert (found.saturation, found.rotation) == (115898, Rotation(7, 89.5, 0.1))
    assert found.sensor.um == pytest.approx(450)
    assert 1e3 / found.sensor.attenuation_um == pytest.approx(3.8326187, rel=1e-6)  # mu, 1/mm, as DIALS has it
    assert "X.CW" in " ".join(found.notes)


def test_silicon_agrees_with_cromer_liberman():
    """Photoelectric absorption alone, some per cent below all of the attenuation."""
    import gemmi

    for energy in (5000.0, 7000.0, 12000.0, 18000.0):
        wavelength = gemmi.hc / energy
        _, absorbing = gemmi.cromer_liberman(14, energy)
        mu = 2 * 2.8179403e-5 * wavelength * absorbing * 8 / 5.431**3 * 1e7  # 1/mm
        assert 1.0 < 1e3 / silicon_attenuation_um(wavelength) / mu < 1.15


def test_a_header_without_a_geometry(tmp_path):
    found = minicbf(tmp_path, PILATUS.replace("_array_data.header_contents", "_other"))
    assert (found.size, found.distance, found.beam_center_px) == ((2527, 2463), None, None)
    found = minicbf(tmp_path, PILATUS.replace("(1261.61, 1306.96)", "(0, 0)").replace("Silicon", "CdTe"))
    assert found.beam_center_px is None
    assert found.sensor.attenuation_um is None


@pytest.mark.parametrize(("keys", "center", "note"), [
    ({"XDS_ORGX": 400.5, "XDS_ORGY": 300.5, "BEAM_CENTER_X": 1, "BEAM_CENTER_Y": 2}, (400.0, 300.0), ""),
    ({"DENZO_X_BEAM": 30.0, "DENZO_Y_BEAM": 40.0, "XDS_ORGX": 1, "XDS_ORGY": 1, "TWOTHETA": 5}, (400.0, 300.0),
     "TWOTHETA 5: not taken over"),
    ({"BEAM_CENTER_X": 30.0, "BEAM_CENTER_Y": 40.0}, (400.0, 300.0), "X along slow"),
    ({"BEAM_CENTER_X": 400, "BEAM_CENTER_Y": 300}, (400.0, 300.0), "taken as pixels"),
    ({}, None, ""),
])  # fmt: skip
def test_the_beam_centre_of_smv(tmp_path, keys, center, note):
    found = smv(tmp_path, OSC_START=20.0, OSC_RANGE=0.5, IMAGE_PEDESTAL=40, **keys)
    assert found.beam_center_px == (None if center is None else pytest.approx(center))
    assert note in " ".join(found.notes)
    assert (found.distance, found.size, found.offset, found.rotation) == (
        150.0,
        (600, 800),
        40.0,
        Rotation(12, 20, 0.5),
    )


def test_files_without_a_header(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 4)))
    with pytest.raises(InputError, match=r"x\.npy: has no header of CBF or SMV"):
        read_header(tmp_path / "x.npy")


def eiger(path):
    with h5py.File(path, "w") as file:
        detector, entry = file.create_group("entry/instrument/detector"), file["entry"]
        entry["instrument/beam/incident_wavelength"] = 0.9763
        entry["sample/goniometer/omega"], entry["sample/goniometer/omega_range_average"] = [10.0, 10.5, 11.0], 0.5
        numbers = {"beam_center_x": 1500.5, "beam_center_y": 1600.25, "detector_distance": 0.2, "x_pixel_size": 75e-6,
                   "sensor_thickness": 4.5e-4}  # fmt: skip
        specific = {"x_pixels_in_detector": 3110, "y_pixels_in_detector": 3269,
                    "countrate_correction_count_cutoff": 5000}  # fmt: skip
        named = {f"detectorSpecific/{name}": value for name, value in specific.items()}
        for name, value in {**numbers, **named, "sensor_material": "Si"}.items():
            detector[name] = value
    return read_master(path)


def test_an_eiger_master(tmp_path):
    found = eiger(tmp_path / "x_master.h5")
    assert (found.wavelength, found.distance, found.pixel_size) == (0.9763, 200.0, pytest.approx(0.075))
    assert (found.beam_center_px, found.size) == ((1500.5, 1600.25), (3269, 3110))
    assert (found.saturation, found.rotation) == (5001.0, Rotation(1, 10.0, 0.5))
    assert found.sensor == (pytest.approx(450.0), pytest.approx(silicon_attenuation_um(0.9763)))


MCSTAS = np.diag([-1.0, 1.0, -1.0])


def nxmx(path, modules=1):
    """A master of the tilted panel of tests/expt.py: its origin a chain of two shifts, its spindle along DIALS' y."""
    with h5py.File(path, "w") as file:
        entry = file.create_group("entry")
        for name, kind in {"": "NXentry", "instrument": "NXinstrument", "instrument/beam": "NXbeam",
                           "instrument/detector": "NXdetector", "sample": "NXsample",
                           "instrument/detector/transformations": "NXtransformations",
                           "sample/transformations": "NXtransformations"}.items():  # fmt: skip
            (entry.require_group(name) if name else entry).attrs["NX_class"] = kind
        entry["definition"], entry["instrument/beam/incident_wavelength"] = "NXmx", 1.1
        entry["instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
        detector = entry["instrument/detector"]
        origin = MCSTAS @ ORIGIN
        axis(detector, "transformations/z", 60.0, [0, 0, 1], "translation", "mm", ".")
        detector["sensor_thickness"], detector["sensor_material"], detector["saturation_value"] = 0.45, "Si", 9000
        detector["sensor_thickness"].attrs["units"] = "mm"
        for n in range(modules):
            module = detector.create_group(f"module{n}")
            module.attrs["NX_class"] = "NXdetector_module"
            module["data_size"], module["data_origin"] = SIZE, (0, 0)
            where = "/entry/instrument/detector/"
            axis(module, "offset", 1.0, origin - [0, 0, 60], "translation", "mm", where + "transformations/z")
            for name, vector in (("fast", FAST), ("slow", SLOW)):
                last = f"{where}module{n}/offset"
                axis(module, f"{name}_pixel_direction", PIXEL * 1e-3, MCSTAS @ vector, "translation", "m", last)
        axis(entry["sample"], "transformations/omega", [5.0, 5.25, 5.5], [0, 1, 0], "rotation", "deg", ".")
        entry["sample/depends_on"] = "transformations/omega"
    return path


def axis(group, name, value, vector, kind, units, depends_on):
    group[name] = value
    group[name].attrs.update({"vector": vector, "transformation_type": kind, "units": units, "depends_on": depends_on})


def test_an_nxmx_master(tmp_path):
    found = read_master(nxmx(tmp_path / "x.nxs"))
    place = placed((0, 0, -1), tuple(FAST), tuple(SLOW), ORIGIN, PIXEL)
    assert found.convention == "expt"
    assert found.distance == pytest.approx(place.distance, abs=1e-9)
    assert found.beam_center_px == pytest.approx(place.beam_center_px, abs=1e-9)
    np.testing.assert_allclose(found.axes["fast"], FAST, atol=1e-12)
    np.testing.assert_allclose(found.axes["slow"], SLOW, atol=1e-12)
    np.testing.assert_allclose(found.axes["spindle"], [0, 1, 0], atol=1e-12)
    assert (found.wavelength, found.size, found.saturation) == (1.1, SIZE, 9001)
    assert (found.rotation, found.pixel_size) == (Rotation(1, 5.0, 0.25), pytest.approx(PIXEL))
    assert found.sensor.um == pytest.approx(450)


def test_masters_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"x\.nxs: the detector has 2 modules; accepted: one"):
        read_master(nxmx(tmp_path / "x.nxs", modules=2))
    with h5py.File(tmp_path / "x.nxs", "a") as file:
        del file["entry/instrument/beam/incident_wavelength"]
    with pytest.raises(InputError, match=r"x\.nxs"):
        read_master(tmp_path / "x.nxs")
    (tmp_path / "x.h5").write_bytes((tmp_path / "x.nxs").read_bytes()[:500])
    with pytest.raises(InputError, match=r"x\.h5"):
        read_master(tmp_path / "x.h5")
