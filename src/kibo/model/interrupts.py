"""Ctrl-C, held back while something is done that must not end between two of its steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_back() -> Iterator[None]:
    """Has Ctrl-C come at the end of a block instead of in the middle of it. Costs two microseconds.

    A second one breaks it: who presses it wants out.

    Python raises what Ctrl-C leads to between any two steps of the main thread, also right after a lock was taken and
    before it is known that it was. Other threads are never interrupted, and neither is who has no handler of Python's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):
        yield
        return
    came: list[FrameType | None] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(frame)
        if len(came) > 1:
            handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if len(came) == 1:
            handler(signal.SIGINT, came[0])
