"""DIALS experiment lists that are written anew."""

import json

import gemmi
import numpy as np
import pytest

from refine.errors import InputError
from refine.io.experiment_writer import experiment_list, write_expt
from refine.io.experiments import Panel, read_experiment

A_MATRIX = np.array(
    [
        [0.02109724, -0.00578759, 0.01132795],
        [0.00809847, 0.02238381, 0.00582787],
        [-0.01702897, -0.00808692, 0.01518951],
    ]
)


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


def test_what_is_written_is_read_back(tmp_path):
    panel = Panel((-10.0, 12.0, -80.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (100, 120), (0.2, 0.2), (-1.0, 65535.0), 2.0,
                  5.0, 0.3, "Si", 3.0, "first", ((1, 2, 3, 4),), True)  # fmt: skip
    write_expt(tmp_path / "x.expt", build(panels=[panel, panel], scan=(10.0, 0.5), spindle=(1, 0, 0)))
    read = read_experiment(tmp_path / "x.expt")
    assert read.panels == (panel, panel)
    np.testing.assert_array_equal(read.beam.direction, [0, 0, -1])
    np.testing.assert_array_equal(read.beam.polarization[0], [0, 1, 0])
    np.testing.assert_array_equal(read.crystal.real_space, np.linalg.inv(A_MATRIX))
    assert (read.beam.wavelength, read.beam.polarization[1], read.crystal.space_group) == (0.97, 0.5, "P 61 2 2")
    assert (read.rotation.first, read.rotation.last, read.rotation.start, read.rotation.width) == (7, 7, 10.0, 0.5)
