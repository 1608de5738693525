"""Images of another program, refined from perturbed starts: as good as the counting statistics allow, or not."""

import contextlib
import hashlib
import io
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from refine.app.main import main

ROOT = Path(__file__).parents[1]
CASES = ROOT / "tests" / "cases"
NAMES = ["a", "b", "c", "alpha", "beta", "gamma", "misset_x", "misset_y", "misset_z"]


def image_folder(name):
    return ROOT / "data" / "quickstart" if name.startswith("r06") else CASES / name


def case_config(name, directory):
    """The configuration a user would write who knows what start.yaml holds."""
    start = yaml.safe_load((CASES / name / "start.yaml").read_text())
    geometry, crystal, known = start["geometry"], start["crystal"], start["background"]
    fast, slow = (
        (np.arange(n) + 0.5) * geometry["pixel_mm"] - geometry[f"{axis}beam_mm"]
        for n, axis in zip(geometry["detector_pixels_fast_slow"], "FS", strict=True)
    )
    falling = np.exp(-(slow[:, None] ** 2 + fast**2) / (2 * known["sigma_mm"] ** 2))
    np.savez(directory / "background.npz", image=known["flat"] + known["amp"] * falling)
    content = {
        "images": [{"file": os.path.relpath(image_folder(name) / "image.npz", directory)}],
        "beam": {"wavelength": geometry["wavelength_A"], "fluence": start["fluence"]},
        "detector": {
            "distance": geometry["distance_mm"],
            "pixel_size": geometry["pixel_mm"],
            "size": geometry["detector_pixels_fast_slow"][::-1],
            "beam_center_px": geometry["beam_centre_px_fast_slow"],
            "oversample": geometry["oversample"],
        },
        "crystal": {
            "cell": start["cell"],
            "orientation": {"misset_deg": start["misset_deg"]},
            "cells": crystal["N"],
            "scan": {"phi0": geometry["phi0_deg"], "osc": geometry["osc_deg"], "steps": geometry["phisteps"]},
        },
        "structure_factors": {"file": os.path.relpath(image_folder(name) / "F.hkl.gz", directory)},
        "background": {"model": "file", "file": "background.npz"},
    }
    if crystal["mosaic_domains"] > 1:
        keys = {"spread_deg": "mosaic_spread_deg", "domains": "mosaic_domains", "seed": "mosaic_seed"}
        content["crystal"]["mosaic"] = {key: crystal[source] for key, source in keys.items()}
    (directory / "config.yaml").write_text(yaml.safe_dump(content))
    return str(directory / "config.yaml")


def chi_squared(name, result):
    """Squared error of cell and orientation under the case's Fisher information, scale eliminated; and that of the
    maximum-likelihood answer for this noise. (Triclinic cases: nothing is tied.)"""
    truth = yaml.safe_load((CASES / name / "truth.yaml").read_text())
    bound = yaml.safe_load((CASES / name / "crlb.yaml").read_text())
    fisher = np.array(bound["fisher_matrix"])
    fisher = fisher[:-1, :-1] - np.outer(fisher[:-1, -1], fisher[-1, :-1]) / fisher[-1, -1]
    value = np.array(result["cell"]["value"] + result["images"][0]["misset_deg"]["value"])
    error = value - np.array(truth["cell"] + truth["misset_deg"])
    return error @ fisher @ error, bound["one_step_mle_check"]["chi2"], np.sqrt(np.diag(np.linalg.inv(fisher)))


def test_data_are_as_made():
    for line in (CASES / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((CASES / name).read_bytes()).hexdigest() == digest
    table = (ROOT / "data" / "quickstart" / "README.md").read_text()
    for name in ("image.npz", "F.hkl.gz"):
        assert hashlib.sha256((ROOT / "data" / "quickstart" / name).read_bytes()).hexdigest() in table


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir() if path.is_dir()))
def test_reaches_the_maximum_likelihood_answer(name, tmp_path):
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["run", case_config(name, tmp_path), "-o", str(tmp_path / "out")]) == 0
    result = yaml.safe_load((tmp_path / "out" / "result.yaml").read_text())
    found, best, bounds = chi_squared(name, result)
    assert result["status"] == "converged"
    assert found <= 1.2 * best + 3
    start = {**result, "cell": {"value": result["cell"]["start"]}}
    start["images"] = [{"misset_deg": {"value": result["images"][0]["misset_deg"]["start"]}}]
    assert chi_squared(name, start)[0] > 100 * found  # the test could fail: the start is far off
    esds = np.array(result["cell"]["esd"] + result["images"][0]["misset_deg"]["esd"])
    assert esds == pytest.approx(bounds, rel=0.05)
