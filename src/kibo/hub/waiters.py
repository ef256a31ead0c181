"""Waiting for something to become so, in a thread or on an event loop, without looking all the time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Waits(Protocol):
    """Waits for descriptors, and for the store; see `kibo.runtime.waiting.Waiting`."""

    async def ready(
        self, readers: Sequence[int], writers: Sequence[int] = (), timeout_s: float | None = None
    ) -> list[int]:
        """Returns the descriptors that can be read; raises `TimeoutError` after so long."""

    async def aside(self, work: Callable[[], Result]) -> Result:
        """Does what waits for a disk or a database."""


class Waiters:
    """Those who wait for something to change, each with an eventfd(2) of its own."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._bells: set[int] = set()

    def ring(self) -> None:
        """Has all of them look again."""
        with self._guard:
            for bell in self._bells:
                with suppress(BlockingIOError):  # it was rung 2^64 times, and nobody has looked
                    os.eventfd_write(bell, 1)

    async def until(
        self, waiting: Waits, found: Callable[[], Result | None], timeout_s: float | None
    ) -> Result | None:
        """Looks each time that the bell rings.

        Args:
            waiting: How to wait.
            found: Returns what is waited for, or None where it is not there yet. Waits for no disk.
            timeout_s: How many seconds; None for ever.

        Returns:
            It, or None after so long.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        with self._guard:
            self._bells.add(bell)
        try:
            while (result := found()) is None:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                with suppress(TimeoutError):
                    await waiting.ready((bell,), timeout_s=left)
                with suppress(BlockingIOError):
                    os.eventfd_read(bell)
            return result
        finally:
            with self._guard:
                self._bells.discard(bell)
            os.close(bell)
