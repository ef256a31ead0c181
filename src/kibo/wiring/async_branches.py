"""Puts the parts of branches together, for coroutines; loaded by the first that has a branch."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import ExitStack, asynccontextmanager
from types import TracebackType
from typing import Any

from kibo.aio import Instance, _ensure, _states
from kibo.box.define import Box
from kibo.branch.async_branch import AsyncBranch
from kibo.branch.comparing import Comparison
from kibo.branch.family import Family
from kibo.branch.records import SnapshotRecord
from kibo.branch.running import RunningBranch
from kibo.context.async_context import AsyncContext
from kibo.effects.records import Effect
from kibo.runtime.anyio_waiting import AnyioWaiting
from kibo.runtime.states import Progress, State, States
from kibo.wiring import Runtime, approving, comparing, contexts, runtime
from kibo.wiring.branches import taped


class Branch(AsyncBranch[Instance]):
    """A line of execution, whose calls are coroutines; see `kibo.branch.async_branch.AsyncBranch`."""


def branch(
    goal: str = "",
    *,
    name: str = "main",
    record: bool | str = False,
    replay: str | os.PathLike[str] | None = None,
) -> Branching:
    """Begins a tree of branches; see `kibo.branch`.

    Args:
        goal: What it is for.
        name: What to call its root.
        record: Whether to record, or what to call the recording.
        replay: The recording that answers in place of servers.

    Returns:
        What to await for the root, or to enter with ``async with``, which ends what runs in the tree at the end.
    """

    async def begin() -> Branch:
        home = runtime()
        async with _family(home, record, replay) as family:
            made = await family.waiting.aside(lambda: home.records().history.create(goal, name))
            root: Branch = RunningBranch(family, made, None, {}).face
            return root

    return Branching(begin)


def checkout(
    ref: str,
    *boxes: Box,
    name: str = "",
    record: bool | str = False,
    replay: str | os.PathLike[str] | None = None,
) -> Branching:
    """Begins a branch at a snapshot, with fresh guests over its files; see `kibo.checkout`.

    Args:
        ref: A snapshot's id or label, the beginning of its id, or a branch's id for its newest.
        boxes: The definitions of its instances, in any order.
        name: What to call the branch.
        record: Whether to record, or what to call the recording.
        replay: The recording that answers in place of servers.

    Returns:
        What to await for the branch, or to enter with ``async with``. Cancelled, it leaves no instance, and the branch
        is recorded as aborted.
    """

    async def begin() -> Branch:
        home = runtime()
        async with _family(home, record, replay) as family:
            made = await family.waiting.aside(lambda: home.records().at(ref, name))
            running = RunningBranch(family, made, None, {})
            await running.restore(boxes)
            found: Branch = running.face
            return found

    return Branching(begin)


async def compare(
    a: str | Branch | SnapshotRecord, b: str | Branch | SnapshotRecord | None = None
) -> Comparison:
    """Tells what differs between two branches or snapshots; see `kibo.compare`."""
    return await AnyioWaiting().aside(lambda: comparing.compare(a, b))


async def context_of(ref: str) -> AsyncContext:
    """Finds the context of a branch or a snapshot, to be read; see `kibo.context_of`."""
    aside = AnyioWaiting().aside
    return AsyncContext(await aside(lambda: contexts.context_of(ref)), aside)


async def approve(effect: str, *, digest: str) -> Effect:
    """Approves the exact payload of an effect that waits for a person; see `kibo.approve`.

    Cancelled, it has happened or not.
    """
    return await AnyioWaiting().aside(lambda: approving.approve(effect, digest=digest))


async def deny(effect: str, *, why: str = "") -> Effect:
    """Refuses an effect that waits for a person; see `kibo.deny`. Cancelled, it has happened or not."""
    return await AnyioWaiting().aside(lambda: approving.deny(effect, why=why))


@asynccontextmanager
async def _family(
    home: Runtime, record: bool | str, replay: str | os.PathLike[str] | None
) -> AsyncIterator[Family]:
    """Makes what the branches of a tree share; its recording or replay is dropped where a block fails."""
    waiting, taping = AnyioWaiting(), taped(home, record, replay)
    tape = await waiting.aside(taping.__enter__)

    async def ensure(box: Box, progress: Progress | None) -> tuple[States, State]:
        states = await _states(home)
        return states, await _ensure(states, box, progress, "" if tape is None else tape.id)

    def make() -> Family:
        return home.records().family(waiting, ensure, Instance, Branch, home.egress, tape)

    with ExitStack() as ending:
        ending.push(taping)
        yield await waiting.aside(make)


class Branching:
    """A branch to be: awaitable, and an async context manager."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, Branch]]) -> None:
        self._begin = begin
        self._branch: Branch | None = None

    def __await__(self) -> Generator[Any, None, Branch]:
        return self._begin().__await__()

    async def __aenter__(self) -> Branch:
        self._branch = await self._begin()
        return self._branch

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._branch is not None:
            await self._branch.__aexit__(kind, error, trace)
