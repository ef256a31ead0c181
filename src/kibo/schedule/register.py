"""What the dispatcher knows of the store: all that is open, what others have changed, and changes written as they come.

Every write is fenced by the dispatcher's lease, and each change is a compare-and-set of its run's version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from kibo.model.clock import Moment
from kibo.model.ids import BudgetId, RunId
from kibo.model.limits import DEFAULT_QUEUED, MAX_ROUND
from kibo.schedule import budgets, roster, rows
from kibo.schedule.advance import Change
from kibo.schedule.failing import Progress, policy_of_fork
from kibo.schedule.gates import Bar
from kibo.schedule.leases import DISPATCHER, fence
from kibo.schedule.lifecycle import WAITING, State
from kibo.schedule.placement import Node
from kibo.schedule.rows import Wait
from kibo.schedule.run import Run
from kibo.store import crash
from kibo.store.database import Store, Transaction


class Written(NamedTuple):
    """What came of changes.

    Attributes:
        refused: Those whose run was not what they were decided from; nothing of them was written.
        forks: Runs that are new.
    """

    refused: frozenset[RunId]
    forks: tuple[Run, ...]


class Register:
    """Runs, as the dispatcher reads and writes them. Calls raise what those of the store do.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store: Final = store

    # -- reading

    def open_runs(self) -> list[Run]:
        """Reads all that have not ended, in order of submission; what others change meanwhile, they ring for."""
        return self.store.read(rows.open_runs)

    def rung(self) -> tuple[list[int], list[Run]]:
        """Reads what others have changed. Returns what to tell `heard`, and the runs as they are now."""

        def work(tx: Transaction) -> tuple[list[int], list[Run]]:
            found = tx.rows(rows._RUNG, most=MAX_ROUND)
            return [row[0] for row in found], [
                rows.find(tx, run) for run in dict.fromkeys(r[1] for r in found)
            ]

        return self.store.read(work)

    def heard(self, numbers: Iterable[int]) -> None:
        """Forgets that something was changed: the dispatcher has seen it."""
        self.store.write(lambda tx: _forget(tx, numbers))

    def runs(self, ids: Iterable[str]) -> list[Run]:
        """Reads some runs."""
        return self.store.read(lambda tx: [rows.find(tx, run) for run in ids])

    def waits(self, run: str) -> list[Wait]:
        """Reads what a run waits for, and how that stands."""
        return self.store.read(lambda tx: rows.waits(tx, run))

    def forks(self, run: Run) -> list[tuple[RunId, State]]:
        """Reads the runs that one goes on as, and how they stand."""
        return self.store.read(lambda tx: rows.forks(tx, run))

    def work(self, runs: Sequence[str]) -> dict[str, bytes]:
        """Reads what some runs are to do."""

        def read(tx: Transaction) -> dict[str, bytes]:
            found = ((run, tx.row(rows._WORK, id=run)) for run in runs)
            return {run: row[0] for run, row in found if row is not None}

        return self.store.read(read)

    def budget(self, budget: BudgetId) -> budgets.BudgetRow:
        """Reads a budget."""
        return self.read_budgets([budget])[0]

    def read_budgets(self, ids: Iterable[BudgetId]) -> list[budgets.BudgetRow]:
        """Reads some budgets."""
        return self.store.read(lambda tx: [budgets.look(tx, each) for each in ids])

    def weights(self) -> dict[str, float]:
        """Reads how much each tenant counts."""
        return self.store.read(rows.weights)

    def recent(self, now: Moment) -> list[tuple[float, tuple[Bar, ...]]]:
        """Reads what any rate may still count: how many seconds ago it was started, the longest first, and its rates.

        By the clock that nobody sets, where an attempt was placed since this machine was started: a clock that was set
        forward hides no start. Reads all attempts; about 1 s for a million.
        """
        return self.store.read(lambda tx: rows.recent(tx, now))

    # -- writing

    def note_nodes(self, there: Mapping[str, Node], changed: Collection[str] | None, epoch: int) -> None:
        """Writes nodes as they are now, or that they are gone.

        Args:
            there: All that are there.
            changed: Names of those to write; None for all, in place of whatever was written before.
            epoch: Of the dispatcher's lease.

        Raises:
            PlaceTaken: Another dispatcher is at work; nothing was written.
        """

        def work(tx: Transaction) -> None:
            fence(tx, DISPATCHER, epoch)
            roster.note(tx, there, changed, epoch)

        self.store.write(work)

    def write(self, changes: Sequence[Change], epoch: int, now: Moment, heard: Iterable[int] = ()) -> Written:
        """Writes changes, all of one transaction.

        Args:
            changes: In the order in which they happen; of one run, each decided from what the one before it made.
            epoch: Of the dispatcher's lease.
            now: When.
            heard: What of `rung` is to be forgotten, as by `heard`.

        Raises:
            PlaceTaken: Another dispatcher is at work; nothing was written.
        """

        def work(tx: Transaction) -> Written:
            fence(tx, DISPATCHER, epoch)
            waiting: Counter[str] = Counter()
            for name in sorted({change.before.request.tenant for change in changes}):
                rows.tenant(tx, name, DEFAULT_QUEUED)  # locked first, and in order, by all who count
            refused, forks = set(), []
            for change in changes:
                if not rows.update_run(tx, change.before, change.after):
                    refused.add(change.before.id)
                    continue
                made = self._write(tx, change, now)
                forks += made
                tenant = change.after.request.tenant
                waiting[tenant] += (change.after.state in WAITING) - (change.before.state in WAITING)
                waiting[tenant] += len(made)
            for name, more in sorted(waiting.items()):
                rows.count(tx, name, more)
            _forget(tx, heard)
            crash.point("runs.before_commit")
            return Written(frozenset(refused), tuple(forks))

        crash.point("runs.before_write")
        written = self.store.write(work)
        crash.point("runs.written")
        return written

    def _write(self, tx: Transaction, change: Change, now: Moment) -> list[Run]:
        run, told = change.after, dict(change.told)
        before = change.before.live
        if change.placed is not None:
            rows.insert_attempt(tx, change.placed)
            if run.budget is not None:
                budgets.begin(tx, run.budget, now)
        if before is not None and change.begun:
            tx.run(
                rows._BEGIN_ATTEMPT,
                run_id=run.id,
                held=before.epoch,
                at=now.at_s,
                up=now.up_s,
                started=now.boot,
            )
        if before is not None and change.outcome is not None:
            tx.run(rows._END_ATTEMPT, run_id=run.id, held=before.epoch, at=now.at_s, became=change.outcome)
            if run.budget is not None and budgets.forfeit(tx, run.budget, run.id):
                rows.ring(tx, run.id)  # the budget may be spent by that
        if change.result is not None:
            tx.run(rows._SET_RESULT, run=run.id, new_result=change.result)
        forks = self._fork(tx, change, now) if change.event == "fork" else []
        if forks:
            told["runs"] = [each.id for each in forks]
        rows.write_event(tx, run.id, change.event, now.at_s, told)
        return forks

    def _fork(self, tx: Transaction, change: Change, now: Moment) -> list[Run]:
        """Makes the runs that one goes on as. Where the budget has fewer branches than it had, as many as it has."""
        run, told = change.after, list(change.forks)
        while run.budget is not None and told and not budgets.take_branches(tx, run.budget, len(told)):
            told.pop()
        work = tx.row(rows._WORK, id=run.id)
        request = replace(
            run.request,
            policy=policy_of_fork(run.request.policy, run.progress.step),
            key=None, subject=None, after=(), parent=run.id, budget=None,
        )  # fmt: skip
        made = []
        for variation in told:
            fork = Run(
                id=RunId.new(), position=0, tree=run.tree, parent=run.id, depth=run.depth + 1, fork=run.epoch,
                request=request, state="queued", version=1, epoch=0, progress=Progress(), failure=None,
                snapshot=run.snapshot, variation=variation, budget=run.budget, rollback=False,
                created=now, entered=now,
            )  # fmt: skip
            rows.insert_run(tx, fork, b"" if work is None else work[0], None)
            rows.write_event(tx, fork.id, "submit", now.at_s, {"fork_of": run.id, "variation": variation})
            position = tx.row(rows._POSITION, id=fork.id)
            made.append(fork if position is None else replace(fork, position=position[0]))
        return made


def _forget(tx: Transaction, numbers: Iterable[int]) -> None:
    tx.run_all(rows._SEEN, [{"number": number} for number in numbers])
