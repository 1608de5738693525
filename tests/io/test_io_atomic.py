"""Atomic writing: either the earlier file or the complete new one."""

import os

import pytest

from refine.errors import InputError
from refine.io.atomic import write_atomically, write_bytes, write_text


def test_text_and_bytes_arrive(tmp_path):
    write_text(tmp_path / "a.txt", "5 Å\n")
    write_bytes(str(tmp_path / "b.bin"), b"\0\1")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "5 Å\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\0\1"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.txt", "b.bin"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failing_writer_leaves_the_earlier_file_alone(tmp_path, failure):
    path = tmp_path / "result.yaml"
    write_text(path, "before")

    def half(stream):
        stream.write(b"af")
        raise failure

    with pytest.raises(failure):
        write_atomically(path, half)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_becomes_an_input_error_that_names_the_file(tmp_path):
    path = tmp_path / "result.yaml"
    write_text(path, "before")

    def full(stream):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"result\.yaml.*No space left on device"):
        write_atomically(path, full)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["missing/result.yaml", "."])
def test_impossible_targets(tmp_path, name):
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / name, "text")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_followed_and_a_device_is_not_replaced(tmp_path):
    write_text(tmp_path / "real.txt", "old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"
    write_text(os.devnull, "gone")
    assert not os.path.isfile(os.devnull)
