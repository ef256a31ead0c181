"""A scheduler's world that is simulated: many nodes, their network and the time, all from one seed.

The dispatcher, the queue, the leases, the budgets and the store are the real ones. What is behind their ports is here:
time stands still while something is done, and whatever goes wrong does so because the seed says so.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeVar

from kibo.model.clock import Moment
from kibo.model.errors import BudgetSpent, PlaceTaken, RunTaken, StoreUnavailable
from kibo.model.ids import RunId
from kibo.model.limits import LEASE_BEAT_S, MAX_ROUND
from kibo.schedule.budgets import Meter
from kibo.schedule.dispatcher import Dispatcher
from kibo.schedule.failing import Failure
from kibo.schedule.leases import NODE, Holding, Leases
from kibo.schedule.ports import Began, Ended, Member, Noted, Order, Report
from kibo.schedule.request import Resources
from kibo.store import crash
from kibo.store.database import Store, Transaction

T = TypeVar("T")
#: How long it takes at most until a dispatcher looks that was rung for.
BUSY_S = 0.05


class Died(BaseException):
    """This dispatcher was killed here."""


class SimStore:
    """A store that does not answer at times, and where nobody knows at others whether it has done what was asked."""

    def __init__(self, real: Store) -> None:
        self.real = real
        self.gone: Callable[[], bool] = lambda: False
        self.torn = 0  # so many writes from now on happen without an answer

    def write(self, work: Callable[[Transaction], T]) -> T:
        if self.gone():
            raise StoreUnavailable("it does not answer", hint="Wait.")
        done = self.real.write(work)
        if self.torn:
            self.torn -= 1
            raise StoreUnavailable("it has answered nothing", hint="Wait.")
        return done

    def read(self, work: Callable[[Transaction], T]) -> T:
        if self.gone():
            raise StoreUnavailable("it does not answer", hint="Wait.")
        return self.real.read(work)


class World:
    """Time, and all that happens in it."""

    def __init__(self, store: Store, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_s = 1000.0
        self.wall_ahead_s = 1e9
        self.real = store
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = 0
        self.nodes: dict[str, SimNode] = {}
        self.dispatchers: list[SimDispatcher] = []
        self.executing: dict[str, tuple[str, int]] = {}
        self.steps = 0
        self.told: dict[str, int] = {}

    def count(self, what: str) -> None:
        self.told[what] = self.told.get(what, 0) + 1

    def moment(self) -> Moment:
        return Moment(self.wall_ahead_s + self.now_s, self.now_s, "boot")

    def at(self, seconds: float, what: Callable[[], None]) -> None:
        """Has something happen so many seconds from now."""
        self.serial += 1
        heapq.heappush(self.events, (self.now_s + seconds, self.serial, what))

    def advance(self, until_s: float, done: Callable[[], bool] = lambda: False) -> None:
        """Lets time go by."""
        while not done():
            event_s = self.events[0][0] if self.events else float("inf")
            first = min(self.dispatchers, key=lambda each: each.due_s, default=None)
            due_s = float("inf") if first is None else first.due_s
            if min(event_s, due_s) > until_s:
                self.now_s = until_s
                return
            self.now_s = max(self.now_s, min(event_s, due_s))
            if event_s <= due_s or first is None:
                heapq.heappop(self.events)[2]()
            else:
                first.step()

    def ring(self) -> None:
        for each in self.dispatchers:
            each.clock.ring()

    def place(self, node: str, run: str, epoch: int) -> None:
        """An attempt begins to be made: nowhere else may there be one of the same run."""
        other = self.executing.get(run)
        assert other is None, f"{run} {epoch} begins at {node}, and is at work as {other}"
        self.executing[run] = (node, epoch)

    def leave(self, run: str, epoch: int) -> None:
        if self.executing.get(run, ("", 0))[1] == epoch:
            del self.executing[run]


class SimClock:
    """The world's time, as one dispatcher sees it."""

    def __init__(self, world: World, ring: Callable[[], None]) -> None:
        self.moment = world.moment
        self.ring = ring

    def wait(self, until_s: float | None) -> None:
        raise AssertionError("the world says when it is time")


