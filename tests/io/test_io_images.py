"""Images and masks: every format round trips, bad pixels are marked, wrong files are explained."""

import bz2
import gzip

import fabio
import h5py
import numpy as np
import pytest

from refine.errors import InputError
from refine.io.images import read_image, read_mask, write_image

COUNTS = np.arange(35, dtype=np.float64).reshape(5, 7) * 300
HEADER = {"PIXEL_SIZE": 0.172, "DISTANCE": 100.123456789, "WAVELENGTH": 0.9795, "BEAM_CENTER_X": 1 / 3}
SUFFIXES = [".npz", ".npy", ".bin", ".cbf", ".img", ".h5"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_image_reads_back(tmp_path, suffix):
    write_image(tmp_path / f"x{suffix}", COUNTS, HEADER)
    image = read_image(tmp_path / f"x{suffix}", (5, 7))
    assert image.values.dtype == np.float64
    np.testing.assert_array_equal(image.values, COUNTS)
    assert image.valid.all()
    assert "5 x 7" in image.note
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_double_precision_survives(tmp_path, suffix):
    write_image(tmp_path / f"x{suffix}", COUNTS / 7)
    np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}").values, COUNTS / 7)


@pytest.mark.parametrize("suffix", [".cbf", ".img"])
@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_fabio_sees_the_same_pixels(tmp_path, suffix, ending, pack):
    path = tmp_path / f"x{suffix}"
    write_image(path, COUNTS + 0.4, HEADER)
    packed = tmp_path / f"packed{suffix}{ending}"
    packed.write_bytes(pack(path.read_bytes()))
    np.testing.assert_array_equal(read_image(packed, (5, 7)).values, COUNTS)
    with fabio.open(str(path)) as opened:
        np.testing.assert_array_equal(opened.data, COUNTS)


def test_content_decides_not_the_name(tmp_path):
    write_image(tmp_path / "x.cbf", COUNTS)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.cbf").read_bytes())
    np.testing.assert_array_equal(read_image(tmp_path / "x.npz").values, COUNTS)


def test_smv_header_keeps_full_precision_and_its_size(tmp_path):
    many = {f"KEY{n}": "x" * 40 for n in range(20)}
    write_image(tmp_path / "x.img", COUNTS, HEADER | many)
    with fabio.open(str(tmp_path / "x.img")) as opened:
        assert {key: float(opened.header[key]) for key in HEADER} == HEADER
        assert opened.header["KEY19"] == "x" * 40
        assert int(opened.header["HEADER_BYTES"]) % 512 == 0
    assert (tmp_path / "x.img").stat().st_size % 512 == COUNTS.size * 2


def test_smv_clips_and_saturated_pixels_are_not_valid(tmp_path):
    write_image(tmp_path / "x.img", np.array([[-3.0, 1.6], [65534.0, 1e9]]))
    image = read_image(tmp_path / "x.img")
    np.testing.assert_array_equal(image.values, [[0, 2], [65534, 65535]])
    np.testing.assert_array_equal(image.valid, [[True, True], [True, False]])


@pytest.mark.parametrize(("name", "order", "dtype"), [
    ("TYPE=unsigned_short", "big_endian", ">u2"), ("Data_type=float IEEE", "little_endian", "<f4"),
    ("Data_type=long int", "big_endian", ">i4"), ("TYPE = signed_long ", "little_endian", "<i4"),
])  # fmt: skip
def test_smv_dialects(tmp_path, name, order, dtype):
    text = (
        f"{{\nHEADER_BYTES=  512;\nDIM=2;\nBYTE_ORDER={order};\n{name};\nSIZE1=7;\nSIZE2=5;\nDIALS_ORIGIN=1,2,3\n}}\n"
    )
    (tmp_path / "x.img").write_bytes(text.ljust(512).encode() + COUNTS.astype(dtype).tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "x.img").values, COUNTS)


def test_cbf_header_is_minicbf(tmp_path):
    write_image(tmp_path / "x.cbf", COUNTS, HEADER | {"Beam_xy": "(3, 4) pixels"})
    with fabio.open(str(tmp_path / "x.cbf")) as opened:
        text = opened.header["_array_data.header_contents"]
    assert "# Wavelength 0.9795 A" in text
    assert "# Beam_xy (3, 4) pixels" in text
    assert "# Detector_distance 0.100123456789 m" in text


def test_tiff(tmp_path):
    fabio.tifimage.TifImage(data=COUNTS.astype(np.int32)).write(str(tmp_path / "x.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", (5, 7)).values, COUNTS)


def test_gaps_are_not_valid_but_negative_noise_is(tmp_path):
    np.save(tmp_path / "gaps.npy", np.array([[-1, -2, 0, 5]], dtype=np.int32))
    np.testing.assert_array_equal(read_image(tmp_path / "gaps.npy").valid, [[False, False, True, True]])
    np.save(tmp_path / "noise.npy", np.array([[-1, -2, -7, -(2**31)]], dtype=np.int32))
    np.testing.assert_array_equal(read_image(tmp_path / "noise.npy").valid, [[True, True, True, False]])
    np.save(tmp_path / "eiger.npy", np.array([[1, 2**32 - 1]], dtype=np.uint32))
    np.testing.assert_array_equal(read_image(tmp_path / "eiger.npy").valid, [[True, False]])


