"""What every reader shares: the bytes of a file, and a guard around other libraries' parsers."""

import bz2
import gzip
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refine.errors import InputError

_UNPACKERS = {b"\x1f\x8b": ("gzip", gzip.decompress), b"BZh": ("bzip2", bz2.decompress)}


@contextmanager
def guarded(path: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser raises on a broken file into an InputError, and silence its warnings.

    The catch is wide on purpose: parsers of binary formats raise almost anything on corrupt input.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


def read_head(path: Path, size: int = 16) -> bytes:
    """The first `size` bytes of `path`; raises InputError where it cannot be opened."""
    try:
        with path.open("rb") as stream:
            return stream.read(size)
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error}); check the path") from error


def read_content(path: Path) -> bytes:
    """The bytes of `path`, gzip and bzip2 (recognised by content) unpacked; raises InputError."""
    head = read_head(path)
    with guarded(path, "a file"):
        content = path.read_bytes()
    for magic, (kind, unpack) in _UNPACKERS.items():
        if head.startswith(magic):
            with guarded(path, f"{kind} data"):
                return unpack(content)
    return content
