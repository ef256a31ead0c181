"""The async face: the same calls as coroutines, whose cancellation reaches into the box."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

import kibo
import leftovers
from kibo import Box, Env, KiboError, action, aio, wiring
from kibo.model.errors import (
    ActionRaised,
    FileMissing,
    InstanceEnded,
    InvalidResult,
    UnknownAction,
    WrongState,
)
from kibo.runtime.attached import list_cells
from kibo.runtime.layers.home import state_home

pytestmark = pytest.mark.anyio


# Trio is no dependency; where it is installed the same tests run on it.
@pytest.fixture(params=["asyncio", *(["trio"] if find_spec("trio") else [])])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Worker(Box):
    """Does this and that."""

    def launch(self) -> None:
        self.calls = 0

    @action
    def add(self, a: int, b: int) -> int:
        """Adds."""
        self.calls += 1
        return a + b

    @action
    def count_calls(self) -> int:
        """Tells how often it added."""
        return self.calls

    @action
    def sleep(self, seconds: float) -> str:
        """Sleeps."""
        time.sleep(seconds)
        return "rested"

    @action
    def stay(self) -> None:
        """Does not let itself be interrupted."""
        while True:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001
                continue

    @action
    def fail(self) -> None:
        """Raises."""
        raise ValueError("as asked")

    @action
    def count(self, to: int):
        """Counts, and returns how far."""
        yield from range(to)
        return to

    @action
    def wrong(self) -> int:
        """Returns what it should not."""
        return "no number"  # type: ignore[return-value]


class Slow(Box):
    """Takes long to launch."""

    seconds: float

    def launch(self) -> None:
        time.sleep(self.seconds)

    @action
    def ready(self) -> bool:
        """Tells that it is."""
        return True


class SlowBuild(Box):
    """Takes long to build."""

    env = Env(run=["echo begun; sleep 600"])


def cells() -> list[str]:
    return [cell.id for cell in list_cells(state_home())]


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    with anyio.fail_after(seconds):
        yield


async def test_actions_commands_and_files_are_coroutines(tmp_path: Path) -> None:
    async with aio.spawn(Worker(), name="wanda") as worker:
        assert await worker.add(1, 2) == 3
        assert await worker.add(a=3, b=4) == 7
        done = await worker.exec("cat; echo oops >&2; exit 3", stdin=b"x" * 200_000)
        assert (len(done.stdout), done.stderr, done.returncode) == (200_000, "oops\n", 3)
        await worker.files.write("a.txt", "hello")
        assert await worker.files.read("a.txt") == b"hello"
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "b").write_bytes(b"b" * 10_000_000)
        assert await worker.files.upload(tmp_path / "tree", "tree") == 2
        await worker.files.download("tree", tmp_path / "back")
        assert (tmp_path / "back" / "b").read_bytes() == b"b" * 10_000_000
        assert {change.path for change in await worker.diff()} >= {"/work/a.txt", "/work/tree/"}
        assert await worker.status() == "running"
        with pytest.raises(FileMissing):
            await worker.files.read("nowhere")
        with pytest.raises(UnknownAction):
            await worker.fly()
        with pytest.raises(ActionRaised):
            await worker.fail()
        with pytest.raises(InvalidResult):
            await worker.wrong()
    assert await worker.status() == "ended"
    with pytest.raises(InstanceEnded):
        await worker.add(1, 2)


async def test_a_cancelled_call_interrupts_its_action_and_the_instance_lives_on() -> None:
    async with aio.spawn(Worker()) as worker:
        await worker.add(1, 1)
        began = time.monotonic()
        with anyio.move_on_after(0.2) as scope:
            await worker.sleep(60.0)
        assert scope.cancelled_caught
        assert time.monotonic() - began < 60
        assert await worker.count_calls() == 1


async def test_a_cancelled_call_that_cannot_be_interrupted_ends_its_instance() -> None:
    async with aio.spawn(Worker()) as worker:
        with anyio.move_on_after(0.2):
            await worker.stay()
        with pytest.raises(InstanceEnded, match="cancelled"):
            await worker.count_calls()
        with anyio.fail_after(5):
            while await worker.status() == "running":
                await anyio.sleep(0.01)


async def test_the_calls_of_many_tasks_take_turns_and_none_is_lost() -> None:
    results = []

    async def add(number: int) -> None:
        results.append(await worker.add(number, 1))

    async with aio.spawn(Worker()) as worker:
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(add, number)
        assert sorted(results) == list(range(1, 51))
        assert await worker.count_calls() == 50


async def test_a_command_runs_while_an_action_does() -> None:
    async with aio.spawn(Worker()) as worker, anyio.create_task_group() as group:
        group.start_soon(worker.sleep, 30.0)
        async with deadline(5):
            assert (await worker.exec(["echo", "meanwhile"])).stdout == "meanwhile\n"
        group.cancel_scope.cancel()


async def test_a_cancelled_command_is_killed() -> None:
    async with aio.spawn(Worker()) as worker:
        with anyio.move_on_after(0.3):
            await worker.exec("exec sleep 123.25")
        async with deadline(5):
            while "123.25" in (await worker.exec("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).stdout.replace(
                "cat /proc", ""
            ):
                await anyio.sleep(0.01)


async def test_a_stream_gives_its_items_and_its_result() -> None:
    async with aio.spawn(Worker()) as worker:
        stream = worker.count(4)
        assert [item async for item in stream] == [0, 1, 2, 3]
        assert stream.result == 4


@pytest.mark.parametrize("taken", [1, 2, 3])
async def test_a_stream_left_early_is_stopped_wherever_it_is(taken: int) -> None:
    async with aio.spawn(Worker()) as worker:
        async with worker.count(3) as stream:
            for _ in range(taken):
                await anext(stream)
        assert await worker.add(taken, 1) == taken + 1
        async with worker.count(10_000_000) as stream:
            assert await anext(stream) == 0
        assert await worker.add(1, 1) == 2


async def test_a_call_inside_ones_own_stream_is_refused_and_not_a_deadlock() -> None:
    async with aio.spawn(Worker()) as worker, worker.count(3) as stream:
        await anext(stream)
        with pytest.raises(WrongState):
            await worker.add(1, 1)


async def test_streams_of_commands_and_terminals() -> None:
    async with aio.spawn(Worker()) as worker:
        async with worker.popen("cat") as process:
            await process.write(b"line\n")
            assert await process.read() == b"line\n"
            process.close_stdin()
            assert await process.read() == b""
            assert await process.wait() == 0
        async with worker.shell(["sh"]) as shell:
            shell.resize(50, 132)
            await shell.write(b"stty size; exit 7\n")
            seen = b""
            async with deadline(10):
                while piece := await shell.read():
                    seen += piece
            assert b"50 132" in seen
            assert await shell.wait() == 7


async def test_watching_files() -> None:
    async with aio.spawn(Worker()) as worker:
        changes = worker.files.watch()
        async with anyio.create_task_group() as group:

            async def write_soon() -> None:
                await anyio.sleep(0.2)
                await worker.files.write("seen.txt", "x")

            group.start_soon(write_soon)
            async with deadline(10):
                change = await anext(changes)
        assert (change.kind, change.name) == ("created", "seen.txt")
        await changes.aclose()


async def test_an_unreferenced_instance_is_destroyed() -> None:
    worker = await aio.spawn(Worker())
    name = worker.id
    await worker.add(1, 2)
    assert name in cells()
    del worker
    gc.collect()
    async with deadline(5):
        while name in cells():
            await anyio.sleep(0.01)


async def test_a_cancelled_spawn_ends_the_launch_under_way() -> None:
    await aio.build(Worker())
    before = set(cells())
    with anyio.move_on_after(1.5) as scope:
        await aio.spawn(Worker() + Slow(seconds=55.0))
    assert scope.cancelled_caught
    async with deadline(10):
        while set(cells()) - before:
            await anyio.sleep(0.02)
    # What another call builds is not touched by that.
    async with aio.spawn(Worker() + Slow(seconds=0.1)) as both:
        assert await both.ready() is True


async def test_a_cancelled_build_ends_its_builder() -> None:
    began = anyio.Event()

    def watch(event: object) -> None:
        if getattr(event, "text", "").endswith("begun"):
            began.set()

    before = set(leftovers.descendants(os.getpid()))
    async with anyio.create_task_group() as group, deadline(30):
        group.start_soon(aio.build, SlowBuild(), watch)
        await began.wait()
        assert set(leftovers.descendants(os.getpid())) - before
        group.cancel_scope.cancel()
    assert not {
        name
        for pid, name in leftovers.descendants(os.getpid()).items()
        if pid not in before and "kibo" not in name
    }
    assert not list((state_home() / "tmp").iterdir())


async def test_many_spawns_at_once_build_one_state() -> None:
    events = []
    box = Worker() + Slow(seconds=0.3)
    async with anyio.create_task_group() as group:
        found = []

        async def one() -> None:
            found.append(await aio.spawn(box, progress=events.append))

        for _ in range(8):
            group.start_soon(one)
    assert (
        len([event for event in events if type(event).__name__ == "Launching" and event.part == "Slow"]) <= 1
    )
    assert [await instance.add(1, 1) for instance in found] == [2] * 8
    for instance in found:
        await instance.destroy()


async def test_a_spawn_takes_from_the_pool_of_its_box() -> None:
    with kibo.pool(Worker(), min=1, max=2) as pool:
        async with aio.spawn(Worker()) as worker:
            assert await worker.add(1, 2) == 3
            assert pool.hits == 1
            name = worker.id
        async with deadline(5):
            while name in cells():
                await anyio.sleep(0.01)


async def test_a_spawn_after_the_runtime_was_killed_starts_another() -> None:
    async with aio.spawn(Worker()):
        session = wiring.runtime().states().session
        os.kill(session._keeper.pid, signal.SIGKILL)
        async with aio.spawn(Worker()) as worker:
            assert await worker.add(1, 2) == 3


async def test_errors_are_the_same_ones() -> None:
    with pytest.raises(KiboError):
        await aio.spawn(Slow(seconds="long"))  # type: ignore[arg-type]
    async with aio.spawn(Worker()) as worker:
        wiring.runtime().close()
        with pytest.raises(KiboError) as caught:
            await worker.add(1, 1)
        assert caught.value.code == "runtime.lost"
    async with aio.spawn(Worker()) as worker:
        assert await worker.add(1, 1) == 2
