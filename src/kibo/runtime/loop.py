"""The warden's loop: one thread, one thing at a time, by readiness and by time."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable


class Loop:
    """Calls handlers when their descriptors have something to say, and actions when their time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Calls ``handler`` whenever ``fd`` can be read or was closed, until `unwatch`."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Stops watching; must come before ``fd`` is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Calls ``action`` once, that many seconds from now. It checks for itself whether it still matters."""
        self._timers_made += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, action))

    def run(self) -> None:
        """Runs for ever."""
        poll, handlers = self._epoll.poll, self._handlers
        while True:
            ready = poll(self._run_timers())
            # A handler may close descriptors whose events are still to come, and open others under the same numbers.
            for fd, handler in [(fd, handlers.get(fd)) for fd, _ in ready]:
                if handler is not None and handlers.get(fd) is handler:
                    handler()

    def _run_timers(self) -> float | None:
        """Runs what is due and returns the seconds until the next is, or None where there is none."""
        while self._timers:
            left = self._timers[0][0] - time.monotonic()
            if left > 0:
                return left
            heapq.heappop(self._timers)[2]()
        return None
