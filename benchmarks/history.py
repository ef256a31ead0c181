"""Forks, commits and the log as metadata: what they cost, and whether they stay flat."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import FLAT, Figure, distribution, middle
from benchmarks.scale import Scale
from kibo.branch.history import History
from kibo.store.database import Store

TITLE = "history, on SQLite"
DEPTH = 1000
SIBLINGS = 10_000
NEWEST = 100

COLD = """
import json, sys, time
from kibo.store.database import Store
from kibo.store.log import Log
log = Log(Store.open(sys.argv[1]))
start = time.perf_counter()
found = log.newest(sys.argv[2], 100)
print(json.dumps([time.perf_counter() - start, len(found)]))
"""


def run(scale: Scale) -> Iterator[Figure]:
    """Yields each cost at one end and at the other, in alternation, and their ratio."""
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/history.db"
        history = History(Store.open(url))
        shallow, deep = branch_of_depth(history, 1), branch_of_depth(history, DEPTH)
        count = scale.of(1000)
        here, there = reading(history, shallow), reading(history, deep)
        yield from compared(f"newest {NEWEST} entries at depth 1 and {DEPTH:,}", here, there, count, None)
        colds = [(cold(url, shallow), cold(url, deep)) for _ in range(scale.of(200) // 10)]
        yield from ratio(f"the same in a new process at depth 1 and {DEPTH:,}", colds, None)
        many = history.create().id
        history.fork(many, SIBLINGS - 1)
        for kind, step in (("fork", forking), ("fast-forward commit", committing)):
            for where, high in (
                (f"at depth 1 and {DEPTH:,}", deep),
                (f"with 1 and {SIBLINGS:,} siblings", many),
            ):
                yield from compared(f"{kind} {where}", step(history), step(history, high), count, 1.0)
        yield distribution("append to the log", timed(appending(history, shallow), count))
        history.store.close()


def branch_of_depth(history: History, depth: int, entries: int = NEWEST) -> str:
    """Makes a branch with that many snapshots below it, each with the newest entries' share of the log."""
    branch = history.create(world={"n": 0}).id
    for number in range(depth):
        history.log.extend(branch, [("note", {"n": number})] * (entries if depth == 1 else 1))
        history.snapshot(branch, {"n": number + 1})
    return branch


def forking(history: History, parent: str = "") -> Callable[[], float]:
    """Forks a branch, each time a new one where none is given: of depth 1, and without siblings."""

    def step() -> float:
        of = parent or branch_of_depth(history, 1, entries=1)
        start = time.perf_counter()
        history.fork(of)
        return time.perf_counter() - start

    return step


def committing(history: History, parent: str = "") -> Callable[[], float]:
    """Commits a fork that has an entry and a new world into its parent, as `forking` chooses it; sealing is counted."""
    numbers = iter(range(sys.maxsize))

    def step() -> float:
        (made,) = history.fork(parent or branch_of_depth(history, 1, entries=1))
        history.log.append(made.id, "note", b"x")
        start = time.perf_counter()
        history.commit(made.id, {"step": next(numbers)})
        return time.perf_counter() - start

    return step


def appending(history: History, branch: str) -> Callable[[], float]:
    def step() -> float:
        start = time.perf_counter()
        history.log.append(branch, "note", b"x" * 100)
        return time.perf_counter() - start

    return step


def reading(history: History, branch: str) -> Callable[[], float]:
    def step() -> float:
        start = time.perf_counter()
        found = history.log.newest(branch, NEWEST)
        taken = time.perf_counter() - start
        assert len(found) == NEWEST
        return taken

    return step


def cold(url: str, branch: str) -> float:
    """Reads in a process that has read nothing yet."""
    command = [sys.executable, "-c", COLD, url, branch]
    taken, count = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert count == NEWEST
    return float(taken)


def timed(step: Callable[[], float], count: int) -> list[float]:
    return [step() for _ in range(count)]


def compared(
    name: str, low: Callable[[], float], high: Callable[[], float], count: int, target: float | None
) -> Iterator[Figure]:
    """Yields the costs at both ends, taken in alternation, and how many times the one is the other."""
    yield from ratio(name, [(low(), high()) for _ in range(count)], target)


def ratio(name: str, pairs: list[tuple[float, float]], target: float | None) -> Iterator[Figure]:
    lows, highs = [low for low, _ in pairs], [high for _, high in pairs]
    what, _, where = name.rpartition(" at " if " at " in name else " with ")
    first, _, second = where.partition(" and ")
    by = "depth" if "depth" in first else "siblings"
    second = f"{second.removesuffix(' siblings')} {by}" if by == "siblings" else f"depth {second}"
    yield distribution(
        f"{what}: {first.removesuffix(' siblings')}{' sibling' if by == 'siblings' else ''}",
        lows,
        target=target,
    )
    yield distribution(f"{what}: {second}", highs, target=target)
    yield Figure(f"{what}: {second} / {first}", "x", middle(highs) / middle(lows), target=FLAT)
