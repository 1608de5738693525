"""`refine import`: a working configuration from whatever is at hand."""

import json
from itertools import product

import h5py
import numpy as np
import pytest
import yaml
from cli import TRUTH, configuration
from expt import PIXEL, SIZE, document, panel, tiles, written
from refl import columns, table
from refl import written as table_written
from xds import AXIS, INPUT, NEW, OLD

from refine.app.load import load_config
from refine.app.main import main

LIST = "".join(f"{h} {k} {n} {40 + h * h + 3 * k + n}\n" for h, k, n in product(range(-9, 10), repeat=3))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with an experiment list, structure factors and an image simulated from both."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "x.expt", document())
    (tmp_path / "F.hkl").write_text(LIST)
    content = {
        "beam": {"fluence": 3e27},
        "detector": {"file": "x.expt"},
        "crystal": {"orientation": {"expt": "x.expt"}, "cells": [8, 8, 6], "shape": "gauss"},
        "structure_factors": {"file": "F.hkl"},
        "background": {"model": "constant", "value": 3.0},
    }
    (tmp_path / "truth.yaml").write_text(yaml.safe_dump(content))
    assert main(["simulate", "truth.yaml", "-o", "image.npz", "--noise"]) == 0
    return tmp_path


def run(capsys, *words, code=0):
    """What `refine import` prints."""
    capsys.readouterr()
    assert main(["import", *words]) == code
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out if code == 0 else said.err


def test_what_dials_hands_over(place, capsys):
    said = run(capsys, "x.expt", "image.npz", "F.hkl", "-o", "my.yaml")
    for word in ("1 panel(s) of 80 x 64 pixels", "cell 50.000, 50.000, 70.000", "6859 reflections", "image image.npz"):
        assert word in said
    assert "missing" not in said
    found = load_config("my.yaml")
    assert found.detector.file == found.crystal.orientation.expt == place / "x.expt"
    assert (found.crystal.shape, found.crystal.mosaic.model, found.crystal.space_group) == ("gauss", "gaussian", "P 4")
    assert found.crystal.mosaic.spread_deg == 0.1  # the half mosaicity of tests/expt.py
    assert found.background.value == pytest.approx(3.0, abs=0.7)
    assert main(["validate", "my.yaml"]) == 0
    for line in (place / "my.yaml").read_text().splitlines():
        assert len(line) <= 120


def test_every_value_says_where_it_is_from(place, capsys):
    run(capsys, "x.expt", "image.npz", "F.hkl", "-o", "my.yaml")
    text = (place / "my.yaml").read_text()
    for line in ("  # beam and detector, by DIALS\n", "spread_deg: 0.1}  # degrees, a standard deviation; DIALS'",
                 "  # photons/pixel; mean of the darkest 90 % of image.npz\n"):  # fmt: skip
        assert line in text


def test_the_image_is_found_by_its_name_in_the_file(place, capsys):
    (place / "still.cbf").symlink_to("image.npz")
    said = run(capsys, "x.expt", "F.hkl")
    assert "image still.cbf" in said
    assert load_config("refine.yaml").images[0].file == place / "still.cbf"


def test_a_bad_image_that_the_file_names_is_named(place, capsys):
    (place / "still.cbf").write_bytes(b"###CBF: cut short")
    assert "still.cbf: cannot be read as a CBF image" in run(capsys, "x.expt", "F.hkl", code=2)
    run(capsys, "x.expt", "F.hkl", "image.npz")


def test_what_is_missing_is_said_and_marked(place, capsys):
    said = run(capsys, "x.expt")
    assert "missing images.0.file: still.cbf, named by the .expt, is not there" in said
    assert "missing structure_factors" not in said
    text = (place / "refine.yaml").read_text()
    assert (
        "  #- file: still.cbf" in text.replace("# missing", "#missing").replace("  # ", "  #")
        or "#- file: still.cbf" in text
    )
    assert "unknown: true" in text
    assert "background:" not in text  # a shoebox has one of its own
    (place / "refine.yaml").write_text(text.replace("#- file: still.cbf", "- file: image.npz"))
    assert load_config(place / "refine.yaml").shoebox is not None


