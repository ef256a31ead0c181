"""Runs of this state directory, opened for one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kibo.runtime.layers.home import state_home
from kibo.wiring import Runtime
from kibo.wiring.scheduling import Scheduling


@contextmanager
def opened() -> Iterator[Runtime]:
    """Opens the state directory, and runs nothing in it."""
    home = Runtime(state_home())
    try:
        yield home
    finally:
        home.close()


@contextmanager
def scheduled() -> Iterator[Scheduling]:
    """Opens the runs of the state directory, and carries none out."""
    with opened() as home:
        yield home.scheduling()
