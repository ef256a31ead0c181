"""One attempt of a run: its box spawned in a fork of the run's branch, its action called, and the fork committed.

Of what it asks the outside world for nothing leaves its fork but by the commit, which happens once it has ended well,
or where all that is left to do waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from kibo.box.actions import ActionSpec
from kibo.box.define import Box
from kibo.box.plan import plan
from kibo.box.results import to_builtins
from kibo.branch.running import RunningBranch
from kibo.model.errors import BudgetSpent, Bug, Conflict, KiboError, RunTaken, RuntimeLost, WrongState
from kibo.model.limits import BOUNDARY_POLL_S
from kibo.runtime.recording import perform
from kibo.runtime.states import Launched, Launching
from kibo.runtime.waiting import run
from kibo.schedule.failing import Failure
from kibo.schedule.lifecycle import Note
from kibo.schedule.policy import Fork
from kibo.schedule.ports import Began, Ended, Noted, Order, Report
from kibo.schedule.work import Work, pack_result, read_work
from kibo.store import crash
from kibo.wiring import Runtime, definitions, tracing
from kibo.wiring.run_branches import RunBranches, branch_of
from kibo.wiring.undoing import undo

_log: Final = logging.getLogger(__name__)
#: The parameter by which an action is told what it is to do otherwise, as one of several forks.
VARIATION: Final = "variation"


class Attempt:
    """One attempt, on a thread of its own.

    Args:
        order: What is to be done.
        home: The runtime to do it in.
        branches: The branches of runs in this process.
        report: Called with what has happened, on any thread.
    """

    def __init__(
        self, order: Order, home: Runtime, branches: RunBranches, report: Callable[[Report], None]
    ) -> None:
        self._order: Final = order
        self._home: Final = home
        self._branches: Final = branches
        self._report: Final = report
        self._guard: Final = threading.Lock()
        self._stopped = self._lost = False
        self._stopper: threading.Thread | None = None
        self._branch: RunningBranch | None = None
        self._launching: set[str] = set()
        self.thread: Final = threading.Thread(target=self._run, name="kibo-attempt", daemon=True)

    # -- from outside

    def stop(self, *, lost: bool = False) -> None:
        """Ends all that runs of it, on a thread; the attempt then reports its end. Returns at once; idempotent.

        Args:
            lost: Whether its node gives it up, and it is to be placed anew.
        """
        with self._guard:
            self._lost = self._lost or lost
            if self._stopped:
                return
            self._stopped = True
            self._stopper = threading.Thread(target=self._end_now, name="kibo-attempt-stop", daemon=True)
            self._stopper.start()

    def _end_now(self) -> None:
        with self._guard:
            branch, launching = self._branch, set(self._launching)
        states = self._home.running()
        if states is not None:
            for cell in launching:
                states.session.forget(cell)
        try:
            if branch is not None:
                self._end(branch)
        except KiboError as error:
            _log.warning("stopping an attempt of %s: %s", self._order.run.id, error.message)

    def _end(self, branch: RunningBranch) -> None:
        if branch.ended == "committed" and branch.parent is not None:
            run(branch.parent.close(keep=False))  # it goes on in there
        else:
            run(branch.abort())

    # -- on its thread

    def _run(self) -> None:
        attempt = self._order.attempt
        found = Ended(attempt.node, attempt.run, attempt.epoch)
        try:
            where = self._branches.trace(self._order.run)
            with tracing.attempt(self._order, where):
                if attempt.kind == "undo":
                    found = found._replace(failure=self._undo())
                else:
                    result, snapshot = self._work(where)
                    found = found._replace(result=result, snapshot=snapshot)
        except BaseException as error:  # noqa: BLE001 - told to the dispatcher, which decides
            found = found._replace(
                failure=failure_of(error)._replace(lost=self._lost or isinstance(error, RuntimeLost))
            )
        finally:
            if self._stopper is not None:
                self._stopper.join()  # nothing of it runs any more
        self._report(found)

    def _check(self) -> None:
        if self._stopped:
            raise RunTaken(f"attempt {self._order.attempt.epoch} of {self._order.run.id} was stopped")

    def _work(self, where: str) -> tuple[bytes, str | None]:
        record = self._order.run
        work = read_work(record.id, self._order.work)
        box = definitions.find(work)
        spec = plan(box).actions[work.action]  # it had that when it was submitted, and its digest is the same
        with self._branches.holding(record) as root:
            self._check()
            branch = root.child(f"attempt {self._order.attempt.epoch}")
            with self._guard:
                self._branch = branch
            trace = ""
            try:
                self._check()
                instance = self._instance(branch, box)
                crash.point("attempt.made")
                with (
                    self._committing_at_boundary(branch, needed=bool(plan(box).egress)),
                    tracing.action(work.box, work.action, where) as trace,
                ):
                    result = self._call(instance, spec, work, root.id, trace)
                packed = pack_result(to_builtins(result))
                crash.point("attempt.acted")
                self._check()
                if branch.ended != "committed":
                    run(branch.commit("unmoved", ("**",), overwrite=False))
                    crash.point("attempt.committed")
                    self._note("commit")
                elif root.members:
                    run(root.snapshot(""))
                return packed, str(self._home.records().history.get(root.id).head)
            except BaseException:
                run(branch.abort())
                raise
            finally:
                tracing.effects(trace, lambda: self._home.records().ledger.listed(branch.id))

    def _instance(self, branch: RunningBranch, box: Box) -> Any:
        if not self._branches.populate(branch, box):
            run(branch.spawn(box, None, "", self._launches))
        (member,) = branch.members.values()
        return member.face

    def _note(self, what: Note) -> None:
        attempt = self._order.attempt
        self._report(Noted(attempt.node, attempt.run, attempt.epoch, what))

    def _launches(self, event: Any) -> None:
        """Notes what is being launched for it, which ends where it is stopped."""
        if isinstance(event, Launching):
            with self._guard:
                self._launching.add(event.cell)
                stopped = self._stopped
            states = self._home.running()
            if stopped and states is not None:
                states.session.forget(event.cell)
        elif isinstance(event, Launched):
            with self._guard:
                self._launching.clear()

    def _call(self, instance: Any, spec: ActionSpec, work: Work, key: str, trace: str) -> Any:
        named = dict(work.named)
        if self._order.run.variation and any(slot.name == VARIATION for slot in spec.parameters):
            named[VARIATION] = self._order.run.variation
        return run(perform(instance, spec, work.positional, named, key=key, begun=self._begun, trace=trace))

    def _begun(self) -> None:
        attempt = self._order.attempt
        self._report(Began(attempt.node, attempt.run, attempt.epoch))

    @contextmanager
    def _committing_at_boundary(self, branch: RunningBranch, *, needed: bool) -> Iterator[None]:
        """Commits a branch during a block, once all that is called in it waits for that."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(BOUNDARY_POLL_S):
                if not self._stopped and branch.waits_at_boundary():
                    crash.point("attempt.at_boundary")
                    self._note("hold")
                    try:
                        run(branch.commit("unmoved", ("**",), overwrite=False))
                    except Conflict:
                        run(branch.abort())  # another attempt was first: its call raises
                    else:
                        self._note("commit")
                    return

        if not needed:
            yield
            return
        watcher = threading.Thread(target=look, name="kibo-attempt-boundary", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    def _undo(self) -> Failure | None:
        """Undoes what stands of earlier attempts, the newest first. Returns why it could not all be."""
        work = read_work(self._order.run.id, self._order.work)
        box = definitions.find(work)
        records, name = self._home.records(), branch_of(self._order.run.id)
        records.recorder.calls.owe([name], "its run is undone")
        try:
            done = undo(name, box)
        except WrongState:
            return None  # nothing of it stands
        left = [effect for effect in done.effects if effect.state != "undone"]
        if not left:
            return None
        return Failure(
            "run.not_undone",
            f"{len(left)} effects could not be undone: {', '.join(e.id for e in left)}",
            "after",
        )


def failure_of(error: BaseException) -> Failure:
    """Says why an attempt has failed, as its policy is asked about it."""
    if isinstance(error, KiboError):
        return Failure(error.code, error.message, error.retry, final=isinstance(error, BudgetSpent)).bounded()
    bug = Bug(f"{type(error).__name__}: {error}")
    return Failure(bug.code, bug.message, bug.retry).bounded()


def takes_variations(spec: ActionSpec, steps: tuple[Any, ...]) -> bool:
    """Whether an action can be told what the forks of a policy are to do otherwise, if any are."""
    told = any(isinstance(step, Fork) and any(step.vary) for step in steps)
    return not told or any(slot.name == VARIATION for slot in spec.parameters)