def test_spots_set_the_resolution(place, capsys):
    table_written(place / "x.refl", table())
    said = run(capsys, "x.expt", "image.npz", "F.hkl", "x.refl")
    assert "x.refl: 2 indexed spots of 5, 0.35 pixels (median) from DIALS' predictions" in said
    limit = load_config("refine.yaml").refinement.resolution.min
    assert limit == pytest.approx(7.5, abs=1.5)


def test_many_panels(place, capsys):
    written(place / "x.expt", document(tiles()))
    assert main(["simulate", "truth.yaml", "-o", "stack.npz", "--noise"]) == 0
    said = run(capsys, "x.expt", "stack.npz", "F.hkl")
    assert "4 panel(s) of 40 x 32 pixels" in said
    assert main(["validate", "refine.yaml"]) == 0
    assert "image.npz is 64 x 80" in run(capsys, "x.expt", "image.npz", "F.hkl", "--force", code=2)


def test_one_experiment_of_many(place, capsys):
    content = document()
    content["beam"].append({**content["beam"][0], "wavelength": 2.0})
    content["experiment"].append({**content["experiment"][0], "identifier": "two", "beam": 1})
    written(place / "x.expt", content)
    assert "experiment 1 of 0 to 1" in run(capsys, "x.expt", "image.npz", "F.hkl", "--index", "1")
    found = load_config("refine.yaml")
    assert (found.beam.wavelength, found.detector.index, found.crystal.orientation.index) == (2.0, 1, 1)
    assert "not one of index 2" in run(capsys, "x.expt", "--index", "2", "--force", code=2)
    assert "--index -1" in run(capsys, "x.expt", "--index", "-1", "--force", code=2)


def same_image(place, capsys, *words):
    """Whether an imported configuration simulates what the truth does, unpolarised."""
    said = run(capsys, *words, "F.hkl", "image.npz", "-o", "other.yaml", "beam.fluence=3e27", "crystal.cells=[8, 8, 6]",
               "crystal.mosaic={model: domains}", "background.value=3", "beam.polarization=null")  # fmt: skip
    assert main(["simulate", "other.yaml", "-o", "other.npz"]) == 0
    assert main(["simulate", "truth.yaml", "-o", "truth.npz", "beam.polarization=null"]) == 0
    found, wanted = (np.load(place / name)["image"] for name in ("other.npz", "truth.npz"))
    assert np.ptp(wanted) > 10
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-9)
    return said


@pytest.mark.parametrize("text", [NEW, OLD], ids=["new", "old"])
def test_xparm(place, capsys, text):
    (place / "XPARM.XDS").write_text(text)
    assert "1.1 Å" in same_image(place, capsys, "XPARM.XDS", "crystal.scan={phi0: 0, osc: 0}")


@pytest.mark.parametrize("text", [NEW, OLD, INPUT], ids=["new", "old", "input"])
def test_a_rotation_turns_the_same_way_in_xds_as_in_dials(place, capsys, text):
    still = np.eye(3).flatten().tolist()
    turn = {"rotation_axis": AXIS.tolist(), "fixed_rotation": still, "setting_rotation": still}
    content = document(goniometer=[turn], scan=[{"image_range": [3, 12], "oscillation": [10.0, 0.5]}])
    content["experiment"][0] |= {"goniometer": 0, "scan": 0}
    written(place / "x.expt", content)
    (place / "x_0007.npz").write_bytes((place / "image.npz").read_bytes())
    (place / "geometry").write_text(text)
    same = ["F.hkl", "x_0007.npz", "beam={fluence: 3e27, polarization: null}", "detector.thickness={um: 0}",
            "crystal.scan.steps=4"]  # fmt: skip
    for name, held in (("ours.yaml", "geometry"), ("dials.yaml", "x.expt")):
        run(capsys, held, *same, "-o", name)
        assert load_config(name).crystal.scan.model_dump() == {"phi0": 12.0, "osc": 0.5, "steps": 4}
        assert main(["simulate", name, "-o", f"{name}.npz", "background.value=1"]) == 0
    run(capsys, "x.expt", *same[:-1], "-o", "alone.yaml")
    assert load_config("alone.yaml").crystal.scan.model_dump() == {"phi0": 12.0, "osc": 0.5, "steps": 10}
    found, wanted = (np.load(place / f"{name}.yaml.npz")["image"] for name in ("ours", "dials"))
    assert np.ptp(wanted) > 10
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * wanted.max())


