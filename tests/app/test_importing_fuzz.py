"""Whatever is handed over, `refine import` writes a configuration or says in a line what is wrong."""

import h5py
import numpy as np
import pytest
from expt import SIZE, document, tiles, written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refl import table
from refl import written as table_written
from xds import INPUT, NEW, OLD

from refine.app.main import main
from refine.io.images import write_image

HELD = {
    "x.expt": [], "x.refl": ["x.expt"], "XPARM.XDS": [], "OLD.XDS": ["XDS.INP"], "XDS.INP": [], "A.mat": ["x_1.img"],
    "x_1.img": [], "x_1.cbf": [], "x_master.h5": [], "F.hkl": ["x.expt"], "stack.npz": ["x.expt"],
}  # fmt: skip


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The content of a small file of each kind, by name."""
    folder = tmp_path_factory.mktemp("originals")
    written(folder / "x.expt", document(tiles(1, 2)))
    table_written(folder / "x.refl", table())
    texts = {"XPARM.XDS": NEW, "OLD.XDS": OLD, "XDS.INP": INPUT, "A.mat": "0.02 0 0\n0 0.02 0\n0 0 0.02\nSYMM P4\n"}
    for name, text in {**texts, "F.hkl": "1 0 0 10.5\n0 1 2 3\n"}.items():
        (folder / name).write_text(text)
    header = {"WAVELENGTH": 1.0, "DISTANCE": 60.0, "PIXEL_SIZE": 0.4, "XDS_ORGX": 40.5, "XDS_ORGY": 32.5}
    write_image(folder / "x_1.img", np.ones((6, 5)), header)
    write_image(folder / "x_1.cbf", np.ones((6, 5)), header | {"Beam_xy": "(3, 4) pixels"})
    write_image(folder / "stack.npz", np.ones((2, SIZE[0], SIZE[1] // 2)))
    with h5py.File(folder / "x_master.h5", "w") as file:
        file["entry/data/data"] = np.ones((1, 6, 5), dtype=np.uint16)
        file["entry/instrument/detector/detector_distance"] = 0.2
        file["entry/instrument/detector/x_pixel_size"] = 75e-6
        file["entry/instrument/beam/incident_wavelength"] = 1.0
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def imported(folder, names):
    return main(["import", *(str(folder / name) for name in names), "-o", str(folder / "refine.yaml"), "--force"])


@pytest.mark.parametrize("name", HELD)
def test_originals_are_imported(originals, tmp_path, capsys, name):
    for held in (name, *HELD[name]):
        (tmp_path / held).write_bytes(originals[held])
    assert imported(tmp_path, [name, *HELD[name]]) == 0
    assert name in capsys.readouterr().out


@pytest.mark.parametrize("name", HELD)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(data=st.data())
def test_damage_is_survived(originals, tmp_path, capsys, name, data):
    content = bytearray(originals[name])
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))), label="end")
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=6), label="bits"):
        content[bit // 8] ^= 1 << bit % 8
    for held in HELD[name]:
        (tmp_path / held).write_bytes(originals[held])
    (tmp_path / name).write_bytes(content[:end])
    capsys.readouterr()
    code = imported(tmp_path, [name, *HELD[name]])
    assert code in (0, 2)
    if code == 2:
        assert name in capsys.readouterr().err
