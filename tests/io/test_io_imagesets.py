"""Which image a DIALS experiment is of, and where it is."""

from pathlib import Path

import numpy as np
import pytest
from expt import document, written

from refine.io.experiments import read_experiment
from refine.io.imagesets import existing, first_image

STILL = np.eye(3).flatten().tolist()


def named(folder, imageset, first=None):
    """The place of the first image of an experiment with this image set; a rotation where `first` is given."""
    content = document(imageset=[imageset])
    if first is not None:
        turn = {"rotation_axis": [1.0, 0.0, 0.0], "fixed_rotation": STILL, "setting_rotation": STILL}
        content |= {"goniometer": [turn], "scan": [{"image_range": [first, 99], "oscillation": [0.0, 1.0]}]}
        content["experiment"][0] |= {"goniometer": 0, "scan": 0}
    return first_image(read_experiment(written(folder / "x.expt", content)))


@pytest.mark.parametrize(("imageset", "first", "place"), [
    ({"images": ["/data/still.cbf"]}, None, ("/data/still.cbf", None)),
    ({"images": ["x_master.h5"], "single_file_indices": [6]}, None, ("x_master.h5", 7)),
    ({"template": "/data/x_####.cbf", "single_file_indices": [0]}, 12, ("/data/x_0012.cbf", None)),
    ({"template": "x_#.cbf"}, None, ("x_1.cbf", None)),
    ({"template": "x_master.h5", "single_file_indices": [4, 5, 6]}, 5, ("x_master.h5", 5)),
])  # fmt: skip
def test_the_first_image(tmp_path, imageset, first, place):
    found = named(tmp_path, imageset, first)
    assert (str(found.file), found.frame) == place


@pytest.mark.parametrize("imageset", [{}, {"images": []}, {"images": [3]}, {"template": None}, {"images": ["a\0b"]}, 5])
def test_no_name(tmp_path, imageset):
    assert named(tmp_path, imageset) is None


def test_files_are_found_as_named_or_beside_the_list_packed_or_not(tmp_path):
    (tmp_path / "far").mkdir()
    wanted = Path("far") / "still.cbf"
    assert existing(wanted, tmp_path) is None
    (tmp_path / "still.cbf.gz").touch()
    assert existing(wanted, tmp_path) == tmp_path / "still.cbf.gz"
    (tmp_path / "far" / "still.cbf.bz2").touch()
    assert existing(wanted, tmp_path) == tmp_path / "far" / "still.cbf.bz2"
    (tmp_path / "far" / "still.cbf").touch()
    assert existing(wanted, tmp_path) == tmp_path / "far" / "still.cbf"
