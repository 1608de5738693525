"""Images against those of nanoBragg.c; see tests/golden/nanobragg/README.md."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from refine.app.nanobragg.defects import Defects
from refine.app.nanobragg.image import simulate
from refine.app.nanobragg.resolve import resolve

GOLDEN = Path(__file__).parents[2] / "golden"
FACTS = json.loads((GOLDEN / "nanobragg" / "facts.json").read_text())
DATA = json.loads((GOLDEN / "nanobragg" / "data.json").read_text())
CASES = {case["name"]: case for case in FACTS["cases"]}
CORRECTED = {
    "oversample_thick": "oversampled_factors_compound",
    "oversample_polar_omega": "oversampled_factors_compound",
    "phi_from_zero": "phi_zero_not_applied",
}
TOLERANCE = 1e-6  # of the maximum; the images are float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs, unpacked."""
    made = tmp_path_factory.mktemp("golden")
    shutil.copytree(GOLDEN / "nanobragg" / "inputs", made / "inputs")
    for name, entry in DATA["reflections"].items():
        content = gzip.decompress((GOLDEN / entry["file"]).read_bytes())
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        (made / "inputs" / name).write_bytes(content)
    return made


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / DATA["images"][name]["file"]) as file:
        return {key: file[key].astype(float) for key in file.files}


def deviation(name: str, folder: Path, reference: np.ndarray, defects: Defects) -> float:
    found = simulate(resolve(CASES[name]["args"], folder, defects)).values
    assert reference.max() > 0
    assert found.dtype == np.float32
    return float(np.abs(found - reference).max() / reference.max())


def test_every_command_line_has_its_image() -> None:
    assert DATA["images"].keys() == CASES.keys()
    assert len(CASES) == 50
    for entry in DATA["images"].values():
        assert hashlib.sha256((GOLDEN / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("name", CASES)
def test_image_is_nanobraggs(name: str, folder: Path) -> None:
    assert deviation(name, folder, stored(name)["image"], Defects()) < TOLERANCE


@pytest.mark.parametrize(("name", "switch"), CORRECTED.items())
def test_image_without_the_defect_is_the_corrected_one(name: str, switch: str, folder: Path) -> None:
    off: dict[str, Any] = {switch: False}
    images = stored(name)
    assert deviation(name, folder, images["image_fixed"], Defects(**off)) < TOLERANCE
    assert deviation(name, folder, images["image_fixed"], Defects()) > 1e-2


def test_every_corrected_image_is_compared() -> None:
    assert {name for name in CASES if "image_fixed" in stored(name)} == CORRECTED.keys()


@pytest.mark.parametrize(
    ("name", "steradian"),
    [
        ("interp_out_of_range", 0.21792993187595758),
        ("thick_auto_mu", 0.49223140583841735),
        ("dispersion", 0.07441377122164537),
        ("mosaic", 0.031005738009018905),
        ("roi_mask", 0.13301291778676513),
    ],
)
def test_solid_angle_is_nanobraggs(name: str, steradian: float, folder: Path) -> None:
    """As its standard output has it, which divides by the steps what it did not sum over all of them."""
    settings = resolve(CASES[name]["args"], folder)
    image = simulate(settings)
    assert image.solid_angle / settings.sampling.steps == pytest.approx(steradian, rel=1e-12)
    assert not image.values[~image.computed].any()
