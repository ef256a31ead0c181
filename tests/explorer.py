"""A program that explores over branches in memory. The tests run it as a process of its own.

``show``: one exploration, shown by a tree view (``--json`` for JSON lines). ``interrupt``: explorations without an end,
one after the other; each says ``ready``, waits for Ctrl-C, and says what it left behind.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import kibo
from fake_worlds import FakeInstance, FakeWorld
from kibo.cli.tree_view import TreeView


def slow(box: FakeInstance) -> None:
    kibo.note("reading the tests")
    box.block()


def fails(box: FakeInstance) -> None:
    box.work(0.05)
    raise ValueError("no such module")


def works(box: FakeInstance) -> bool:
    box.work(0.6)
    return True


def show(as_json: bool) -> None:
    with TreeView(as_json=as_json) as view:
        found = kibo.explore(FakeWorld().spawn(), [slow, fails, works], workers=4, progress=view)
    assert found


def nested(box: FakeInstance) -> None:
    kibo.explore(box, [slow, fails, busy], workers=2)


def busy(box: FakeInstance) -> None:
    box.put("n", box.get("n", 0) + 1)
    box.work(0.001)


def interrupt(rounds: int) -> None:
    search = kibo.TreeSearch(None, lambda one: 0.5, depth=50, explore_constant=1.0, rollouts=9000, at_once=3)
    for number in range(rounds):
        main = FakeWorld()
        main.fork_s = 0.002
        box = main.spawn()
        strategies: list[Any] = [busy, busy] if number % 2 else [slow, nested, slow]
        try:
            print("ready", flush=True)
            kibo.explore(box, strategies, policy=search if number % 2 else None, workers=4)
            print("ended", flush=True)
        except KeyboardInterrupt:
            pass
        left = [world.name for world in main.family if world is not main and not world.closed]
        threads = [one.name for one in threading.enumerate() if one.name == "kibo-explore"]
        print(f"forks {len(main.family) - 1}, open {len(left)}, threads {len(threads)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "show":
        show("--json" in sys.argv)
    else:
        interrupt(int(sys.argv[2]))
