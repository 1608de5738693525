"""`refine run` on stills by shoeboxes: simulated images, the answer against the truth."""

import csv
import shutil
import signal
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from cli import result
from killing import killed_and_resumed

from refine.app import build
from refine.app.build import build_model
from refine.app.config import Image
from refine.app.load import load_config
from refine.app.main import main
from refine.app.report.stills_source import read_stills
from refine.app.stills import inputs, run, strategy
from refine.io.experiments import read_experiment
from refine.model.prediction import predict
from refine.solvers.solution import Status

CELL = [70.0, 80.0, 90.0, 85.0, 95.0, 105.0]
MISSETS = {"a": [12.0, -25.0, 33.0], "b": [80.0, 10.0, -15.0]}
COLUMNS = [
    *("image", "h", "k", "l", "panel", "x_model_px", "y_model_px", "x_obs_px", "y_obs_px"),
    *("amplitude", "amplitude_esd", "background", "score", "holdout"),
]


def written(path: Path, names: str, off: bool, **changes: Any) -> Path:
    """A configuration of images a.npz, b.npz; `off`: by 0.3 % in the edges and 0.15 degrees."""
    cell = [(1.003 if off and k < 3 else 1) * value for k, value in enumerate(CELL)]
    missets = {name: [angle + off * 0.15 / 3**0.5 for angle in MISSETS[name]] for name in names}
    content = {
        "images": [{"file": f"{name}.npz", "orientation": {"misset_deg": missets[name]}} for name in names],
        "beam": {"wavelength": 1.0, "fluence": 2e27},
        "detector": {"distance": 100.0, "pixel_size": 0.172, "size": [256, 256], "beam_center_px": [128.5, 127.0]},
        "crystal": {
            "cell": cell,
            "orientation": {"misset_deg": missets[names[0]]},
            "cells": [25, 25, 25],
            "shape": "gauss",
            "mosaic": {"model": "gaussian", "spread_deg": 0.15},
        },
        "structure_factors": {"unknown": True},
        "background": {"model": "constant", "value": 5.0},
        "refinement": {"free": ["cell", "orientation", "mosaic", "cells"], "holdout": 0.3},
        "output": {"report": False, "directory": "run"},
    }
    for section, change in changes.items():
        old = content.get(section)
        content[section] = {**old, **change} if isinstance(old, dict) else change
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


