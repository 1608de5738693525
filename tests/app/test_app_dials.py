"""From a DIALS experiment list to an image, a refinement and a refined experiment list."""

import copy
import json

import numpy as np
import pytest
import yaml
from cli import result
from expt import CELL, FAST, PIXEL, REAL_SPACE, SIZE, cut, document, panel, tiles, written

from refine.app.build import build_model
from refine.app.load import dump_config, load_config
from refine.app.main import main
from refine.errors import InputError
from refine.io.experiments import read_experiment

CONTENT = {
    "images": [{"file": "image.npz"}],
    "beam": {"fluence": 3e27},
    "detector": {"file": "x.expt"},
    "crystal": {"orientation": {"expt": "x.expt"}, "cells": [7, 7, 6], "shape": "gauss"},
    "structure_factors": {"default": 100.0},
    "background": {"model": "constant", "value": 3.0},
}


@pytest.fixture
def place(tmp_path):
    """A folder with a configuration and the whole detector's experiment list."""
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONTENT))
    written(tmp_path / "x.expt", document())
    return tmp_path


def config(place, *settings):
    return load_config(place / "config.yaml", settings)


def simulated(place, name, *settings):
    assert main(["simulate", str(place / "config.yaml"), "-o", str(place / name), *settings]) == 0
    return np.load(place / name)["image"]


