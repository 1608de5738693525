"""Errors in files, told with the option that named the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from refine.errors import InputError


@contextmanager
def named(option: str) -> Iterator[None]:
    """Put `option` in front of the message of an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{option}: {error}") from error
