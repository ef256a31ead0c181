"""A run as its user holds it, in any process: looked at, waited for, cancelled, answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal

from kibo.model.ids import RunId
from kibo.runtime.waiting import Waiting, run
from kibo.schedule.failing import Failure
from kibo.schedule.following import Bell, ended, events_since, follow, timeline_of, value_of
from kibo.schedule.lifecycle import State
from kibo.schedule.run import Run as RunRecord
from kibo.schedule.submitting import Happened, Submission
from kibo.schedule.timeline import Timeline

if TYPE_CHECKING:
    from kibo.schedule.explaining import Explanation


class RunFace:
    """What both faces of a run have.

    Attributes:
        id: Its name for ever: `kibo.get_run` finds it by that.
    """

    def __init__(
        self,
        run: RunId,
        runs: Submission,
        bell: Bell,
        waiting: Waiting,
        checked: Callable[[Any], Any],
        carry: Callable[[], object],
        explained: Callable[[], Explanation],
    ) -> None:
        """Only made by what submits and finds runs.

        Args:
            run: Its id.
            runs: Where it is.
            bell: What is rung for it.
            waiting: How to wait.
            checked: Makes of builtins what its action is to return.
            carry: Has runs carried out, where this process can: who waits for one wants it to be done.
            explained: Says why it is where it is.
        """
        self.id: Final = run
        self._runs: Final = runs
        self._bell: Final = bell
        self._waiting: Final = waiting
        self._checked: Final = checked
        self._carry: Final = carry
        self._explained: Final = explained

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    async def _result(self, timeout_s: float | None) -> Any:
        await self._waiting.aside(self._carry)
        found = await ended(self._waiting, self._runs, self._bell, self.id, timeout_s)
        return value_of(self.id, found, self._checked)

    async def _aside(self, work: Callable[[], Any]) -> Any:
        return await self._waiting.aside(work)


class Run(RunFace):
    """One scheduled execution. It goes on whatever becomes of this object, and of this process. Thread-safe."""

    @property
    def status(self) -> State:
        """How it stands: ``queued``, ``running``, ``done`` and others; see docs/reference/runs.md."""
        return self._runs.get(self.id).state

    @property
    def failure(self) -> Failure | None:
        """Its newest failure: why it is tried again, was forked, or has failed; None where there was none."""
        return self._runs.get(self.id).failure

    def record(self) -> RunRecord:
        """Reads all that the store has of it, what it is to do and what it came to excepted."""
        return self._runs.get(self.id)

    def result(self, timeout_s: float | None = None) -> Any:
        """Waits for its end, and returns what its action returned.

        That is of the type that the action declares where this process has the definition, or was the one to submit it;
        else it is made of builtins.

        Args:
            timeout_s: For how many seconds; None for as long as it takes.

        Raises:
            RunFailed: It has failed, or was given up; `details` has the code of its failure.
            RunCancelled: It was cancelled.
            RunUnfinished: It has not ended in that time. It goes on.
        """
        return run(self._result(timeout_s))

    def cancel(self, *, rollback: bool = False) -> bool:
        """Cancels it and all runs that are part of it. That is final, also where it would end well meanwhile.

        Returns at once; what runs of it is gone within a second: see `status`.

        Args:
            rollback: Whether what it has done outside is undone, as far as it can be.

        Returns:
            Whether it was this call that did: it has not ended before, nor been cancelled.
        """
        return bool(self._runs.cancel(self.id, rollback=rollback))

    def events(self, *, follow: bool = False) -> Iterator[Happened]:
        """Yields what has happened to it, in order: submitted, placed, begun, tried again, ended.

        Args:
            follow: Whether to go on with what happens from now on, until it has ended.
        """
        position, over = 0, not follow
        while True:
            if over:
                found = events_since(self._runs, self.id, position)
            else:
                found, over = run(self._next(position))
            for each in found:
                yield each
                position = each.position
            if over:
                return

    def explain(self) -> Explanation:
        """Says why it is where it is, or why it is not started yet; see `kibo.explain`."""
        return self._explained()

    def timeline(self) -> Timeline:
        """Returns its way so far: how long it was queued, launched, at work, held. Its text is a drawing of it."""
        return timeline_of(self._runs, self.id)

    async def _next(self, since: int) -> tuple[list[Happened], bool]:
        return await follow(self._waiting, self._runs, self._bell, self.id, since)

    def answer(self, verdict: Literal["retry", "abandon"], *, person: str) -> None:
        """Says, as the person whom its policy asks, what becomes of it.

        Args:
            verdict: Whether it is tried again, or given up.
            person: Who says so, for the timeline.

        Raises:
            WrongState: Nobody was asked, or not any more.
        """
        self._runs.answer(self.id, verdict, person)


class AsyncRun(RunFace):
    """One scheduled execution, whose calls are coroutines; see `Run`. Cancelled, a call leaves the run as it is."""

    async def status(self) -> State:
        """How it stands; see `Run.status`."""
        return (await self.record()).state

    async def failure(self) -> Failure | None:
        """Its newest failure; see `Run.failure`."""
        return (await self.record()).failure

    async def record(self) -> RunRecord:
        """Reads all that the store has of it; see `Run.record`."""
        found: RunRecord = await self._aside(lambda: self._runs.get(self.id))
        return found

    async def result(self, timeout_s: float | None = None) -> Any:
        """Waits for its end, and returns what its action returned; see `Run.result`."""
        return await self._result(timeout_s)

    async def cancel(self, *, rollback: bool = False) -> bool:
        """Cancels it; see `Run.cancel`. Cancelled itself, that has happened or not."""
        return bool(await self._aside(lambda: self._runs.cancel(self.id, rollback=rollback)))

    async def events(self) -> list[Happened]:
        """Lists what has happened to it, in order; see `Run.events`."""
        found: list[Happened] = await self._aside(lambda: events_since(self._runs, self.id, 0))
        return found

    async def explain(self) -> Explanation:
        """Says why it is where it is, or why it is not started yet; see `kibo.explain`."""
        found: Explanation = await self._aside(self._explained)
        return found

    async def timeline(self) -> Timeline:
        """Returns its way so far; see `Run.timeline`."""
        found: Timeline = await self._aside(lambda: timeline_of(self._runs, self.id))
        return found

    async def answer(self, verdict: Literal["retry", "abandon"], *, person: str) -> None:
        """Says what becomes of it; see `Run.answer`."""
        await self._aside(lambda: self._runs.answer(self.id, verdict, person))