KNOWN: dict[str, Any] = {"structure_factors": {"unknown": False, "default": 100.0}, "refinement": {"holdout": 0.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated images of one crystal, and the truth of each."""
    place = tmp_path_factory.mktemp("stills")
    for name in MISSETS:
        truth = written(
            place / f"truth_{name}.yaml", name, False, images=[], **KNOWN | {"refinement": {"free": ["cell"]}}
        )
        content = yaml.safe_load(truth.read_text())
        del content["refinement"]
        truth.write_text(yaml.safe_dump(content))
        assert main(["simulate", str(truth), "-o", str(place / f"{name}.npz"), "--noise"]) == 0
    return place


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The results of image a."""
    path = written(folder / "alone.yaml", "a", True, output={"report": False, "directory": "alone"})
    assert main(["run", str(path)]) == 0
    return folder / "alone"


@pytest.mark.parametrize(("told", "threads"), [([], 1), (["threads=2"], 2)])
def test_one_thread_unless_told(alone: Path, tmp_path: Path, monkeypatch: Any, told: list[str], threads: int) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(run, "run_stills", lambda *_: Status.CONVERGED)
    assert main(["run", str(alone.with_suffix(".yaml")), "-o", str(tmp_path / "run"), *told]) == 0
    assert asked == [threads]


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "reflections.csv").open() as stream:
        return list(csv.DictReader(stream))


def pulls(found: Any, truth: list[float]) -> np.ndarray:
    return (np.array(found["value"]) - truth) / np.array(found["esd"])


def test_the_truth_is_found_within_its_esds(alone: Path) -> None:
    found = result(alone)
    assert found["status"] == "converged"
    image = found["images"][0]
    away = np.concatenate([
        pulls(found["cell"], CELL), pulls(image["misset_deg"], MISSETS["a"]), pulls(image["cells"], [25.0] * 3),
        pulls(image["mosaic"], [0.15**2] * 3 + [0.0] * 3),
    ])  # fmt: skip
    assert np.abs(away).max() < 4
    assert 0.1 < (away**2).mean() < 3
    assert all(0 < esd < 0.3 for esd in found["cell"]["esd"])
    assert np.abs(np.array(found["cell"]["start"])[:3] / CELL[:3] - 1.003).max() < 1e-9
    assert found["loss"]["final"] < found["loss"]["initial"] - 1000
    assert found["left_out"] == []


def test_a_detector_is_not_turned_about_the_beam(folder: Path, tmp_path: Path) -> None:
    free = ["cell", "orientation", "mosaic", "cells", "beam_center", "detector_rotations"]
    path = written(folder / "turned.yaml", "a", True, refinement={"free": free})
    assert main(["run", "-q", str(path), "-o", str(tmp_path / "turned")]) == 0
    assert "detector_rotations.x stays as it is" in (tmp_path / "turned" / "refine.log").read_text()
    found = result(tmp_path / "turned")["images"][0]
    value, esd = (np.array(found["detector_rotations"][key]) for key in ("value", "esd"))
    assert value[0] == esd[0] == 0  # the beam is along x
    assert (esd[1:] > 0).all()
    assert (abs(value[1:]) < 4 * esd[1:]).all()
    off = np.array(found["misset_deg"]["value"]) - MISSETS["a"]
    assert (abs(off) < 4 * np.array(found["misset_deg"]["esd"])).all()


def test_reflections_that_were_held_out_are_where_they_are(alone: Path, folder: Path) -> None:
    found = rows(alone)
    assert list(found[0]) == COLUMNS
    truth = build_model(load_config(folder / "truth_a.yaml"))
    hkl = torch.tensor([[float(row[name]) for name in "hkl"] for row in found], dtype=torch.float64)
    there = predict(truth.crystal, truth.experiment, hkl)
    ours = np.array([[float(row["x_model_px"]), float(row["y_model_px"])] for row in found])
    away = np.hypot(*(ours.T - torch.stack([there.fast, there.slow]).numpy()))
    held = np.array([row["holdout"] == "1" for row in found])
    assert 0.15 < held.mean() < 0.45
    assert np.nanmedian(away[held]) < 0.1
    counted = result(alone)["images"][0]
    assert counted["reflections"] == {"used": int((~held).sum()), "held_out": int(held.sum())}
    assert counted["median_offset_px"]["held_out"] < 0.5
    amplitude = np.array([[float(row[name]) for name in ("amplitude", "amplitude_esd")] for row in found])
    strong = amplitude[:, 0] > 10 * amplitude[:, 1]
    assert strong.sum() > 30
    assert np.median(amplitude[strong, 0]) == pytest.approx(100, rel=0.05)
    assert {row["image"] for row in found} == {"a.npz"}


def test_the_shoeboxes_are_pieces_of_the_image(alone: Path, folder: Path) -> None:
    image, found = np.load(folder / "a.npz")["image"], rows(alone)
    with h5py.File(alone / "shoeboxes.h5") as file:
        boxes = {name: file[name][:] for name in file}
        assert file["observed"].attrs["units"] == "photons"
    assert boxes["observed"].shape == boxes["model"].shape == boxes["used"].shape == (len(found), 15, 15)
    np.testing.assert_array_equal(boxes["miller_index"], [[int(row[name]) for name in "hkl"] for row in found])
    np.testing.assert_array_equal(boxes["holdout"], [row["holdout"] == "1" for row in found])
    np.testing.assert_allclose(boxes["score"], [float(row["score"]) for row in found], atol=1e-6)
    seen = np.zeros(image.shape, int)
    for observed, used, (fast, slow) in zip(boxes["observed"], boxes["used"], boxes["corner"], strict=True):
        down, right = np.nonzero(used)
        np.testing.assert_array_equal(observed[used], image[slow + down, fast + right])
        seen[slow + down, fast + right] += 1
    assert seen.max() == 1
    assert (boxes["model"] >= boxes["background"]).all()


def test_the_refined_experiment_is_the_answer(alone: Path) -> None:
    found = read_experiment(alone / "refined.expt")
    reciprocal = np.reshape(result(alone)["images"][0]["a_matrix"], (3, 3))
    ours = np.linalg.inv(found.crystal.real_space)
    np.testing.assert_allclose(np.sort(np.linalg.norm(ours, axis=0)), np.sort(np.linalg.norm(reciprocal, axis=0)))


def without_time(directory: Path) -> dict[str, Any]:
    found = result(directory)
    for changing in ("wall_seconds", "provenance"):
        del found[changing]
    del found["optimizer"]["jacobian_evaluations"]  # a resumed run remembers instead
    return {**found, "csv": (directory / "reflections.csv").read_text()}


def test_two_runs_are_the_same_and_so_is_a_resumed_one(alone: Path, folder: Path) -> None:
    again = [str(folder / "alone.yaml"), f"output.directory={folder / 'again'}"]
    assert main(["run", *again]) == 0
    assert without_time(folder / "again") == without_time(alone)
    (folder / "again" / "result.yaml").unlink()
    assert main(["run", *again, "--resume"]) == 0
    assert without_time(folder / "again") == without_time(alone)


@pytest.mark.parametrize("moments", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_to_the_same_answer(folder: Path, tmp_path: Path, moments: int) -> None:
    path = written(folder / "killed.yaml", "a", True)

    def arguments(out: Path) -> list[str]:
        return ["run", str(path), "-o", str(out), "output.report=true"]

    killed_and_resumed(arguments, without_time, tmp_path, moments)


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, after: int) -> None:
    """Ctrl-C, once, at the call after so many."""
    plain, calls = getattr(owner, name), []

    def watched(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == after + 1:
            signal.raise_signal(signal.SIGINT)
        return plain(*given)

    monkeypatch.setattr(owner, name, watched)


def test_stopped_before_its_answer_it_says_so_and_goes_on(alone: Path, folder: Path, monkeypatch: Any) -> None:
    again = [str(folder / "alone.yaml"), f"output.directory={folder / 'stopped'}", "output.report=true"]
    interrupted(monkeypatch, strategy, "place_near", after=1)
    assert main(["run", *again]) == 130
    monkeypatch.undo()
    found = result(folder / "stopped")
    assert found["status"] == "interrupted"
    assert found["loss"]["initial"] is found["loss"]["final"] is None
    assert found["cell"]["value"] == pytest.approx(found["cell"]["start"])
    assert found["cell"]["esd"] == [None] * 6
    assert (folder / "stopped" / "trace.csv").read_text().startswith("iteration,loss")
    assert (folder / "stopped" / "report.html").stat().st_size > 1000
    kept = len(list((folder / "stopped" / "checkpoint.d").glob("*.npz")))
    assert kept > 2
    assert main(["run", *again, "--resume"]) == 0
    assert without_time(folder / "stopped") == without_time(alone)
    assert len(list((folder / "stopped" / "checkpoint.d").glob("*.npz"))) > kept


def test_the_trace_grows_with_every_iteration(alone: Path, folder: Path, monkeypatch: Any) -> None:
    again = [
        str(folder / "alone.yaml"),
        f"output.directory={folder / 'grows'}",
        "refinement.optimizer.max_iterations=4",
    ]
    lengths, plain = [], run.write_trace

    def written_trace(directory: Path, *given: Any) -> None:
        plain(directory, *given)
        lengths.append(len((directory / "trace.csv").read_text().splitlines()) - 1)

    monkeypatch.setattr(run, "write_trace", written_trace)
    assert main(["run", *again]) in (0, 1)
    assert lengths == list(range(len(lengths)))
    assert len(lengths) == result(folder / "grows")["optimizer"]["iterations"] + 2


def test_frames_of_one_file_have_files_of_their_own(folder: Path) -> None:
    with h5py.File(folder / "two.h5", "w") as file:
        file["image"] = np.stack([np.load(folder / f"{name}.npz")["image"] for name in MISSETS])
    path = written(folder / "frames.yaml", "ab", True, output={"report": True, "directory": "frames"})
    content = yaml.safe_load(path.read_text())
    for number, image in enumerate(content["images"], 1):
        image |= {"file": "two.h5", "frame": number}
    content["refinement"] |= {"strategy": "single", "optimizer": {"max_iterations": 1}}
    path.write_text(yaml.safe_dump(content))
    assert main(["run", str(path)]) in (0, 1)
    found = result(folder / "frames")
    assert [(image["name"], image["frame"]) for image in found["images"]] == [("two_1", 1), ("two_2", 2)]
    for name in ("shoeboxes_two_1.h5", "shoeboxes_two_2.h5", "refined_two_1.expt", "A_two_2.mat"):
        assert (folder / "frames" / name).exists()
    assert {row["image"] for row in rows(folder / "frames")} == {"two_1", "two_2"}
    shown = read_stills(folder / "frames", found)
    assert [still.name for still in shown] == ["two_1", "two_2"]
    assert all(still.boxes is not None and len(still.offset) > 30 for still in shown)


def test_names_are_of_one_image_each() -> None:
    def names(*files: tuple[str, int | None]) -> list[tuple[str, str]]:
        return inputs._names([Image(file=Path(file), frame=frame) for file, frame in files])

    assert names(("x/a.cbf", None), ("x/b.cbf.gz", None)) == [("a", "a.cbf"), ("b", "b.cbf.gz")]
    assert names(("x/a.cbf", None), ("y/a.cbf", None)) == [("1_a", "1_a"), ("2_a", "2_a")]
    assert names(("a.h5", 1), ("a.h5", 20), ("b.h5", 3)) == [("a_1", "a_1"), ("a_20", "a_20"), ("b", "b.h5")]
    assert names(("a.cbf", None), ("a.img", None)) == [("1_a", "a.cbf"), ("2_a", "a.img")]


def test_structure_factors_of_several_images_are_read_once(folder: Path, monkeypatch: Any) -> None:
    calls, plain = [], build._structure_factors

    def counted(*given: Any) -> Any:
        calls.append(given)
        return plain(*given)

    monkeypatch.setattr(build, "_structure_factors", counted)
    path = written(folder / "once.yaml", "ab", True)
    content = yaml.safe_load(path.read_text())
    matrices = [{"a_matrix": [edge, 0, 0, 0, 0.0125, 0, 0, 0, 0.011]} for edge in (0.014, 0.0141)]
    for image, matrix in zip(content["images"], matrices, strict=True):
        image["orientation"] = content["crystal"]["orientation"] = matrix
    content["crystal"]["cell"] = None
    path.write_text(yaml.safe_dump(content))
    ready, failed = inputs.make_ready(load_config(path))
    assert (len(ready), len(failed), len(calls)) == (2, 0, 1)
    assert torch.equal(ready[0].setup.crystal.cell, ready[1].setup.crystal.cell)


@pytest.fixture(scope="module")
def both(folder: Path) -> Path:
    """The results of two images and one that is not there."""
    path = written(folder / "both.yaml", "ab", True, output={"report": False, "directory": "both"})
    content = yaml.safe_load(path.read_text())
    content["images"].append({"file": "missing.npz"})
    path.write_text(yaml.safe_dump(content))
    assert main(["run", str(path)]) == 0
    return folder / "both"


def test_images_refined_together_are_resumed_to_the_same_bits(both: Path, folder: Path) -> None:
    shutil.copytree(both, folder / "both_again")
    (folder / "both_again" / "result.yaml").unlink()
    assert main(["run", str(folder / "both.yaml"), f"output.directory={folder / 'both_again'}", "--resume"]) == 0
    assert without_time(folder / "both_again") == without_time(both)
    kept, before = (
        {path.name: path for path in (at / "checkpoint.d").glob("*.npz")} for at in (folder / "both_again", both)
    )
    assert kept.keys() == before.keys()
    stored = [np.load(path) for path in before.values()]
    sums = [arrays for arrays in stored if len(arrays.files) == 4]
    assert len(sums) > 1
    assert {arrays["arr_2"].shape for arrays in sums} == {(2, 18, 18)}


def test_two_orientations_have_one_cell_that_is_better_known(alone: Path, both: Path) -> None:
    one, two = result(alone), result(both)
    assert two["status"] == "converged"
    assert np.abs(pulls(two["cell"], CELL)).max() < 4
    assert np.prod(np.array(two["cell"]["esd"]) / one["cell"]["esd"]) < 0.5**6
    for image, name in zip(two["images"], MISSETS, strict=True):
        assert np.abs(pulls(image["misset_deg"], MISSETS[name])).max() < 4
    assert {row["image"] for row in rows(both)} == {"a.npz", "b.npz"}
    for name in MISSETS:
        assert (both / f"refined_{name}.expt").exists()
        assert (both / f"shoeboxes_{name}.h5").exists()


def test_an_image_that_is_missing_is_left_out(both: Path) -> None:
    left = result(both)["left_out"]
    assert [Path(entry["file"]).name for entry in left] == ["missing.npz"]
    assert "missing.npz" in left[0]["reason"]
    assert any("missing.npz" in warning for warning in result(both)["warnings"])


def refused(path: Path, capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    assert main(["run", str(path), *settings, f"output.directory={path.parent / 'refused'}"]) == 2
    assert not (path.parent / "refused").exists()
    return capsys.readouterr().err


def test_a_single_image_that_is_missing_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing.npz" in refused(folder / "alone.yaml", capsys, "images=[{file: missing.npz}]")


def test_images_none_of_which_is_there_are_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(folder / "alone.yaml", capsys, "images=[{file: gone.npz}, {file: lost.npz}]")
    assert "gone.npz" in said
    assert "lost.npz" in said


def test_an_image_without_a_pixel_or_a_spot_is_an_error(folder: Path, alone: Path, capsys: Any) -> None:
    np.save(folder / "none.npy", np.zeros((256, 256), np.uint8))
    np.savez(folder / "flat.npz", image=np.random.default_rng(0).poisson(5.0, (256, 256)))
    refused(folder / "alone.yaml", capsys, "detector.mask=none.npy")
    assert "flat.npz" in refused(folder / "alone.yaml", capsys, "images=[{file: flat.npz}]")


WRONG = {
    "structure_factors.unknown": ["structure_factors.default=3"],
    "refinement.pixels": ["refinement.pixels=all"],
    "refinement.holdout": [
        "structure_factors={unknown: false, default: 100}", "refinement={pixels: all, free: [cell], holdout: 0.2}"
    ],
    "refinement.pixels.shoebox.size": ["refinement.pixels={shoebox: {size: 14}}"],
    "refinement.restraints.amplitudes": ["refinement.restraints.amplitudes={relative_sigma: 0.3}"],
    "crystal.mosaic.model": ["crystal.mosaic={model: domains, spread_deg: 0}"],
    "crystal.scan.osc": ["crystal.scan={osc: 1, steps: 2}"],
    "background.model": ["background.water_um=4"],
    "refinement.free": ["refinement.free=[cell, polarization]"],
    "refinement.strategy": ["refinement.strategy=stages", "refinement.stages=[{stage: pixels}]"],
    "refinement.loss": ["refinement.loss=mse"],
    "images": ["images=[{file: a.npz}, {file: a.npz}]"],
    "images.0.file": ["images=[{file: nothing_*.npz}]"],
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_what_does_not_go_together_is_refused_by_name(key: str, folder: Path, alone: Path, capsys: Any) -> None:
    said = refused(folder / "alone.yaml", capsys, *WRONG[key])
    assert key in said
    assert "Traceback" not in said


def test_validate_says_what_there_is_to_go_by(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(folder / "said.yaml", "ab", True)
    assert main(["validate", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.count("reflections stand out near their predicted places") == 2
    assert "free: cell (6), orientation (3), mosaic (6), cells (3)" in said


def test_the_derivatives_of_a_still_are_checked_without_its_amplitudes(folder: Path, capsys: Any) -> None:
    free = {"refinement": {"free": ["cell", "amplitudes"]}}
    path = written(folder / "checked.yaml", "a", True, **KNOWN | free)
    content = yaml.safe_load(path.read_text())
    content["refinement"]["pixels"] = {"shoebox": {"size": 15}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    assert main(["gradcheck", str(path), "--order", "1"]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert main(["gradcheck", str(path), "refinement.free=[amplitudes]"]) == 2
