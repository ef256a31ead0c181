"""Warm pools: instances of one box that are made before anybody asks, so that asking costs almost nothing."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from kibo.model.errors import InvalidInput, KiboError
from kibo.runtime.instance import Instance

#: How long a failed refill waits before the next try, in seconds. Whoever asks meanwhile makes an instance itself,
#: and is told what is wrong.
RETRY_S: Final = 1.0


class Pool:
    """Keeps instances of one box ready. Thread-safe. A context manager that destroys those nobody took.

    Made by `kibo.pool`. While it is open, `spawn()` of that box takes from it.

    Attributes:
        hits: Spawns that found an instance ready.
        misses: Spawns that had to make one.
    """

    def __init__(
        self, make: Callable[[], Instance], least: int, most: int, forget: Callable[[Pool], None]
    ) -> None:
        """Fills the pool before it returns.

        Args:
            make: Makes one instance.
            least: Instances below which the pool is refilled.
            most: Instances up to which it is refilled; at least ``least``.
            forget: Called when the pool is closed.

        Raises:
            InvalidInput: The numbers are not ``1 <= least <= most``.
            KiboError: The first instances could not be made.
        """
        if not 1 <= least <= most:
            raise InvalidInput(
                f"a pool needs 1 <= min <= max, got min={least}, max={most}",
                hint="It is refilled up to max once fewer than min are ready.",
            )
        self._make = make
        self._least = least
        self._most = most
        self._forget = forget
        self._ready: deque[Instance] = deque()
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self.hits = 0
        self.misses = 0
        try:
            while len(self._ready) < most:
                self._ready.append(make())
        except BaseException:
            self._drain()
            raise
        self._thread = threading.Thread(target=self._refill, name="kibo-pool", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._ready)

    def spawn(self) -> Instance:
        """Returns an instance: a ready one, or where there is none a new one.

        Raises:
            KiboError: As `Box.spawn` where one had to be made.
        """
        while True:
            try:
                instance = self._ready.popleft()
            except IndexError:
                self.misses += 1
                self._wanted.set()
                return self._make()
            if len(self._ready) < self._least:
                self._wanted.set()
            # One that ended while it waited is not handed out.
            if instance.alive:
                self.hits += 1
                return instance

    def _refill(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            self._wanted.clear()
            while len(self._ready) < self._most and not self._closed.is_set():
                try:
                    self._ready.append(self._make())
                except KiboError:
                    # Whoever asks next makes one itself and gets this error; meanwhile the cause may pass.
                    self._closed.wait(RETRY_S)

    def _drain(self) -> None:
        while self._ready:
            with contextlib.suppress(KiboError):
                self._ready.popleft().destroy()

    def close(self) -> None:
        """Destroys the instances that nobody took. Those that were taken live on. Idempotent."""
        self._forget(self)
        self._closed.set()
        self._wanted.set()
        self._thread.join()
        self._drain()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