def complaint(place, capsys, *settings, command="validate"):
    assert main([command, str(place / "config.yaml"), *settings]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_the_file_supplies_geometry_and_crystal(place):
    setup = build_model(config(place))
    found, read = setup.experiment.detector, read_experiment(place / "x.expt").panels[0]
    assert found.panels is None
    for ours, theirs in zip(found.frame(), (read.origin, read.fast, read.slow), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
    np.testing.assert_allclose(setup.crystal.real_space.numpy(), REAL_SPACE, atol=1e-11)
    np.testing.assert_allclose(setup.crystal.cell.numpy(), [*np.diag(CELL), 90, 90, 90], atol=1e-11)
    assert setup.crystal.space_group == "P 4"
    beam = setup.experiment.beam
    assert (float(beam.wavelength), float(beam.polarization)) == (1.1, pytest.approx(0.8))
    assert abs(beam.polarization_axis.tolist()[0]) == 1


def test_what_the_user_gives_stays(place):
    given = config(place, "beam.wavelength=1.2", "detector.distance=70", "detector.axes.polarization=[0, 1, 0]",
                   "crystal.space_group=P 1", "crystal.cell=[51, 50, 70, 90, 90, 90]", "detector.gain=2.5")  # fmt: skip
    assert (given.beam.wavelength, given.detector.distance, given.detector.gain) == (1.2, 70.0, 2.5)
    assert given.detector.axes.polarization == (0, 1, 0)
    np.testing.assert_allclose(given.detector.axes.fast, FAST)
    assert (given.crystal.space_group, given.crystal.cell[0]) == ("P 1", 51.0)


def test_the_resolved_configuration_says_it_all(place):
    before = config(place)
    (place / "again.yaml").write_text(dump_config(before))
    assert load_config(place / "again.yaml") == before


def test_tiles_count_the_photons_of_the_whole(place):
    settings = ("detector.oversample=2", "refinement.resolution.max=30")
    whole = simulated(place, "whole.npz", *settings)
    written(place / "x.expt", document(tiles()))
    stack = simulated(place, "tiles.npz", *settings)
    assert stack.shape == (4, SIZE[0] // 2, SIZE[1] // 2)
    assert np.ptp(whole) > 100
    np.testing.assert_allclose(stack, cut(whole), rtol=1e-9)


def test_parallax_moves_the_spots_and_can_be_given_or_left_out(place):
    deep = {"px_mm_strategy": {"type": "ParallaxCorrectedPxMmStrategy"}, "thickness": 0.9, "mu": 2.0}
    flat = simulated(place, "flat.npz")
    given = simulated(place, "given.npz", "detector.thickness={um: 900, attenuation_um: 500, parallax: dials}")
    written(place / "x.expt", document([{**panel(read_experiment(place / "x.expt").panels[0].origin), **deep}]))
    assert config(place).detector.thickness.parallax == "dials"
    np.testing.assert_allclose(simulated(place, "read.npz"), given, rtol=1e-9)
    np.testing.assert_array_equal(simulated(place, "off.npz", "detector.thickness={um: 0}"), flat)
    assert np.abs(given - flat).max() > 10


def test_a_lost_sensor_is_noted(place, capsys):
    content = document(tiles())
    for tile in content["detector"][0]["panels"]:
        tile["px_mm_strategy"] = {"type": "ParallaxCorrectedPxMmStrategy"}
    written(place / "x.expt", content)
    assert main(["validate", str(place / "config.yaml"), "images=[]"]) == 0
    assert "none is applied; give detector.thickness" in capsys.readouterr().out


def observed_tiles(place):
    """Tiles with counts of their own gain and pedestal, noise included, and a start off the truth."""
    content = document(tiles()) | {"unknown": [1]}
    for number, tile in enumerate(content["detector"][0]["panels"]):
        tile |= {"gain": 2.0 + number, "pedestal": 10.0 * number, "mask": [[3, 4, 6, 9]], "note": "kept"}
    written(place / "x.expt", content)
    simulated(place, "image.npz", "--noise")
    for name, row in zip("abc", REAL_SPACE, strict=True):
        content["crystal"][0][f"real_space_{name}"] = (row * 1.002).tolist()
    written(place / "x.expt", content)
    return content


def test_a_refinement_returns_the_document_with_a_new_crystal(place):
    content = observed_tiles(place)
    assert main(["run", str(place / "config.yaml"), "-o", str(place / "out")]) == 0
    found = result(place / "out")
    assert found["loss"]["pixels_used"] == SIZE[0] * SIZE[1] - 4 * 3 * 5
    assert found["loss"]["reduced_deviance"] == pytest.approx(found["loss"]["expected_deviance"], abs=0.05)
    errors = np.array(found["cell"]["value"])[:3] - np.diag(CELL)
    assert (np.abs(errors) < 5 * np.array(found["cell"]["esd"])[:3]).all()
    assert (np.abs(errors) < 0.02).all()
    new = json.loads((place / "out" / "refined.expt").read_text())
    real_space = read_experiment(place / "out" / "refined.expt").crystal.real_space
    np.testing.assert_allclose(np.linalg.inv(real_space), np.reshape(found["images"][0]["a_matrix"], (3, 3)), rtol=1e-9)
    old = copy.deepcopy(content)
    for part in (old, new):
        part["crystal"][0] = {k: v for k, v in part["crystal"][0].items() if not k.startswith(("real", "B_cov"))}
    assert new == old
    assert np.load(place / "out" / "model.npz")["image"].shape == (4, 32, 40)


def test_a_refined_detector_is_written(place):
    observed_tiles(place)
    free = "refinement.free=[orientation, distance, beam_center, wavelength, scale]"
    start = ("detector.distance=59.9", "refinement.strategy=single")
    main(["run", str(place / "config.yaml"), "-o", str(place / "out"), free, *start])
    before, after = read_experiment(place / "x.expt"), read_experiment(place / "out" / "refined.expt")
    entry = result(place / "out")["images"][0]
    assert after.beam.wavelength == entry["wavelength"]["value"] != before.beam.wavelength
    moved = np.array([panel.origin for panel in after.panels]) - [panel.origin for panel in before.panels]
    np.testing.assert_allclose(moved, moved[:1].repeat(4, axis=0), atol=1e-9)
    written(place / "x.expt", json.loads((place / "out" / "refined.expt").read_text()))
    assert config(place).detector.distance == pytest.approx(entry["distance"]["value"], abs=1e-9)
    assert config(place).detector.beam_center_px == pytest.approx(entry["beam_center"]["value"], abs=1e-9)


def test_each_panels_trusted_range(place, capsys):
    content = document(tiles())
    content["detector"][0]["panels"][2]["trusted_range"] = [0.0, 7.0]
    written(place / "x.expt", content)
    counts = np.full((4, 32, 40), 5.0)
    counts[:, 0, 0], counts[:, 0, 1], counts[:, 0, 2] = 7.0, 8.0, -20.0
    np.savez(place / "image.npz", some=counts, names=np.array(["a"]))
    fixed = ["refinement.free=[background]"]
    assert main(["validate", str(place / "config.yaml"), *fixed]) == 0
    assert f"{counts.size - 4 - 1} of {counts.size} pixels" in capsys.readouterr().out
    assert main(["validate", str(place / "config.yaml"), *fixed, "detector.saturation=6"]) == 0
    assert f"{counts.size - 3 * 4} of {counts.size} pixels" in capsys.readouterr().out


def test_a_readout_noise_of_each_gain(place):
    observed_tiles(place)
    from refine.app.build import build_problem

    given = config(place, "refinement.loss=gaussian", "detector.readout_noise=6")
    observation = build_problem(given, build_model(given)).observation
    np.testing.assert_allclose(observation.readout_variance.numpy(), [9.0, 4.0, 2.25, 1.44])
    pixels = observation.pixels()
    assert observation.variance(pixels).tolist() == observation.readout_variance[pixels.panel].tolist()


def test_the_scan_of_an_image_of_many(place):
    turn = {"rotation_axis": [0.0, 1.0, 0.0], "fixed_rotation": np.eye(3).flatten().tolist(),
            "setting_rotation": [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]}  # fmt: skip
    content = document(goniometer=[turn], scan=[{"image_range": [1, 20], "oscillation": [10.0, 0.5]}])
    content["experiment"][0] |= {"goniometer": 0, "scan": 0}
    written(place / "x.expt", content)
    given = config(place, "images.0.file=x_3_0007.cbf", "crystal.scan.steps=5")
    assert given.crystal.scan.model_dump() == {"phi0": 13.0, "osc": 0.5, "steps": 5}
    assert given.detector.axes.spindle == pytest.approx((-1.0, 0.0, 0.0))
    mount = np.reshape(turn["setting_rotation"], (3, 3))
    np.testing.assert_allclose(build_model(given).crystal.real_space.numpy(), REAL_SPACE @ mount.T, atol=1e-11)
    assert config(place, "images=[]").crystal.scan.phi0 == 10.0
    assert config(place, "crystal.scan={phi0: 1, osc: 2}").crystal.scan.phi0 == 1.0
    assert config(place, "images=[{file: master.h5, frame: 9}]").crystal.scan.phi0 == 14.0
    with pytest.raises(InputError, match=r"images 1 to 20, and the name of image x_99\.cbf has no such number"):
        config(place, "images.0.file=x_99.cbf")


def test_a_crystal_alone_is_turned_to_the_detectors_frame(place):
    keys = {"distance": 60, "pixel_size": 0.4, "size": [8, 8], "beam_center_px": [4, 4]}
    content = CONTENT | {"detector": keys}
    (place / "config.yaml").write_text(yaml.safe_dump(content))
    setup = build_model(config(place))
    assert float(setup.experiment.beam.wavelength) == 1.1
    turned = REAL_SPACE @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # DIALS' x is MOSFLM's z, its z MOSFLM's -x
    np.testing.assert_allclose(setup.crystal.real_space.numpy(), turned, atol=1e-11)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("detector.convention=mosflm", "key 'detector.convention' is \"mosflm\"; accepted: expt beside a file"),
        ("detector.file=null", "key 'detector.distance' is missing"),
        ("detector={index: 1, distance: 1, pixel_size: 1, size: [2, 2], beam_center_px: [1, 1]}", "index' is 1"),
        ("detector.index=3", "has 1 experiments, not one of index 3"),
        ("detector.index=-1", "key 'detector.index' is -1"),
        ("detector.file=5", "key 'detector.file' is 5"),
        ("crystal.orientation.matrix=A.mat", "accepted: one of matrix, a_matrix and expt"),
        ("crystal.orientation={index: 1}", "key 'crystal.orientation.index' is 1"),
        ("detector.gain=[1, 2, 3]", "key 'detector.gain' lists 3 numbers; accepted: one, or 4 of them, one a panel"),
        ("detector.offset=[1]", "key 'detector.offset' lists 1 numbers"),
        ("detector.size=[10000, 9000]", "x.expt: 4 panels of (10000, 9000); accepted: 200000000 pixels"),
        ("detector.curved=true", "key 'detector.curved' is true"),
        ("background.model=plane", "key 'background.model' is 'plane'; accepted for many panels"),
        ("detector.thickness={um: 100, attenuation_um: 100, steps: 2, parallax: dials}", "detector.thickness.parallax"),
        ("images.0.file=nowhere.npz", "nowhere.npz"),
        ("images.0.file=flat.npz", "64 x 80 (slow x fast), the detector says 4 x 32 x 40"),
        ("images.0.file=three.npz", "3 x 32 x 40 (panels x slow x fast), the detector says 4 x 32 x 40"),
        ("detector.mask=flat.npz", "flat.npz"),
        ("detector.file=short.expt", "short.expt: cannot be read as a DIALS experiment list"),
        ("crystal.orientation.expt=bare.expt", "bare.expt: key 'experiment.0.crystal' is missing"),
        ("detector.file=config.yaml", "config.yaml: is no JSON"),
    ],
)  # fmt: skip
def test_wrong_input_is_named(place, capsys, setting, said):
    written(place / "x.expt", document(tiles()))
    np.savez(place / "image.npz", image=np.ones((4, 32, 40)))
    np.savez(place / "flat.npz", image=np.ones(SIZE))
    np.savez(place / "three.npz", image=np.ones((3, 32, 40)))
    (place / "short.expt").write_text(json.dumps(document())[:900])
    bare = document()
    del bare["experiment"][0]["crystal"]
    written(place / "bare.expt", bare)
    for command in ("validate", "run"):
        assert said in complaint(place, capsys, setting, command=command)
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pixel_size": [0.2, 0.2]}, "panels differ in pixel_size"),
        ({"image_size": [20, 32]}, "panels differ in image_size"),
        (
            {"thickness": 0.5, "mu": 1.0, "px_mm_strategy": {"type": "ParallaxCorrectedPxMmStrategy"}},
            "panels differ in px",
        ),
    ],
)
def test_panels_must_be_alike(place, change, said):
    content = document(tiles())
    content["detector"][0]["panels"][1] |= change
    written(place / "x.expt", content)
    with pytest.raises(InputError, match=said):
        config(place)


