"""Whole branches: forked, committed and stopped, with the instances that run in them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import kibo
from benchmarks.boxes import Writer
from benchmarks.figures import Figure, distribution, flatness, percentile
from benchmarks.idle import MIB, guest_pids, pss
from benchmarks.scale import Scale
from kibo.branch.branch import Branch

TITLE = "branches, with what runs in them"
FILES: Final = 100
DEPTH: Final = 1000
CHANGED: Final = 100_000
READS: Final = 100
LOSERS: Final = 3
#: Forks of one branch: an origin that acts while its fork lives nests one namespace deeper, and the kernel has 32.
ROUNDS: Final = 10
#: What has not been written this long after a commit is not written any more.
SETTLED_S: Final = 0.3


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures."""
    yield from forks(scale, 0)
    yield from forks(scale, 100)
    yield from commits(scale)
    yield from reads(scale)
    yield from losers(scale)


def forks(scale: Scale, megabytes: int) -> Iterator[Figure]:
    """Yields what a fork of a branch costs its child and its origin, and what a hundred do."""
    what = f"{FILES} files and {megabytes} MB of state" if megabytes else f"{FILES} files"
    first, pause = [], []
    for _ in range(scale.of(100) // ROUNDS):
        with filled(megabytes) as (main, box):
            for _ in range(ROUNDS):
                first.append(to_first(main, box, lambda child, box=box: child[box].turn()))
                pause.append(to_first(main, box, lambda child, box=box: box.turn()))
    yield distribution(f"fork of a branch, {what}: to the child's first result", first)
    yield distribution(f"fork of a branch, {what}: to the origin's next result", pause)
    if megabytes:
        with filled(megabytes) as (main, box):
            yield from hundred(main, box)


@contextlib.contextmanager
def filled(megabytes: int) -> Iterator[tuple[Branch, Any]]:
    """Gives a branch with one instance that has files and state."""
    with kibo.branch() as main:
        box = main.spawn(Writer(megabytes=megabytes))
        for number in range(FILES):
            box.write(f"{number}.txt", "x" * 1000)
        yield main, box


def to_first(main: Branch, box: Any, act: Callable[[Branch], object]) -> float:
    """Forks a branch and has one side act. Returns the seconds of both."""
    start = time.perf_counter()
    (child,) = main.fork(live="require")
    act(child)
    seconds = time.perf_counter() - start
    child.abort()
    box.turn()  # it goes on, so that the next fork seals it anew
    return seconds


def hundred(main: Branch, box: Any) -> Iterator[Figure]:
    """Yields what a hundred children of one branch cost, and what each holds that was not there before."""
    seconds, shares = [], []
    for _ in range(10):
        box.turn()
        before = sum(map(pss, guest_pids()))
        start = time.perf_counter()
        children = main.fork(100, live="require")
        for child in children:
            child[box].turn()
        seconds.append(time.perf_counter() - start)
        shares.append((sum(map(pss, guest_pids())) - before) / len(children) / MIB)
        for child in children:
            child.abort()
    yield distribution("  100 forks of it, all answering", seconds)
    shares.sort()
    middle = percentile(shares, 0.5)
    yield Figure(
        "  memory of an idle fork (PSS)", "MiB", middle, low=shares[0], p99=shares[-1], target=1.5, count=100
    )


def commits(scale: Scale) -> Iterator[Figure]:
    """Yields what it costs to commit a branch that has changed one file, and one that has changed very many.

    Both have written as often: what has done nothing but that for seconds finds every cache of the processor cold.
    """
    many = scale.of(CHANGED)
    few_s, many_s = [], []
    for _ in range(4):
        with kibo.branch() as main:
            box = main.spawn(Writer(megabytes=0))
            few_s.append(committing(main, box, lambda mine: mine.spread(many, 1)))
        with kibo.branch() as main:
            box = main.spawn(Writer(megabytes=0))
            many_s.append(committing(main, box, lambda mine: mine.spread(many, many)))
    few, much = f"1 file, written {many:,} times", f"{many:,} changed files"
    yield from flatness("commit of a branch", few, few_s, much, many_s)


def committing(main: Branch, box: Any, change: Callable[[Any], object]) -> float:
    """Forks a branch, changes an instance in the fork and commits it. Returns the seconds of the last."""
    (fork,) = main.fork(live="require")
    change(fork[box])
    start = time.perf_counter()
    fork.commit()
    return time.perf_counter() - start


def reads(scale: Scale) -> Iterator[Figure]:
    """Yields what it costs to read a file in a branch, and in one that is very deep."""
    depth = scale.of(DEPTH)
    with kibo.branch() as main:
        box = main.spawn(Writer(megabytes=0))
        box.write("read.txt", "x" * 1000)
        (shallow,) = main.fork()
        deep = shallow
        start = time.perf_counter()
        for number in range(1, depth):
            (deep,) = deep.fork()
            if number % 100 == 0:
                deep[box].write(f"{number}.txt", "x")
        forked = (time.perf_counter() - start) / (depth - 1)
        low, high = [], []
        for _ in range(scale.of(200)):
            low.append(shallow[box].reading("read.txt", READS))
            high.append(deep[box].reading("read.txt", READS))
        yield from flatness(f"{READS} reads of a file", "depth 1", low, f"depth {depth:,}", high)
        live = "live" if deep[box] and deep.live else f"not live: {deep.reasons}"
        note = f"mean on the way to depth {depth:,}, where it is {live}"
        yield Figure("  fork of the deepest branch", "ms", forked * 1e3, note=note)


def losers(scale: Scale) -> Iterator[Figure]:
    """Yields for how long siblings of a winner go on writing, once its commit has returned."""
    late = []
    for _ in range(scale.of(60) // LOSERS):
        with kibo.branch() as main:
            box = main.spawn(Writer(megabytes=0))
            winner, *others = main.fork(1 + LOSERS)
            threads = [threading.Thread(target=write_until_stopped, args=(each[box],)) for each in others]
            for thread in threads:
                thread.start()
            winner[box].write("won.txt", "x")
            time.sleep(0.05)
            winner.commit()
            returned = time.monotonic_ns()
            time.sleep(SETTLED_S)
            late += [max(0, written_last(each) - returned) / 1e9 for each in others]
            for thread in threads:
                thread.join()
    yield distribution("a loser's last write after the winner's commit", late, target=100.0, target_p99=100.0)


def write_until_stopped(instance: Any) -> None:
    with contextlib.suppress(kibo.KiboError):
        instance.write_for_ever("clock")


def written_last(branch: Branch) -> int:
    """Reads from a stopped branch's layer when its instance wrote last, by the clock that all share."""
    running = branch._running  # no call of a stopped branch reads contents
    deltas = running.family.deltas
    (member,) = running.members.values()
    with deltas.root(member.world_now(deltas)) as stack:
        node = stack.find(b"work/clock")
        assert node is not None, "it never wrote"
        return int.from_bytes(node.read(), "little")
