"""Waiting for what other threads and processes are about to do."""

import time
from collections.abc import Callable
from functools import partial


def until(condition: Callable[[], object], within_s: float = 10.0) -> None:
    """Looks again and again until something is so, and fails where it is not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


#: The same, where several processes have to start or to end for it.
eventually = partial(until, within_s=20.0)
