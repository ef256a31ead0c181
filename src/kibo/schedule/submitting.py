"""Runs, as those who ask for them have them done, from any process: submitted, looked at, cancelled, answered.

Each call is one transaction: when it returns, what was asked is on the disk. The dispatcher hears of it by a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

from kibo.model.clock import Moment, moment
from kibo.model.errors import QueueFull, RunInvalid, RunRepeated, WrongState
from kibo.model.ids import BudgetId, RunId
from kibo.model.limits import DEFAULT_QUEUED, MAX_RUN_DEPTH, MAX_RUNS_AT_ONCE
from kibo.schedule import budgets, rows
from kibo.schedule.advance import Change, answered, cancelled
from kibo.schedule.encoding import packed_request, unpacked
from kibo.schedule.failing import Failure, Progress
from kibo.schedule.graph import cycle, in_order
from kibo.schedule.lifecycle import ENDED, WAITING, State
from kibo.schedule.policy import number, whole
from kibo.schedule.request import Request, is_trace
from kibo.schedule.run import Run
from kibo.store import crash
from kibo.store.database import Store, Transaction

#: Events that are read at once.
MAX_EVENTS: Final = 1000


@dataclass(frozen=True)
class Happened:
    """One event of a run's timeline.

    Attributes:
        position: Its place among all events.
        kind: See `kibo.schedule.lifecycle`; `submit` for the first.
        at_s: When, in seconds since 1970.
        told: More of it.
    """

    position: int
    kind: str
    at_s: float
    told: Mapping[str, Any]


class Submission:
    """The runs of one store. Every call raises `StoreUnavailable` and `HostDiskFull` as the store does.

    Args:
        store: The store.
        now: What the time is.
        bell: Called once something is there for the dispatcher to see.
    """

    def __init__(
        self, store: Store, now: Callable[[], Moment] = moment, bell: Callable[[], None] = lambda: None
    ) -> None:
        self._store: Final = store
        self._now: Final = now
        self._bell: Final = bell

    # -- asking for runs

    def submit(self, request: Request) -> RunId:
        """Submits one run. Returns its id: that of an older one, where that was given the same key and is the same.

        Raises:
            RunInvalid: What it names is not there, or it is nested too deep.
            RunUnknown: What it comes after, or is part of, is not there.
            RunCycle: It would wait for what it is part of.
            RunRepeated: Its subject has one already, or its key names another.
            QueueFull: As many of its tenant's wait as may. Submit again later.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[RunId]:
        """Submits several, all or none: they may name each other in `after`. Returns their ids, in order.

        Raises:
            RunInvalid, RunUnknown, RunCycle, RunRepeated, QueueFull: See `submit`.
        """
        if len(requests) > MAX_RUNS_AT_ONCE:
            raise RunInvalid(
                f"{len(requests)} runs at once", hint=f"Submit at most {MAX_RUNS_AT_ONCE:,} in one call."
            )
        names = [each.name for each in requests if each.name]
        if len(set(names)) != len(names):
            raise RunInvalid("two runs of one call have the same name", hint="Give each a name of its own.")
        numbers = {each.name or f"#{n}": n for n, each in enumerate(requests)}
        order = in_order({name: requests[n].after for name, n in numbers.items()})
        now = self._now()

        def work(tx: Transaction) -> list[RunId]:
            made: dict[int, RunId] = {}
            for tenant in sorted({each.tenant for each in requests}):
                rows.tenant(tx, tenant, DEFAULT_QUEUED)  # locked before any run, and in order
            for name in order:
                n = numbers[name]
                named = {other: made[number] for other, number in numbers.items() if number in made}
                made[n] = self.enter(tx, requests[n], now, named)
            crash.point("submit.before_commit")
            return [made[n] for n in range(len(requests))]

        crash.point("submit.before_write")
        made = self._store.write(work)
        crash.point("submit.written")
        self._bell()
        return made

    def ring(self) -> None:
        """Has the dispatcher look at what was entered."""
        self._bell()

    def enter(
        self, tx: Transaction, request: Request, now: Moment, named: Mapping[str, RunId] | None = None
    ) -> RunId:
        """Submits one run in a transaction of the caller's, who then calls `ring`; errors as `submit`.

        Args:
            tx: The transaction. What raises has written nothing.
            request: What is asked for.
            now: What the time is.
            named: Runs of the same transaction that it may name in `after`.
        """
        key = None if request.key is None else _digest(request.tenant, request.key)
        if key is not None and (found := tx.row(rows._BY_KEY, key=key)) is not None:
            return _same(found, request)
        queued, most = rows.tenant(tx, request.tenant, DEFAULT_QUEUED)
        if queued >= most:
            raise QueueFull(
                f"{queued:,} runs of {request.tenant!r} wait already",
                details={"tenant": request.tenant, "waiting": queued, "most": most},
            )
        after = {(named or {}).get(each, RunId(each)): "done" for each in request.after}
        for each in after:
            rows.find(tx, each)
        made = RunId.new()
        tree, depth, budget = self._within(tx, request, made, after)
        before = self._of_subject(tx, request, now)
        after |= {each: "ended" for each in before if each not in after}
        run = Run(
            id=made, position=0, tree=tree, parent=None if request.parent is None else RunId(request.parent),
            depth=depth, fork=0, request=request, state="waiting" if after else "queued", version=1, epoch=0,
            progress=Progress(), failure=None, snapshot=None, variation="", budget=budget, rollback=False,
            created=now, entered=now,
        )  # fmt: skip
        rows.insert_run(tx, run, request.work, key)
        if after:
            waits = [{"run": made, "dependency": each, "how": how} for each, how in after.items()]
            tx.run_all(rows._INSERT_AFTER, waits)
        rows.count(tx, request.tenant, 1)
        told: dict[str, Any] = {"after": sorted(after)} if after else {}
        if request.trace:
            told["traceparent"] = request.trace
        rows.write_event(tx, made, "submit", now.at_s, told)
        rows.ring(tx, made)
        return made

    def _within(
        self, tx: Transaction, request: Request, made: RunId, after: Mapping[RunId, str]
    ) -> tuple[RunId, int, BudgetId | None]:
        """Says which tree a run is of, how deep, and which budget it uses."""
        if request.parent is None:
            return made, 0, None if request.budget is None else budgets.create(tx, request.budget)
        parent = rows.lock(tx, request.parent)
        if parent.ended or parent.cancelled:
            raise WrongState(
                f"{parent.id} is {parent.state}, and takes no part any more",
                hint="Submit it without parent=, or under one that is at work.",
                details={"run": parent.id, "state": parent.state},
            )
        if parent.depth + 1 > MAX_RUN_DEPTH:
            raise RunInvalid(
                f"runs would be nested {parent.depth + 1} deep", hint=f"At most {MAX_RUN_DEPTH} are allowed."
            )
        if request.policy.forks_for_ever and (
            parent.budget is None or budgets.look(tx, parent.budget).branches is None
        ):
            raise RunInvalid(
                "Fork(depth=None) would fork for ever",
                hint="Give the first run of the tree a budget of branches, or the fork a depth.",
            )
        self._check_above(tx, parent, after)
        return parent.tree, parent.depth + 1, parent.budget

    def _check_above(self, tx: Transaction, parent: Run, after: Mapping[RunId, str]) -> None:
        """Refuses what would wait for a run that it is part of: that one may wait for its parts."""
        above: list[RunId] = [parent.id]
        while (up := rows.find(tx, above[-1]).parent) is not None:
            above.append(up)
        for each in after:
            if each in above:
                path = above[: above.index(each) + 1]
                raise cycle([each, *reversed(path[:-1]), "the new run", each])

    def _of_subject(self, tx: Transaction, request: Request, now: Moment) -> list[RunId]:
        """Does what is to be done with those of its subject. Returns those that it waits for."""
        if request.subject is None:
            return []
        found = tx.rows(rows._SUBJECT, tenant=request.tenant, subject=request.subject)
        others = [RunId(row[0]) for row in found]
        if others and request.double == "reject":
            raise RunRepeated(
                f"{others[0]} of the subject {request.subject!r} has not ended",
                hint="Wait for it, cancel it, or submit with double='enqueue', 'interrupt' or 'rollback'.",
                details={"run": others[0], "subject": request.subject},
            )
        if request.double in ("interrupt", "rollback"):
            for each in others:
                rollback = request.double == "rollback"
                _cancel_tree(tx, each, now, rollback=rollback, why="another run of its subject")
        return others[-1:] if request.double == "enqueue" else others

    # -- what becomes of them

    def get(self, run: str) -> Run:
        """Reads a run.

        Raises:
            RunUnknown: There is none.
        """
        return self._store.read(lambda tx: rows.find(tx, run))

    def listed(self, most: int, *, ended: bool = True, tenant: str | None = None) -> list[Run]:
        """Reads the newest runs, the newest first.

        Args:
            most: How many at most.
            ended: Whether those that have ended are among them.
            tenant: Whose; everybody's by default.
        """
        statement = rows._NEWEST if ended else rows._NEWEST_OPEN
        found = self._store.read(
            lambda tx: tx.rows(statement, tenant=tenant or "", all=int(tenant is None), most=most)
        )
        return [rows.read_run(row) for row in found]

    def called(self, ref: str) -> Run:
        """Finds a run by its id, or the beginning of its id if only one begins so.

        Raises:
            RunUnknown: None is called so, or several are; `details["candidates"]` names these.
        """
        return self._store.read(lambda tx: rows.called(tx, ref))

    def tree(self, run: str) -> list[Run]:
        """Reads all runs of the tree that one is of, in order of submission.

        Raises:
            RunUnknown: There is none.
        """
        return self._store.read(lambda tx: rows.of_tree(tx, rows.find(tx, run).tree))

    def outcome(self, run: str) -> tuple[State, bytes | None, Failure | None]:
        """Reads how a run stands, what it came to, and its newest failure.

        One that went on as several came to what the first of these that succeeded did.

        Raises:
            RunUnknown: There is none.
        """

        def work(tx: Transaction) -> tuple[State, bytes | None, Failure | None]:
            found = at = rows.find(tx, run)
            while True:
                row = tx.row(rows._RESULT, id=at.id)
                result = None if row is None else row[1]
                forks = tx.rows(rows._FORKS, tree=at.tree, parent=at.id, epoch=at.epoch) if at.epoch else []
                won = next((each for each, state in forks if state == "done"), None)
                if result is not None or won is None:
                    return found.state, result, found.failure
                at = rows.find(tx, won)

        return self._store.read(work)

    def events(self, run: str, since: int = 0, most: int = MAX_EVENTS) -> list[Happened]:
        """Reads a run's timeline.

        Args:
            run: Its id.
            since: The position behind which it begins.
            most: How many at most, up to 1,000.
        """
        found = self._store.read(
            lambda tx: tx.rows(rows._EVENTS, run=run, since=since, most=min(most, MAX_EVENTS))
        )
        return [
            Happened(position, kind, at, unpacked(f"an event of {run}", body, dict))
            for position, kind, at, body in found
        ]

    def origin(self, run: Run) -> Run:
        """Returns the run whose branch one has: of several that a run goes on as, that run's."""
        while run.fork and run.parent is not None:
            run = self.get(run.parent)
        return run

    def trace(self, run: Run) -> str:
        """Returns where a run belongs in a trace, as who submitted it has said; of a fork, where its origin does."""
        found = [each.told.get("traceparent") for each in self.events(self.origin(run).id, most=1)]
        return str(found[0]) if found and is_trace(found[0]) else ""

    def counts(self) -> dict[str, int]:
        """Counts those that have not ended, by state."""
        return {row[0]: row[1] for row in self._store.read(lambda tx: tx.rows(rows._PER_STATE))}

    def cancel(self, run: str, *, rollback: bool = False, why: str = "asked for") -> list[RunId]:
        """Cancels a run and all that are part of it. That is final from here on, also where one ends well meanwhile.

        Args:
            run: Its id.
            rollback: Whether what they have done outside is undone, as far as it can be.
            why: For the timeline.

        Returns:
            Those that it has cancelled; none, where all had ended, or had been cancelled before.

        Raises:
            RunUnknown: There is none.
        """
        now = self._now()

        def work(tx: Transaction) -> list[RunId]:
            found = rows.find(tx, run)
            for tenant in sorted({each.request.tenant for each in rows.of_tree(tx, found.tree)}):
                rows.tenant(tx, tenant, DEFAULT_QUEUED)
            done = _cancel_tree(tx, run, now, rollback=rollback, why=why)
            crash.point("cancel.before_commit")
            return done

        done = self._store.write(work)
        crash.point("cancel.written")
        self._bell()
        return done

    def answer(self, run: str, verdict: Literal["retry", "abandon"], person: str) -> None:
        """Says, as the person who was asked, whether a run is tried again or given up.

        Raises:
            RunUnknown: There is none.
            WrongState: Nobody was asked, or not any more.
            RunInvalid: The verdict is none.
        """
        if verdict not in ("retry", "abandon"):
            raise RunInvalid(f"not a verdict: {verdict!r}", hint="Say retry or abandon.")
        now = self._now()

        def work(tx: Transaction) -> None:
            rows.tenant(tx, rows.find(tx, run).request.tenant, DEFAULT_QUEUED)
            found = rows.lock(tx, run)
            if found.state != "asking":
                raise WrongState(
                    f"nobody was asked about {run}: it is {found.state}",
                    hint="Look at its events.",
                    details={"run": run, "state": found.state},
                )
            _apply(tx, answered(found, now, verdict, person[:200]), now)

        self._store.write(work)
        self._bell()

    def set_tenant(self, name: str, *, weight: float = 1.0, most_queued: int = DEFAULT_QUEUED) -> None:
        """Sets how much a tenant counts beside others, and how many of its runs may wait.

        Raises:
            RunInvalid: One of them is none.
        """
        number("weight", weight, 0.001, 1000)
        whole("most_queued", most_queued, 0, 1 << 30)

        def work(tx: Transaction) -> None:
            rows.tenant(tx, name, most_queued)
            tx.run(rows._SET_TENANT, tenant=name, new_weight=float(weight), most=most_queued)

        self._store.write(work)
        self._bell()