def test_xds_input(place, capsys):
    (place / "XDS.INP").write_text(INPUT)
    said = same_image(place, capsys, "XDS.INP", "crystal.scan={phi0: 0, osc: 0}", "detector.thickness={um: 0}")
    assert "UNTRUSTED_RECTANGLE is not taken over" in said
    found = load_config("other.yaml")
    assert (found.detector.saturation, found.crystal.space_group) == (1048500, "P 4")


def test_xds_input_fills_up_what_xparm_does_not_say(place, capsys):
    (place / "XPARM.XDS").write_text(NEW)
    (place / "XDS.INP").write_text(INPUT.replace("OSCILLATION_RANGE= 0.5", "OSCILLATION_RANGE= 9"))
    (place / "x_0007.npz").write_bytes((place / "image.npz").read_bytes())
    run(capsys, "XPARM.XDS", "XDS.INP", "x_0007.npz", "F.hkl")
    found = load_config("refine.yaml")
    assert (found.crystal.scan.phi0, found.crystal.scan.osc) == (12.0, 0.5)
    assert found.detector.thickness.um == 320
    assert found.beam.polarization == pytest.approx(0.98)


def test_the_image_that_xds_input_names(place, capsys):
    (place / "XDS.INP").write_text(INPUT.replace("../images/x_????.cbf", "frames/x_????.cbf"))
    assert "missing images.0.file: frames/x_0005.cbf, named by XDS.INP, is not there" in run(capsys, "XDS.INP")
    (place / "frames").mkdir()
    (place / "frames" / "x_0005.cbf").write_bytes((place / "image.npz").read_bytes())
    run(capsys, "XDS.INP", "F.hkl", "--force")
    found = load_config("refine.yaml")
    assert found.images[0].file == place / "frames" / "x_0005.cbf"
    assert found.crystal.scan.phi0 == 11.0  # frame 3 begins at 10


def test_a_matrix_and_the_header_of_an_image(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "F.hkl").write_text(LIST)
    factors = {"structure_factors": {"file": "F.hkl", "default": 0.0}, "beam": {"fluence": 1e27}}
    path = configuration(tmp_path, TRUTH, images=[], crystal={"shape": "gauss"}, **factors)
    assert main(["simulate", str(path), "-o", "x_1.img"]) == 0
    assert main(["run", str(path), "-o", "out", "images=[{file: x_1.img}]", "refinement.free=[background]"]) in (0, 1)
    matrix = (tmp_path / "out" / "A.mat").read_text()
    (tmp_path / "A.mat").write_text(matrix + "SYMM P1\n")
    said = run(capsys, "A.mat", "x_1.img", "F.hkl", "beam.fluence=1e27", "crystal.cells=[6, 6, 6]",
               "crystal.mosaic={model: domains}", "background.value=3")  # fmt: skip
    assert "beam centre 32.50 (fast), 31.00 (slow) pixels" in said
    assert main(["simulate", "refine.yaml", "-o", "other.npz"]) == 0
    assert main(["simulate", str(path), "-o", "truth.npz"]) == 0
    found, wanted = (np.load(tmp_path / name)["image"] for name in ("other.npz", "truth.npz"))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3 * wanted.max())
    assert main(["validate", "refine.yaml"]) == 0


def test_a_header_alone(place, capsys):
    assert main(["simulate", "truth.yaml", "-o", "x_3.cbf"]) == 0
    said = run(capsys, "x_3.cbf")
    assert f"{SIZE[1]} x {SIZE[0]} pixels (fast x slow)" in said
    assert "missing crystal.cell" in said
    values = yaml.safe_load((place / "refine.yaml").read_text())
    assert values["detector"]["pixel_size"] == PIXEL
    assert values["beam"]["wavelength"] == 1.1


