"""Waiting for the end of a run, from any process: what there is to know is in the store, a bell says when to look."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import RunCancelled, RunFailed, RunUnfinished
from kibo.runtime.waiting import Waiting
from kibo.schedule.failing import Failure
from kibo.schedule.lifecycle import ENDED, State
from kibo.schedule.submitting import Happened, Submission
from kibo.schedule.timeline import Timeline, timeline
from kibo.schedule.work import read_result
from kibo.store.wakeups import Watch, ringing

#: How often one looks without having been rung for: the dispatcher may be on another machine.
LOOK_S: Final = 1.0


#: Watches that are kept for who waits next: the kernel takes 10 ms and more to end one.
_IDLE: Final = 8


class Bell:
    """Rung whenever something becomes of a run, in a directory that the processes of a machine share. Thread-safe.

    Args:
        directory: It.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory
        #: Those that nobody waits with, each of the process that made it: a child that was forked has them in common.
        self._idle: Final[list[tuple[int, Watch]]] = []

    def ring(self) -> None:
        """Has all who wait look."""
        with ringing(self._directory):
            pass

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Hears of it during a block; for who waits. What was rung before is heard, or is not."""
        me = os.getpid()
        try:
            maker, watch = self._idle.pop()
        except IndexError:
            maker, watch = me, Watch(self._directory)
        if maker != me:
            watch.close()
            watch = Watch(self._directory)
        try:
            yield watch
        finally:
            if len(self._idle) < _IDLE:
                self._idle.append((me, watch))
            else:
                watch.close()

    def close(self) -> None:
        """Lets go of what is kept. It can be used again."""
        while self._idle:
            self._idle.pop()[1].close()


async def ended(
    waiting: Waiting, runs: Submission, bell: Bell, run: str, timeout_s: float | None
) -> tuple[State, bytes | None, Failure | None]:
    """Waits until a run has ended. Cancelled, it leaves the run as it is.

    Args:
        waiting: How to wait.
        runs: Where it is.
        bell: What is rung for it.
        run: Its id.
        timeout_s: For how many seconds; None for as long as it takes.

    Returns:
        As `Submission.outcome`.

    Raises:
        RunUnknown: There is none.
        RunUnfinished: It has not ended in that time.
    """
    until_s = None if timeout_s is None else time.monotonic() + timeout_s
    with bell.watch() as watch:
        while True:
            watch.heard()
            found = await waiting.aside(lambda: runs.outcome(run))
            if found[0] in ENDED:
                return found
            left_s = LOOK_S if until_s is None else min(LOOK_S, until_s - time.monotonic())
            if left_s <= 0:
                raise RunUnfinished(
                    f"{run} is {found[0]} after {timeout_s:g} s", details={"run": run, "state": found[0]}
                )
            await _rung(waiting, watch, left_s)


async def _rung(waiting: Waiting, watch: Watch, within_s: float) -> None:
    try:
        await waiting.ready(watch.fds[:1], timeout_s=within_s)
    except TimeoutError:
        return


def value_of(
    run: str, found: tuple[State, bytes | None, Failure | None], checked: Callable[[Any], Any]
) -> Any:
    """Returns what a run that has ended came to.

    Args:
        run: Its id.
        found: As `Submission.outcome`.
        checked: Makes of builtins what the action is to return.

    Raises:
        RunFailed, RunCancelled: It came to nothing.
    """
    state, result, failure = found
    if state == "done":
        return None if result is None else checked(read_result(run, result))
    told = {"run": run, "state": state}
    if failure is not None:
        told |= {"failure": failure.code, "retry": failure.retry}
    why = "" if failure is None else f": {failure.message}"
    if state == "cancelled":
        raise RunCancelled(f"{run} was cancelled", details=told)
    raise RunFailed(f"{run} has {'failed' if state == 'failed' else 'been given up'}{why}", details=told)


def events_since(runs: Submission, run: str, since: int) -> list[Happened]:
    """Reads a run's timeline from a position on, to its end."""
    found: list[Happened] = []
    while more := runs.events(run, found[-1].position if found else since):
        found += more
    return found


def timeline_of(runs: Submission, run: str) -> Timeline:
    """Reads a run's way so far.

    Raises:
        RunUnknown: There is none.
    """
    name = runs.get(run).request.name
    return timeline(run, name, events_since(runs, run, 0), time.time())


async def follow(
    waiting: Waiting, runs: Submission, bell: Bell, run: str, since: int
) -> tuple[list[Happened], bool]:
    """Waits until more has happened to a run, or it has ended.

    Returns:
        What has happened behind a position, and whether nothing can any more.
    """
    with bell.watch() as watch:
        while True:
            watch.heard()
            # Its state first: what leads to the end has happened by then.
            state = (await waiting.aside(lambda: runs.get(run))).state
            found = await waiting.aside(lambda: events_since(runs, run, since))
            if found or state in ENDED:
                return found, state in ENDED
            await _rung(waiting, watch, LOOK_S)
