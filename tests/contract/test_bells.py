"""Bells: heard by whoever writes, ends or is killed, also where the directory has gone; and silent otherwise."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kibo.effects.bells import Bell, bell_of, ringing

pytestmark = pytest.mark.contract

HOLDS_IT = "import os, sys; os.open(sys.argv[1], os.O_WRONLY); print(flush=True); sys.stdin.read()"


class Heard:
    """A bell, and how often it was heard."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.again = asyncio.Event()
        self.bell = Bell(path, self.hear)

    def hear(self) -> None:
        self.count += 1
        self.again.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self.again.wait()
        self.again.clear()
        await self.settled()

    async def settled(self) -> None:
        """Gives it every occasion to be heard again."""
        for _ in range(10):
            await asyncio.sleep(0)


def test_it_is_heard_for_each_ring_and_then_is_silent(tmp_path: Path) -> None:
    async def program() -> None:
        heard = Heard(bell_of(tmp_path, "gw_1"))
        for _ in range(3):
            before = heard.count
            with ringing(tmp_path):
                await heard.settled()
                assert heard.count == before
            await heard.wait()
            rung = heard.count
            await heard.settled()
            assert heard.count == rung
        heard.bell.close()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(program())


@pytest.mark.parametrize("removed", [False, True])
def test_a_writer_that_is_killed_rings_also_where_the_bell_was_removed_meanwhile(
    tmp_path: Path, removed: bool
) -> None:
    async def program() -> None:
        path = bell_of(tmp_path, "gw_1")
        heard = Heard(path)
        command = [sys.executable, "-c", HOLDS_IT, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"\n"
            await heard.settled()
            assert heard.count == 0
            if removed:
                path.unlink()
            writer.send_signal(signal.SIGKILL)
            await heard.wait()
        assert heard.count == 1
        heard.bell.close()

    asyncio.run(program())


def test_a_full_pipe_and_a_bell_without_a_gateway_are_no_obstacle(tmp_path: Path) -> None:
    async def program() -> None:
        heard = Heard(bell_of(tmp_path, "gw_1"))
        fd = os.open(bell_of(tmp_path, "gw_1"), os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(fd, bytes(65536))
        os.mkfifo(bell_of(tmp_path, "gw_dead"))
        with ringing(tmp_path):
            pass
        os.close(fd)
        await heard.wait()
        heard.bell.close()

    asyncio.run(program())
