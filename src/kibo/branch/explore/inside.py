"""What code inside an attempt knows of the exploration around it, through any number of calls."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field


class Stopping:
    """Whether an attempt was stopped. Set once; whoever listens is told, on the thread that sets it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._told: list[Callable[[], None]] = []
        self.stopped = False

    def stop(self) -> None:
        """Sets it."""
        with self._guard:
            told = [] if self.stopped else list(self._told)
            self.stopped = True
        for tell in told:
            tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """Has `tell` called when it is set; now, where it is."""
        with self._guard:
            self._told.append(tell)
            now = self.stopped
        if now:
            tell()

    def unlisten(self, tell: Callable[[], None]) -> None:
        """Ends what `listen` began."""
        with self._guard:
            self._told.remove(tell)


@dataclass(frozen=True)
class Inside:
    """The attempt that code runs in."""

    number: int
    say: Callable[[int, str], None]
    stopping: Stopping = field(default_factory=Stopping)


inside: ContextVar[Inside | None] = ContextVar("kibo_attempt", default=None)


def note(text: str) -> None:
    """Says what a strategy is doing: the line stands beside its attempt wherever the exploration is watched.

    Outside of an exploration there is nobody to tell, and nothing happens.

    Args:
        text: One line.
    """
    attempt = inside.get()
    if attempt is not None:
        attempt.say(attempt.number, text)


def stopped() -> bool:
    """Says whether the attempt that this code runs in has been stopped: for loops that call no branch."""
    attempt = inside.get()
    return attempt is not None and attempt.stopping.stopped
