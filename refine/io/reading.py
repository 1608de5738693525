"""What every reader shares: the bytes of a file, and a guard around other libraries' parsers."""

import bz2
import gzip
import logging
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refine.errors import InputError

MOST_BYTES = 1 << 31  # of a file's content, unpacked; the largest images have a third of it
_OPENERS: dict[bytes, tuple[str, Callable[[Path, str], Any]]] = {
    b"\x1f\x8b": ("gzip data", gzip.open),
    b"BZh": ("bzip2 data", bz2.open),
    b"": ("a file", open),
}


@contextmanager
def guarded(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into an InputError, and silence its warnings, fabio's log too.

    The catch is wide on purpose: parsers of binary formats raise almost anything on corrupt input.
    """
    logger = logging.getLogger("fabio")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            detail = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(
                f"{path}: cannot be read as {kind} ({detail}); the file is incomplete, damaged or of another kind: "
                "copy or write it again"
            ) from error
        finally:
            logger.setLevel(level)


def read_head(path: Path, size: int = 16) -> bytes:
    """The first `size` bytes of `path`; raises InputError where it cannot be opened, and for devices and pipes, which
    may never end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(f"{path}: is a folder, device or pipe; accepted: a file, read more than once")
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error}); check the path") from error


def read_content(path: Path) -> bytes:
    """The bytes of `path`, gzip and bzip2 (recognised by content) unpacked; raises InputError, also for more than
    `MOST_BYTES` of them."""
    content = read_start(path, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: holds more than {MOST_BYTES} bytes; accepted: up to that, so is it the right file?")
    return content


def read_start(path: Path, size: int) -> bytes:
    """The first `size` bytes of what `read_content` gives; raises InputError."""
    head = read_head(path)
    kind, opened = next(opener for magic, opener in _OPENERS.items() if head.startswith(magic))
    with guarded(path, kind), opened(path, "rb") as stream:
        content: bytes = stream.read(size)
    return content


def require_bounded(size: int) -> None:
    """Raise ValueError where content of so many bytes is more than any image or list has: it is not worth the memory
    that reading it would take."""
    if size > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes of content")
