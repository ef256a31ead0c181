"""What it costs to submit a run, to start it, and to have ten thousand wait: the scheduler without any box."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale
from kibo.model.clock import up_s
from kibo.model.ids import RunId
from kibo.model.limits import LEASE_BEAT_S, MAX_ROUND
from kibo.schedule.dispatcher import Dispatcher
from kibo.schedule.leases import NODE, Holding, Leases
from kibo.schedule.placement import Demand, Node
from kibo.schedule.ports import Began, Ended, Member, Order, Report
from kibo.schedule.queue import Item, Queue
from kibo.schedule.request import Request, Resources
from kibo.schedule.submitting import Submission
from kibo.schedule.system_clock import SystemClock
from kibo.store.database import Store

TITLE = "schedule: runs without boxes"
QUEUED = 10_000
#: How often others come and go, a tenth as many.
TIMES = 3


class Instant:
    """One node on which whatever is begun has ended. See `kibo.schedule.ports.Nodes`."""

    def __init__(self, store: Store, clock: SystemClock, boxes: int) -> None:
        leases = Leases(store)
        self._lease = Holding(leases, NODE + "here", "bench")
        self._lease.take(leases.look(NODE + "here"), up_s())
        self._ring = clock.ring
        self._renewed_s = up_s()
        self._room = Resources(0, 0, boxes)
        self._unheard: dict[Report, None] = {}
        self.begun: dict[str, float] = {}
        self.ended = 0

    def members(self) -> Sequence[Member]:
        """See `Nodes.members`. Renews its lease as well: it has no thread of its own."""
        if up_s() - self._renewed_s >= LEASE_BEAT_S:
            self._renewed_s = up_s()
            self._lease.renew(self._renewed_s)
        return [Member("here", self._lease.epoch, self._room)]

    def begin(self, order: Order) -> None:
        """See `Nodes.begin`."""
        run, epoch = order.attempt.run, order.attempt.epoch
        self.begun[run] = time.perf_counter()
        self._unheard[Began("here", run, epoch)] = None
        self._unheard[Ended("here", run, epoch)] = None
        self._ring()

    def stop(self, node: str, run: RunId, epoch: int) -> None:
        """See `Nodes.stop`: it has ended already."""

    def reports(self) -> Sequence[Report]:
        """See `Nodes.reports`."""
        return list(self._unheard)[:MAX_ROUND]

    def heard(self, reports: Iterable[Report]) -> None:
        """See `Nodes.heard`."""
        for each in reports:
            del self._unheard[each]
            self.ended += isinstance(each, Ended)


def run(scale: Scale) -> Iterator[Figure]:
    """Yields what single runs cost, how many a second there can be, and what those cost that wait."""
    yield from _waiting(scale.of(QUEUED))  # first: later, memory that was used before is used again
    yield Figure("decided, 100 nodes, 5 tenants", "/s", _decisions(scale.of(QUEUED)), higher_is_better=True)
    with _place(boxes=64) as place:
        with place.dispatching():
            submits: list[float] = []
            starts: list[float] = []
            for _ in range(scale.of(300)):
                began = time.perf_counter()
                name = place.submission.submit(Request(b"work"))
                submitted = time.perf_counter()
                place.wait_for(len(starts) + 1)
                submits.append(submitted - began)
                starts.append(place.node.begun[name] - submitted)
            yield distribution("submit, durable", submits, target=2.0)
            yield distribution("queue to started", starts, target=10.0)
            yield _idle(scale.of(10))
        count = scale.of(QUEUED)
        place.submit(count)
        before, began = place.node.ended, time.perf_counter()
        with place.dispatching():
            place.wait_for(before + count)
        rate = 2 * count / (time.perf_counter() - began)
        yield Figure("starts and ends, each durable", "/s", rate, target=1000.0, higher_is_better=True)


def _decisions(count: int) -> float:
    queue = Queue()
    for n in range(100):
        queue.join(Node(f"n{n}", 1, Resources(8000, 0, 16)))
    demand = Demand(Resources(500))
    for n in range(count):
        queue.add(Item(f"r{n}", f"t{n % 5}", (1, 0.0, n), demand, (), (), 0.0))
    began, left = time.perf_counter(), count
    while left:
        starts = queue.decide(0.0, MAX_ROUND)
        left -= len(starts)
        for start in starts:
            queue.release(start.run, 0.0)
    return count / (time.perf_counter() - began)


def _idle(seconds: int) -> Figure:
    """Measures the dispatcher's share of a processor while nothing is to be done, renewals of leases included."""
    time.sleep(LEASE_BEAT_S)  # what was begun before is over
    used, began = time.process_time(), time.perf_counter()
    time.sleep(max(seconds, 2 * LEASE_BEAT_S))
    share = (time.process_time() - used) / (time.perf_counter() - began)
    return Figure("idle", "% of a processor", share * 100, target=0.5)


def _waiting(count: int) -> Iterator[Figure]:
    """Measures memory while runs wait for room that is not there, and once others have come and gone beside them."""
    with _place(boxes=0) as place:
        dispatcher = place.dispatcher()
        empty = _filled_bytes(dispatcher)
        place.submit(count)
        full = _filled_bytes(dispatcher)
        yield Figure(f"memory of {count:,} that wait", "MiB", (full - empty) / 2**20, target=64.0)
        for _ in range(TIMES):
            for name in place.submit(count // 10):
                place.submission.cancel(name)
            later = _filled_bytes(dispatcher)
        grown = (later - empty) / max(1, full - empty)
        yield Figure(f"memory once {TIMES * count // 10:,} others have come and gone", "x", grown, target=1.5)


def _filled_bytes(dispatcher: Dispatcher) -> int:
    """Has a dispatcher take in all that there is. Returns the memory that this process has then."""
    while dispatcher.step() <= up_s():
        pass
    gc.collect()
    return _resident_bytes()


class Place(NamedTuple):
    """A store of its own, and what works on it."""

    store: Store
    clock: SystemClock
    node: Instant
    submission: Submission

    def dispatcher(self) -> Dispatcher:
        """Makes one."""
        return Dispatcher(self.store, self.node, self.clock, "bench")

    @contextmanager
    def dispatching(self) -> Iterator[None]:
        """Has a dispatcher at work on a thread of its own."""
        dispatcher = self.dispatcher()
        thread = threading.Thread(target=dispatcher.run, name="bench-dispatcher")
        thread.start()
        try:
            yield
        finally:
            dispatcher.end()
            thread.join()

    def submit(self, count: int) -> list[RunId]:
        """Submits many, of five tenants."""
        made: list[RunId] = []
        for first in range(0, count, 500):
            requests = [Request(b"work", tenant=f"t{n % 5}") for n in range(first, min(count, first + 500))]
            made += self.submission.submit_all(requests)
        return made

    def wait_for(self, ended: int) -> None:
        """Waits until so many have ended, without taking the dispatcher's processor."""
        while self.node.ended < ended:
            time.sleep(0.0002)


@contextmanager
def _place(boxes: int) -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as home, Store.open(f"sqlite:///{home}/history.db") as store:
        clock = SystemClock()
        yield Place(store, clock, Instant(store, clock, boxes), Submission(store, bell=clock.ring))


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
