"""Branches in memory, whose calls take real time on real threads and are interrupted as real ones are.

`tests/contract/test_explore_worlds.py` holds them to what branches promise to `explore`.
"""

from __future__ import annotations

import copy
import itertools
import threading
import time
from collections.abc import Sequence
from typing import Any

from kibo.model.errors import BranchClosed, BranchStale, InstanceEnded

_ids = itertools.count(1)
_instances = itertools.count(1)


class FakeWorld:
    """A branch: the state of its instances, and where it was forked from."""

    def __init__(self, name: str = "main", parent: FakeWorld | None = None) -> None:
        self.id = f"br_{next(_ids):024x}"
        self.name = name
        self.parent = parent
        self.guard: threading.RLock = parent.guard if parent else threading.RLock()
        self.family: list[FakeWorld] = parent.family if parent else []
        self.family.append(self)
        self.head = 0
        self.base = parent.head if parent else 0
        self.state: dict[str, dict[str, Any]] = copy.deepcopy(parent.state) if parent else {}
        self.sealed = copy.deepcopy(self.state)
        self.closed = ""
        self.ended = threading.Event()
        self.released = threading.Event()
        self.holding = 0
        self.calls = 0
        self.fork_s = 0.0  # how long a fork takes

    def __repr__(self) -> str:
        return f"<FakeWorld {self.name} {self.status}>"

    @property
    def status(self) -> str:
        with self.guard:
            if self.closed:
                return self.closed
            stale = self.parent is not None and self.parent.head != self.base
            return "stale" if stale else "open"

    def spawn(self) -> FakeInstance:
        key = f"inst_{next(_instances)}"
        self.state[key] = {}
        return FakeInstance(self, key)

    def fork(self, n: int, *, names: Sequence[str] = ()) -> list[FakeWorld]:
        time.sleep(self.fork_s)
        with self.guard:
            self._check()
            self._seal()
            labels = list(names) or [f"{self.name}-{index}" for index in range(n)]
            return [FakeWorld(label, self) for label in labels[:n]]

    def _seal(self) -> None:
        if self.state != self.sealed:  # turns that changed nothing make no snapshot
            self.sealed = copy.deepcopy(self.state)
            self.head += 1

    def _check(self) -> None:
        if self.status != "open":
            raise BranchClosed(f"branch {self.name} is {self.status}", hint="Fork another.")

    def __getitem__(self, instance: FakeInstance) -> FakeInstance:
        return FakeInstance(self, instance.key)

    def commit(self) -> None:
        with self.guard:
            if self.closed:
                raise BranchClosed(f"branch {self.name} is {self.closed}")
            assert self.parent is not None
            self.parent._check()
            if self.parent.head != self.base or self.parent.state != self.parent.sealed:
                raise BranchStale(f"the parent of {self.name} has moved", hint="Merge.")
            self.parent.state = copy.deepcopy(self.state)
            self.parent.sealed = copy.deepcopy(self.state)
            self.parent.head += 1
            self.closed = "committed"
            for other in self.family:
                if other.parent is self.parent and other is not self and not other.closed:
                    other.stop()
            self.released.set()

    def stop(self) -> None:
        self.ended.set()
        for other in self.family:
            if other.parent is self and not other.closed:
                other.stop()

    def abort(self) -> None:
        with self.guard:
            if self.closed:
                return
            self.closed = "aborted"
            self.ended.set()
            for other in self.family:
                if other.parent is self:
                    other.abort()

    def waits_at_boundary(self) -> bool:
        return self.holding > 0 and not self.released.is_set()


class FakeInstance:
    """An instance in a branch: a dictionary, and calls that take time."""

    def __init__(self, branch: FakeWorld, key: str) -> None:
        self.branch = branch
        self.key = key

    def put(self, name: str, value: Any) -> None:
        with self._call():
            self.branch.state[self.key][name] = value

    def get(self, name: str, default: Any = None) -> Any:
        with self._call():
            return self.branch.state[self.key].get(name, default)

    def work(self, seconds: float) -> None:
        """Works for so long; interrupted when its branch ends."""
        with self._call():
            pass
        if self.branch.ended.wait(seconds):
            raise InstanceEnded(f"the branch {self.branch.name} was ended during the call")

    def block(self) -> None:
        """Works until it is interrupted."""
        self.work(3600)

    def buy(self) -> str:
        """An effect that happens when the branch is committed."""
        self.branch.holding += 1
        while not self.branch.released.wait(0.005):
            if self.branch.ended.is_set():
                raise InstanceEnded("the branch was ended while an effect was held")
        return "bought"

    def _call(self) -> threading.RLock:
        if self.branch.ended.is_set() or self.branch.closed == "aborted":
            raise BranchClosed(f"branch {self.branch.name} is {self.branch.status}")
        self.branch.calls += 1
        return self.branch.guard
