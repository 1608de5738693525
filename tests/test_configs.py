"""The gallery: every configuration tells how it is run, and its commands do what it says."""

import contextlib
import io
import os
import re
import shlex
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
    for name in ("configs", "data"):
        os.symlink(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(line: str, *more: str) -> str:
    """What a command prints; it has to end well."""
    words = shlex.split(line.replace("$PWD", os.getcwd()))[1:]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = main([*words, *(more if words[0] == "benchmark" else ())])
    assert code == 0, line
    return out.getvalue()


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
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
