"""Images and masks: every format round trips, bad pixels are marked, wrong files are explained."""

import bz2
import gzip

import fabio
import h5py
import hdf5plugin
import numpy as np
import pytest

from refine.errors import InputError
from refine.io.hdf5_images import frame_count
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


def eiger(folder, lengths=(2, 1), **detector):
    """A master whose frames n hold COUNTS + n, bitshuffle-LZ4 in data files of so many frames."""
    first = 1
    with h5py.File(folder / "master.h5", "w") as master:
        for number, length in enumerate(lengths, start=1):
            name, key = f"x_data_{number:06}.h5", f"data_{number:06}"
            frames = np.stack([COUNTS + n for n in range(first, first + length)]).astype(np.uint32)
            with h5py.File(folder / name, "w") as file:
                file.create_dataset("entry/data/data", data=frames, **hdf5plugin.Bitshuffle(cname="lz4"))
            master[f"entry/data/{key}"] = h5py.ExternalLink(name, "entry/data/data")
            first += length
        for name, value in detector.items():
            master[f"entry/instrument/detector/{name}"] = value
    return folder / "master.h5"


@pytest.mark.parametrize("place", ["pixel_mask", "detectorSpecific/pixel_mask"])
def test_eiger_master_with_external_data_and_pixel_mask(tmp_path, place):
    master = eiger(tmp_path, (1,), **{place: np.eye(5, 7, dtype=np.uint32)})
    image = read_image(master, (5, 7))
    np.testing.assert_array_equal(image.values, COUNTS + 1)
    np.testing.assert_array_equal(image.valid, np.eye(5, 7) == 0)
    (tmp_path / "x_data_000001.h5").unlink()
    with pytest.raises(InputError, match=r"master\.h5: its pixels are in x_data_000001\.h5"):
        read_image(master)


def test_frames_are_counted_over_all_data_files(tmp_path):
    master = eiger(tmp_path)
    for frame in (1, 2, 3):
        np.testing.assert_array_equal(read_image(master, (5, 7), frame).values, COUNTS + frame)
    for frame in (0, 4):
        with pytest.raises(InputError, match=rf"has 3 frames, not one of number {frame}; accepted: 1 to 3"):
            read_image(master, (5, 7), frame)
    with pytest.raises(InputError, match=r"master\.h5: has 3 frames; give .*images\.0\.frame: 1 to 3"):
        read_image(master, (5, 7))
    assert frame_count(master) == 3


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_frames_of_arrays(tmp_path, suffix):
    stack = np.stack([COUNTS, COUNTS + 1])
    path = tmp_path / f"x{suffix}"
    np.save(path, stack) if suffix == ".npy" else np.savez(path, image=stack)
    np.testing.assert_array_equal(read_image(path, (5, 7), 2).values, COUNTS + 1)
    np.testing.assert_array_equal(read_image(path, (2, 5, 7), 1).values, stack)
    with pytest.raises(InputError, match="has 2 frames, not one of number 3"):
        read_image(path, (5, 7), 3)


@pytest.mark.parametrize("name", ["saturation_value", "detectorSpecific/countrate_correction_count_cutoff"])
def test_counts_above_the_saturation_value_are_not_valid(tmp_path, name):
    image = read_image(eiger(tmp_path, (1,), **{name: 3001}))
    np.testing.assert_array_equal(image.valid, image.values <= 3001)
    assert not image.valid.all()


def test_entries_and_detectors_of_other_names(tmp_path):
    with h5py.File(tmp_path / "x.nxs", "w") as file:
        file["run/data/data"], file["run/instrument/front/pixel_mask"] = COUNTS[None], np.eye(5, 7)
        file["run"].attrs["NX_class"], file["run/instrument/front"].attrs["NX_class"] = (
            "NXentry",
            np.bytes_("NXdetector"),
        )
    image = read_image(tmp_path / "x.nxs")
    np.testing.assert_array_equal(image.values, COUNTS)
    np.testing.assert_array_equal(image.valid, np.eye(5, 7) == 0)


def test_a_virtual_dataset_without_its_files_is_not_taken_for_zeros(tmp_path):
    eiger(tmp_path)
    layout = h5py.VirtualLayout((3, 5, 7), np.uint32)
    layout[:2] = h5py.VirtualSource("x_data_000001.h5", "entry/data/data", (2, 5, 7))
    layout[2:] = h5py.VirtualSource("x_data_000002.h5", "entry/data/data", (1, 5, 7))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    np.testing.assert_array_equal(read_image(tmp_path / "virtual.h5", frame=3).values, COUNTS + 3)
    (tmp_path / "x_data_000002.h5").unlink()
    with pytest.raises(InputError, match=r"pixels are in x_data_000002\.h5"):
        read_image(tmp_path / "virtual.h5", frame=1)


def test_counts_above_the_cutoff_of_a_minicbf_are_not_valid(tmp_path):
    write_image(tmp_path / "x.cbf", COUNTS, {"Count_cutoff": "3000 counts"})
    np.testing.assert_array_equal(read_image(tmp_path / "x.cbf").valid, COUNTS <= 3000)


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
    with pytest.raises(InputError, match=r"has 3 frames; give the number of one as images\.0\.frame: 1 to 3"):
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
    with pytest.raises(InputError, match="is a folder"):
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
