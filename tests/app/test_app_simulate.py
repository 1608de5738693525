"""`refine simulate`: nanoBragg.c's images from configurations, and every output format."""

from pathlib import Path

import fabio
import h5py
import numpy as np
import pytest
import yaml
from cli import TRUTH, configuration

from refine.app.main import main
from refine.io.images import read_image

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = {case["name"]: case for case in yaml.safe_load((GOLDEN / "manifest.yaml").read_text())["cases"]}
COVERED = (
    "cubic_square_n5",
    "flat_n1",
    "tetragonal_n20_os3",
    "hexagonal_unequal_n_os2",
    "mono_hkl_nointerp",
    "sparse_hkl_default_f",
    "mosaic",
    "phi_scan",
    "polarization",
    "dispersion",
)


def golden_config(case, directory):
    """The configuration of a golden case; its crystal by the vectors that nanoBragg.c used."""
    facts, args = case["facts"], case["args"]
    hkl = [GOLDEN / "inputs" / (Path(args[i + 1]).name + ".gz") for i, arg in enumerate(args) if arg == "-hkl"]
    pixel = facts["pixel_size_m"] * 1e3
    vectors = np.linalg.inv([facts["a_A"], facts["b_A"], facts["c_A"]])
    content = {
        "beam": {
            "wavelength": facts["lambda0_m"] * 1e10,
            "fluence": facts["fluence"],
            "polarization": facts["kahn_polarization"],
            "dispersion": {"percent": 100 * facts.get("dispersion", 0.0), "steps": facts.get("dispsteps", 1)},
        },
        "detector": {
            "distance": facts["distance_m"] * 1e3,
            "pixel_size": pixel,
            "size": [facts["spixels"], facts["fpixels"]],
            "beam_center_px": [facts["Fbeam_m"] * 1e3 / pixel, facts["Sbeam_m"] * 1e3 / pixel],
            "oversample": facts["oversample"],
        },
        "crystal": {
            "orientation": {"a_matrix": vectors.flatten().tolist()},
            "cells": facts["N"],
            "mosaic": {"spread_deg": float(np.degrees(facts["mosaic_spread_rad"])), "domains": facts["mosaic_domains"]},
            "scan": {
                "phi0": float(np.degrees(facts["phi0_rad"])),
                "osc": float(np.degrees(facts["osc_rad"])),
                "steps": facts["phisteps"],
            },
        },
        "structure_factors": {"default": facts["default_F"], "file": str(hkl[0]) if hkl else None},
        "compatibility": ["corner_factors"],
    }
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", COVERED)
def test_agrees_with_nanobragg(name, tmp_path):
    config = golden_config(CASES[name], tmp_path)
    assert main(["simulate", str(config), "-o", str(tmp_path / "image.npy")]) == 0
    expected = np.load(GOLDEN / CASES[name]["image"])["image"].astype(float)
    assert np.abs(np.load(tmp_path / "image.npy") - expected).max() <= 1e-6 * expected.max()


@pytest.mark.parametrize("name", ["tetragonal_n20_os3", "polarization"])
def test_without_the_switch_every_sub_pixel_has_its_own_factors(name, tmp_path):
    config = golden_config(CASES[name], tmp_path)
    assert main(["simulate", str(config), "-o", str(tmp_path / "image.npy"), "compatibility=[]"]) == 0
    expected = np.load(GOLDEN / CASES[name]["image"])["image"].astype(float)
    assert 1e-4 < np.abs(np.load(tmp_path / "image.npy") - expected).max() / expected.max() < 0.02


def test_formats_hold_the_same_image(tmp_path):
    config = str(configuration(tmp_path, TRUTH))
    for suffix in ("npz", "npy", "bin", "cbf", "img", "h5"):
        assert main(["simulate", config, "-o", str(tmp_path / f"m.{suffix}")]) == 0
    exact = np.load(tmp_path / "m.npz")["image"]
    assert exact.shape == (64, 64)
    assert exact.max() > 100
    assert np.array_equal(np.load(tmp_path / "m.npy"), exact)
    assert np.allclose(np.fromfile(tmp_path / "m.bin", "<f4").reshape(64, 64), exact, rtol=1e-6)
    with h5py.File(tmp_path / "m.h5") as file:
        assert np.allclose(file["image"][()], exact, rtol=1e-6)
    for suffix in ("cbf", "img"):
        assert np.array_equal(fabio.open(str(tmp_path / f"m.{suffix}")).data, np.rint(exact).astype(int))


def test_noise_follows_the_seed_and_the_counting_statistics(tmp_path):
    config = str(configuration(tmp_path, TRUTH, background={"model": "constant", "value": 50.0}))
    images = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        main(["simulate", config, "-o", str(tmp_path / f"{name}.npy"), "--noise", f"seed={seed}"])
        images.append(np.load(tmp_path / f"{name}.npy"))
    main(["simulate", config, "-o", str(tmp_path / "expected.npy")])
    expected = np.load(tmp_path / "expected.npy")
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    pulls = (images[0] - expected) / np.sqrt(expected)
    assert abs(pulls.mean()) < 0.08
    assert pulls.std() == pytest.approx(1, abs=0.05)


