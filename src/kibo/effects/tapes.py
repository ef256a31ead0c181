"""The recordings and replays that one gateway has under way: which boxes' traffic goes where."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kibo.effects.exchange import Sender
from kibo.effects.http_head import SecretValue
from kibo.effects.recording_writer import RecordingWriter
from kibo.effects.replaying import Replay
from kibo.effects.takes import RecordingSender
from kibo.effects.unrecorded import Missed


class Tapes:
    """Recordings and replays by their names."""

    def __init__(self) -> None:
        self._writers: dict[str, RecordingWriter] = {}
        self._replays: dict[str, Replay] = {}
        self._sealing: set[asyncio.Task[None]] = set()

    def record(self, tape: str, fd: int, folder: str, name: str) -> None:
        """Begins a recording; see `RecordingWriter`."""
        self._writers[tape] = RecordingWriter(fd, Path(folder), name)

    def replay(self, tape: str, fd: int, name: str) -> None:
        """Begins a replay; see `Replay`."""
        try:
            self._replays[tape] = Replay(fd, name)
        except BaseException:
            os.close(fd)
            raise

    def sender(self, tape: str, upstream: Sender, secrets: Sequence[SecretValue]) -> Sender:
        """Returns what a box's requests are sent by.

        Args:
            tape: What it records into or replays; empty for neither.
            upstream: What reaches servers.
            secrets: Those of the box.

        Raises:
            ValueError: There is no such recording or replay here: it ended, with its gateway or before.
        """
        if not tape:
            return upstream
        if (replay := self._replays.get(tape)) is not None:
            return replay
        if (writer := self._writers.get(tape)) is not None:
            return RecordingSender(upstream, writer, secrets)
        raise ValueError("the recording or replay that this box belongs to has ended")

    def seal(self, tape: str, told: socket.socket) -> None:
        """Ends a recording, and says on a socket, which is closed then, what came of it."""
        writer = self._writers.pop(tape, None)
        if writer is None:
            told.close()
            raise ValueError("there is no such recording")

        async def work() -> None:
            with told:
                told.setblocking(False)
                sealed = await writer.seal()
                await asyncio.get_running_loop().sock_sendall(told, msgspec.msgpack.encode(sealed))

        task = asyncio.ensure_future(work())
        self._sealing.add(task)
        task.add_done_callback(self._sealing.discard)

    def end(self, tape: str) -> None:
        """Ends a recording, of which nothing is kept, or a replay. One that has ended is fine."""
        if (writer := self._writers.pop(tape, None)) is not None:
            writer.drop()
        if (replay := self._replays.pop(tape, None)) is not None:
            replay.end()

    def missed(self, tape: str) -> Missed:
        """Tells what a replay did not have.

        Raises:
            ValueError: There is no such replay.
        """
        replay = self._replays.get(tape)
        if replay is None:
            raise ValueError("there is no such replay")
        return Missed(replay.unrecorded, replay.missed)

    async def close(self) -> None:
        """Waits for recordings that are being sealed, and ends all others."""
        if self._sealing:
            await asyncio.wait(self._sealing)
        for tape in [*self._writers, *self._replays]:
            self.end(tape)
