"""The warden's loop: one thread, one thing at a time, by readiness and by time."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable


class Timer:
    """An action whose time has not come. Made by `Loop.after`."""

    __slots__ = ("_loop", "action")

    def __init__(self, loop: Loop, action: Callable[[], None]) -> None:
        self._loop = loop
        #: What to do, or None where it matters no more.
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Forgets the action and all that it refers to; nothing happens where it has run."""
        if self.action is not None:
            self.action = None
            self._loop.forget_cancelled()


class Loop:
    """Calls handlers when their descriptors have something to say, and actions when their time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timers_made = 0
        self._cancelled = 0

    def watch(self, fd: int, handler: Callable[[], None]) -> None:
        """Calls ``handler`` whenever ``fd`` can be read or was closed, until `unwatch`."""
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def unwatch(self, fd: int) -> None:
        """Stops watching; must come before ``fd`` is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> Timer:
        """Calls ``action`` once, that many seconds from now.

        Until then it is kept with all that it refers to: what may wait long is to be cancelled when it matters no more.
        """
        self._timers_made += 1
        timer = Timer(self, action)
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, timer))
        return timer

    def forget_cancelled(self) -> None:
        """Notes that one more was cancelled, and takes all of those out of the queue once they are most of it."""
        self._cancelled += 1
        if 2 * self._cancelled > len(self._timers):
            self._timers = [each for each in self._timers if each[2].action is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

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
            timer = heapq.heappop(self._timers)[2]
            action, timer.action = timer.action, None
            if action is None:
                self._cancelled -= 1
            else:
                action()
        return None
