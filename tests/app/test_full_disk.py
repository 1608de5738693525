"""A disk that is full or read-only, at any moment of a run: a message, and the earlier results still there."""

import errno
import os
import subprocess
import sys

import pytest
from cli import observed, result

from refine.app.main import main
from refine.io import atomic

EARLIER = "status: earlier\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("disk")
    observed(directory)
    return directory


def full_after(monkeypatch, writes, number):
    """From so many writes on, the file system refuses; returns how often it was asked."""
    asked = []

    def sync(_):
        asked.append(1)
        if len(asked) > writes:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", sync)
    return asked


def run(place, out, *settings):
    return main(["run", str(place / "config.yaml"), "-o", str(out), *settings])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_whatever_cannot_be_written_the_earlier_result_is_there(place, tmp_path, monkeypatch, capsys, number):
    with monkeypatch.context() as patch:
        asked = full_after(patch, 10**6, number)
        assert run(place, tmp_path / "whole") == 0
        writes = len(asked)
    assert writes > 15
    moments = {0, 1, 2, 5, writes // 2, writes - 4, writes - 2} if number == errno.ENOSPC else {1, writes // 2}
    for possible in sorted(moments):
        out = tmp_path / f"full{possible}"
        out.mkdir()
        (out / "result.yaml").write_text(EARLIER)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            full_after(patch, possible, number)
            assert run(place, out) == 2
        said = capsys.readouterr().err
        assert os.strerror(number) in said
        assert "Traceback" not in said
        assert not list(out.rglob(".*.tmp"))
        assert (out / "result.previous.yaml").read_text() == EARLIER
        assert not (out / "result.yaml").exists()
        assert run(place, out, "--resume") == 0
        assert result(out)["cell"] == result(tmp_path / "whole")["cell"]


def test_a_report_that_does_not_fit_leaves_the_result(place, tmp_path, monkeypatch, capsys):
    asked = full_after(monkeypatch, 10**6, errno.ENOSPC)
    run(place, tmp_path / "whole", "output.report=true")
    full_after(monkeypatch, len(asked) - 1, errno.ENOSPC)
    assert run(place, tmp_path / "out", "output.report=true") == 0
    assert "No space left" in capsys.readouterr().out
    assert result(tmp_path / "out")["status"] == "converged"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a file system that is read-only for everyone")
def test_a_folder_where_nobody_may_write(place, capsys):
    assert run(place, "/proc/refine") == 2
    assert "/proc/refine" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("command", [["validate"], ["run", "-o", "{}"]])
def test_output_that_cannot_be_written(place, tmp_path, command):
    arguments = [word.format(tmp_path / "out") for word in command]
    arguments = [arguments[0], str(place / "config.yaml"), *arguments[1:]]
    with open("/dev/full", "w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "refine", *arguments], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert found.returncode == 2
    assert "No space left" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_log_that_cannot_grow(place, tmp_path, monkeypatch, capsys):
    from refine.app.progress import Progress

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Progress, "_write", fail)
    assert run(place, tmp_path / "out") == 2
    assert "No space left" in capsys.readouterr().err