def test_nan_stays_for_the_caller_and_is_outside_a_mask(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[np.nan, -1.0, 0.0]]))
    image = read_image(tmp_path / "x.npy")
    assert np.isnan(image.values[0, 0])
    assert image.valid.all()
    np.testing.assert_array_equal(read_mask(tmp_path / "x.npy"), [[False, True, False]])


def test_mask_key(tmp_path):
    np.savez(tmp_path / "x.npz", mask=np.eye(2), image=np.ones((2, 2)))
    np.testing.assert_array_equal(read_mask(tmp_path / "x.npz", (2, 2)), np.eye(2, dtype=bool))


def test_eiger_master_with_external_data_and_pixel_mask(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["entry/data/data"] = COUNTS[None].astype(np.uint32)
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("data.h5", "entry/data/data")
        file["entry/instrument/detector/pixel_mask"] = np.eye(5, 7, dtype=np.uint32)
    image = read_image(tmp_path / "master.h5", (5, 7))
    np.testing.assert_array_equal(image.values, COUNTS)
    np.testing.assert_array_equal(image.valid, np.eye(5, 7) == 0)
    (tmp_path / "data.h5").unlink()
    with pytest.raises(InputError, match=r"pixels are in data\.h5"):
        read_image(tmp_path / "master.h5")


def test_hdf5_takes_the_only_image_and_refuses_to_guess(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["odd/name"], file["vector"] = COUNTS, np.arange(3)
    np.testing.assert_array_equal(read_image(tmp_path / "x.h5").values, COUNTS)
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["other"] = COUNTS
    with pytest.raises(InputError, match=r"found: odd/name \(5, 7\)"):
        read_image(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["image"] = np.ones((3, 5, 7))
    with pytest.raises(InputError, match="one frame"):
        read_image(tmp_path / "x.h5")


def test_single_frame_stack_is_squeezed(tmp_path):
    np.savez(tmp_path / "x.npz", image=COUNTS[None, None])
    assert read_image(tmp_path / "x.npz").values.shape == (5, 7)


@pytest.mark.parametrize("bad", [
    np.float64(3.0), np.arange(4.0), np.ones((2, 3, 4)), np.ones((2, 2), dtype=complex), np.array([["a"]]),
    np.empty((0, 4)), np.zeros((2, 2), dtype="M8[s]"), np.zeros((2, 2), dtype=[("a", "f8")]),
])  # fmt: skip
def test_arrays_that_are_no_image(tmp_path, bad):
    np.savez(tmp_path / "x.npz", image=bad)
    with pytest.raises(InputError, match=r"x\.npz.*accepted"):
        read_image(tmp_path / "x.npz")


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", image=np.array([[print]], dtype=object))
    with pytest.raises(InputError, match=r"allow_pickle"):
        read_image(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_wrong_shape_is_explained(tmp_path, suffix):
    write_image(tmp_path / f"x{suffix}", COUNTS)
    with pytest.raises(InputError, match=r"detector\.size says 7 x 6"):
        read_image(tmp_path / f"x{suffix}", (7, 6))


def test_other_errors_say_what_is_accepted(tmp_path):
    np.savez(tmp_path / "x.npz", data=COUNTS)
    with pytest.raises(InputError, match=r"no key 'image' \(found: 'data'\)"):
        read_image(tmp_path / "x.npz")
    with pytest.raises(InputError, match="cannot be opened"):
        read_image(tmp_path / "absent.cbf")
    with pytest.raises(InputError, match="cannot be opened"):
        read_image(tmp_path)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(InputError, match="not a known image"):
        read_image(tmp_path / "x.txt")
    (tmp_path / "x.bin").write_bytes(bytes(12))
    with pytest.raises(InputError, match=r"give its size as detector\.size"):
        read_image(tmp_path / "x.bin")


def test_damaged_cbf_is_noticed(tmp_path):
    write_image(tmp_path / "x.cbf", COUNTS)
    content = bytearray((tmp_path / "x.cbf").read_bytes())
    content[content.index(b"\x0c\x1a\x04\xd5") + 10] ^= 1
    (tmp_path / "x.cbf").write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        read_image(tmp_path / "x.cbf")
    (tmp_path / "x.cbf").write_bytes(
        content.replace(b"Content-MD5", b"Content-XXX").replace(b"-Dimension: 7", b"-Dimension: 8")
    )
    with pytest.raises(InputError, match="35 pixels stored, header says 40"):
        read_image(tmp_path / "x.cbf")


def test_writing_refuses_what_it_cannot_store(tmp_path):
    with pytest.raises(InputError, match=r"'\.png'; accepted are \.npz"):
        write_image(tmp_path / "x.png", COUNTS)
    with pytest.raises(InputError, match=r"x\.cbf: holds NaN"):
        write_image(tmp_path / "x.cbf", COUNTS * np.nan)
    with pytest.raises(InputError, match=r"x\.img: header TITLE"):
        write_image(tmp_path / "x.img", COUNTS, {"TITLE": "a;b"})
    with pytest.raises(InputError, match="shape"):
        write_image(tmp_path / "x.npz", COUNTS[0])
    assert list(tmp_path.iterdir()) == []
