"""What the README shows is what happens."""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import gemmi
import numpy as np
import pytest
import yaml
from expt import SIZE, document, written
from refl import table
from refl import written as table_written
from xds import INPUT, NEW

from refine.app.benchmark.config import OptimizerBenchmark
from refine.app.config import Config
from refine.app.load import load_config
from refine.app.main import command_line, main
from refine.app.reference import commands, keys_table, renewed
from refine.io.images import write_image

MATRIX = "0.02 0 0\n0 0.025 0\n0 0 0.02\n"
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.split("  #")[0] for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A place that looks like the repository, where commands may write, with the files that a user may hold."""
    for name in ("configs", "data"):
        os.symlink(ROOT / name, tmp_path / name)
    written(tmp_path / "indexed.expt", document())
    table_written(tmp_path / "indexed.refl", table())
    for name, text in {"XPARM.XDS": NEW, "XDS.INP": INPUT, "A.mat": MATRIX}.items():
        (tmp_path / name).write_text(text)
    header = {"WAVELENGTH": 1.0, "DISTANCE": 60.0, "PIXEL_SIZE": 0.4, "XDS_ORGX": 40.5, "XDS_ORGY": 32.5}
    write_image(tmp_path / "still_0001.img", np.ones(SIZE), header)
    amplitudes(tmp_path / "F.mtz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def amplitudes(path):
    """An MTZ of a few amplitudes."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 4")
    mtz.set_cell_for_all(gemmi.UnitCell(50, 50, 70, 90, 90, 90))
    mtz.add_dataset("d")
    mtz.add_column("F", "F")
    mtz.set_data(np.array([[h, k, 1, 10 * h + k] for h in range(4) for k in range(4)], dtype=np.float32))
    mtz.write_to_file(str(path))


def test_commands_work_as_written(clone):
    for line in COMMANDS:
        if line.startswith("refine "):
            with contextlib.redirect_stdout(io.StringIO()) as said:
                assert main(shlex.split(line)[1:]) == 0, line
            assert bool(said.getvalue()) != ("--quiet" in line), line


def test_make_targets_exist():
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    makefile = (ROOT / "Makefile").read_text()
    assert targets == ["quickstart", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_python_example_runs(clone):
    (example,) = [text for kind, text in BLOCKS if kind == "python"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        names: dict = {}
        exec(compile(example, "README.md", "exec"), names)
    assert said.getvalue().startswith("converged")
    assert tuple(names["image"].shape) == (512, 512)


def test_the_configuration_shown_is_the_quickstart():
    (shown,) = [text for kind, text in BLOCKS if kind == "yaml"]
    assert shown.strip() == (ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8").strip()


def test_the_configuration_from_dials_is_whole(tmp_path):
    (shown,) = [text for kind, text in BLOCKS if kind == "text" and text.startswith("images: [")]
    written(tmp_path / "indexed.expt", document())
    (tmp_path / "config.yaml").write_text(shown, encoding="utf-8")
    assert load_config(tmp_path / "config.yaml").detector.size == SIZE


def test_the_configuration_of_stills_is_whole(tmp_path):
    (shown,) = [text for kind, text in BLOCKS if kind == "text" and text.startswith("images:\n")]
    for name in ("still_0003.expt", "still_0005.expt"):
        written(tmp_path / name, document())
    (tmp_path / "config.yaml").write_text(shown, encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    assert config.shoebox is not None
    assert len(config.images) == 2


def test_the_table_shown_is_what_the_quickstart_gives(clone):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["run", "configs/quickstart.yaml", "-o", "out"]) == 0
    shown = next(text for kind, text in BLOCKS if kind == "text" and text.startswith("parameter   start"))
    for line in shown.splitlines():
        assert line == "..." or line in said.getvalue()


def test_every_refinable_parameter_is_listed():
    from refine.parameters.catalogue import CATALOGUE

    section = README.split("## What can be refined")[1].split("##")[0]
    assert all(f"`{name.split('.')[0]}`" in section for name in CATALOGUE)


def test_every_result_file_is_listed(clone):
    with contextlib.redirect_stdout(io.StringIO()):
        main(["run", "configs/quickstart.yaml", "-o", "out"])
    section = README.split("## What comes out")[1].split("##")[0]
    assert all(f"`{path.name}`" in section for path in (clone / "out").iterdir())


def test_every_shipped_configuration_is_valid():
    for path in (ROOT / "configs").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        if "kind" in content:  # a benchmark
            continue
        to_be_made = [image for image in content.get("images", []) if not (path.parent / image["file"]).exists()]
        with contextlib.redirect_stdout(io.StringIO()):
            assert main(["validate", str(path), *(["images=[]"] if to_be_made else [])]) == 0


def test_the_reference_is_what_the_program_accepts():
    assert renewed(README) == README, "stale: python -m refine.app.reference README.md"


def test_the_reference_holds_every_key_and_option():
    rows = "\n".join([*keys_table(Config), *keys_table(OptimizerBenchmark)])
    for key in ("images.N.file", "beam.wavelength", "crystal.mosaic.covariance_deg2", "refinement.stages.N.stage",
                "refinement.restraints.cell.target", "refinement.restraints.NAME.sigma", "cases.N.name"):  # fmt: skip
        assert f"| `{key}` |" in rows, key
    assert rows.count("\n") > 100
    assert "| `detector.distance` | a number above 0, in mm | required | sample to the direct-beam spot |" in README
    assert "| `refine run` | `--resume` |" in README
    assert all(f"`refine {name}" in README for name in commands(command_line()))


def test_pictures_are_there():
    for name in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README):
        assert (ROOT / name).stat().st_size > 1000
