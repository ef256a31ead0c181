"""What ends a run, or its attempt, from outside: its times, its budget, and what it waits for. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kibo.model.clock import Moment
from kibo.schedule.advance import Change, Deadline, failed, ready, requeued, stopping
from kibo.schedule.budgets import BudgetRow
from kibo.schedule.failing import Failure
from kibo.schedule.lifecycle import CANCELLED, ENDED, STARTED, UNDOING
from kibo.schedule.rows import Wait
from kibo.schedule.run import Run

_TIMES: Final = {
    "queue": Failure("run.queue_timeout", "there was no room for it in time", final=True),
    "start": Failure("run.start_timeout", "its box was not ready in time", "safe"),
    "action": Failure("run.action_timeout", "its action was not done in time"),
    "total": Failure("run.total_timeout", "it was not done in time, all attempts included", final=True),
    "person": Failure("run.unanswered", "nobody has said in time what is next"),
}


def expired(run: Run, what: Deadline, now: Moment, branches: int | None) -> Change:
    """One of its times is over.

    Args:
        run: It; no attempt of it undoes anything.
        what: Which time.
        now: When.
        branches: See `kibo.schedule.advance.failed`.
    """
    if what.what == "pause":
        return requeued(run, now)
    return ended(run, _TIMES[what.what], now, branches)


def ended(run: Run, failure: Failure, now: Moment, branches: int | None) -> Change:
    """It is to end for a reason from outside: its attempt is stopped first, if it has one that does its work."""
    if run.live is not None and run.state in STARTED:
        return stopping(run, now, failure)
    return failed(run, now, failure, outcome="stopped", branches=branches)


def out_of_budget(run: Run, budget: BudgetRow, now: Moment) -> Change | None:
    """The budget of its tree may be used up; None where it is not, or where the run is being stopped or undone."""
    resource = budget.spent(now)
    if not resource or run.state in (*CANCELLED, *UNDOING, *ENDED, "stopping"):
        return None
    error = budget.error(resource)
    return ended(run, Failure(error.code, str(error), "never", final=True), now, 0)


def awaited(run: Run, waits: Iterable[Wait], now: Moment) -> Change | None:
    """Some of what it waits for have ended; None where others are to end yet, and none has failed that must succeed."""
    open_ones = False
    for wait in waits:
        if wait.state not in ENDED:
            open_ones = True
        elif wait.how == "done" and wait.state != "done":
            told = f"{wait.dependency}, which it comes after, is {wait.state}"
            return failed(run, now, Failure("run.dependency_failed", told, "never", final=True))
    return None if open_ones else ready(run, now)
