"""Work that is done every so often, in a thread of its own, for as long as there may be some."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Repeating:
    """Does something again and again, from `begin` to `close`.

    Args:
        name: What the thread is called.
        work: What to do. Returns how many seconds to wait before the next time.
        first_s: How many to wait before the first.
    """

    def __init__(self, name: str, work: Callable[[], float], first_s: float) -> None:
        self._name = name
        self._work = work
        self._first_s = first_s
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Starts, unless it runs already or was closed."""
        with self._guard:
            if self._thread is None and not self._over.is_set():
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Waits for what is being done, and ends. Idempotent."""
        self._over.set()
        with self._guard:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        pause_s = self._first_s
        while not self._over.wait(pause_s):
            pause_s = self._work()
