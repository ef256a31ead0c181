"""Shared directories for coroutines."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from kibo import aio
from kibo.model import errors
from shared_boxes import Scribe

PLAN = "/shared/notes/plan"

pytestmark = pytest.mark.anyio


async def test_coroutines_share_fork_and_commit_as_plain_programs_do(tmp_path: Path) -> None:
    async with aio.branch() as main:
        ada = await main.spawn(Scribe(), name="ada", shared=["notes"])
        bob = await main.spawn(Scribe(), name="bob", shared=["notes"])
        await ada.write(PLAN, "before")
        assert await bob.read(PLAN) == "before"
        notes = main.shared("notes")
        await notes.write("outside", "x")
        assert [entry.name for entry in await notes.list()] == ["outside", "plan"]
        await notes.download(".", tmp_path / "here")
        await notes.upload(tmp_path / "here", "again")
        assert await ada.names("/shared/notes/again") == ["outside", "plan"]
        await notes.remove("again")
        one, two = await main.fork(2)
        await one[ada].write(PLAN, "one")
        await two[bob].write(PLAN, "two")
        assert await notes.read("plan") == b"before"
        assert [change.path for change in await one.shared("notes").diff()] == [PLAN]
        await one.commit()
        assert await bob.read(PLAN) == "one"
        with pytest.raises(errors.BranchClosed):
            await one.shared("notes").read("plan")


async def test_writes_of_many_tasks_and_a_fork_among_them_are_whole() -> None:
    async with aio.branch() as main:
        ada = await main.spawn(Scribe(), shared=["notes"])
        notes = main.shared("notes")
        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(notes.write, str(number), "x" * 100_000)
            group.start_soon(main.fork)
        assert len(await ada.names("/shared/notes")) == 10
        assert {len(await notes.read(str(number))) for number in range(10)} == {100_000}
