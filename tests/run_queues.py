"""Queues for tests: items and nodes made short, and what a queue must never do, found without its structures."""

from __future__ import annotations

from collections import Counter, deque

from kibo.schedule.gates import Bar
from kibo.schedule.placement import Demand, Node
from kibo.schedule.queue import Item, Queue
from kibo.schedule.request import Resources


def item(
    run: str,
    *,
    tenant: str = "a",
    at_s: float = 0.0,
    priority: float = 0.0,
    cpu: int = 0,
    bars: tuple[Bar, ...] = (),
    labels: tuple[tuple[str, str], ...] = (),
    near: tuple[str, ...] = (),
    since_s: float = 0.0,
    number: int = 0,
) -> Item:
    demand = Demand(Resources(millicpus=cpu), labels)
    return Item(run, tenant, (1, at_s - priority, number), demand, bars, near, since_s)


def node(name: str, cpu: int = 4000, boxes: int = 100, **told: object) -> Node:
    return Node(name, 1, Resources(cpu, 0, boxes), **told)  # type: ignore[arg-type]


def limit(key: str, most: int = 1) -> Bar:
    return Bar("limit", key, most)


def rate(key: str, starts: int, per_s: float) -> Bar:
    return Bar("rate", key, starts, per_s)


class Ledger:
    """All that was started, counted plainly: fails where a bound was passed, or something that could start was left."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.items: dict[str, Item] = {}
        self.working: dict[str, tuple[Item, str]] = {}
        self.starts: dict[str, deque[tuple[float, Bar]]] = {}

    def add(self, one: Item) -> None:
        self.items[one.run] = one
        self.queue.add(one)

    def remove(self, run: str) -> None:
        self.items.pop(run, None)
        self.queue.remove(run)

    def end(self, run: str, now_s: float) -> None:
        del self.working[run]
        self.queue.release(run, now_s)

    def decide(self, now_s: float, most: int = 10_000) -> list[str]:
        starts = self.queue.decide(now_s, most)
        for start in starts:
            one = self.items.pop(start.run)
            assert self.may_pass(one, now_s), f"{start.run} passed a bound"
            there = self.queue.nodes[start.node]
            assert there.labels.issuperset(one.demand.labels)
            self.working[start.run] = (one, start.node)
            for bar in one.bars:
                if bar.kind == "rate":
                    self.starts.setdefault(bar.key, deque()).append((now_s, bar))
        self.check_room()
        if len(starts) < most:
            self.check_nothing_is_left(now_s)
        return [start.run for start in starts]

    def may_pass(self, one: Item, now_s: float) -> bool:
        for bar in one.bars:
            if bar.kind == "limit":
                at_work = sum(
                    any(b.kind == "limit" and b.key == bar.key for b in other.bars)
                    for other, _ in self.working.values()
                )
                if at_work >= bar.most:
                    return False
            else:
                late = [at for at, _ in self.starts.get(bar.key, ()) if at + bar.per_s > now_s]
                if len(late) >= bar.most:
                    return False
        return True

    def check_reasons(self, now_s: float) -> None:
        """Says of each that waits what a plain count says, after a decision that has left nothing."""
        for one in self.items.values():
            told = self.queue.explain(one.run, now_s)
            whats = {reason.what for reason in told}
            assert {"limit", "rate"}.isdisjoint(whats) == self.may_pass(one, now_s)
            fit = any(each.fits(one.demand, one.tenant) for each in self.queue.nodes.values())
            assert whats.isdisjoint({"labels", "draining", "room", "kept", "nodes"}) == fit
            assert whats & {"limit", "rate", "labels", "draining", "room", "kept", "nodes"}
            for reason in told:
                if reason.what == "kept":
                    assert self.queue.nodes[reason.about].kept not in (None, (one.tenant, one.demand))

    def check_room(self) -> None:
        used: Counter[str] = Counter()
        boxes: Counter[str] = Counter()
        for one, where in self.working.values():
            used[where] += one.demand.resources.millicpus
            boxes[where] += one.demand.resources.boxes
        for name, there in self.queue.nodes.items():
            assert used[name] <= there.room.millicpus
            assert boxes[name] <= there.room.boxes
            assert there.free.millicpus == there.room.millicpus - used[name]

    def check_nothing_is_left(self, now_s: float) -> None:
        for one in self.items.values():
            if self.may_pass(one, now_s):
                fit = [each.id for each in self.queue.nodes.values() if each.fits(one.demand, one.tenant)]
                assert not fit, f"{one.run} could start on {fit}"