def test_a_frame_of_a_master(place, capsys):
    with h5py.File(place / "x_master.h5", "w") as file:
        file["entry/data/data"] = np.stack([np.ones(SIZE), np.full(SIZE, 5.0)])
        file["entry/sample/goniometer/omega"], file["entry/sample/goniometer/omega_range_average"] = [10.0, 10.5], 0.5
        file["entry/instrument/detector/detector_distance"] = 0.2
        file["entry/instrument/beam/incident_wavelength"] = 1.2
    assert "x_master.h5: has 2 frames; give" in run(capsys, "x_master.h5", code=2)
    run(capsys, "x_master.h5", "images.0.frame=2")
    values = yaml.safe_load((place / "refine.yaml").read_text())
    assert values["images"] == [{"file": "x_master.h5", "frame": 2}]
    assert values["crystal"]["scan"] == {"phi0": 10.5, "osc": 0.5, "steps": 10}
    assert (values["beam"]["wavelength"], values["detector"]["size"]) == (1.2, list(SIZE))
    assert (values["detector"]["distance"], values["background"]["value"]) == (200.0, 5.0)


def test_counts_below_zero_ask_for_a_gain(place, capsys):
    counts = np.random.default_rng(5).normal(0.0, 3.0, SIZE)
    np.savez(place / "noise.npz", image=counts)
    said = run(capsys, "x.expt", "noise.npz", "F.hkl")
    assert "missing detector.gain" in said
    run(capsys, "x.expt", "noise.npz", "F.hkl", "detector.gain=25", "--force")
    found = load_config("refine.yaml")
    assert (found.detector.gain, found.detector.readout_noise) == (25, pytest.approx(3.0, rel=0.1))
    assert main(["validate", "refine.yaml"]) == 0


def test_a_lost_sensor(place, capsys):
    deep = {"px_mm_strategy": {"type": "ParallaxCorrectedPxMmStrategy"}}
    written(place / "x.expt", document([{**one, **deep} for one in tiles()]))
    assert "missing detector.thickness" in run(capsys, "x.expt")
    named = [{**one, **deep, "name": f"ARRAY_D0Q0S{n}A0"} for n, one in enumerate(tiles())]
    written(place / "x.expt", document(named))
    assert "missing detector.thickness" not in run(capsys, "x.expt", "--force")
    assert yaml.safe_load((place / "refine.yaml").read_text())["detector"]["thickness"]["um"] == 500


def test_a_pulse_is_not_of_one_colour(place, capsys):
    named = [{**one, "name": f"ARRAY_D0Q0S{n}A0"} for n, one in enumerate(tiles())]
    written(place / "x.expt", document(named))
    run(capsys, "x.expt", "F.hkl")
    values = yaml.safe_load((place / "refine.yaml").read_text())
    assert values["beam"]["gaussian"] == {"bandwidth_percent": 0.1}
    assert "bandwidth" in values["refinement"]["free"]
    run(capsys, "x.expt", "F.hkl", "crystal.mosaic={model: domains, spread_deg: 0.1, domains: 3}", "--force")
    values = yaml.safe_load((place / "refine.yaml").read_text())
    assert "gaussian" not in values.get("beam", {})
    assert "bandwidth" not in values["refinement"]["free"]


def test_files_in_other_folders_are_named_whole(place, capsys):
    (place / "here").mkdir()
    run(capsys, "x.expt", "image.npz", "F.hkl", "-o", "here/my.yaml")
    assert load_config("here/my.yaml").images[0].file == place / "image.npz"
    assert yaml.safe_load((place / "here" / "my.yaml").read_text())["images"][0]["file"] == str(place / "image.npz")


def test_settings_of_the_command_line_come_first(place, capsys):
    run(capsys, "x.expt", "image.npz", "F.hkl", "seed=7", "title=mine", "output.directory=there",
        "detector.distance=61", "refinement.loss=poisson")  # fmt: skip
    found = load_config("refine.yaml")
    assert (found.seed, found.title, found.detector.distance, found.refinement.loss) == (7, "mine", 61, "poisson")
    assert found.output.directory == place / "there"


