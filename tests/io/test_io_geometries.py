"""Lab frames and MOSFLM matrices."""

import numpy as np
import pytest

from refine.errors import InputError
from refine.io.geometries import mosflm_matrix_text, read_mosflm_matrix, to_dials_frame

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
