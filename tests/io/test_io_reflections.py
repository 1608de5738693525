"""Structure factor lists: text as it is, MTZ and mmCIF expanded by their symmetry."""

import gzip

import gemmi
import numpy as np
import pytest

from refine.errors import InputError
from refine.io.reflections import read_structure_factors, to_grid


def as_dict(reflections):
    return dict(zip(map(tuple, reflections.hkl.tolist()), reflections.amplitude.tolist(), strict=True))


def write_mtz(path, columns, rows, space_group="P 21 21 21"):
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(space_group)
    hexagonal = mtz.spacegroup.ext == "H"  # gemmi tells R 3:H from R 3:R by the cell
    mtz.set_cell_for_all(
        gemmi.UnitCell(30, 30, 50, 90, 90, 120) if hexagonal else gemmi.UnitCell(30, 40, 50, 90, 90, 90)
    )
    mtz.add_dataset("d")
    for label, kind in columns:
        mtz.add_column(label, kind)
    mtz.set_data(np.array(rows, dtype=np.float32))
    mtz.write_to_file(str(path))
    return path


def test_text_is_used_as_it_is(tmp_path):
    (tmp_path / "F.hkl").write_text("# h k l F sigma\n1 2 3 10.5 0.1\n\n-1 -2 -3 11 0.2 # mate\n0 0 2 nan\n")
    read = read_structure_factors(tmp_path / "F.hkl")
    assert as_dict(read) == {(1, 2, 3): 10.5, (-1, -2, -3): 11.0}
    assert read.hkl.dtype == np.int64
    (tmp_path / "F.hkl.gz").write_bytes(gzip.compress((tmp_path / "F.hkl").read_bytes()))
    assert as_dict(read_structure_factors(tmp_path / "F.hkl.gz")) == as_dict(read)


@pytest.mark.parametrize("line", ["1 2 3", "1 2 x 4", "1 2 3.5 4", "1 2 3 inf", "1 2 99999 4", "1,2,3,4", "nan 1 2 3"])
def test_bad_line_is_named(tmp_path, line):
    (tmp_path / "F.hkl").write_text(f"# comment\n\n1 2 3 4\n{line}\n5 6 7 8\n")
    with pytest.raises(InputError, match=r"F\.hkl: line 4 is"):
        read_structure_factors(tmp_path / "F.hkl")


@pytest.mark.parametrize("text", ["", "# nothing\n", "1 2 3 nan\n"])
def test_empty_text(tmp_path, text):
    (tmp_path / "F.hkl").write_text(text)
    with pytest.raises(InputError, match=r"F\.hkl"):
        read_structure_factors(tmp_path / "F.hkl")


def test_column_is_refused_for_text(tmp_path):
    (tmp_path / "F.hkl").write_text("1 2 3 4\n")
    with pytest.raises(InputError, match="no named columns"):
        read_structure_factors(tmp_path / "F.hkl", "F")


def test_mean_amplitudes_expand_with_friedel_mates(tmp_path):
    path = write_mtz(
        tmp_path / "x.mtz", [("F", "F"), ("SIGF", "Q")], [[1, 2, 3, 7, 1], [0, 0, 2, 5, 1], [0, 1, 1, np.nan, 1]]
    )
    expected = {(a, 2 * b, 3 * c): 7.0 for a in (1, -1) for b in (1, -1) for c in (1, -1)}
    assert as_dict(read_structure_factors(path)) == expected | {(0, 0, 2): 5.0, (0, 0, -2): 5.0}


@pytest.mark.parametrize("column", [None, "F(+)", "F(-)", "F(+),F(-)"])
def test_anomalous_pair_goes_to_the_right_hands(tmp_path, column):
    rows = [[1, 2, 3, 7, 8, 7.5], [1, 1, 1, 4, np.nan, 4], [2, 1, 1, np.nan, np.nan, np.nan]]
    path = write_mtz(tmp_path / "x.mtz", [("F(+)", "G"), ("F(-)", "G"), ("F", "F")], rows)
    read = as_dict(read_structure_factors(path, column))
    assert len(read) == 16
    # A proper rotation keeps the hand: an even number of sign changes belongs to F(+).
    for h, k, l in [(1, 2, 3), (1, -2, -3), (-1, 2, -3), (-1, -2, 3)]:  # noqa: E741
        assert (read[h, k, l], read[-h, -k, -l]) == (7, 8)
    assert read[-1, -1, -1] == read[1, 1, 1] == 4
    assert as_dict(read_structure_factors(path, "F"))[-1, -2, -3] == 7.5