def test_gain_and_offset_make_adu(tmp_path):
    config = str(configuration(tmp_path, TRUTH))
    main(["simulate", config, "-o", str(tmp_path / "photons.npy")])
    main(["simulate", config, "-o", str(tmp_path / "adu.npy"), "detector.gain=3", "detector.offset=7"])
    assert np.allclose(np.load(tmp_path / "adu.npy"), 3 * np.load(tmp_path / "photons.npy") + 7)


def test_divergence_spreads_the_spots(tmp_path):
    config = str(configuration(tmp_path, TRUTH))
    main(["simulate", config, "-o", str(tmp_path / "one.npy")])
    main(["simulate", config, "-o", str(tmp_path / "many.npy"), "beam.divergence={horizontal_mrad: 8, steps: 5}"])
    one, many = (np.load(tmp_path / f"{name}.npy") for name in ("one", "many"))
    assert many.max() < 0.9 * one.max()
    assert not np.allclose(one, many)


ODD = ["detector.distance=61.23456789012345", "detector.pixel_size=0.3", "detector.size=[96, 112]",
       "detector.beam_center_px=[51.123456789, 40.98765432101]", "beam.wavelength=0.97931234567",
       "crystal.scan={phi0: 12.3456789, osc: 0.123456789, steps: 2}", "detector.oversample=1"]  # fmt: skip


def header_of(path):
    return {key: value.strip() for key, value in fabio.open(str(path)).header.items()}


@pytest.mark.parametrize("convention", ["mosflm", "denzo", "adxv", "xds", "dials"])
def test_smv_headers_hold_every_digit_and_every_programs_beam_centre(convention, tmp_path):
    config = str(configuration(tmp_path, TRUTH))
    target = tmp_path / "m.img"
    assert main(["simulate", config, "-o", str(target), f"detector.convention={convention}", *ODD]) == 0
    header = header_of(target)
    exact = {"DISTANCE": 61.23456789012345, "WAVELENGTH": 0.97931234567, "OSC_RANGE": 0.123456789, "PHI": 12.3456789}
    assert {key: float(header[key]) for key in exact} == exact
    fast, slow = 51.123456789 * 0.3, 40.98765432101 * 0.3
    programs = {
        "mosflm": (slow - 0.15, fast - 0.15), "denzo": (slow, fast), "adxv": (fast, 96 * 0.3 - slow),
        "xds": (fast, slow), "dials": (fast, slow),
    }  # fmt: skip
    centre = float(header["BEAM_CENTER_X"]), float(header["BEAM_CENTER_Y"])
    assert centre == pytest.approx(programs[convention], abs=1e-13)
    assert float(header["XDS_ORGX"]) == pytest.approx(51.123456789 + 0.5, abs=1e-12)
    origin = [float(word) for word in header["DIALS_ORIGIN"].split(",")]
    upwards = -1 if convention == "adxv" else 1  # its slow axis runs up in the DIALS frame
    assert origin == pytest.approx([-fast, upwards * slow, -61.23456789012345], abs=1e-12)


@pytest.mark.parametrize("convention", ["mosflm", "denzo", "adxv"])
def test_smv_round_trips_through_nanobragg_command_lines(convention, tmp_path, monkeypatch):
    """Written by `simulate`, its header is all that `refine nanobragg -img` needs to make the same image again."""
    monkeypatch.chdir(tmp_path)
    crystal = "crystal={cell: [41, 53, 63, 90, 97, 90], cells: [5, 6, 4], orientation: {misset_deg: [12, 34, 56]}}"
    more = [crystal, "structure_factors={default: 90}", "beam.fluence=1.2593201528622709e+29", "beam.polarization=0"]
    config = str(configuration(tmp_path, TRUTH, background={"model": "none", "value": 0.0}))
    still = [word for word in ODD if "scan" not in word]
    for suffix in ("img", "npy"):
        words = ["simulate", config, "-o", f"m.{suffix}", f"detector.convention={convention}", *still, *more]
        assert main([*words, "detector.rotations={x: 0}"]) == 0
    line = f"-img m.img -{convention} -cell 41 53 63 90 97 90 -misset 12 34 56 -Na 5 -Nb 6 -Nc 4 -default_F 90"
    assert main(["nanobragg", *line.split(), "-oversample", "1", "-floatfile", "again.bin", "-nonoise", "-nopgm"]) == 0
    first, again = np.load("m.npy"), np.fromfile("again.bin", "<f4").reshape(96, 112)
    assert first.max() > 100
    assert np.abs(first - again).max() < 1e-6 * first.max()
    assert np.array_equal(read_image("m.img").values, np.clip(np.rint(first), 0, 65535))
