"""A dispatcher that is killed at each of its points, or whose store does not answer: another, or the same, goes on."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.schedule import Instant

import databases
import patience
from kibo.model.errors import StoreUnavailable
from kibo.schedule.dispatcher import Dispatcher
from kibo.schedule.leases import DISPATCHER, Leases
from kibo.schedule.policy import Fork, Policy, Retry
from kibo.schedule.request import Allowance, Request, Resources
from kibo.schedule.submitting import Submission
from kibo.schedule.system_clock import SystemClock
from kibo.store.database import Store
from sim_trials import fast_directory
from sim_world import SimClock, SimDispatcher, SimNode, SimNodes, World

POINTS = (
    ("dispatch.loaded", 1), ("runs.before_write", 1), ("runs.before_commit", 2), ("runs.written", 1),
    ("runs.written", 4), ("dispatch.before_begin", 1), ("dispatch.begun", 2), ("dispatch.before_heard", 5),
    ("dispatch.nodes_noted", 1),
)  # fmt: skip


def house(store: Store, at_s: float = 1000.0) -> World:
    world = World(store, 1)
    world.now_s = at_s
    world.dispatchers.append(SimDispatcher(world, f"at {at_s}"))
    for n in range(2):
        world.nodes[f"n{n}"] = SimNode(world, f"n{n}", Resources(4000, 0, 4), frozenset())
    return world


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    with fast_directory() as made:
        yield made


@pytest.fixture
def file(place: str) -> Path:
    return Path(databases.new_store(f"sqlite:///{place}/").removeprefix("sqlite:///"))


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{file}", timeout_s=0.05) as opened:
        yield opened


@pytest.mark.parametrize(("point", "passage"), POINTS)
def test_what_it_was_about_goes_on_once_another_has_taken_over(
    store: Store, point: str, passage: int
) -> None:
    policy = Policy(on_failure=Retry(5, backoff_s=0.1) | Fork(2))
    requests = [Request(f"work {n}".encode(), policy, name=f"{n}") for n in range(6)]
    requests.append(Request(b"last", policy, after=("0", "1"), budget=Allowance(tokens=1000)))
    names = Submission(store).submit_all(requests)
    pid = os.fork()
    if pid == 0:
        try:
            world, left = house(store), [passage]

            def passed(at: str) -> None:
                left[0] -= at == point
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)

            world.dispatchers[0].passed = passed
            world.advance(2000.0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    world = house(store, at_s=1100.0)
    runs = Submission(store, world.moment)
    world.advance(3000.0, lambda: not runs.counts())
    assert not runs.counts()
    for name, request in zip(names, requests, strict=True):
        state, result, _ = runs.outcome(name)
        assert state in ("done", "failed", "abandoned")
        assert state != "done" or result == request.work
        kinds = Counter(each.kind for each in runs.events(name))
        assert kinds["succeed"] == (state == "done")
    assert runs.counts() == {}


def test_a_store_that_is_locked_is_waited_for_and_nothing_is_lost(store: Store, file: Path) -> None:
    world = house(store)
    told: list[Exception] = []
    made = Dispatcher(store, SimNodes(world), SimClock(world, lambda: None), "it", told.append)
    world.dispatchers[0].made = made
    runs = Submission(store, world.moment, world.ring)
    world.advance(1001.0)
    names = runs.submit_all([Request(f"work {n}".encode(), Policy(retry=Retry(9))) for n in range(5)])
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    world.advance(1002.5)
    assert [type(each) for each in told] == [StoreUnavailable] * len(told)
    assert told
    assert {runs.get(each).state for each in names} == {"queued"}
    other.rollback()
    other.close()
    world.advance(3000.0, lambda: not runs.counts())
    assert {runs.get(each).state for each in names} <= {"done", "failed"}


def test_it_stands_by_while_another_leads_and_takes_over_at_once_where_that_gives_back(store: Store) -> None:
    world = house(store)
    world.dispatchers.append(SimDispatcher(world, "second"))
    world.advance(1005.0)
    first, second = (each.made for each in world.dispatchers)
    assert (first.leading, second.leading) == (True, False)
    world.dispatchers.pop(0)
    first.give_back()
    world.advance(1009.0)
    assert second.leading


def test_on_threads_of_its_own_it_runs_what_is_submitted_while_it_waits(store: Store) -> None:
    clock = SystemClock()
    node = Instant(store, clock, boxes=2)
    made = Dispatcher(store, node, clock, "it")
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        patience.until(lambda: made.leading)
        runs = Submission(store, bell=clock.ring)
        names = runs.submit_all([Request(b"", name=f"{n}", after=("0",) if n else ()) for n in range(5)])
        patience.until(lambda: not runs.counts())
    finally:
        made.end()
        thread.join()
    assert {runs.get(each).state for each in names} == {"done"}
    assert [each.holder for each in Leases(store).all() if each.name == DISPATCHER] == [""]


def test_a_ring_ends_the_wait_that_is_under_way_and_else_the_next() -> None:
    clock = SystemClock()
    clock.ring()
    clock.wait(None)
    thread = threading.Thread(target=clock.wait, args=(None,))
    thread.start()
    clock.ring()
    thread.join(timeout=10)
    assert not thread.is_alive()
    clock.wait(clock.moment().up_s - 1)