def test_a_detector_off_the_beam_is_refused(place):
    written(place / "x.expt", document([panel([-10, -10, 50], [1, 0, 0], [0, 1, 0])]))
    with pytest.raises(InputError, match="crosses no panel"):
        config(place)
    written(place / "x.expt", document([panel([0, 0, -50], size=(4, 4), pixel_size=[PIXEL, 2 * PIXEL])]))
    with pytest.raises(InputError, match=r"0\.4 x 0\.8 mm; accepted: square"):
        config(place)


def test_a_stack_goes_only_into_formats_that_hold_one(place, capsys):
    written(place / "x.expt", document(tiles()))
    for suffix in ("npy", "bin", "h5"):
        assert main(["simulate", str(place / "config.yaml"), "-o", str(place / f"image.{suffix}")]) == 0
        assert main(["validate", str(place / "config.yaml"), f"images.0.file=image.{suffix}"]) == 0
    assert main(["simulate", str(place / "config.yaml"), "-o", str(place / "image.cbf")]) == 2
    assert "image.cbf: .cbf cannot hold 4 panels" in capsys.readouterr().err


def test_derivatives_are_checked_on_every_panel(place, capsys):
    written(place / "x.expt", document(tiles(1, 2)))
    free = "refinement.free=[cell, orientation, distance, beam_center, detector_rotations]"
    assert main(["gradcheck", str(place / "config.yaml"), "--order", "1", free]) == 0, capsys.readouterr().out
