"""Why a run is where it is, or why it is not started yet. Pure but for reading.

What is told of a run that waits is what the decision itself comes to, over the same runs and nodes: see `survey`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import bindparam, select

from kibo.model.clock import Moment
from kibo.model.ids import RunId
from kibo.schedule import budgets, rows
from kibo.schedule.advance import Deadline, deadline
from kibo.schedule.encoding import unpacked
from kibo.schedule.lifecycle import ENDED, MEANING, State
from kibo.schedule.placement import Node, Reason
from kibo.schedule.rows import Wait
from kibo.schedule.run import Attempt, Run
from kibo.schedule.survey import Survey, Surveyor
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import run_events

#: How it is with a run: it has a node; it has none, and waits; it gets one as soon as somebody decides; it has ended.
Verdict = Literal["here", "waits", "next", "ended"]

_PLACED: Final = Prepared(
    select(run_events.c.body)
    .where(run_events.c.run == bindparam("run"), run_events.c.kind == "place")
    .order_by(run_events.c.position.desc())
    .limit(1)
)
_OVER: Final[dict[str, str]] = {
    "queue": "fails, if it has no node by then",
    "start": "is stopped, if its box is not ready by then",
    "action": "is stopped, if its action has not returned by then",
    "total": "ends",
    "pause": "is tried again",
    "person": "goes on without an answer",
}


@dataclass(frozen=True)
class Explanation:
    """Why a run is here, or why not yet.

    Attributes:
        run: Its id.
        state: How it stands; see docs/reference/runs.md.
        verdict: ``"here"``: it has a node. ``"waits"``: it has none. ``"next"``: it gets one as soon as it is decided.
            ``"ended"``: nothing becomes of it any more.
        since_s: For how many seconds it has been in its state.
        node: Which node it has, or gets; empty where it has none.
        reasons: Why. Of a run that waits, all that keeps it.
        within_s: In how many seconds something happens to it by itself; None where that is nothing.
        then: What that is, in words; empty where it is nothing.
    """

    run: RunId
    state: State
    verdict: Verdict
    since_s: float
    node: str
    reasons: tuple[Reason, ...]
    within_s: float | None = None
    then: str = ""

    def __str__(self) -> str:
        """Says it in lines of text."""
        where = f" at {self.node}" if self.node and self.verdict != "next" else ""
        lines = [f"{self.run} is {self.state}{where}: {MEANING[self.state]}"]
        if self.verdict == "next":
            lines.append(f"it is started at {self.node} as soon as that is decided")
        for what, about, detail, _ in self.reasons:
            # What a box has said is one line here, whatever it has put between its words.
            lines.append(f"  {what:<8} {' '.join(f'{about}: {detail}'.removeprefix(': ').split())}")
        if self.within_s is not None:
            lines.append(f"in {self.within_s:.3g} s it {self.then}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Known:
    """What else there is to know of one run.

    Attributes:
        run: It.
        waits: What it waits for.
        forks: What it goes on as.
        placed: Why it was placed where its newest attempt is.
        spent: What of its budget is used up; empty where nothing is.
    """

    run: Run
    waits: Sequence[Wait] = ()
    forks: Sequence[tuple[RunId, State]] = ()
    placed: Sequence[Reason] = ()
    spent: str = ""


def explain(known: Known, survey: Survey) -> Explanation:
    """Says why a run is where it is. Pure.

    Args:
        known: What there is to know of it alone.
        survey: All that is open, read at the same moment; of a run that has ended, it does not matter.
    """
    run, now = known.run, survey.at
    verdict, node, reasons = _why(known, survey)
    due = deadline(run, now)
    ended = run.state in ENDED
    return Explanation(
        run.id, run.state, verdict, run.age_s(now), node, reasons,
        None if due is None or ended else due.left_s, "" if due is None or ended else _then(run, due),
    )  # fmt: skip


def read(store: Store, surveyor: Surveyor, run: str, now: Moment, dead: Collection[str] = ()) -> Explanation:
    """Reads what there is to know, and explains a run.

    Args:
        store: Where it is.
        surveyor: Reads the rest; of the same store.
        run: Its id.
        now: The time.
        dead: See `Surveyor.survey`.

    Raises:
        RunUnknown: There is none.
        StoreDamaged: A row is none.
    """

    def work(tx: Transaction) -> tuple[Known, Survey]:
        found = rows.find(tx, run)
        if found.ended:
            return Known(found), Survey(now, {}, (), "", {}, ())
        budget = None if found.budget is None else budgets.look(tx, found.budget)
        known = Known(
            found,
            rows.waits(tx, run) if found.state == "waiting" else (),
            rows.forks(tx, found) if found.state == "forked" else (),
            () if found.live is None else _placed(tx, found),
            "" if budget is None else budget.spent(now),
        )
        return known, surveyor.survey(tx, now, dead)

    return explain(*store.read(work))


def _why(known: Known, survey: Survey) -> tuple[Verdict, str, tuple[Reason, ...]]:
    run = known.run
    if run.state in ENDED:
        return "ended", "", tuple(_failure(run))
    if run.live is not None:
        return "here", run.live.node, (*known.placed, *_troubles(known, survey))
    started, waits = None, tuple(_waits_for(known, survey.at))
    if not waits:
        queue, starts = survey.decided()
        started, waits = starts.get(run.id), queue.explain(run.id, survey.at.up_s)
        if not survey.dispatcher:
            waits = tuple(each for each in waits if each.what != "nodes")
    troubles = tuple(_troubles(known, survey))
    if started is None and not (waits or troubles):
        waits = (
            Reason("turn", run.request.tenant, "nothing keeps it: it goes on once the dispatcher has looked"),
        )
    if started is not None:
        return "next", started.node, (*started.reasons, *troubles)
    return "waits", "", (*waits, *troubles)


def _waits_for(known: Known, now: Moment) -> Iterator[Reason]:
    """What a run that is not in the queue waits for."""
    run = known.run
    for wait in known.waits:
        if wait.state not in ENDED:
            must = (
                "must have succeeded" if wait.how == "done" else "must have ended, as it has the same subject"
            )
            yield Reason("after", wait.dependency, f"is {wait.state}, and {must}")
        elif wait.how == "done" and wait.state != "done":
            yield Reason("after", wait.dependency, f"is {wait.state}, so it fails")
    for fork, state in known.forks:
        yield Reason("fork", fork, f"is {state}; the first that succeeds counts")
    if run.state == "backing_off":
        yield Reason("pause", "", f"it is tried again {run.pause_s:.3g} s after its failure")
        yield from _failure(run)
    elif run.state == "asking":
        yield Reason("person", "", "somebody is to say `kibo answer` retry or abandon")
        yield from _failure(run)


def _troubles(known: Known, survey: Survey) -> Iterator[Reason]:
    """What keeps any run from going on."""
    if not survey.dispatcher:
        yield Reason(
            "carrier", "", "no process carries runs out; `kibo up` does, or a program that waits for one"
        )
    if known.spent:
        yield Reason("budget", str(known.run.budget), f"its {known.spent} are used up, so it ends")
    live = known.run.live
    if survey.dispatcher and live is not None and not any(_is_at(live, node) for node in survey.nodes):
        yield Reason("lost", live.node, "that node is not there any more, so it is placed anew or fails")


def _is_at(live: Attempt, node: Node) -> bool:
    return (live.node, live.node_epoch) == (node.id, node.epoch)


def _failure(run: Run) -> Iterator[Reason]:
    if run.failure is not None:
        yield Reason("failure", run.failure.code, run.failure.message)


def _then(run: Run, due: Deadline) -> str:
    if due.what == "start" and run.live is not None and run.live.kind == "undo":
        return "is stopped, if undoing has not begun by then"
    return _OVER[due.what]


def _placed(tx: Transaction, run: Run) -> tuple[Reason, ...]:
    """Reads why a run was placed where it is."""
    row = tx.row(_PLACED, run=run.id)
    return () if row is None else unpacked(f"an event of {run.id}", row[0], _reasons)


def _reasons(told: dict[str, Any]) -> tuple[Reason, ...]:
    node = str(told.get("node", ""))
    return tuple(
        Reason(str(what), node, str(detail), float(points[0]) if points else 0.0)
        for what, detail, *points in told.get("why", ())
    )
