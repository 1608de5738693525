"""Writing files so that a reader sees either the earlier file or the complete new one."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from refine.errors import InputError


def write_atomically(path: str | Path, writer: Callable[[BinaryIO], object]) -> None:
    """Let `writer` fill a temporary file beside `path`, then move it over `path`.

    If anything fails the temporary file is removed and an earlier `path` is left as it was.
    A device or pipe (/dev/stdout) is written directly. Raises InputError where the file
    system refuses (missing folder, no permission, disk full).
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                writer(stream)
        else:
            _replace(target, writer)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); give a file in an existing, writable folder "
            "with enough free space"
        ) from error


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write `content` to `path` atomically; raises InputError as `write_atomically`."""
    write_atomically(path, lambda stream: stream.write(content))


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 atomically; raises InputError as `write_atomically`."""
    write_bytes(path, text.encode("utf-8"))


def _replace(target: Path, writer: Callable[[BinaryIO], object]) -> None:
    temporary = target.with_name(f".{uuid4().hex}.tmp")
    try:
        with temporary.open("w+b") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(directory: Path) -> None:
    """Remove what writers that were killed have left of their temporary files in a folder."""
    for path in directory.glob(".*.tmp"):
        if re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.name):
            path.unlink(missing_ok=True)


def require_writable(directory: str | Path) -> None:
    """Raise InputError where a folder could not be made, or written to; nothing is made."""
    target = Path(directory)
    existing = next(path for path in (target, *target.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"{directory}: cannot be made a folder ({existing} is not a writable folder); give another with -o"
        )


def set_aside(path: Path, other: Path) -> None:
    """Rename a file over another name, where it exists. Raises InputError where that cannot be."""
    try:
        if path.exists():
            os.replace(path, other)
    except OSError as error:
        raise InputError(f"{path}: cannot be renamed to {other.name} ({error.strerror or error})") from error


def make_directory(path: str | Path) -> None:
    """Create a folder and those above it, where they are missing. Raises InputError where that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be made a folder ({error.strerror or error}); give another with -o"
        ) from error
