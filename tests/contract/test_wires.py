"""Connections as the gateway uses them: what comes on one is never on another, and nothing waits without a bound."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kibo.effects.wires import CHUNK_BYTES, Plain

pytestmark = pytest.mark.contract

PATIENCE_S = 0.1


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Plain, socket.socket]]:
    """One end, and the other as a socket that blocks nobody."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, plain = await asyncio.get_running_loop().create_connection(Plain, sock=ours)
    try:
        yield plain, theirs
    finally:
        plain.close()
        theirs.close()


async def carried(seed: int, count: int) -> None:
    """Has several connections say something of their own at once, and sees that each does."""
    loop = asyncio.get_running_loop()

    async def talk(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        said = bytes([number]) * chance.randrange(1, 20 * CHUNK_BYTES)

        async def say(other: socket.socket) -> None:
            at = 0
            while at < len(said):
                size = chance.randrange(1, 3 * CHUNK_BYTES)
                await loop.sock_sendall(other, said[at : at + size])
                at += size
            other.shutdown(socket.SHUT_WR)

        async with connected() as (plain, other):
            saying = asyncio.ensure_future(say(other))
            heard = bytearray()
            while piece := await plain.receive():
                heard += piece
                if chance.random() < 0.2:
                    await asyncio.sleep(0)
            await saying
            assert heard == said

    await asyncio.gather(*(talk(number) for number in range(count)))


def test_what_comes_on_one_connection_is_on_no_other_in_one_event_loop_or_in_several() -> None:
    failed: list[Exception] = []

    def run(seed: int) -> None:
        try:
            asyncio.run(carried(seed, 8))
        except Exception as error:  # noqa: BLE001 (told by the test)
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_of_what_nobody_takes_no_more_than_two_chunks_wait() -> None:
    async def fill() -> None:
        async with connected() as (plain, other):
            saying = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(other, bytes(8 << 20)))
            for _ in range(200):  # turns, in each of which more could be read
                await asyncio.sleep(0)
            assert not saying.done()
            assert CHUNK_BYTES <= len(plain.received()) < 2 * CHUNK_BYTES
            assert await plain.receive(), "it goes on where somebody takes it"
            saying.cancel()

    asyncio.run(fill())


def test_whoever_stops_waiting_takes_nothing_along() -> None:
    async def stop() -> None:
        async with connected() as (plain, other):
            waiting = asyncio.ensure_future(plain.receive())
            await asyncio.sleep(0)
            other.send(b"said")
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await plain.receive() == b"said"

    asyncio.run(stop())


def test_each_wait_has_the_patience_that_it_says() -> None:
    async def wait() -> None:
        async with connected() as (plain, other):
            with pytest.raises(TimeoutError):
                await plain.receive(PATIENCE_S)
            waiting = asyncio.ensure_future(plain.receive(1000 * PATIENCE_S))
            await asyncio.sleep(0)
            other.send(b"in time")
            assert await waiting == b"in time"
            # A longer wait has left its timer: a shorter one is not that long, and one without an end is longer.
            with pytest.raises(TimeoutError):
                await plain.receive(PATIENCE_S)
            endless = asyncio.ensure_future(plain.receive())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3 * PATIENCE_S):
                    await asyncio.shield(endless)
            other.send(b"late")
            assert await endless == b"late"

    asyncio.run(wait())


def test_who_sends_waits_for_a_reader_as_long_as_it_says_and_hears_of_the_end() -> None:
    async def send() -> None:
        async with connected() as (plain, other):
            with pytest.raises(TimeoutError):
                while True:
                    await plain.send(bytes(CHUNK_BYTES), PATIENCE_S)
            waiting = asyncio.ensure_future(plain.send(b"more"))
            await asyncio.sleep(0)
            other.close()
            with pytest.raises(OSError, match=r"."):
                await waiting
            with pytest.raises(OSError, match=r"."):
                await plain.send(b"more")

    asyncio.run(send())


def test_an_end_comes_after_what_was_said_and_leaves_the_other_way_open() -> None:
    async def end() -> None:
        async with connected() as (plain, other):
            other.send(b"last")
            other.shutdown(socket.SHUT_WR)
            assert await plain.receive() == b"last"
            assert await plain.receive() == b""
            assert plain.stale
            await plain.send(b"answer")
            await plain.finish()
            other.setblocking(True)
            assert other.recv(100) == b"answer"
            assert other.recv(100) == b""

    asyncio.run(end())
