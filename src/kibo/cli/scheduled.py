"""Runs of this state directory, opened for one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kibo.runtime.layers.home import state_home
from kibo.wiring import Runtime
from kibo.wiring.scheduling import Scheduling


@contextmanager
def scheduled() -> Iterator[Scheduling]:
    """Opens the runs of the state directory, and carries none out."""
    home = Runtime(state_home())
    try:
        yield home.scheduling()
    finally:
        home.close()
