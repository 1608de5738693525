"""The gallery: every configuration tells how it is run, and its commands do what it says."""

import contextlib
import csv
import gzip
import io
import os
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from refine.app.load import load_config
from refine.app.main import main

ROOT = Path(__file__).parents[1]
GALLERY = sorted((ROOT / "configs").glob("*.yaml"))
SHORTER = {  # what the tests leave out of a long one
    "benchmark_optimizers": ["scales=[0.5]", "starts=1", "processes=1", "optimizers=[{name: lm}, {name: lbfgs}]"],
    "benchmark_kernel": ["rounds=1", "scaling=null", "dtypes=[float64]", "modes=[eager]",
                         "cases=[{name: S, config: benchmark/kernel.yaml, settings: ['detector.size=[64, 64]']}]"],
}  # fmt: skip


def commands(path: Path) -> list[str]:
    """The commands in a configuration's comments, continued lines joined."""
    text = path.read_text(encoding="utf-8").replace("\\\n#", "")
    return [re.sub(r" +", " ", line) for line in re.findall(r"(?m)^# +(refine .*)$", text)]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    os.symlink(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(line: str, *more: str) -> str:
    """What a command prints; it has to end well."""
    words = shlex.split(line.replace("$PWD", os.getcwd()))[1:]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([*words, *(more if words[0] == "benchmark" else ())])
    assert code == 0, line
    return out.getvalue()


TOLD = ("weak_restrained", "several_stills", "unknown_amplitudes")  # run, and their answers looked at, further below


@pytest.mark.parametrize("path", [path for path in GALLERY if path.stem not in TOLD], ids=lambda path: path.stem)
def test_its_commands_work(path, clone):
    lines = commands(path)
    if path.stem == "quickstart":  # the README's first command
        lines = ["refine run configs/quickstart.yaml -o runs/quickstart"]
    lines = [line for line in lines if "--peer" not in line]  # needs another program
    assert lines, "no command in its comments"
    for line in lines:
        assert said(line, *SHORTER.get(path.stem, []))


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_it_tells_a_story_and_its_units(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert len(text[: text.index("title:")].splitlines()) >= 2
    if "kind" not in yaml.safe_load(text):
        assert re.search(r"# .*(Å|mm|photons)", text[text.index("title:") :])


def pulls(found, truth):
    """Differences of refined values from the truth, in esds."""
    return (np.array(found["value"]) - truth) / np.array(found["esd"])


def test_the_detector_of_several_stills_is_found(clone):
    for line in commands(ROOT / "configs" / "several_stills.yaml"):
        said(line)
    truth = load_config("configs/several_stills.yaml")
    found = yaml.safe_load((clone / "runs" / "several_stills" / "result.yaml").read_text())
    assert found["left_out"] == []
    first = found["images"][0]
    assert first["beam_center"]["start"] == [131, 126]
    away = [pulls(found["cell"], truth.crystal.cell), pulls(first["beam_center"], truth.detector.beam_center_px)]
    away += [
        pulls(i["misset_deg"], t.orientation.misset_deg) for i, t in zip(found["images"], truth.images, strict=True)
    ]
    away += [[pulls(first["distance"], truth.detector.distance)]]
    assert np.abs(np.concatenate(away)).max() < 4
    assert first["distance"]["esd"] < 0.06  # it started ten times as far off
    assert max(first["beam_center"]["esd"]) < 0.01


def test_amplitudes_that_were_unknown_are_found(clone):
    for line in commands(ROOT / "configs" / "unknown_amplitudes.yaml"):
        said(line)
    truth, folder = load_config("configs/unknown_amplitudes.yaml"), clone / "runs" / "unknown_amplitudes"
    found = yaml.safe_load((folder / "result.yaml").read_text())
    image = found["images"][0]
    away = [pulls(found["cell"], truth.crystal.cell), pulls(image["misset_deg"], truth.crystal.orientation.misset_deg)]
    assert np.abs(np.concatenate([*away, pulls(image["cells"], truth.crystal.cells)])).max() < 4
    with gzip.open(ROOT / "data" / "quickstart" / "F.hkl.gz", "rt") as stream:
        known = {tuple(map(int, line.split()[:3])): float(line.split()[3]) for line in stream}
    with (folder / "reflections.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["amplitude_esd"]]
    ours, esds = (np.array([float(row[name]) for row in rows]) for name in ("amplitude", "amplitude_esd"))
    theirs = np.array([known[tuple(int(row[name]) for name in "hkl")] for row in rows])
    strong = ours > 20 * esds
    assert strong.sum() > 50
    assert np.ptp(np.log(theirs[strong])) > 1
    assert np.corrcoef(ours[strong], theirs[strong])[0, 1] > 0.98
    assert np.median(np.abs(ours / theirs - 1)[strong]) < 0.05
    assert image["reflections"]["held_out"] > 30


def test_the_weak_image_is_as_told(clone):
    lines = commands(ROOT / "configs" / "weak_restrained.yaml")
    assert "0 spots" in said(lines[0]) + said(lines[1])
    said(lines[2])
    truth = np.array(load_config("configs/weak_restrained.yaml").crystal.cell)
    found = [
        yaml.safe_load((clone / "runs" / name / "result.yaml").read_text())["cell"] for name in ("weak", "weak_free")
    ]
    esds = [np.array(cell["esd"])[[0, 2]] for cell in found]
    assert (esds[0] < 0.85 * esds[1]).all()
    for cell, esd in zip(found, esds, strict=True):
        assert (np.abs(np.array(cell["value"]) - truth)[[0, 2]] < 4 * esd).all()
    assert np.load(clone / "weak.npz")["image"].max() < 15
