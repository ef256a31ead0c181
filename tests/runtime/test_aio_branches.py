"""Branches for coroutines: the same branches, and what cancellation leaves of their calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
from kibo import aio, wiring
from kibo.branch.explore.exploration import Exploration
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    InstanceUnknown,
    InvalidInput,
    MergeConflict,
    UnmetNeed,
    WrongState,
)
from kibo.runtime.attached import list_cells
from kibo.runtime.layers.home import state_home
from kibo.runtime.trees.conflict import THEIRS, Resolution
from value_boxes import Values

pytestmark = pytest.mark.anyio


# Trio is no dependency; where it is installed the same tests run on it.
@pytest.fixture(params=["asyncio", *(["trio"] if find_spec("trio") else [])])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def main(anyio_backend: str) -> AsyncIterator[aio.Branch]:
    async with aio.branch("to be tested") as branch:
        yield branch


def running() -> set[str]:
    """The instances that run now, by their ids."""
    return {cell.id for cell in list_cells(state_home()) if cell.id.startswith("inst_")}


async def none_runs(within_s: float = 5.0) -> bool:
    with anyio.move_on_after(within_s):
        while await anyio.to_thread.run_sync(running):
            await anyio.sleep(0.02)
        return True
    return False


def tree(branch: aio.Branch) -> dict[str, str]:
    """What the history says of each branch."""
    return {each.name: each.status for each in wiring.runtime().records().history.tree(branch.id)}


async def test_a_tree_of_branches_forks_commits_and_is_applied(main: aio.Branch, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    coder = await main.spawn(Values(), workspace=tmp_path)
    await coder.put("kept", 1)
    first, second = await main.fork(2, names=["first", "second"])
    assert (first.name, first.live, first.parent) == ("first", True, main)
    await first[coder].put("a.txt", 1)
    await second[coder].put("a.txt", 2)
    assert (await first[coder].get("kept"), await second[coder].get("a.txt")) == (1, 2)
    assert [(change.kind, change.path) for change in await first.diff()] == [("changed", "/work/a.txt")]
    await first.commit()
    assert await coder.get("a.txt") == 1
    assert [await each.status() for each in (main, first, second)] == ["open", "committed", "stale"]
    with pytest.raises(BranchStale):
        await second.commit()
    with pytest.raises(WrongState):
        await first.apply()
    assert (tmp_path / "a.txt").read_text() == "one"
    await main.apply()
    assert (tmp_path / "a.txt").read_text() == "1"
    assert list(main.instances) == ["Values"]
    with pytest.raises(InstanceUnknown):
        main["nobody"]


async def test_a_merge_asks_a_resolver_and_the_loop_goes_on_meanwhile(main: aio.Branch) -> None:
    values = await main.spawn(Values())
    first, second = await main.fork(2)
    await first[values].put("a", 1)
    await second[values].put("a", 2)
    await first.commit()
    with pytest.raises(MergeConflict):
        await second.merge()
    loop = anyio.from_thread
    ticks: list[int] = []

    def theirs(_: Any) -> Resolution:
        loop.run_sync(ticks.append, 1)  # the loop answers, though its caller waits for this
        return THEIRS

    await second.merge(theirs)
    assert ticks
    assert (await values.exec(["cat", "a"])).stdout == "2"


async def test_commits_may_be_validated_or_overwrite(main: aio.Branch) -> None:
    values = await main.spawn(Values())
    first, second, third = await main.fork(3)
    await first[values].put("a", 1)
    await second[values].put("b", 2)
    await third[values].put("c", 3)
    await first.commit()
    await second.commit(onto="validated", reads=["/work/b"])
    assert sorted((await values.seen()).items()) == [("a", "1"), ("b", "2")]
    await third.commit(overwrite=True)
    assert (await values.seen()) == {"c": "3"}
    with pytest.raises(InvalidInput):
        await main.commit(onto="somewhere")  # type: ignore[arg-type]


async def test_a_snapshot_is_checked_out_later() -> None:
    async with aio.branch() as main:
        values = await main.spawn(Values())
        await values.put("a", 1)
        made = await values.snapshot("here")
        await values.put("a", 2)
    with pytest.raises(UnmetNeed):
        await aio.checkout(made.id)
    async with aio.checkout(made.id, Values(), name="again") as again:
        assert (await again["Values"].seen()) == {"a": "1"}
    assert await none_runs()


async def test_a_branch_that_is_checked_out_by_its_id_is_what_the_checkout_commits_into(
    main: aio.Branch,
) -> None:
    values = await main.spawn(Values())
    (fork,) = await main.fork()
    await fork[values].put("a", 1)
    history = wiring.runtime().records().history
    async with aio.checkout(fork.id, Values()) as again:
        assert history.get(again.id).parent == fork.id


async def test_coroutine_strategies_explore_a_branch(main: aio.Branch) -> None:
    values = await main.spawn(Values())
    began = anyio.Event()

    async def loser(one: aio.Instance) -> bool:
        await one.put("who", "loser")
        began.set()
        await one.block()
        return True

    async def winner(one: aio.Instance) -> bool:
        await began.wait()
        await one.put("who", "winner")
        return True

    found = await aio.explore(values, [loser, winner], workers=2)
    assert isinstance(found, Exploration)
    assert (found.required().strategy, found.committed) == ("winner", True)
    assert await values.get("who") == "winner"
    assert isinstance(found.attempts[0].branch, aio.Branch)
    assert await found.required().branch.status() == "committed"  # type: ignore[union-attr, operator]
    with pytest.raises(InvalidInput, match="coroutines"):
        kibo.explore(values, [print])


async def test_strategies_get_the_branch_and_explore_inside_it(main: aio.Branch) -> None:
    values = await main.spawn(Values())

    async def inner(one: aio.Instance) -> bool:
        await one.put("inner", 1)
        return True

    async def outer(branch: aio.Branch) -> bool:
        assert isinstance(branch, aio.Branch)
        await branch[values].put("outer", 1)
        return bool(await aio.explore(branch[values], [inner]))

    assert await aio.explore(main, [outer])
    assert await values.seen() == {"inner": "1", "outer": "1"}


async def test_an_exploration_that_is_cancelled_leaves_no_fork(main: aio.Branch) -> None:
    values = await main.spawn(Values())

    async def blocks(one: aio.Instance) -> bool:
        began.set()
        await one.block()
        return True

    began = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(aio.explore, values, [blocks, blocks])
        await began.wait()
        group.cancel_scope.cancel()
    assert {name: status for name, status in tree(main).items() if status == "open"} == {"main": "open"}
    await values.put("a", 1)
    await only(values)


async def only(values: aio.Instance) -> None:
    """Waits until nothing runs but one instance: what was stopped is killed at once, and is gone a moment later."""
    with anyio.fail_after(5):
        while running() != {values.id}:
            await anyio.sleep(0.02)


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
async def test_a_cancelled_fork_makes_all_or_none(main: aio.Branch, after_s: float) -> None:
    values = await main.spawn(Values())
    made: list[aio.Branch] = []
    with anyio.move_on_after(after_s):
        made += await main.fork(3)
    assert len(made) in (0, 3)
    assert len(tree(main)) == 1 + len(made)
    await values.put("a", 1)  # the origin goes on either way
    for child in made:
        await child[values].put("a", 2)
        await child.abort()
    await only(values)


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016])
@pytest.mark.parametrize("how", ["commit", "merge"])
async def test_a_cancelled_commit_happened_or_did_not(main: aio.Branch, after_s: float, how: str) -> None:
    values = await main.spawn(Values())
    await values.put("a", 0)
    one, two = await main.fork(2)
    await one[values].put("a", 1)
    done = None
    with anyio.move_on_after(after_s):
        done = await getattr(one, how)()
    assert await one.status() == ("committed" if done else "open")
    assert (await values.seen()) == {"a": "1" if done else "0"}
    if done is None:
        await getattr(one, how)()
    assert (await values.seen()) == {"a": "1"}
    with pytest.raises((BranchStale, BranchClosed)):
        await two.commit()


async def test_a_cancelled_commit_waits_no_longer_for_a_call(main: aio.Branch) -> None:
    values = await main.spawn(Values())
    (one,) = await main.fork(1)
    async with anyio.create_task_group() as group:
        group.start_soon(one[values].block)
        await anyio.sleep(0.1)
        with anyio.move_on_after(0.2) as scope:
            await one.commit()
        assert scope.cancelled_caught
        assert await one.status() == "open"
        group.cancel_scope.cancel()
    await one[values].put("a", 1)
    await one.commit()
    assert await values.get("a") == 1


async def test_an_abort_is_carried_out_though_it_is_cancelled(main: aio.Branch) -> None:
    values = await main.spawn(Values())
    one, two = await main.fork(2)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await one.abort()
    assert (await one.status(), await two.status()) == ("aborted", "open")
    with pytest.raises(BranchClosed):
        await one.fork(1)
    with pytest.raises(WrongState):
        await one[values].put("a", 1)


async def test_a_cancelled_block_ends_what_runs_in_it_also_calls() -> None:
    began = anyio.Event()
    branches: list[aio.Branch] = []

    async def work() -> None:
        async with aio.branch() as main:
            branches.append(main)
            values = await main.spawn(Values())
            (one,) = await main.fork(1)
            async with anyio.create_task_group() as inside:
                inside.start_soon(one[values].block)
                inside.start_soon(values.block)
                await anyio.sleep(0.1)
                began.set()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await began.wait()
        group.cancel_scope.cancel()
    assert await none_runs()
    assert tree(branches[0])["main.0"] == "aborted"


async def test_a_close_is_carried_out_though_it_is_cancelled_and_calls_raise(main: aio.Branch) -> None:
    busy = await main.spawn(Values())
    await busy.put("a", 1)
    async with anyio.create_task_group() as group:

        async def blocked() -> None:
            with pytest.raises(WrongState):
                await busy.block()

        group.start_soon(blocked)
        await anyio.sleep(0.1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await main.close()
    assert await none_runs()
    await main.close()
    with pytest.raises(BranchClosed):
        await main.fork(1)
    async with aio.checkout(main.id, Values()) as again:  # and what it was is kept
        assert await again["Values"].seen() == {"a": "1"}


async def test_a_cancelled_spawn_leaves_no_instance(main: aio.Branch, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    await main.spawn(Values(), workspace=tmp_path, name="built")
    for after_s in (0.0, 0.0005, 0.001, 0.002, 0.004):
        made = None
        with anyio.move_on_after(after_s):
            made = await main.spawn(Values(), workspace=tmp_path, name=f"at-{after_s}")
        assert (f"at-{after_s}" in main.instances) == (made is not None)
    known = {each.id for each in main.instances.values()}
    with anyio.fail_after(5):
        while running() != known:
            await anyio.sleep(0.02)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.002, 0.004, 0.008])
async def test_asyncios_own_cancel_leaves_nothing_half_done(main: aio.Branch, after_s: float) -> None:
    values = await main.spawn(Values())
    one, _ = await main.fork(2)
    await one[values].put("a", 1)
    returned: list[Any] = []

    async def commit() -> None:
        returned.append(await one.commit())
        await asyncio.sleep(60)  # where it is told

    task = asyncio.ensure_future(commit())
    await asyncio.sleep(after_s)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await one.status() == ("committed" if returned else "open")
    assert (await values.seen()) == ({"a": "1"} if returned else {})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await main.abort()
            await asyncio.sleep(60)
    assert await main.status() == "aborted"
    assert await none_runs()