def _cancel_tree(tx: Transaction, run: str, now: Moment, *, rollback: bool, why: str) -> list[RunId]:
    """Cancels a run and all below it, the deepest last, so that none of them can begin another meanwhile."""
    first = rows.lock(tx, run)
    below = {first.id}
    done: list[RunId] = []
    for each in rows.of_tree(tx, first.tree):
        if each.id != first.id and each.parent not in below:
            continue
        below.add(each.id)
        change = (
            None
            if each.state in ENDED
            else cancelled(rows.lock(tx, each.id), now, rollback=rollback, why=why)
        )
        if change is not None:
            _apply(tx, change, now)
            done.append(each.id)
    return done


def _apply(tx: Transaction, change: Change, now: Moment) -> None:
    """Writes a change of a run that this transaction has locked, and rings."""
    rows.update_run(tx, change.before, change.after)
    waiting = (change.after.state in WAITING) - (change.before.state in WAITING)
    rows.count(tx, change.after.request.tenant, waiting)
    rows.write_event(tx, change.after.id, change.event, now.at_s, dict(change.told))
    rows.ring(tx, change.after.id)


def _same(found: tuple[Any, ...], request: Request) -> RunId:
    run, packed, work = found
    if (packed, work) != (packed_request(request), request.work):
        raise RunRepeated(
            f"the key {request.key!r} was given to {run}, which is to do something else",
            hint="Give each run that differs a key of its own.",
            details={"run": run, "key": request.key},
        )
    return RunId(run)


def _digest(tenant: str, key: str) -> str:
    return blake2b(f"{len(tenant)} {tenant} {key}".encode(), digest_size=32).hexdigest()
