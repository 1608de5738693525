"""XDS' geometries against the same instrument in DIALS' terms, seen from a lab frame turned at random."""

import numpy as np
import pytest
from expt import FAST, ORIGIN, PIXEL, REAL_SPACE, SIZE, SLOW
from hypothesis import given
from hypothesis import strategies as st
from xds import AXIS, DISTANCE, FRAME, GROUP, INPUT, NEW, NUMBERS, OLD, ORG, WAVELENGTH, turned

from refine.errors import InputError
from refine.io.instruments import Sensor
from refine.io.xds import is_old_xparm, is_xds_input, is_xparm, read_xds_input, read_xparm


def written(folder, text, name="XPARM.XDS"):
    (folder / name).write_text(text)
    return folder / name


def same_instrument(found):
    """Whether it is the one of this file, in the turned frame."""
    axes = {name: np.array(vector) for name, vector in found.axes.items()}
    np.testing.assert_allclose(axes["beam"], FRAME @ [0, 0, -1], atol=1e-12)
    np.testing.assert_allclose(axes["spindle"], FRAME @ AXIS, atol=1e-12)
    fast, slow = found.beam_center_px
    origin = found.distance * axes["beam"] - PIXEL * (fast * axes["fast"] + slow * axes["slow"])
    np.testing.assert_allclose(origin, FRAME @ ORIGIN, atol=1e-9)
    np.testing.assert_allclose(axes["fast"], FRAME @ FAST, atol=1e-12)
    np.testing.assert_allclose(axes["slow"], FRAME @ SLOW, atol=1e-12)
    np.testing.assert_allclose(found.real_space, REAL_SPACE @ FRAME.T, atol=1e-9)
    assert (found.wavelength, found.pixel_size, found.size) == (WAVELENGTH, PIXEL, SIZE)
    assert (found.convention, found.space_group, found.cell) == ("xds", "P 4", (50, 50, 70, 90, 90, 90))
    assert found.rotation.of(7) == 12.0


@pytest.mark.parametrize("text", [NEW, OLD], ids=["new", "old"])
def test_both_layouts_say_the_same(tmp_path, text):
    same_instrument(read_xparm(written(tmp_path, text)))


def test_xds_input(tmp_path):
    found = read_xds_input(written(tmp_path, INPUT, "XDS.INP"))
    same_instrument(found)
    np.testing.assert_allclose(found.axes["polarization"], FRAME @ np.cross([0, 1, 0], [0, 0, -1]), atol=1e-12)
    assert found.polarization == pytest.approx(0.98)
    assert (found.saturation, found.sensor) == (1048500, Sensor(320.0, 250.0))
    assert (found.images, found.first_image) == ("../images/x_????.cbf", 5)
    assert [note.split()[0] for note in found.notes] == ["UNTRUSTED_RECTANGLE"]


def test_xds_input_without_a_crystal(tmp_path):
    wanted = ("ORGX", "NX", "DETECTOR_DISTANCE", "X-RAY")
    few = [line for line in INPUT.splitlines() if line.startswith(wanted)]
    found = read_xds_input(written(tmp_path, "\n".join([*few, "SPACE_GROUP_NUMBER= 0"]), "XDS.INP"))
    assert found.cell is found.space_group is found.real_space is found.sensor is found.images is None
    assert found.axes["beam"] == (0, 0, 1)


def test_kinds_are_told_by_content():
    assert is_xparm(NEW.encode())
    assert is_old_xparm(OLD.encode())
    assert is_xds_input(INPUT.encode())
    assert not any(kind(b"ORGX 5\n1 2 3 4.0\n") for kind in (is_xparm, is_old_xparm, is_xds_input))


@pytest.mark.parametrize(("old", "new", "said"), [
    (f"1 {NUMBERS}", f"3 {NUMBERS}", "has 3 detector segments"),
    (f"{PIXEL} {PIXEL}", f"{PIXEL} 0.2", "accepted: square ones"),
    (f"{ORG[0]} {ORG[1]} {DISTANCE}", f"{ORG[0]} {ORG[1]} {-DISTANCE}", "does not cross the detector's plane"),
    (turned(AXIS), "0 0 0", "a direction is 0 0 0"),
    (turned(REAL_SPACE[0]), turned(-REAL_SPACE[0]), "not those of a right-handed cell"),
    (f"{WAVELENGTH} ", "0.0 ", "the wavelength is 0 Å"),
    (GROUP, GROUP.replace("70.0", "long"), "ends early, or has text among the numbers"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in NEW
    with pytest.raises(InputError, match=rf"XPARM\.XDS: .*{said}"):
        read_xparm(written(tmp_path, NEW.replace(old, new)))


def test_what_an_input_lacks_is_named(tmp_path):
    text = INPUT.replace("NX=", "MX=").replace("DETECTOR_DISTANCE= ", "DETECTOR_DISTANCE= !")
    with pytest.raises(InputError, match=r"XDS\.INP: has no DETECTOR_DISTANCE, NX"):
        read_xds_input(written(tmp_path, text, "XDS.INP"))
    with pytest.raises(InputError, match=r"XDS\.INP: ROTATION_AXIS= 1 0; accepted: 3 number"):
        read_xds_input(written(tmp_path, INPUT.replace(turned(AXIS), "1 0"), "XDS.INP"))


@given(st.sampled_from([NEW, OLD, INPUT]), st.integers(0, len(INPUT)), st.text(max_size=5))
def test_damage_is_survived(tmp_path, text, place, junk):
    path = written(tmp_path, text[:place] + junk)
    for read in (read_xparm, read_xds_input):
        try:
            assert read(path).distance > 0
        except InputError as error:
            assert path.name in str(error)  # noqa: PT017
