"""Ctrl-C, and the signal by which a queue ends its jobs: asked once, a run finishes its iteration."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = b"\nrefine: finishing this iteration; once more stops at once\n"


@contextmanager
def patient() -> Iterator[Callable[[], None]]:
    """Within it a first interrupt waits for the next call of the function that this gives, which then raises
    KeyboardInterrupt; a second one raises it at once. Only the main thread can do so; elsewhere nothing changes."""
    asked = False

    def note(_: int, __: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        os.write(2, SAID)

    def check() -> None:
        if asked:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