class SimDispatcher:
    """A process that dispatches, or stands by, until it is killed."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.due_s = world.now_s
        self.store = SimStore(world.real)
        self.clock = SimClock(world, self.ring)
        self.delays = Random(f"{world.seed} {name}")
        self.dies_in = 0
        self.passed: Callable[[str], None] = self._count_down
        self.made = Dispatcher(self.store, SimNodes(world), self.clock, name)  # type: ignore[arg-type]

    def ring(self) -> None:
        """It is busy with something else for a moment, in which more may happen."""
        self.due_s = min(self.due_s, self.world.now_s + self.delays.uniform(0.0, BUSY_S))

    def step(self) -> None:
        crash.install(self.passed)
        self.world.steps += 1
        before = self.world.now_s
        try:
            self.due_s = self.made.step()
        except Died:
            self.world.count("dispatchers killed")
            self.world.dispatchers.remove(self)
            self.world.at(self.world.random.uniform(0.1, 40), self._again)
        finally:
            crash.install(None)
        assert self.world.now_s == before

    def _again(self) -> None:
        self.world.dispatchers.append(SimDispatcher(self.world, self.name))

    def _count_down(self, point: str) -> None:
        if self.dies_in:
            self.dies_in -= 1
            if not self.dies_in:
                self.world.count(f"killed at {point}")
                raise Died(point)


class SimNodes:
    """See `kibo.schedule.ports.Nodes`: the nodes that are reachable."""

    def __init__(self, world: World) -> None:
        self._world = world

    def members(self) -> Sequence[Member]:
        return [each.member for each in self._world.nodes.values() if each.offered and each.reachable]

    def begin(self, order: Order) -> None:
        node = self._world.nodes[order.attempt.node]
        if node.reachable:
            self._world.at(0.001, lambda: node.begin(order))

    def stop(self, node: str, run: RunId, epoch: int) -> None:
        there = self._world.nodes[node]
        if there.reachable:
            self._world.at(0.001, lambda: there.stop(run, epoch))

    def reports(self) -> Sequence[Report]:
        telling = [node for node in self._world.nodes.values() if node.unheard and node.reachable]
        return [report for node in telling for report in node.unheard][:MAX_ROUND]

    def heard(self, reports: Iterable[Report]) -> None:
        for report in reports:
            there = self._world.nodes[report.node]
            if report in there.unheard:
                del there.unheard[report]


class SimNode:
    """A node: it makes attempts as their work says, holds its lease, and may be cut off, frozen, slow or dead."""

    def __init__(self, world: World, name: str, room: Resources, labels: frozenset[tuple[str, str]]) -> None:
        self.world = world
        self.name = name
        self.store = SimStore(world.real)
        self.lease = Holding(Leases(self.store), NODE + name, name)  # type: ignore[arg-type]
        self.room = room
        self.labels = labels
        self.member = Member(name, 0, room, labels)
        self.slow = 1.0
        self.cut_off = False
        self.frozen = self.dead = False
        self.offered = False
        self.attempts: dict[tuple[str, int], Order] = {}
        self.over: set[tuple[str, int]] = set()
        self.unheard: dict[Report, None] = {}
        self.beat()

    @property
    def reachable(self) -> bool:
        return not (self.cut_off or self.frozen or self.dead)

    # -- its lease

    def beat(self) -> None:
        self.world.at(LEASE_BEAT_S * self.world.random.uniform(0.9, 1.1), self.beat)
        if not (self.dead or self.frozen):
            self._renew()

    def _renew(self) -> None:
        now_s = self.world.now_s
        if self.offered and self.lease.overdue(now_s):
            self._give_up()
        try:
            if self.offered:
                self.lease.renew(now_s)
            else:
                self.lease.take(Leases(self.store).look(self.lease.name), now_s)  # type: ignore[arg-type]
                self.member = Member(self.name, self.lease.epoch, self.room, self.labels)
                self.offered = True
                self.world.ring()
        except PlaceTaken:
            self._give_up()
            self.offered = False
        except StoreUnavailable:
            pass

    def _give_up(self) -> None:
        for run, epoch in list(self.attempts):
            self.world.count("given up")
            self._end(run, epoch, failure=Failure("run.lost", "the lease was not renewed", lost=True))

    # -- what befalls it

    def die(self) -> None:
        for run, epoch in list(self.attempts):
            self.world.leave(run, epoch)
        self.attempts.clear()
        self.unheard.clear()
        self.over.clear()
        self.dead, self.offered = True, False

    def live(self) -> None:
        self.dead = False
        self._renew()

    def freeze(self) -> None:
        for run, epoch in self.attempts:
            self.world.leave(run, epoch)  # nothing of it runs meanwhile
        self.frozen = True

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.frozen = False
        if self.lease.overdue(self.world.now_s):
            self._give_up()
        else:
            for run, epoch in self.attempts:
                self.world.place(self.name, run, epoch)
        self._renew()

    # -- attempts

    def begin(self, order: Order) -> None:
        run, epoch = order.attempt.run, order.attempt.epoch
        if not self.reachable or not self.offered or order.attempt.node_epoch != self.lease.epoch:
            return
        if self.lease.overdue(self.world.now_s):
            return
        if (run, epoch) in self.attempts or (run, epoch) in self.over:
            return
        for other, older in list(self.attempts):
            if other == run:
                self._end(run, older, failure=Failure("run.stopped", "a newer one was begun"))
        self.world.count(f"attempts to {order.attempt.kind}")
        self.world.place(self.name, run, epoch)
        self.attempts[run, epoch] = order
        Attempting(self, order)

    def stop(self, run: str, epoch: int) -> None:
        if not self.reachable:
            return
        if (run, epoch) in self.attempts or (run, epoch) not in self.over:
            self._end(run, epoch, failure=Failure("run.stopped", "as it was told"))

    def report(self, report: Report) -> None:
        self.unheard[report] = None
        if self.reachable:
            self.world.ring()

    def _end(self, run: str, epoch: int, **told: Any) -> None:
        self.over.add((run, epoch))
        self.attempts.pop((run, epoch), None)
        self.world.leave(run, epoch)
        self.report(Ended(self.name, RunId(run), epoch, **told))


class Attempting:
    """One attempt at work. What becomes of it is a matter of the run's number and of how often it was tried."""

    def __init__(self, node: SimNode, order: Order) -> None:
        self.node, self.order = node, order
        self.run, self.epoch = order.attempt.run, order.attempt.epoch
        self.chance = Random(f"{order.work.decode()} {self.epoch} {order.run.variation} {order.run.depth}")
        self.meter = Meter(node.store, self.run, self.epoch)  # type: ignore[arg-type]
        self.after(self.chance.expovariate(2.0), self.began)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        def go() -> None:
            if self.node.attempts.get((self.run, self.epoch)) is not self.order:
                return
            if self.node.frozen:
                self.node.world.at(1.0, go)
            else:
                what()

        self.node.world.at(seconds * self.node.slow, go)

    def began(self) -> None:
        self.node.report(Began(self.node.name, self.run, self.epoch))
        if self.order.attempt.kind == "undo":
            self.after(self.chance.uniform(0.1, 3), self.undone)
        else:
            self.step(self.chance.randint(1, 2))

    def undone(self) -> None:
        bad = self.chance.random() < 0.1
        self.node._end(self.run, self.epoch, failure=Failure("x", "no way back") if bad else None)

    def step(self, left: int) -> None:
        try:
            self.meter.reserve(tokens=10)
        except BudgetSpent as error:
            if error.retry == "after":
                self.after(1.0, lambda: self.step(left))
            else:
                self._fail(Failure(error.code, str(error), "never", final=True))
        except RunTaken:
            self._fail(Failure("run.taken", "it is another's"))
        except StoreUnavailable:
            self.after(1.0, lambda: self.step(left))
        else:
            used = self.chance.randint(0, 10)
            self.after(self.chance.expovariate(1 / 6), lambda: self.settle(left, used))

    def settle(self, left: int, used: int) -> None:
        try:
            self.meter.settle(tokens=used)
        except RunTaken:
            self._fail(Failure("run.taken", "it is another's"))
        except StoreUnavailable:
            self.after(1.0, lambda: self.settle(left, used))
        else:
            if left > 1:
                self.step(left - 1)
            else:
                self.finish()

    def finish(self) -> None:
        fate = self.chance.random()
        if fate < 0.70:
            self.node.report(Noted(self.node.name, RunId(self.run), self.epoch, "commit"))
            self.node._end(self.run, self.epoch, result=self.order.work, snapshot=f"snap {self.epoch}")
        elif fate < 0.92:
            self._fail(Failure("action.raised", "it broke", "unknown" if fate < 0.88 else "never"))
        # else it hangs, until it is stopped

    def _fail(self, failure: Failure) -> None:
        self.node._end(self.run, self.epoch, failure=failure)
