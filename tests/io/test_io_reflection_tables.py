"""DIALS reflection tables: what is read, what is refused."""

import bz2
import gzip

import msgpack
import numpy as np
import pytest
from refl import EXPERIMENT, FLAGS, HKL, PANEL, PLACE, columns, table, written

from refine.errors import InputError
from refine.io import reading
from refine.io.reflection_tables import indexed, read_reflection_table, read_spots


def test_every_column_is_read(tmp_path):
    found = read_reflection_table(written(tmp_path / "x.refl", table()))
    for ours, theirs in ((found.experiment, EXPERIMENT), (found.panel, PANEL), (found.hkl, HKL), (found.flags, FLAGS)):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype.itemsize == 8
    np.testing.assert_array_equal(found.observed_px, PLACE)
    np.testing.assert_array_equal(found.predicted_px, PLACE + 0.25)
    np.testing.assert_array_equal(found.variance - found.intensity, 7.0)
    assert found.identifiers == {0: "one", 1: "two"}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_packed_tables(tmp_path, pack):
    path = written(tmp_path / "x.refl", table())
    path.write_bytes(pack(path.read_bytes()))
    np.testing.assert_array_equal(read_reflection_table(path).hkl, HKL)


def test_columns_that_spots_can_do_without(tmp_path):
    few = {"intensity.sum.value": None, "intensity.sum.variance": None, "xyzcal.px": None, "shoebox": None}
    found = read_reflection_table(written(tmp_path / "x.refl", table(data=columns(**few))))
    assert found.intensity is found.variance is found.predicted_px is None


def test_the_indexed_spots_of_one_experiment(tmp_path):
    path = written(tmp_path / "x.refl", table())
    spots = read_spots(path, "one")
    np.testing.assert_array_equal(spots.hkl, HKL[[0, 2]])
    np.testing.assert_array_equal(spots.panel, PANEL[[0, 2]])
    np.testing.assert_array_equal(spots.xy, PLACE[[0, 2], :2])
    np.testing.assert_array_equal(read_spots(path, "two").hkl, HKL[[3]])
    with pytest.raises(InputError, match=r"x\.refl: is of other experiments \(identifiers: one, two\), not of three"):
        read_spots(path, "three")
    with pytest.raises(InputError, match="spots of 2 experiments"):
        read_spots(path)


def test_the_only_experiment_needs_no_identifier(tmp_path):
    alone = columns(id=["int", [5, np.array([5, -1, 5, -1, 5], dtype="<i4").tobytes()]])
    old = read_reflection_table(written(tmp_path / "x.refl", table(data=alone, identifiers={})))
    np.testing.assert_array_equal(indexed(old), [True, False, True, False, False])
    with pytest.raises(InputError, match="identifiers: none"):
        indexed(old, "one")


def test_an_empty_table(tmp_path):
    nothing = {name: [kind, [0, b""]] for name, (kind, _) in columns().items()}
    path = written(tmp_path / "x.refl", table(nrows=0, data=nothing))
    assert read_reflection_table(path).hkl.shape == (0, 3)
    assert len(read_spots(path, "one").hkl) == 0
    with pytest.raises(InputError, match="spots of 0 experiments"):
        read_spots(path)


@pytest.mark.parametrize(("content", "said"), [
    ({"a": 1}, "is no reflection table"),
    (["dials::af::reflection_table", 2, {}], r"version \[2\]"),
    (["dials::af::reflection_table", 1, []], "version"),
    (table(nrows=-1), "no number of rows"),
    (table(nrows=True), "no number of rows"),
    (table(data=[]), "no columns"),
    (table(nrows=6), r"column 'panel' has 40 bytes for 5 rows; accepted: 48 bytes"),
    (table(identifiers={0: 1}), "identifiers are not texts"),
    (table(identifiers=["one"]), "identifiers are not texts"),
    (table(data=columns(flags=None)), "no column 'flags'"),
    (table(data=columns(id=["double", [5, bytes(40)]])), "column 'id' is of type 'double'; accepted: 'int'"),
    (table(data=columns(id=["int", [5, bytes(19)]])), "column 'id' has 19 bytes"),
    (table(data=columns(id=["int", [5, None]])), "column 'id' has 0 bytes"),
    (table(data=columns(id=["int", 5])), "column 'id' is not of the form"),
    (table(data=columns(id=[["int"], [5, bytes(20)]])), "column 'id' is of type"),
    (table(data=columns(extra=list(range(20)))), "cannot be read as a DIALS reflection table"),
    (table(data=columns(extra=msgpack.ExtType(5, b"code"))), "cannot be read as a DIALS reflection table"),
])  # fmt: skip
def test_wrong_content_is_named(tmp_path, content, said):
    with pytest.raises(InputError, match=rf"x\.refl: .*{said}"):
        read_reflection_table(written(tmp_path / "x.refl", content))


def test_every_cut_is_noticed(tmp_path):
    path = written(tmp_path / "x.refl", table())
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"x\.refl"):
            read_reflection_table(path)


@pytest.mark.parametrize(("name", "value"), [
    ("xyzobs.px.value", ["vec3<double>", [5, np.full((5, 3), np.nan).tobytes()]]),
    ("panel", ["std::size_t", [5, np.full(5, 2**64 - 1, dtype="<u8").tobytes()]]),
])  # fmt: skip
def test_spots_that_are_nowhere(tmp_path, name, value):
    found = read_reflection_table(written(tmp_path / "x.refl", table(data=columns(**{name: value}))))
    with pytest.raises(InputError, match="have no place on the detector"):
        indexed(found, "one")


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    path = tmp_path / "x.refl"
    path.write_bytes(gzip.compress(bytes(1_000_000)))
    with pytest.raises(InputError, match=r"x\.refl: holds more than 1000 bytes"):
        read_reflection_table(path)
