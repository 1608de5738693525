"""What a terminal shows, what a pipe gets, what is kept quiet."""

import io
import math
import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from cli import observed
from rich.console import Console

from refine.app.main import main
from refine.app.progress import Progress, left_text, seconds_left
from refine.solvers.loop import Stop
from refine.solvers.solution import Record

AT_MOST = {n: Stop(max_iterations=n) for n in (10, 50, 200)}


def records(*remaining):
    z = torch.zeros(2, dtype=torch.float64)
    return [Record(k, z, 100.0 - k, 1.0, True, r, 2.0 * k) for k, r in enumerate(remaining)]


def test_time_left_follows_the_pace():
    assert math.isnan(seconds_left(records(10.0), AT_MOST[50]))
    assert seconds_left(records(10.0, 1.0), AT_MOST[50]) == pytest.approx(
        2 * 2.0
    )  # a tenth an iteration: 1 -> 0.1 -> 0.01
    assert seconds_left(records(10.0, 1.0), Stop(shift=0.1)) == pytest.approx(2.0)
    assert seconds_left(records(10.0, 1.0, 0.1, 0.005), AT_MOST[50]) == 0
    assert seconds_left(records(1.0, 5.0), AT_MOST[50]) == pytest.approx(49 * 2.0)  # no pace yet: at most
    assert seconds_left(records(None, None), AT_MOST[10]) == pytest.approx(9 * 2.0)
    assert seconds_left(records(10.0, 9.99), AT_MOST[10]) == pytest.approx(9 * 2.0)
    assert left_text(records(None, None), AT_MOST[200]) == "about 7 min left"
    assert left_text(records(None), AT_MOST[200]) == ""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("progress")
    observed(directory)
    return directory


def on_terminal(place, out, **environment):
    """What a run writes to a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "refine", "run", str(place / "config.yaml"), "-o", str(out)]
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40", **environment}
    process = subprocess.Popen(command, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    assert process.wait() == 0
    os.close(master)
    return said.decode()


def test_a_terminal_has_one_line_for_all_iterations(place, tmp_path):
    said = on_terminal(place, tmp_path / "out")
    assert re.search(r"iteration +1 .*shift/esd.*left", said)
    assert "\x1b[2K" in said  # the line is written over
    assert re.search(r"\x1b\[(0;)?32m.*converged", said)
    assert (tmp_path / "out" / "refine.log").read_text().count("\n") > 10
    assert "\x1b" not in (tmp_path / "out" / "refine.log").read_text()


def test_no_color_is_honoured(place, tmp_path):
    said = on_terminal(place, tmp_path / "out", NO_COLOR="1")
    assert "converged" in said
    assert not re.search(r"\x1b\[(\d+;)*3\dm", said)


def test_a_pipe_has_plain_lines(place, tmp_path, capsys):
    assert main(["run", str(place / "config.yaml"), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert len(re.findall(r"(?m)^iteration +\d+", said)) >= 2
    assert said.splitlines() == (tmp_path / "out" / "refine.log").read_text().splitlines()


@pytest.mark.parametrize("command", ["run", "validate", "gradcheck"])
def test_quiet_says_nothing(place, tmp_path, capsys, command):
    arguments = [command, str(place / "config.yaml"), "--quiet"]
    arguments += ["-o", str(tmp_path / "out")] if command == "run" else []
    arguments += ["--order", "1", "refinement.free=[scale]"] if command == "gradcheck" else []
    assert main(arguments) == 0
    found = capsys.readouterr()
    assert found.out == found.err == ""
    if command == "run":
        assert "converged" in (tmp_path / "out" / "refine.log").read_text()


def test_quiet_keeps_errors(tmp_path, capsys):
    assert main(["run", str(tmp_path / "none.yaml"), "-q"]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_messages_that_pass_are_kept_in_the_log(tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console) as progress:
        progress.open_log(tmp_path / "log")
        progress.passing("step 1")
        progress.say("done", "green")
    assert (tmp_path / "log").read_text() == "step 1\ndone\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_and_options(shell, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--completion", shell])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("validate", "benchmark", "--resume" if shell != "tcsh" else "resume"))


def test_completion_works_in_bash(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--completion", "bash"])
    script = tmp_path / "complete"
    script.write_text(capsys.readouterr().out)
    typed = 'COMP_WORDS=(refine va); COMP_CWORD=1; _shtab_refine 2>/dev/null; echo "${COMPREPLY[@]}"'
    found = subprocess.run(["bash", "-c", f"source {script}; {typed}"], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["validate"]
