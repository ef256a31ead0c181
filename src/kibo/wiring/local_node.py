"""This process as a node: it makes the attempts that a dispatcher has placed here, each on a thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kibo.model.errors import KiboError, PlaceTaken, StoreUnavailable
from kibo.model.ids import RunId
from kibo.model.limits import LEASE_BEAT_S, LEASE_S, MAX_ROUND
from kibo.schedule.failing import Failure
from kibo.schedule.leases import NODE, Holding, Leases
from kibo.schedule.ports import Ended, Member, Order, Report
from kibo.schedule.request import Resources
from kibo.wiring import Runtime
from kibo.wiring.attempts import Attempt
from kibo.wiring.run_branches import RunBranches

_log: Final = logging.getLogger(__name__)
#: How often branches of runs that have ended are looked for.
_TIDY_S: Final = 60.0
#: Attempts that are remembered after they have ended, so that an order which comes again begins nothing.
_REMEMBERED: Final = 100_000


class LocalNode:
    """One node, which is this process; see `kibo.schedule.ports.Nodes`. Thread-safe.

    Args:
        name: What to call it, unlike any other process.
        holder: Who it is, for people.
        home: The runtime.
        leases: Where its lease is.
        branches: The branches of runs in this process.
        room: What it has.
        ring: Called whenever there is something for the dispatcher to see.
        told: Called whenever there is something for those to see who wait for runs.
    """

    def __init__(
        self,
        name: str,
        holder: str,
        home: Runtime,
        leases: Leases,
        branches: RunBranches,
        room: Resources,
        ring: Callable[[], None],
        told: Callable[[], None],
    ) -> None:
        self.name: Final = name
        self._home: Final = home
        self._leases: Final = leases
        self._branches: Final = branches
        self._room: Final = room
        self._ring: Final = ring
        self._told: Final = told
        self._guard: Final = threading.Lock()
        self._lease: Final = Holding(leases, NODE + name, holder)
        self._here = False
        self._attempts: Final[dict[tuple[RunId, int], Attempt]] = {}
        #: By run, the newest epoch that this node has heard of.
        self._epochs: Final[OrderedDict[RunId, int]] = OrderedDict()
        self._reports: Final[dict[Report, None]] = {}
        self._over: Final = threading.Event()
        self._beating = threading.Thread()

    def start(self, look: Callable[[], None]) -> None:
        """Takes its lease and offers itself.

        Args:
            look: Called at each beat.

        Raises:
            StoreUnavailable: The lease could not be taken.
        """
        self._take()
        self._beating = threading.Thread(target=self._beat, args=(look,), name="kibo-node", daemon=True)
        self._beating.start()

    def close(self) -> None:
        """Ends all that it runs, and its lease."""
        self._over.set()
        with self._guard:
            self._here = False
        self._stop_all(lost=False)
        if self._beating.ident is not None:
            self._beating.join()
        try:
            self._lease.end()
        except StoreUnavailable as error:
            _log.warning("a node's lease was not given back, and lasts %g s: %s", LEASE_S, error.message)

    # -- the port

    def members(self) -> Sequence[Member]:
        """See `Nodes.members`."""
        with self._guard:
            return [Member(self.name, self._lease.epoch, self._room)] if self._here else []

    def begin(self, order: Order) -> None:
        """See `Nodes.begin`."""
        attempt = order.attempt
        with self._guard:
            if not self._here or attempt.node_epoch != self._lease.epoch:
                return
            known = self._epochs.get(attempt.run, 0)
            if attempt.epoch <= known:
                return
            self._remember(attempt.run, attempt.epoch)
            older = self._attempts.get((attempt.run, known))
            made = Attempt(order, self._home, self._branches, self._said)
            self._attempts[attempt.run, attempt.epoch] = made
        if older is not None:
            older.stop()
        made.thread.start()
        self._told()

    def stop(self, node: str, run: RunId, epoch: int) -> None:
        """See `Nodes.stop`."""
        with self._guard:
            attempt = self._attempts.get((run, epoch))
            if attempt is None:
                self._remember(run, max(epoch, self._epochs.get(run, 0)))
                ended = any(isinstance(each, Ended) and each[1:3] == (run, epoch) for each in self._reports)
                if not ended:
                    self._reports[Ended(node, run, epoch, failure=_STOPPED)] = None
        if attempt is not None:
            attempt.stop()
        else:
            self._ring()

    def reports(self) -> Sequence[Report]:
        """See `Nodes.reports`."""
        with self._guard:
            return list(self._reports)[:MAX_ROUND]

    def heard(self, reports: Iterable[Report]) -> None:
        """See `Nodes.heard`."""
        with self._guard:
            for each in reports:
                self._reports.pop(each, None)
        self._told()

    # -- what comes of attempts

    def _said(self, report: Report) -> None:
        with self._guard:
            if isinstance(report, Ended):
                self._attempts.pop((report.run, report.epoch), None)
            self._reports[report] = None
        self._ring()

    def _remember(self, run: RunId, epoch: int) -> None:
        self._epochs[run] = epoch
        self._epochs.move_to_end(run)
        while len(self._epochs) > _REMEMBERED:
            self._epochs.popitem(last=False)

    def _stop_all(self, *, lost: bool) -> None:
        with self._guard:
            attempts = list(self._attempts.values())
        for each in attempts:
            each.stop(lost=lost)
        for each in attempts:
            each.thread.join()

    # -- the lease

    def _take(self) -> None:
        self._lease.take(self._leases.look(self._lease.name), time.monotonic())
        with self._guard:
            self._here = True
        self._ring()

    def _beat(self, look: Callable[[], None]) -> None:
        tidied_s = float("-inf")
        while not self._over.wait(LEASE_BEAT_S if tidied_s > 0 else 0.0):
            if time.monotonic() - tidied_s > _TIDY_S:
                self._tidy()
                tidied_s = time.monotonic()
            try:
                self._renew()
                look()
            except KiboError as error:
                _log.warning("a node's lease could not be renewed: %s", error.message)

    def _renew(self) -> None:
        try:
            if self._here:
                self._lease.renew(time.monotonic())
            else:
                self._take()
        except PlaceTaken:
            self._give_up()
            self._take()
        except StoreUnavailable:
            if self._here and self._lease.overdue(time.monotonic()):
                self._give_up()
            raise

    def _give_up(self) -> None:
        """Ends all that it runs: it may be given to another node."""
        with self._guard:
            self._here = False
        self._stop_all(lost=True)
        self._ring()

    def _tidy(self) -> None:
        try:
            self._branches.tidy()
        except KiboError as error:
            _log.warning("branches of runs that have ended could not be ended: %s", error.message)


_STOPPED: Final = Failure("run.stopped", "it was stopped before it began", "safe")


def room_of_host() -> Resources:
    """Returns what this machine has for runs."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    processors = len(os.sched_getaffinity(0))
    return Resources(millicpus=1000 * processors, memory_bytes=pages, boxes=32 * processors)