@pytest.mark.parametrize("name", ["P 61 2 2", "P 41 21 2", "R 3:H", "C 1 2 1", "F 4 3 2", "P -1"])
def test_expansion_agrees_with_gemmi(tmp_path, name):
    group = gemmi.SpaceGroup(name)
    rows = [[h, k, l, 1 + h + 10 * k + 100 * l] for h in range(4) for k in range(4) for l in range(1, 4)]  # noqa: E741
    asu = gemmi.ReciprocalAsu(group)
    absent = group.operations().is_systematically_absent
    rows = [row for row in rows if asu.is_in(row[:3]) and not absent(row[:3])]
    read = as_dict(read_structure_factors(write_mtz(tmp_path / "x.mtz", [("F", "F")], rows, name)))
    expected = {}
    for *hkl, amplitude in rows:
        for op in group.operations().sym_ops:
            equivalent = tuple(op.apply_to_hkl(hkl))
            expected |= {equivalent: amplitude, tuple(-index for index in equivalent): amplitude}
    assert len(rows) > 5
    assert read == expected


def test_a_list_wins_over_its_symmetry(tmp_path):
    path = write_mtz(tmp_path / "x.mtz", [("F", "F")], [[1, 2, 3, 7], [-1, -2, -3, 9]], "P 1")
    assert as_dict(read_structure_factors(path)) == {(1, 2, 3): 7.0, (-1, -2, -3): 9.0}


def test_intensities_become_amplitudes(tmp_path):
    path = write_mtz(tmp_path / "x.mtz", [("IMEAN", "J")], [[1, 0, 0, 49], [2, 0, 0, -3]], "P 1")
    assert as_dict(read_structure_factors(path)) == {(1, 0, 0): 7, (-1, 0, 0): 7, (2, 0, 0): 0, (-2, 0, 0): 0}


@pytest.mark.parametrize(("columns", "column", "words"), [
    ([("FP", "F"), ("FC", "F")], None, r"does not name one column.*FP \(type F\), FC \(type F\)"),
    ([("FP", "F"), ("PHI", "P")], "PHI", r"'PHI' is not a column of amplitudes.*PHI \(type P\)"),
    ([("FP", "F"), ("PHI", "P")], "FX", r"'FX' is not a column of amplitudes"),
    ([("PHI", "P"), ("FOM", "W")], None, r"accepted are columns of type F"),
])  # fmt: skip
def test_column_errors_list_the_columns(tmp_path, columns, column, words):
    path = write_mtz(tmp_path / "x.mtz", columns, [[1, 2, 3, 4, 5]])
    with pytest.raises(InputError, match=words):
        read_structure_factors(path, column)


def test_named_column_settles_the_choice(tmp_path):
    path = write_mtz(tmp_path / "x.mtz", [("FP", "F"), ("FC", "F")], [[1, 2, 3, 4, 5]], "P 1")
    assert as_dict(read_structure_factors(path, "FC"))[1, 2, 3] == 5


def test_sf_mmcif(tmp_path):
    (tmp_path / "x.cif").write_text(
        "data_r1abcsf\n_cell.length_a 30\n_cell.length_b 40\n_cell.length_c 50\n_cell.angle_alpha 90\n"
        "_cell.angle_beta 90\n_cell.angle_gamma 90\n_symmetry.space_group_name_H-M 'P 21 21 21'\nloop_\n"
        "_refln.index_h\n_refln.index_k\n_refln.index_l\n_refln.F_meas_au\n_refln.F_meas_sigma_au\n1 2 3 7.5 0.1\n"
    )
    read = as_dict(read_structure_factors(tmp_path / "x.cif"))
    assert len(read) == 8
    assert read[-1, 2, 3] == 7.5


def test_truncated_mtz(tmp_path):
    path = write_mtz(tmp_path / "x.mtz", [("F", "F")], [[1, 2, 3, 4]])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"x\.mtz: cannot be read as an MTZ file"):
        read_structure_factors(path)


def test_grid_holds_the_list_and_the_default():
    hkl = np.array([[-1, 2, 3], [2, -1, 3], [-1, 2, 3]])
    grid, low = to_grid(hkl, np.array([5.0, 6.0, 5.0]), 1.5)
    assert (grid.shape, low) == ((4, 4, 1), (-1, -1, 3))
    assert (grid[0, 3, 0], grid[3, 0, 0]) == (5, 6)
    assert np.sum(grid == 1.5) == 14


def test_grid_errors():
    with pytest.raises(InputError, match="reflection 1 2 3 is listed twice, with amplitudes 4 and 5"):
        to_grid(np.array([[1, 2, 3], [0, 0, 1], [1, 2, 3]]), np.array([4.0, 1.0, 5.0]), 0.0)
    with pytest.raises(InputError, match="3001 x 3001 x 3001"):
        to_grid(np.array([[0, 0, 0], [3000, 3000, 3000]]), np.ones(2), 0.0)
    with pytest.raises(InputError, match="empty"):
        to_grid(np.empty((0, 3), dtype=np.int64), np.empty(0), 0.0)
