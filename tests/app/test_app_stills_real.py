"""A real still by shoeboxes, where one is at hand: spots that the refinement never saw, against DIALS' predictions."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli import result

from refine.app.build import build_model
from refine.app.load import load_config
from refine.app.main import main

REAL = Path(os.environ.get("REFINE_REAL_DATA", Path(__file__).parents[3] / "shared" / "real"))
MEDIANS = {"thau_3_2_0003": 0.7, "thau_3_2_0007": 0.6}  # pixels; the first crystal's spots are less regular
PACKAGES = [REAL / name for name in MEDIANS if (REAL / name).exists()]
pytestmark = pytest.mark.skipif(not PACKAGES, reason=f"no real data at {REAL}; set REFINE_REAL_DATA")


def perturbed(package: Path, folder: Path) -> Path:
    """A configuration that starts 0.3 % and 0.15 degrees off DIALS' answer."""
    expt = str(package / "dials_refined.expt")
    image = next(package.glob("*.cbf.bz2"))
    sensor = yaml.load((package / "geometry.yaml").read_text(), yaml.CSafeLoader)["detector"]["panels"][0]
    thickness = {"um": 1e3 * sensor["sensor_thickness_mm"], "attenuation_um": 1e3 / sensor["sensor_mu_per_mm"]}
    content = {
        "images": [{"file": str(image)}],
        "detector": {"file": expt, "thickness": {**thickness, "parallax": "dials"}},
        "crystal": {
            "orientation": {"expt": expt},
            "shape": "gauss",
            "mosaic": {"model": "gaussian", "spread_deg": 0.1},
        },
        "structure_factors": {"unknown": True},
        "background": {"model": "constant", "value": 1.0},
        "refinement": {"free": ["cell", "orientation", "mosaic", "cells"], "loss": "robust", "holdout": 0.3},
        "output": {"report": False, "directory": str(folder / "run")},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    matrix = build_model(load_config(path)).crystal.real_space.numpy() * 1.003
    content["crystal"]["orientation"] = {"a_matrix": np.linalg.inv(matrix).flatten().tolist(), "misset_deg": [0.09] * 3}
    content["crystal"]["space_group"] = load_config(path).crystal.space_group
    path.write_text(yaml.safe_dump(content))
    return path


def spots(package: Path) -> tuple[dict[tuple[int, ...], np.ndarray], dict[tuple[int, ...], np.ndarray]]:
    """Observed places, and those that DIALS predicts, fitted on all of them, by our indices."""
    with (package / "spots.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["lattice"] == "0"]
    crystal = yaml.load((package / "geometry.yaml").read_text(), yaml.CSafeLoader)["crystals"][0]
    change = np.array(crystal["h_dials_from_h_here"])
    keys = [tuple(int(n) for n in change @ [int(row[name]) for name in "hkl"]) for row in rows]
    pairs = [[np.array([float(row[f"{axis}{kind}_px"]) for axis in "xy"]) for kind in ("obs", "cal")] for row in rows]
    seen, theirs = zip(*pairs, strict=True)
    return dict(zip(keys, seen, strict=True)), dict(zip(keys, theirs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_spots_that_were_held_out_are_predicted_better_than_by_dials(package: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    assert main(["run", str(perturbed(package, tmp_path))]) in (
        0,
        1,
    )  # not all settle; what counts is what they predict
    torch.set_num_threads(before)
    found = result(tmp_path / "run")
    assert found["cell"]["esd"][0] > 0
    observed, theirs = spots(package)
    with (tmp_path / "run" / "reflections.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["holdout"] == "1" and row["x_model_px"]]
    ours = {tuple(int(r[name]) for name in "hkl"): np.array([float(r[f"{a}_model_px"]) for a in "xy"]) for r in rows}
    both = ours.keys() & observed.keys()
    assert len(both) > 50
    mine, dials = (
        float(np.median([np.linalg.norm(where[key] - observed[key]) for key in both])) for where in (ours, theirs)
    )
    print(f"{package.name}: {len(both)} held-out spots, median distance {mine:.3f} px, DIALS {dials:.3f} px")
    assert mine < MEDIANS[package.name]
    assert mine < dials
