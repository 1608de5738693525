"""Files that would take all memory, or never end, are refused before they do."""

import bz2
import gzip
import os

import h5py
import numpy as np
import pytest

from refine.errors import InputError
from refine.io import reading
from refine.io.images import read_image
from refine.io.reflections import read_structure_factors

LIMIT = 100_000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", LIMIT)
    return tmp_path


def refused(path, read=read_image):
    with pytest.raises(InputError, match="more than") as said:
        read(path)
    assert str(path) in str(said.value)


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress)])
def test_what_unpacks_to_too_much(folder, suffix, pack):
    path = folder / f"f.hkl{suffix}"
    path.write_bytes(pack(b"1 2 3 4.0\n" * (LIMIT // 10 + 1)))
    refused(path, read_structure_factors)
    path.write_bytes(pack(b"1 2 3 4.0\n" * 100))
    assert read_structure_factors(path).hkl.shape == (100, 3)


@pytest.mark.parametrize("names", [("image",), ("one", "other")])
def test_archives_that_unpack_to_too_much(folder, names):
    stack = np.zeros((1, 1, LIMIT), np.uint8) if len(names) > 1 else np.zeros((2, LIMIT), np.uint8)
    np.savez_compressed(folder / "x.npz", **dict.fromkeys(names, stack))
    refused(folder / "x.npz", lambda path: read_image(path, stack.shape))


def test_data_sets_that_were_never_written(folder):
    with h5py.File(folder / "x.h5", "w") as file:
        file.create_dataset("image", (2**20, 2**20), "f8", chunks=(64, 64))
    assert (folder / "x.h5").stat().st_size < LIMIT
    refused(folder / "x.h5")


def test_files_of_too_much(folder):
    (folder / "x.cbf").write_bytes(b"###CBF" + b"\0" * LIMIT)
    refused(folder / "x.cbf")


def test_devices_and_pipes(folder):
    os.mkfifo(folder / "pipe.cbf")
    for path in (folder / "pipe.cbf", "/dev/zero"):
        with pytest.raises(InputError, match="device or pipe"):
            read_image(path)
