"""What explore needs of branches, and what it makes of them: one suite over every implementation of its port.

An implementation is a class with `make()`, which gives a branch and an instance in it whose actions are ``put(name,
value)``, ``get(name)`` and ``block()``, a call that never returns by itself; `open_branches(main)`, and `close()`.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio import CapacityLimiter
from anyio.from_thread import BlockingPortal, start_blocking_portal

import kibo
from directory_worlds import DirectoryWorld
from fake_worlds import FakeWorld
from kibo import aio, wiring
from kibo.branch.explore.port import World
from kibo.model.errors import BranchClosed, BranchStale, ExplorationFailed, InstanceEnded, WrongState
from own_runtimes import own_runtime
from value_boxes import Values


class InMemory:
    """The fake that the other tests of explore run on."""

    def make(self) -> tuple[World, Any]:
        main = FakeWorld()
        return main, main.spawn()

    def close(self) -> None:
        """Ends what `make` began."""

    def explore(self, subject: Any, strategies: list[Any], **how: Any) -> Any:
        return kibo.explore(subject, strategies, **how)

    def score(self, fn: Any) -> Any:
        return fn

    def status(self, branch: Any) -> str:
        return str(branch.status)

    def open_branches(self, main: FakeWorld) -> list[str]:
        return [world.name for world in main.family if not world.closed and world is not main]


class InDirectories(InMemory):
    """The same with real files, which the tests of the examples run on."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory()

    def make(self) -> tuple[World, Any]:
        place = Path(self._place.name) / "main"
        place.mkdir()
        main = DirectoryWorld(place)
        return main, main.spawn()

    def close(self) -> None:
        self._place.cleanup()


class Real(InMemory):
    """Branches of running boxes."""

    def make(self) -> tuple[World, Any]:
        self._main = kibo.branch("to be explored")
        return self._main, self._main.spawn(Values())

    def close(self) -> None:
        self._main.close()

    def open_branches(self, main: Any) -> list[str]:
        tree = wiring.runtime().records().history.tree(main.id)
        return [each.name for each in tree if each.status == "open" and each.parent is not None]


class FromThread:
    """A branch or an instance for coroutines, whose calls are made from this thread on the loop of another."""

    def __init__(self, portal: BlockingPortal, it: Any) -> None:
        self._portal = portal
        self.it = it

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.it, name)
        if name == "status":
            return self._call(found)
        return functools.partial(self._call, found) if callable(found) else found

    def __getitem__(self, instance: FromThread) -> FromThread:
        return FromThread(self._portal, self.it[instance.it])

    def _call(self, fn: Any, *args: Any, **named: Any) -> Any:
        # `waits_at_boundary` is none.
        made = self._portal.call(functools.partial(_awaited, fn, *args, **named))
        return [FromThread(self._portal, each) for each in made] if isinstance(made, list) else made


async def _awaited(fn: Any, *args: Any, **named: Any) -> Any:
    made = fn(*args, **named)
    return await made if inspect.isawaitable(made) else made


class RealAsync(Real):
    """Branches for coroutines."""

    def __init__(self) -> None:
        self._context = start_blocking_portal()
        self._portal = self._context.__enter__()

    def make(self) -> tuple[Any, Any]:
        async def begin() -> aio.Branch:
            return await aio.branch("to be explored")

        self._main = FromThread(self._portal, self._portal.call(begin))
        return self._main, FromThread(self._portal, self._main.spawn(Values()))

    def explore(self, subject: FromThread, strategies: list[Any], **how: Any) -> Any:
        return self._portal.call(
            functools.partial(aio.explore, subject.it, [self._strategy(one) for one in strategies], **how)
        )

    def score(self, fn: Any) -> Any:
        return self._strategy(fn)

    def status(self, branch: aio.Branch) -> str:
        return str(self._portal.call(branch.status))

    def _strategy(self, fn: Any) -> Any:
        """Returns a coroutine strategy that runs a plain one in a thread."""

        @functools.wraps(fn)
        async def strategy(one: aio.Instance, **given: Any) -> Any:
            return await anyio.to_thread.run_sync(
                functools.partial(fn, FromThread(self._portal, one), **given), limiter=CapacityLimiter(1)
            )

        return strategy

    def close(self) -> None:
        super().close()
        self._context.__exit__(None, None, None)


IMPLEMENTATIONS = [InMemory, InDirectories, Real, RealAsync]


@pytest.fixture(scope="module", autouse=True)
def _runtime() -> Iterator[None]:
    """A runtime for these tests, with a state directory of its own."""
    with own_runtime():
        yield


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda one: one.__name__)
def worlds(request: pytest.FixtureRequest) -> Iterator[Any]:
    implementation = request.param()
    yield implementation
    implementation.close()