def test_a_part_of_a_mapping_leaves_the_rest(place, capsys):
    whole = ("structure_factors={default: 50}", "images=[{file: image.npz, frame: 1}]")
    run(capsys, "x.expt", *whole, "beam.gaussian.bandwidth_percent=1", "crystal.orientation.misset_deg=[1, 2, 3]")
    found = load_config("refine.yaml")
    assert (found.structure_factors.default, found.images[0].frame) == (50, 1)
    assert found.beam.gaussian.bandwidth_percent == 1
    assert found.crystal.orientation.misset_deg == (1, 2, 3)
    assert found.crystal.orientation.expt == place / "x.expt"
    assert "beam is given as 3" in run(capsys, "x.expt", "beam=3", "--force", code=2)


@pytest.mark.parametrize("assignment", [
    "images.0.frame=two", "images.0.file=5", "detector.gain=much", "detector.size=[1]", "structure_factors.column=3",
    "crystal.mosaic=wide", "crystal.orientation=5", "crystal.cell=[1, a]", "beam.wavelength=long", "title=5",
    "detector.gain=0", "images={}", "images=[]x", "=5", "crystal.mosaic.spread_deg.x=5",
])  # fmt: skip
def test_wrong_settings_are_named(place, capsys, assignment):
    key = assignment.partition("=")[0].partition(".")[0]
    assert key in run(capsys, "x.expt", "image.npz", "F.hkl", assignment, code=2)
    assert not (place / "refine.yaml").exists()


def test_an_image_among_the_settings_is_that_of_the_configurations_folder(place, capsys):
    (place / "here").mkdir()
    run(capsys, "x.expt", "F.hkl", "images.0.file=../image.npz", "-o", "here/my.yaml")
    assert load_config("here/my.yaml").images[0].file.resolve() == (place / "image.npz").resolve()


def test_nothing_is_written_over(place, capsys):
    (place / "refine.yaml").write_text("mine")
    assert "refine.yaml: exists already" in run(capsys, "x.expt", code=2)
    assert (place / "refine.yaml").read_text() == "mine"
    run(capsys, "x.expt", "--force")
    assert (place / "refine.yaml").read_text() != "mine"


def test_wrong_files_are_named(place, capsys):
    table_written(place / "other.refl", table(identifiers={0: "other"}))
    (place / "short.refl").write_bytes((place / "other.refl").read_bytes()[:-5])
    np.savez(place / "masked.npz", image=np.full(SIZE, -1))
    np.savez(place / "small.npz", image=np.ones((5, 5)))
    (place / "cut.expt").write_text(json.dumps(document())[:-100])
    written(place / "odd.expt", document([panel([1, 2, 3], gain="much")]))
    (place / "notes.txt").write_text("hello")
    (place / "XPARM.XDS").write_text(NEW)
    for words, said in [
        (["x.expt", "other.refl"], "other.refl: is of other experiments (identifiers: other), not of one"),
        (["x.expt", "short.refl"], "short.refl"),
        (["x.expt", "masked.npz"], "masked.npz: has no pixel that is not masked or untrusted"),
        (["x.expt", "small.npz"], "small.npz is 5 x 5"),
        (["cut.expt"], "cut.expt"),
        (["odd.expt"], "odd.expt: key 'detector.0.panels.0.gain' is \"much\""),
        (["notes.txt"], "notes.txt: is of no known kind"),
        (["absent.expt"], "absent.expt: cannot be opened"),
        (["x.expt", "odd.expt"], "odd.expt: is the second file of experiments"),
        (["x.expt", "XPARM.XDS"], "XPARM.XDS: says otherwise what x.expt says"),
        (["x.expt", "image.npz", "F.hkl", "detector.gian=2"], "detector.gian"),
        (["x.expt", "gain=2"], "key 'gain' is not known"),
        (["x.expt", "images.0.fram=2"], "fram"),
    ]:
        assert said in run(capsys, *words, code=2)
        assert not (place / "refine.yaml").exists()


def test_a_table_without_its_column_is_named(place, capsys):
    table_written(place / "x.refl", table(data=columns(flags=None)))
    assert "x.refl: has no column 'flags'" in run(capsys, "x.expt", "x.refl", code=2)
