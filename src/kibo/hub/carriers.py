"""Threads that deliver messages, as many as have something to do and no more; and one that knows the time.

They end with the process: what they were at is delivered again by whoever goes on with the branch.
"""

from __future__ import annotations

import heapq
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kibo.model.limits import MAX_CARRIERS

#: How long a thread that has nothing to do waits for more.
_IDLE_S: Final = 5.0


class Carriers:
    """Does each piece of work on a thread of its own, at most so many at once; what is more waits in order.

    A piece of work raises nothing: what goes wrong in it, it says where that is looked for.
    """

    def __init__(self, most: int = MAX_CARRIERS) -> None:
        self._most = most
        self._guard = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._idle = self._threads = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Has it done, soon."""
        with self._guard:
            self._waiting.append(work)
            if self._idle >= len(self._waiting):
                self._guard.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name="kibo-carrier", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._guard:
                self._idle += 1
                self._guard.wait_for(lambda: self._waiting, _IDLE_S)
                self._idle -= 1
                if not self._waiting:
                    self._threads -= 1
                    return
                work = self._waiting.popleft()
            work()


class Alarms:
    """Calls functions when their time has come, in order, on one thread: they are short, and raise nothing."""

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._set: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._runs = False

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Has a function called after so long."""
        with self._guard:
            heapq.heappush(self._set, (time.monotonic() + seconds, next(self._numbers), call))
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._serve, name="kibo-alarms", daemon=True).start()
            self._guard.notify()

    def _serve(self) -> None:
        while True:
            with self._guard:
                if not self._set and not self._guard.wait(_IDLE_S):
                    self._runs = bool(self._set)
                    if not self._runs:
                        return
                if not self._set:
                    continue
                left = self._set[0][0] - time.monotonic()
                if left > 0:
                    self._guard.wait(left)
                    continue
                call = heapq.heappop(self._set)[2]
            call()


carriers = Carriers()
alarms = Alarms()


def _forget() -> None:
    """Threads do not come along into a forked child."""
    global carriers, alarms
    carriers, alarms = Carriers(), Alarms()


os.register_at_fork(after_in_child=_forget)
