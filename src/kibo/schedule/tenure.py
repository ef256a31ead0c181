"""What a dispatcher does while it holds its lease, a round at a time: hear, write what follows, start, tell the nodes.

What is told to a node was written before, and is told again until the node has answered. What a node tells is written
before it is forgotten. So it may be killed anywhere, and another goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from kibo.model.clock import Moment
from kibo.model.errors import Bug
from kibo.model.ids import BudgetId, RunId
from kibo.model.limits import MAX_ROUND, ORDER_AGAIN_S
from kibo.schedule.advance import Change, begun, deadline, failed, joined, noted, placed, succeeded
from kibo.schedule.ending import awaited, expired, out_of_budget
from kibo.schedule.failing import Failure
from kibo.schedule.leases import LeaseRow, Leases
from kibo.schedule.lifecycle import ENDED, UNDOING
from kibo.schedule.membership import Membership
from kibo.schedule.open_runs import OpenRuns
from kibo.schedule.ports import Began, Ended, Nodes, Noted, Order, Report
from kibo.schedule.queue import Queue, Start
from kibo.schedule.register import Register
from kibo.schedule.run import Attempt, Run
from kibo.schedule.submitting import Submission
from kibo.store import crash

_LOST: Final = Failure("run.lost", "its node was lost", lost=True)
#: Less than this is no time: sums of seconds are not exact.
_INSTANT_S: Final = 1e-6


class Changes:
    """Changes of one round, of which several may be of one run."""

    def __init__(self, runs: OpenRuns) -> None:
        self._runs: Final = runs
        self._after: Final[dict[RunId, Run]] = {}
        self.made: Final[list[Change]] = []

    def of(self, run: RunId) -> Run | None:
        """Returns a run as it is after these; None where it has ended, or there is none."""
        found = self._after.get(run) or self._runs.runs.get(run)
        return None if found is None or found.ended else found

    def add(self, change: Change | None) -> None:
        """Adds one, if it is one."""
        if change is not None:
            self.made.append(change)
            self._after[change.after.id] = change.after


class Tenure:
    """One dispatcher's time. Every call raises `PlaceTaken` once it is over, and what the store does.

    Args:
        register: The runs.
        submission: The same, to cancel some.
        leases: Those of nodes.
        nodes: What attempts run in.
        epoch: Of the dispatcher's lease.

    Attributes:
        queue: Who may start, and where.
    """

    def __init__(
        self, register: Register, submission: Submission, leases: Leases, nodes: Nodes, epoch: int
    ) -> None:
        self.queue: Final = Queue()
        self._register: Final = register
        self._submission: Final = submission
        self._leases: Final = leases
        self._nodes: Final = nodes
        self._epoch: Final = epoch
        self._open: Final = OpenRuns(self.queue)
        self._members: Final = Membership(leases, self.queue)
        self._unread: Final[set[BudgetId]] = set()
        self._parted = True
        self._noted = False

    def load(self, now: Moment) -> None:
        """Reads all that is open. About 0.1 ms for each run."""
        self._members.look(self._leases.all(), ())
        self._members.offer(self._nodes.members())
        register = self._register
        self._open.load(register.weights(), register.recent(now), register.open_runs(), now)

    def beat(self, rows: Sequence[LeaseRow], silent: Sequence[LeaseRow]) -> None:
        """Takes in all leases, and gives up the nodes that were silent; to be called a few times in `LEASE_S`."""
        self._members.look(rows, silent)
        self._parted = True
        self._weigh()

    def step(self, now: Moment) -> float:
        """Does one round. Returns when the next is due, by the steady clock: at once, where there is more."""
        self._join(now)
        numbers, rung = self._register.rung()
        for run in rung:
            self._open.take(run, now)
        self._read_budgets(rung, now)
        changes = Changes(self._open)
        reports = self._nodes.reports()
        for report in reports:
            self._hear(report, changes, now)
        self._lose(changes, now)
        self._expire(changes, now)
        cancelled = self._examine(changes, now)
        refused = self._write(changes.made, now, numbers)
        crash.point("dispatch.before_heard")
        if reports or changes.made or cancelled:
            self._nodes.heard([each for each in reports if each.run not in refused])
        starts = self._start(now, () if changes.made else numbers)
        self._note_nodes()
        self._tell(now)
        full = len(numbers) == MAX_ROUND or starts == MAX_ROUND
        more = full or cancelled or changes.made or self._open.unseen or self._unread
        return now.up_s if more else self._next_s()

    # -- what has happened

    def _join(self, now: Moment) -> None:
        """Takes in which nodes are there, and what is at work at one that is back."""
        joined_now = set(self._members.offer(self._nodes.members()))
        if joined_now:
            self._parted = True
            for run in self._open:
                if run.live is not None and run.live.node in joined_now and not self._members.lost(run):
                    self._open.hold(run, now)

    def _read_budgets(self, rung: Iterable[Run], now: Moment) -> None:
        """Reads budgets that may have changed. Of one that is used up, all runs are looked at."""
        wanted = {run.budget for run in rung if run.budget is not None and not run.ended}
        wanted |= {*self._open.unread(), *self._open.budgets_over(now), *self._unread}
        self._unread.clear()
        if wanted:
            for row in self._register.read_budgets(sorted(wanted)):
                self._open.know(row, now)

    def _hear(self, report: Report, changes: Changes, now: Moment) -> None:
        """Takes in what a node tells, if it is of an attempt that counts; another is to be stopped."""
        run = changes.of(report.run)
        if run is None or run.live is None or (run.epoch, run.live.node) != (report.epoch, report.node):
            if isinstance(report, Began):
                self._nodes.stop(report.node, report.run, report.epoch)
        elif isinstance(report, Began):
            changes.add(begun(run, now))
        elif isinstance(report, Noted):
            changes.add(noted(run, report.what))
        else:
            changes.add(self._ended(run, report, now))

    def _ended(self, run: Run, report: Ended, now: Moment) -> Change:
        failure = report.failure
        if failure is None:
            return succeeded(run, now, report.result, report.snapshot)
        stopped = run.state in ("stopping", "cancelling")
        return failed(
            run, now, failure,
            snapshot=report.snapshot,
            outcome="lost" if failure.lost else "stopped" if stopped else "failed",
            branches=self._open.branches(run),
        )  # fmt: skip

    def _lose(self, changes: Changes, now: Moment) -> None:
        """Gives up the attempts at nodes that are others' now, or nobody's."""
        if not self._parted:
            return
        self._parted = False
        for each in self._open:
            run = changes.of(each.id) if self._members.lost(each) else None
            if run is not None and self._members.lost(run):
                branches = self._open.branches(run)
                changes.add(failed(run, now, _LOST, outcome="lost", branches=branches))

    def _expire(self, changes: Changes, now: Moment) -> None:
        """Ends what has taken too long. One that undoes is stopped, and goes on once its node says so."""
        due = self._open.deadlines
        while (name := due.first()) is not None and due.rank(name) <= now.up_s:
            due.discard(name)
            run = changes.of(name)
            what = None if run is None else deadline(run, now)
            if run is None or what is None:
                continue
            if what.left_s > _INSTANT_S:
                due.put(name, now.up_s + what.left_s)
                continue
            if run.live is not None and run.state in UNDOING:
                self._nodes.stop(run.live.node, run.id, run.epoch)
                due.put(name, now.up_s + ORDER_AGAIN_S)
            else:
                changes.add(expired(run, what, now, self._open.branches(run)))

    def _examine(self, changes: Changes, now: Moment) -> bool:
        """Looks at runs about which others had to be read first. Returns whether any were cancelled by that."""
        cancelled = False
        for name in [name for name, _ in zip(self._open.unseen, range(MAX_ROUND), strict=False)]:
            del self._open.unseen[name]
            run = changes.of(name)
            if run is None:
                continue
            if self._open.orphaned(run):
                self._submission.cancel(run.id, why="what it was a fork of does not need it any more")
                cancelled = True
                continue
            budget = None if run.budget is None else self._open.budgets.get(run.budget)
            change = None if budget is None else out_of_budget(run, budget, now)
            if change is None and run.state == "waiting":
                waits = self._register.waits(run.id)
                change = awaited(run, waits, now)
                self._open.need(run.id, [each.dependency for each in waits if each.state not in ENDED])
            elif change is None and run.state == "forked":
                forks = self._register.forks(run)
                winner = next((str(fork) for fork, state in forks if state == "done"), "")
                branches = self._open.branches(run)
                change = joined(run, now, [state for _, state in forks], winner, branches)
            changes.add(change)
        return cancelled

    # -- what follows

    def _write(self, changes: Sequence[Change], now: Moment, numbers: Sequence[int]) -> frozenset[RunId]:
        """Writes changes, if there are any, and takes them in. Returns the runs that were not as they were known."""
        if not changes:
            return frozenset()
        written = self._register.write(changes, self._epoch, now, numbers)
        for change in changes:
            if change.before.id not in written.refused:
                self._open.take(change.after, now)
        for run in (*written.forks, *self._register.runs(sorted(written.refused))):
            self._open.take(run, now)
        return written.refused

    def _start(self, now: Moment, numbers: Sequence[int]) -> int:
        """Starts whoever may, and forgets what was rung for. Returns how many were to start."""
        starts = self.queue.decide(now.up_s, MAX_ROUND)
        changes = [self._placed(start, now) for start in starts]
        self._write(changes, now, numbers)
        if not changes and numbers:
            self._register.heard(numbers)
        for change in changes:
            budget = None if change.after.budget is None else self._open.budgets.get(change.after.budget)
            if budget is not None and budget.seconds is not None and budget.began is None:
                self._unread.add(BudgetId(budget.id))
        return len(starts)

    def _placed(self, start: Start, now: Moment) -> Change:
        run, node = self._open.runs[RunId(start.run)], self.queue.nodes[start.node]
        why = [[reason.what, reason.detail, round(reason.points, 3)] for reason in start.reasons]
        return placed(run, node.id, node.epoch, now, {"why": why})

    def _note_nodes(self) -> None:
        """Writes down what of the nodes is not what it was: who explains from outside decides from the same."""
        untold, noted = self.queue.untold, self._noted
        if untold or not noted:
            self._register.note_nodes(self.queue.nodes, untold if noted else None, self._epoch)
            untold.clear()
            self._noted = True
            crash.point("dispatch.nodes_noted")

    def _tell(self, now: Moment) -> None:
        """Tells nodes what is to begin and to stop, and tells those again that have not answered."""
        untold = self._open.untold
        begin: list[tuple[Run, Attempt]] = []
        while (name := untold.first()) is not None and untold.rank(name) <= now.up_s:
            run = self._open.runs[name]
            if run.live is None:
                raise Bug(f"{name} has no attempt, and its node was to be told of one")
            untold.put(name, now.up_s + ORDER_AGAIN_S)
            if run.state in ("stopping", "cancelling"):
                self._nodes.stop(run.live.node, run.id, run.epoch)
            else:
                begin.append((run, run.live))
        if begin:
            crash.point("dispatch.before_begin")
            work = self._register.work([run.id for run, _ in begin])
            for run, attempt in begin:
                self._nodes.begin(Order(run, attempt, work[run.id]))
            crash.point("dispatch.begun")

    def _weigh(self) -> None:
        for tenant, weight in self._register.weights().items():
            self.queue.weigh(tenant, weight)

    def _next_s(self) -> float:
        queue_s = self.queue.next_s()
        return min(self._open.next_s(), float("inf") if queue_s is None else queue_s)
