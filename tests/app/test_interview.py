"""`refine init` by questions and by options, and what `refine validate` estimates."""

import contextlib
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli import observed

from refine.app.interview import QUESTIONS, defaults, init, parsed
from refine.app.load import load_config
from refine.app.main import main
from refine.errors import InputError

ROOT = Path(__file__).parents[2]


def asked(answers, said):
    left = iter(answers)

    def ask(question, default):
        said.append((question, default))
        return next(left)

    return ask


def test_every_question_is_a_key_of_the_starter(tmp_path):
    assert set(QUESTIONS) == set(defaults(tmp_path / "c.yaml", {}))


def test_answers_make_the_configuration(tmp_path):
    np.savez(tmp_path / "shot.npz", image=np.zeros((30, 40)))
    said: list[tuple[str, str]] = []
    answers = [
        "lysozyme: 1",
        "shot.npz",
        "0.97",
        "150",
        "0.172",
        "",
        "",
        "78 78 37 90 90 90",
        "P 43 21 2",
        "1,2,3",
        "F.mtz",
    ]
    init(tmp_path / "c.yaml", {}, asked(answers, said), print)
    config = load_config(tmp_path / "c.yaml")
    assert config.title == "lysozyme: 1"
    assert config.images[0].file == tmp_path / "shot.npz"
    assert config.detector.size == (30, 40)
    assert config.detector.beam_center_px == (20.0, 15.0)
    assert config.crystal.cell == (78, 78, 37, 90, 90, 90)
    assert config.crystal.space_group == "P 43 21 2"
    assert config.crystal.orientation.misset_deg == (1, 2, 3)
    assert ("Size of the image: slow, fast [pixels]", "30, 40") in said


def test_what_cannot_be_used_is_asked_again(tmp_path, capsys):
    answers = ["t", "i.npz", "blue", "-1", "1.0", "100", "0.1", "5", "5 5", "2.5 2", "4 4 4",
               "1 2 3", "50 60 70 90 90 90", "P 4", "P 99", "P 21 21 21", "0 0 0", "F.hkl"]  # fmt: skip
    init(tmp_path / "c.yaml", {}, asked(answers, []), print)
    said = capsys.readouterr().out
    for wrong in ("blue", "wavelength", "accepted: 2 numbers", "accepted: 6 numbers", "a = b", "P 99"):
        assert wrong in said
    assert load_config(tmp_path / "c.yaml").crystal.space_group == "P 21 21 21"


def test_options(tmp_path, capsys):
    target = tmp_path / "c.yaml"
    options = ["--wavelength", "0.9", "--cell", "50", "60", "70", "90", "100", "90", "--space-group", "P 21",
               "--size", "20", "30", "--structure-factors", "a.mtz", "--pixel-size", "0.2"]  # fmt: skip
    assert main(["init", str(target), *options]) == 0
    assert "validate" in capsys.readouterr().out
    config = load_config(target)
    assert (config.beam.wavelength, config.detector.pixel_size, config.detector.size) == (0.9, 0.2, (20, 30))
    assert config.crystal.space_group == "P 21"
    assert config.detector.beam_center_px == (15.0, 10.0)


def test_wrong_options_write_nothing(tmp_path, capsys):
    for options in (["--wavelength", "x"], ["--wavelength", "-1"], ["--space-group", "P 4"], ["--cell", "1", "2"]):
        assert main(["init", str(tmp_path / "c.yaml"), *options]) == 2
        assert capsys.readouterr().err.startswith("refine: ")
        assert not (tmp_path / "c.yaml").exists()


def test_without_a_terminal_nothing_is_asked(tmp_path):
    command = [sys.executable, "-m", "refine", "init", str(tmp_path / "c.yaml")]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert (tmp_path / "c.yaml").exists()


def typed(folder: Path, keys: str) -> tuple[int, str]:
    """Exit code of `refine init my.yaml` on a terminal, and what stands on it."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "refine", "init", str(folder / "my.yaml")]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT)
    os.close(slave)
    os.write(master, keys.encode())
    said = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(master, 4096):
            said += part
    os.close(master)
    return process.wait(), said.decode()


def test_a_terminal_asks_and_writes(tmp_path):
    np.savez(tmp_path / "shot.npz", image=np.zeros((30, 40)))
    code, said = typed(tmp_path, "lysozyme\nshot.npz\nabout 1\n0.97\n" + 8 * "\n")
    assert code == 0
    assert "Wavelength [Å]: 'about 1'; accepted: a number" in said
    found = load_config(tmp_path / "my.yaml")
    assert (found.title, found.beam.wavelength, found.detector.size) == ("lysozyme", 0.97, (30, 40))


def test_a_terminal_that_ends_the_questions_leaves_nothing(tmp_path):
    code, said = typed(tmp_path, "lysozyme\n\x04")
    assert code == 130
    assert "Traceback" not in said
    assert not (tmp_path / "my.yaml").exists()


def test_numbers_as_people_type_them():
    assert parsed("cell", "[1, 2,3 4 5, 6]") == (1, 2, 3, 4, 5, 6)
    assert parsed("size", "3,4") == (3, 4)
    assert parsed("wavelength", " 1.5 ") == 1.5
    for wrong in ("", "nan", "1e999", "1 2", "one"):
        with pytest.raises(InputError):
            parsed("wavelength", wrong)


@pytest.mark.parametrize("pixels", [512, 1400])
def test_estimates_are_of_the_right_size(tmp_path, pixels, capsys):
    scale = f"detector={{distance: 60, pixel_size: 0.1, size: [{pixels}, {pixels}], beam_center_px: [200, 200]}}"
    config = observed(tmp_path)
    image = str(tmp_path / "large.npz")
    assert main(["simulate", str(config), "-o", image, "--noise", scale]) == 0
    capsys.readouterr()
    assert main(["validate", str(config), scale, f"images=[{{file: {image}}}]"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    foreseen = float(said.split(" GB")[0].split()[-1])
    code = (
        "import re, sys; from refine.app.main import main; code = main(sys.argv[1:]);"
        "print('peak', *re.findall(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())); sys.exit(code)"
    )
    # not getrusage's peak, in which a process has that of the one it was forked from
    command = [sys.executable, "-c", code, "run", str(config), "-o", str(tmp_path / "out"), scale]
    done = subprocess.run([*command, f"images=[{{file: {image}}}]"], capture_output=True, text=True, cwd=ROOT)
    peak = float(done.stdout.split("peak ")[1]) * 1024 / 1e9
    assert 0.6 * peak < foreseen < 1.6 * peak
    assert " s an iteration here" in said
