"""The context of branches that run: it forks, commits and ends with them, for plain programs and for coroutines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kibo
from kibo import aio
from kibo.model.errors import BranchClosed, BranchStale, ContextEntryUnknown, WrongState
from value_boxes import Values

SOURCE = Path(__file__).parents[2] / "src"


def test_a_context_forks_with_its_branch_and_only_the_winners_comes_back():
    with kibo.branch("a goal") as main:
        main.context.system("You fix tests.")
        asked = main.context.user("mend the shop")
        before = main.context.prompt(1000)
        one, two = main.fork(2)
        assert one.context.prompt(1000).rendered == before.rendered
        one.context.assistant("I mend the till")
        lost = two.context.remember("the till is beyond mending")
        one.commit()
        with pytest.raises(BranchStale):
            two.context.note("too late")
        assert [entry.text for entry in main.context.entries(kinds=["user", "assistant", "memory"])] == [
            "mend the shop",
            "I mend the till",
        ]
        assert main.context.prompt(1000).rendered.startswith(before.rendered)
        assert main.context.search("beyond mending") == []
        with pytest.raises(ContextEntryUnknown):
            main.context.get(lost)
        assert two.context.memories() == [lost]
        promoted = two.context.promote(lost)
        assert main.context.memories() == [promoted]
        assert (promoted.source, promoted.branch) == (lost.id, two.id)
        with pytest.raises(WrongState):
            main.context.promote(promoted)
        aborted = main.fork()[0]
        aborted.abort()
        with pytest.raises(BranchClosed):
            aborted.context.user("after the end")
        assert asked.id in main.context.prompt(1000).entries


def test_a_snapshots_context_is_read_and_goes_on_where_it_is_checked_out():
    with kibo.branch() as main:
        main.context.user("first")
        sealed = main.snapshot()
        before = main.context.prompt(500).rendered
        main.context.user("second")
        assert kibo.context_of(sealed.id).prompt(500).rendered == before
        assert kibo.context_of(main.id).prompt(500).rendered == main.context.prompt(500).rendered
        with pytest.raises(WrongState):
            kibo.context_of(sealed.id).user("third")
        with kibo.checkout(sealed.id) as again:
            again.context.user("another second")
            assert [entry.text for entry in again.context.entries()] == ["first", "another second"]


def test_another_process_makes_the_same_prompt():
    with kibo.branch() as main:
        main.context.system("Be brief.")
        for number in range(50):
            main.context.user(f"message {number}")
        made = main.context.prompt(500)
        program = (
            f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import kibo\n"
            f"print(kibo.context_of({main.id!r}).prompt(500).prefix_digest)"
        )
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == made.prefix_digest


@pytest.mark.anyio
async def test_coroutines_have_the_same_context(anyio_backend: str):
    async with aio.branch() as main:
        ctx = main.context
        await ctx.system("Be brief.")
        asked = await ctx.user("look")
        await ctx.assistant("", tool_calls=[{"id": "c", "name": "look"}])
        await ctx.tool_result("c", "a door")
        await ctx.tool_call("d", "look")
        await ctx.tool_result("d", "another", error=True)
        await ctx.note("a remark")
        known = await ctx.remember("doors lead out", source=asked)
        await ctx.pin(asked)
        (child,) = await main.fork()
        assert (await child.context.prompt(1000)).rendered == (await ctx.prompt(1000)).rendered
        assert [hit.entry.id for hit in await ctx.search("doors")] == [known.id]
        assert await ctx.get(known.id) == known
        learned = await child.context.remember("one is locked", supersedes=known)
        assert (await child.context.memories()) == [learned]
        assert (await child.context.promote(learned)) in await ctx.memories()
        await ctx.unpin(asked)
        made = await ctx.compact(keep_tokens=0)
        assert made is not None
        assert made.id in (await ctx.prompt(1000)).entries
        assert (await ctx.import_(await ctx.export("openai"), "openai"))[0].text == "Be brief."
        assert len(await ctx.export_lines()) == len(await ctx.entries()) + 1
        read = await aio.context_of(main.id)
        assert (await read.prompt(1000)).rendered == (await ctx.prompt(1000)).rendered


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def test_a_prompt_keeps_its_beginning_over_sleep_forks_commits_checkouts_and_processes():
    """What a provider has cached of an agent's prompt is found again by whatever goes on with that agent."""

    def prompted(context: Any) -> bytes:
        rendered: bytes = context.prompt(4000).rendered
        assert rendered.startswith(seen[-1])
        seen.append(rendered)
        return rendered

    seen = [b""]
    with kibo.branch() as main:
        box = main.spawn(Values(), name="box")
        main.context.system("You fix tests.")
        main.context.user("mend the shop")
        prompted(main.context)
        (fork,) = main.fork()  # the parent sleeps
        prompted(fork.context)
        fork.context.assistant("I look")
        prompted(fork.context)
        fork.commit()
        assert prompted(main.context) == seen[-2]
        box.put("a", 1)  # it wakes
        main.context.user("and?")
        prompted(main.context)
        sealed = main.snapshot()
    body = f"import kibo; print(kibo.context_of({sealed.id!r}).prompt(4000).rendered.hex())"
    other = subprocess.run(
        [sys.executable, "-c", body],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert bytes.fromhex(other.stdout.strip()) == seen[-1]
    with kibo.checkout(sealed.id, Values()) as again:
        assert prompted(again.context) == seen[-2]
        again.context.assistant("it is mended")
        prompted(again.context)
