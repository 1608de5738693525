"""MOSFLM matrices and DIALS experiment lists."""

import json

import gemmi
import numpy as np
import pytest

from refine.errors import InputError
from refine.io.geometries import (
    Panel,
    experiment_list,
    mosflm_matrix_text,
    read_mosflm_matrix,
    to_dials_frame,
    write_expt,
)

CELL = (37.0, 43.0, 51.0, 82.0, 95.0, 107.0)
# Written by another program for CELL and 1.0 Å.
REFERENCE = """\
    0.02109724   -0.00578759    0.01132795
    0.00809847    0.02238381    0.00582787
   -0.01702897   -0.00808692    0.01518951
       0.000       0.000       0.000
   0.7455905  -0.4673504   0.4750562
   0.2862054   0.8683389   0.4050606
  -0.6018150  -0.1660457   0.7811834
     37.0000     43.0000     51.0000     82.0000     95.0000    107.0000
       0.000       0.000       0.000
"""
A_MATRIX = np.array([float(word) for word in REFERENCE.split()[:9]]).reshape(3, 3)


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "A.mat"
    path.write_text(REFERENCE)
    return path


def test_matrix_is_divided_by_the_wavelength(tmp_path, written):
    np.testing.assert_array_equal(read_mosflm_matrix(written, 1.0), A_MATRIX)
    (tmp_path / "nine.mat").write_text("\n".join(REFERENCE.splitlines()[:3]))
    np.testing.assert_allclose(read_mosflm_matrix(tmp_path / "nine.mat", 1.54), A_MATRIX / 1.54, rtol=1e-15)


def test_wrong_wavelength_is_noticed_by_the_cell_line(written):
    with pytest.raises(InputError, match=r"wavelength is probably not the file's \(about 1 Å fits\)"):
        read_mosflm_matrix(written, 1.1)
    np.testing.assert_allclose(read_mosflm_matrix(written, 1.1, check_cell=False), A_MATRIX / 1.1, rtol=1e-15)


def test_written_text_matches_the_other_program_and_reads_back(tmp_path):
    text = mosflm_matrix_text(A_MATRIX, 1.0, CELL)
    ours, theirs = ([float(word) for word in lines.split()] for lines in (text, REFERENCE))
    assert len(ours) == 30
    np.testing.assert_allclose(ours, theirs, atol=5e-7)
    (tmp_path / "B.mat").write_text(mosflm_matrix_text(A_MATRIX, 0.9795, CELL))
    np.testing.assert_allclose(read_mosflm_matrix(tmp_path / "B.mat", 0.9795), A_MATRIX, atol=1e-10)


def test_fortran_columns_and_exponents(tmp_path):
    (tmp_path / "A.mat").write_text("0.02-0.01 1.0E-03\n0.01 2.D-2-.001\n1e-3 0.0 .02\nSYMM P1 7\n")
    expected = [[0.02, -0.01, 0.001], [0.01, 0.02, -0.001], [0.001, 0.0, 0.02]]
    np.testing.assert_array_equal(read_mosflm_matrix(tmp_path / "A.mat", 1.0), expected)


@pytest.mark.parametrize(
    "text", ["", "1 2 3 x", "0 0 0 0 0 0 0 0 0", "1 0 0 0 1 0 0 0 -1", "1 2 3 2 4 6 0 0 1", "nan " * 9]
)
def test_broken_matrices(tmp_path, text):
    (tmp_path / "A.mat").write_text(text)
    with pytest.raises(InputError, match=r"A\.mat"):
        read_mosflm_matrix(tmp_path / "A.mat", 1.0)


def test_frames_are_rotations_that_send_photons_along_minus_z():
    beams = {"mosflm": [1, 0, 0], "denzo": [1, 0, 0], "adxv": [0, 0, 1], "xds": [0, 0, 1], "dials": [0, 0, 1]}
    for convention, beam in beams.items():
        frame = to_dials_frame(convention)
        np.testing.assert_array_equal(frame @ beam, [0, 0, -1])
        np.testing.assert_array_equal(frame @ frame.T, np.eye(3))
        assert np.linalg.det(frame) == pytest.approx(1)
    np.testing.assert_array_equal(to_dials_frame("mosflm") @ [1, 2, 3], [3, 2, -1])
    np.testing.assert_array_equal(to_dials_frame("expt"), np.eye(3))
    with pytest.raises(InputError, match="accepted are mosflm"):
        to_dials_frame("Mosfilm")


def build(**changes):
    real_space = np.linalg.inv(A_MATRIX)
    panel = Panel((-10.0, 12.0, -80.0), (1, 0, 0), (0, -1, 0), (100, 120), (0.2, 0.2), (-1, 65535), gain=2.0)
    arguments = {
        "beam_direction": np.array([0.0, 0.0, -1.0]), "wavelength": np.float64(0.97), "polarization_normal": [0, 1, 0],
        "polarization_fraction": 0.5, "panels": [panel], "real_space": real_space, "space_group": "P 61 2 2",
        "image": "data/still_0007.cbf",
    }  # fmt: skip
    return experiment_list(**(arguments | changes))


def test_still_experiment(tmp_path):
    write_expt(tmp_path / "refined.expt", build())
    read = json.loads((tmp_path / "refined.expt").read_text())
    assert read["beam"][0]["direction"] == [0, 0, 1]
    panel = read["detector"][0]["panels"][0] if isinstance(read["detector"], list) else read["detector"]["panels"][0]
    assert panel["image_size"] == [100, 120]
    assert panel["origin"] == [-10.0, 12.0, -80.0]
    assert read["imageset"][0]["images"] == ["data/still_0007.cbf"]
    assert read["goniometer"] == read["scan"] == []
    assert set(read["experiment"][0]) == {"__id__", "identifier", "beam", "detector", "crystal", "imageset"}
    axes = np.array([read["crystal"][0][f"real_space_{name}"] for name in "abc"])
    np.testing.assert_allclose(np.linalg.inv(axes), A_MATRIX, atol=1e-15)
    hall = read["crystal"][0]["space_group_hall_symbol"]
    assert gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall)).hm == "P 61 2 2"


def test_rotation_experiment():
    experiments = build(scan=(10.0, 0.5), spindle=(1, 0, 0))
    assert experiments["scan"][0]["image_range"] == [7, 7]
    assert experiments["scan"][0]["oscillation"] == [10.0, 0.5]
    assert experiments["scan"][0]["properties"]["oscillation"] == [10.0]
    assert experiments["scan"][0]["properties"]["oscillation_width"] == [0.5]
    assert experiments["imageset"][0]["template"] == "data/still_####.cbf"
    assert experiments["goniometer"][0]["rotation_axis"] == [1, 0, 0]
    assert experiments["experiment"][0]["scan"] == experiments["experiment"][0]["goniometer"] == 0
    unnumbered = build(scan=(10.0, 0.5), spindle=(1, 0, 0), image="image.npz")
    assert unnumbered["imageset"][0]["template"] == "image.npz"


def test_identifier_follows_the_content():
    first, again, other = build(), build(), build(wavelength=1.0)
    assert first == again
    assert first["experiment"][0]["identifier"] != other["experiment"][0]["identifier"]


def test_wrong_experiments(tmp_path):
    with pytest.raises(InputError, match="space group 'Q 5' is unknown"):
        build(space_group="Q 5")
    with pytest.raises(InputError, match="both scan and spindle"):
        build(scan=(0, 1))
    with pytest.raises(InputError, match="NaN"):
        write_expt(tmp_path / "x.expt", build(wavelength=float("nan")))
    assert list(tmp_path.iterdir()) == []
