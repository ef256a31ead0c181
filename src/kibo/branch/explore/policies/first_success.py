"""All at once; the first that succeeds wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kibo.branch.explore.decisions import (
    Action,
    Event,
    Failed,
    Finished,
    Fork,
    Started,
    Stop,
    Task,
    Win,
)


def accepts(accept: Callable[[Any], Any] | None, event: Finished) -> bool:
    """Says whether what a strategy returned is a success. One that waits at its boundary has done all it can."""
    return event.held or bool(event.value if accept is None else accept(event.value))


@dataclass(frozen=True)
class FirstSuccess:
    """Tries all strategies at once; the first that succeeds wins, and the others are stopped.

    Attributes:
        accept: Called with what a strategy returned; success where it is true. Without it, a value that is true is.
    """

    accept: Callable[[Any], Any] | None = None

    def start(self, task: Task) -> Task:
        """See `Policy`."""
        return task

    def step(self, state: Task, event: Event) -> tuple[Task, list[Action]]:
        """See `Policy`."""
        match event:
            case Started():
                return state, [Fork(strategy) for strategy in state.strategies]
            case Finished(number) if accepts(self.accept, event):
                return state, [Win(number)]
            case Finished(number) | Failed(number):
                return state, [Stop(number)]
        return state, []
