"""The branch that a run has: one root for all of its attempts, and for the runs that it is forked into.

An attempt is a fork of it. The first commit wins, so that of all attempts of a run, in whatever process, one becomes
what the run came to, and what the others have asked the outside world for is dropped with them. A key names the run's
one call in that tree, so that an attempt that comes after a commit finds what was done, and does not do it again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from kibo.box.define import Box
from kibo.branch.records import BranchRecord
from kibo.branch.running import RunningBranch
from kibo.branch.worlds import world_of
from kibo.model.errors import BranchClosed, BranchUnknown
from kibo.model.ids import BranchId, RunId
from kibo.runtime.waiting import run
from kibo.schedule.lifecycle import ENDED
from kibo.schedule.run import Run
from kibo.schedule.submitting import Submission
from kibo.store import crash
from kibo.wiring import Runtime
from kibo.wiring.branches import new_family


def branch_of(run: str) -> BranchId:
    """Returns the id of a run's branch: it has the run's digits, so that no process makes a second one."""
    return BranchId(BranchId.prefix + run.removeprefix(RunId.prefix))


@dataclass
class _Held:
    root: RunningBranch
    users: int = 0


class RunBranches:
    """The branches of runs that are at work in this process. Thread-safe.

    Args:
        home: The runtime that their instances run in.
        runs: The runs.
    """

    def __init__(self, home: Runtime, runs: Submission) -> None:
        self._home: Final = home
        self._runs: Final = runs
        self._guard: Final = threading.Lock()
        self._held: Final[dict[BranchId, _Held]] = {}

    @contextmanager
    def holding(self, record: Run) -> Iterator[RunningBranch]:
        """Has a run's branch in this process during a block: whoever has had it elsewhere writes to it no more.

        Raises:
            BranchClosed: The run has ended.
        """
        origin = self._runs.origin(record)
        name = branch_of(origin.id)
        with self._guard:
            held = self._held.get(name)
            if held is None:
                held = self._held[name] = _Held(self._claimed(name, origin))
            held.users += 1
        try:
            yield held.root
        finally:
            with self._guard:
                held.users -= 1
                last = not held.users
                if last:
                    del self._held[name]
            if last:
                run(held.root.close(keep=False))

    def _claimed(self, name: BranchId, origin: Run) -> RunningBranch:
        history = self._home.records().history
        try:
            record = history.get(name)
        except BranchUnknown:
            goal = f"run {origin.request.name or origin.id}"
            record = history.create(goal, origin.id, id=name, claimed=True)
            crash.point("attempt.branch_made")
        else:
            record = replace(record, epoch=history.claim(name))
        return RunningBranch(new_family(self._home), record, None, {})

    def populate(self, branch: RunningBranch, box: Box) -> bool:
        """Makes the instances of a branch over what earlier attempts have left. Returns whether they had left any."""
        history = self._home.records().history
        if not world_of(history.find_snapshot(branch.id)):
            return False
        run(branch.restore([box]))
        return True

    def trace(self, run: Run) -> str:
        """Returns where a run belongs in a trace; empty for nowhere."""
        return self._runs.trace(run)

    def tidy(self) -> None:
        """Ends the branches of runs that have ended: what a run came to is kept for as long as branches are, and what
        was given up is dropped.
        """
        history = self._home.records().history
        for root in history.roots():
            if root.status != "open" or not root.name.startswith(RunId.prefix) or root.id in self._held:
                continue
            if root.id == branch_of(root.name):
                self._end(root)

    def _end(self, root: BranchRecord) -> None:
        history, state = self._home.records().history, self._runs.get(root.name).state
        if state not in ENDED:
            return
        with suppress(BranchClosed):
            if state in ("done", "failed"):
                history.finish(root.id)
            else:
                history.abort(root.id)