def test_a_fork_sees_what_was_there_and_nothing_that_comes_after(worlds):
    main, box = worlds.make()
    box.put("a", 1)
    one, two = main.fork(2, names=["one", "two"])
    one[box].put("a", 2)
    assert (box.get("a"), one[box].get("a"), two[box].get("a")) == (1, 2, 1)
    assert (one.name, two.name) == ("one", "two")
    assert len({main.id, one.id, two.id}) == 3
    assert {main.status, one.status, two.status} == {"open"}


def test_a_commit_makes_the_parent_what_the_branch_is_and_its_siblings_stale(worlds):
    main, box = worlds.make()
    one, two = main.fork(2)
    one[box].put("a", 2)
    one.commit()
    assert box.get("a") == 2
    assert (one.status, two.status, main.status) == ("committed", "stale", "open")
    with pytest.raises(BranchClosed):
        one.commit()
    with pytest.raises((BranchStale, BranchClosed)):
        two.commit()


def test_forks_of_two_calls_with_nothing_between_have_the_same_base(worlds):
    main, box = worlds.make()
    box.put("a", 1)
    (one,) = main.fork(1)
    (two,) = main.fork(1)
    one[box].put("a", 2)
    one.commit()
    assert box.get("a") == 2
    assert two.status == "stale"


def test_nested_branches_commit_from_the_inside_out(worlds):
    main, box = worlds.make()
    (outer,) = main.fork(1)
    outer[box].put("outer", 1)
    (inner,) = outer.fork(1)
    inner[box].put("inner", 1)
    inner.commit()
    outer.commit()
    assert (box.get("outer"), box.get("inner")) == (1, 1)


def test_an_abort_interrupts_the_call_that_runs_and_ends_what_was_forked_from_it(worlds):
    main, box = worlds.make()
    (outer,) = main.fork(1)
    (inner,) = outer.fork(1)
    raised: list[BaseException] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        try:
            inner[box].block()
        except BaseException as error:  # noqa: BLE001
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(5)
    time.sleep(0.05)
    outer.abort()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(raised[0], WrongState | InstanceEnded)
    assert (outer.status, inner.status, main.status) == ("aborted", "aborted", "open")
    with pytest.raises(WrongState):
        outer[box].put("a", 1)
    with pytest.raises(BranchClosed):
        outer.fork(1)


def test_an_abort_of_what_has_ended_does_nothing(worlds):
    main, box = worlds.make()
    one, two = main.fork(2)
    one[box].put("a", 1)
    one.commit()
    one.abort()
    two.abort()
    two.abort()
    assert (one.status, two.status, box.get("a")) == ("committed", "aborted", 1)


def test_nothing_waits_at_the_boundary_unless_an_effect_is_held(worlds):
    main, _ = worlds.make()
    assert main.waits_at_boundary() is False


def test_explore_commits_the_winner_and_interrupts_the_losers(worlds):
    main, box = worlds.make()
    box.put("before", True)
    blocked = threading.Event()

    def loser(one: Any) -> bool:
        one.put("who", "loser")
        blocked.set()
        one.block()
        return True

    def winner(one: Any) -> bool:
        blocked.wait(10)
        assert one.get("before")
        one.put("who", "winner")
        return True

    found = worlds.explore(box, [loser, winner], workers=2)
    assert found
    assert found.winner.strategy == "winner"
    assert [attempt.state for attempt in found.attempts] == ["stopped", "won"]
    assert box.get("who") == "winner"
    assert worlds.open_branches(main) == []
    assert worlds.status(found.attempts[0].branch) in ("aborted", "stale")


def test_explore_without_a_winner_leaves_the_world_as_it_was(worlds):
    main, box = worlds.make()
    box.put("a", 1)

    def wrong(one: Any) -> bool:
        one.put("a", 2)
        return False

    def breaks(one: Any) -> bool:
        one.put("a", 3)
        raise ValueError("no such file")

    with pytest.raises(ExplorationFailed, match=r"breaks failed after .* ValueError: no such file"):
        worlds.explore(box, [wrong, breaks], require=True)
    assert box.get("a") == 1
    assert worlds.open_branches(main) == []


def test_explore_goes_on_from_what_earlier_attempts_left_and_commits_the_whole_line(worlds):
    main, box = worlds.make()
    box.put("sum", 0)

    def add(one: Any, hint: int) -> None:
        one.put("sum", one.get("sum") + hint)

    found = worlds.explore(
        box,
        [add],
        policy=kibo.TreeSearch(
            lambda _: [1, 5, 2], worlds.score(lambda one: one.get("sum")), width=2, depth=3
        ),
    )
    assert box.get("sum") == 15
    assert found.winner.depth == 3
    assert worlds.open_branches(main) == []
