"""All runs that have not ended, as the dispatcher knows them, and what about each has to be looked at.

It is a copy of the store, and is thrown away whole where it may not be one any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from kibo.model.clock import Moment
from kibo.model.ids import BudgetId, RunId
from kibo.model.limits import MAX_RUN_DEPTH
from kibo.schedule.advance import deadline
from kibo.schedule.budgets import BudgetRow
from kibo.schedule.gates import Bar, bars_of
from kibo.schedule.lifecycle import HOLDING
from kibo.schedule.queue import Item, Queue
from kibo.schedule.ranking import Ranked
from kibo.schedule.run import Run

K = TypeVar("K")
V = TypeVar("V")


class OpenRuns:
    """The runs, with the queue that some of them are in.

    Attributes:
        queue: Who may start, and where.
        runs: All, by id.
        deadlines: When something is to happen to one by itself, by the steady clock.
        untold: Those whose node is to be told of their attempt, or once more, by when.
        unseen: Those about which others have to be read: what they wait for, their forks, their budget.
        budgets: Those of these runs, as they were last read.
        budgets_due: When one that is bounded in time is used up.
    """

    def __init__(self, queue: Queue) -> None:
        self.queue: Final = queue
        self.runs: Final[dict[RunId, Run]] = {}
        self.deadlines: Final[Ranked[RunId]] = Ranked()
        self.untold: Final[Ranked[RunId]] = Ranked()
        self.unseen: Final[dict[RunId, None]] = {}
        self.budgets: Final[dict[BudgetId, BudgetRow]] = {}
        self.budgets_due: Final[Ranked[BudgetId]] = Ranked()
        self._needed: Final[defaultdict[RunId, set[RunId]]] = defaultdict(set)
        self._needs: Final[dict[RunId, frozenset[RunId]]] = {}
        self._forks: Final[defaultdict[RunId, set[RunId]]] = defaultdict(set)
        self._sharing: Final[defaultdict[BudgetId, set[RunId]]] = defaultdict(set)

    def __iter__(self) -> Iterator[Run]:
        """All of them, in no order that means anything."""
        return iter(self.runs.values())

    def load(
        self,
        weights: Mapping[str, float],
        recent: Iterable[tuple[float, tuple[Bar, ...]]],
        runs: Iterable[Run],
        now: Moment,
    ) -> None:
        """Takes in all that the store has, after the nodes that are there were told to the queue.

        Args:
            weights: By tenant, how much it counts.
            recent: What rates may still count; see `kibo.schedule.register.Register.recent`.
            runs: All that have not ended.
            now: The time.
        """
        for tenant, weight in weights.items():
            self.queue.weigh(tenant, weight)
        for ago_s, bars in recent:
            self.queue.started(bars, now.up_s - ago_s)
        for run in runs:
            self.take(run, now)

    def take(self, run: Run, now: Moment) -> None:
        """Takes in a run as it is now. One that is known as it is, or as it was later, changes nothing."""
        known = self.runs.get(run.id)
        if known is not None and known.version >= run.version:
            return
        if known is None and not run.ended:
            self._arrive(run)
        if run.ended:
            self._end(run, now)
        else:
            self.runs[run.id] = run
            self._queue(run, now)
            self._remind(run, known, now)
        self._look(run)

    def need(self, run: RunId, dependencies: Iterable[RunId]) -> None:
        """Notes what has to end before a run need be looked at again."""
        self._need_no_more(run)
        self._needs[run] = frozenset(dependencies)
        for each in self._needs[run]:
            self._needed[each].add(run)

    def know(self, budget: BudgetRow, now: Moment) -> None:
        """Takes in a budget as it is now."""
        name = BudgetId(budget.id)
        self.budgets[name] = budget
        left = budget.seconds_left(now)
        if left:
            self.budgets_due.put(name, now.up_s + left)
        else:
            self.budgets_due.discard(name)
        if budget.spent(now):
            self.unseen.update(dict.fromkeys(sorted(self._sharing.get(name, ()))))

    def hold(self, run: Run, now: Moment) -> None:
        """The node of a run's attempt is there: what the run has of it is not free."""
        self._queue(run, now)

    def budgets_over(self, now: Moment) -> list[BudgetId]:
        """Takes away the budgets whose time is over, to be read."""
        over = []
        while (name := self.budgets_due.first()) is not None and self.budgets_due.rank(name) <= now.up_s:
            self.budgets_due.discard(name)
            over.append(name)
        return over

    def next_s(self) -> float:
        """Says when something is to be done by itself."""
        never = float("inf")
        deadline_s, untold_s = self.deadlines.least(never), self.untold.least(never)
        found: float = min(deadline_s, untold_s, self.budgets_due.least(never))
        return found

    def unread(self) -> list[BudgetId]:
        """Budgets that were never read."""
        return [each for each in self._sharing if each not in self.budgets]

    def branches(self, run: Run) -> int | None:
        """How many forks its depth and its budget still allow a run; None for any number."""
        if run.depth >= MAX_RUN_DEPTH:
            return 0
        budget = None if run.budget is None else self.budgets.get(run.budget)
        return None if budget is None else budget.branches_left

    def orphaned(self, run: Run) -> bool:
        """Whether a run is a fork of one that does not go on as its forks any more."""
        if not run.fork or run.parent is None or run.cancelled:
            return False
        parent = self.runs.get(run.parent)
        return parent is None or parent.state != "forked" or parent.epoch != run.fork

    # -- what follows from a run as it is

    def _arrive(self, run: Run) -> None:
        if run.fork and run.parent is not None:
            self._forks[run.parent].add(run.id)
        if run.budget is not None:
            self._sharing[run.budget].add(run.id)

    def _end(self, run: Run, now: Moment) -> None:
        self.runs.pop(run.id, None)
        self.queue.remove(run.id)
        self.queue.release(run.id, now.up_s)
        self.deadlines.discard(run.id)
        self.untold.discard(run.id)
        self._need_no_more(run.id)
        if run.fork and run.parent is not None:
            _drop(self._forks, run.parent, run.id)
        if run.budget is not None:
            _drop(self._sharing, run.budget, run.id)
            if run.budget not in self._sharing:
                self.budgets.pop(run.budget, None)
                self.budgets_due.discard(run.budget)

    def _queue(self, run: Run, now: Moment) -> None:
        """Brings a run to where it is to be in the queue."""
        queue = self.queue
        if run.state == "queued":
            queue.release(run.id, now.up_s)
            queue.add(Item.of(run, _since(run, now)))
        elif run.state in HOLDING:
            item = Item.of(run, _since(run, now))
            queue.hold(item._replace(bars=bars_of(run.request)), None if run.live is None else run.live.node)
            if run.live is None:
                queue.leave(run.id)
                queue.add(item)
            else:
                queue.remove(run.id)
        else:
            queue.remove(run.id)
            queue.release(run.id, now.up_s)

    def _remind(self, run: Run, known: Run | None, now: Moment) -> None:
        found = deadline(run, now)
        if found is None:
            self.deadlines.discard(run.id)
        else:
            self.deadlines.put(run.id, now.up_s + found.left_s)
        if run.live is None or (run.state not in ("stopping", "cancelling") and run.live.begun is not None):
            self.untold.discard(run.id)
        elif known is None or (known.state, known.epoch) != (run.state, run.epoch):
            self.untold.put(run.id, now.up_s)

    def _look(self, run: Run) -> None:
        """Notes who has to be looked at because of a run: itself, those that wait for it, its parent, its forks."""
        if run.ended:
            self.unseen.pop(run.id, None)
            self.unseen.update(dict.fromkeys(sorted(self._needed.get(run.id, ()))))
        elif run.state in ("waiting", "forked") or run.fork or run.budget is not None:
            self.unseen[run.id] = None
        if run.parent is not None and run.fork and run.parent in self.runs:
            self.unseen[run.parent] = None
        if run.state != "forked":
            self.unseen.update(dict.fromkeys(sorted(self._forks.get(run.id, ()))))

    def _need_no_more(self, run: RunId) -> None:
        for each in self._needs.pop(run, ()):
            _drop(self._needed, each, run)


def _drop(of: defaultdict[K, set[V]], key: K, value: V) -> None:
    of[key].discard(value)
    if not of[key]:
        del of[key]


def _since(run: Run, now: Moment) -> float:
    """Since when it waits, by the steady clock of this machine."""
    return now.up_s - run.age_s(now)
