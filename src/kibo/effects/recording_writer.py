"""The file of one recording while it is made.

It is written by a thread of its own, in the order in which things happened, and boxes wait for it only where the
disk is far behind. Bodies are never held: what is larger than a little lies in a file without a name until it is whole.
Where the disk is full, or something else fails, the boxes go on, and the recording is given up and told so at its end.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final, Protocol, TypeVar

import msgspec

from kibo.effects.recorded_messages import CodingError, Form
from kibo.effects.recording_file import (
    BEGIN,
    DIGEST_BYTES,
    Recorded,
    write_end,
)
from kibo.effects.records import PACK
from kibo.model.limits import MAX_RECORDING_AHEAD_BYTES, MAX_RECORDING_BYTES, MAX_RECORDING_INDEX_BYTES

#: What of a body is held in memory before it goes into a file.
_SPOOL_BYTES: Final = 256 * 1024
_COPY_BYTES: Final = 1 << 20


class Sealed(msgspec.Struct, array_like=True):
    """What came of a recording.

    Attributes:
        problem: Why there is none; empty where there is one.
        full: Whether that is because the disk is.
        exchanges: Requests in it.
    """

    problem: str = ""
    full: bool = False
    exchanges: int = 0


class Passing(Protocol):
    """A request that is on its way, with its answer."""

    def cut(self) -> None:
        """Told that no more of it is recorded."""


T = TypeVar("T", bound=Passing)


class _LimitError(Exception):
    pass


class RecordingWriter:
    """One recording while it is made.

    Args:
        fd: Its file, empty; this one's from now on.
        folder: Where bodies lie until they are whole.
        name: What it is called.
    """

    def __init__(self, fd: int, folder: Path, name: str) -> None:
        self._out: IO[bytes] = os.fdopen(fd, "wb")
        self._folder = folder
        self._name = name
        self._created_s = time.time()
        self._thread = ThreadPoolExecutor(1, "kibo-recording")
        self._numbers = itertools.count(1)
        #: Bytes that the thread was given, and those that it has done: each is counted by one side only.
        self._given = self._done = 0
        self._open: dict[int, Passing] = {}
        self._last: Future[None] | None = None
        self._ended = False
        # What only the thread touches.
        self._at = 0
        self._bodies: dict[bytes, int] = {}
        self._packed: list[tuple[int, msgspec.Raw]] = []
        self._index_bytes = 0
        self._problem: Exception | None = None
        self.do(lambda: self._write(BEGIN))

    def begin(self, take: Callable[[int], T]) -> T | None:
        """Gives a request its number, and what it is known by until it is `closed`; None once the recording has ended.

        Args:
            take: Makes what is told when the recording ends.
        """
        if self._ended:
            return None
        number = next(self._numbers)
        made = self._open[number] = take(number)
        return made

    def do(self, work: Callable[[], None], ahead: int = 0) -> None:
        """Has the thread do something after all that it was given before.

        Args:
            work: What to do; nothing is done any more once something has failed.
            ahead: Bytes that wait with it.
        """
        self._given += ahead

        def run() -> None:
            try:
                if self._problem is None:
                    work()
            except Exception as error:  # noqa: BLE001 - told at the end
                self._give_up(error)
            finally:
                self._done += ahead

        self._last = self._thread.submit(run)

    async def room(self) -> None:
        """Waits until not too much waits for the disk."""
        if self._given - self._done > MAX_RECORDING_AHEAD_BYTES and self._last is not None:
            await asyncio.wrap_future(self._last)

    async def seal(self) -> Sealed:
        """Ends the recording. What is still on its way is kept as far as it has come."""
        self._ended = True
        for take in list(self._open.values()):
            take.cut()
        sealed = await asyncio.get_running_loop().run_in_executor(self._thread, self._seal)
        self._thread.shutdown()
        return sealed

    def drop(self) -> None:
        """Ends it, and keeps nothing."""
        self._ended = True
        self._open.clear()
        self._thread.submit(self._out.close)
        self._thread.shutdown(wait=False)

    def closed(self, number: int) -> None:
        """Told when a request needs nothing more."""
        self._open.pop(number, None)

    # -- in the thread

    def spool(self) -> IO[bytes]:
        """Makes where a body lies until it is whole."""
        return tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=str(self._folder))

    def keep(self, digest: bytes, body: IO[bytes]) -> None:
        """Copies a body that is whole into the file, if it is not there already."""
        if digest in self._bodies:
            return
        body.seek(0)
        began = self._at
        while piece := body.read(_COPY_BYTES):
            self._write(piece)
        self._bodies[digest] = self._at - began

    def note(self, recorded: Recorded) -> None:
        """Adds a request to the index."""
        packed = PACK.encode(recorded)
        self._index_bytes += len(packed)
        if self._index_bytes > MAX_RECORDING_INDEX_BYTES // 2:  # the other half is for bodies
            raise _LimitError(f"it has more than {len(self._packed)} requests")
        self._packed.append((recorded.number, msgspec.Raw(packed)))

    def _write(self, data: bytes) -> None:
        self._at += len(data)
        if self._at > MAX_RECORDING_BYTES:
            raise _LimitError(f"it has more than {MAX_RECORDING_BYTES} bytes")
        self._out.write(data)

    def _give_up(self, error: Exception) -> None:
        self._problem = error
        self._packed.clear()
        try:
            os.ftruncate(self._out.fileno(), 0)  # at once: the disk may be full because of it
        except OSError:
            pass  # the file is removed at the end

    def _seal(self) -> Sealed:
        if self._problem is None:
            try:
                exchanges = [raw for _, raw in sorted(self._packed, key=lambda pair: pair[0])]
                index = PACK.encode([self._name, self._created_s, list(self._bodies.items()), exchanges])
                if len(index) > MAX_RECORDING_INDEX_BYTES:
                    raise _LimitError(f"it has more than {len(self._bodies)} bodies")
                write_end(self._out, self._at, index)
            except (OSError, _LimitError) as error:
                self._give_up(error)
        try:
            self._out.close()
        except OSError as error:  # what could not be written still cannot
            self._problem = self._problem or error
        problem = self._problem
        if problem is None:
            return Sealed(exchanges=len(self._packed))
        if isinstance(problem, OSError):
            full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
            return Sealed(os.strerror(problem.errno or 0), full)
        return Sealed(str(problem) if isinstance(problem, _LimitError) else repr(problem))


class Copy:
    """One body on its way into a recording. In the writer's thread, but for being made.

    Args:
        writer: Of the recording.
        form: How it is recorded.
    """

    def __init__(self, writer: RecordingWriter, form: Form) -> None:
        self._writer = writer
        self._form = form
        self._spool: IO[bytes] | None = None
        self._hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.size = 0
        #: Why it cannot be recorded.
        self.problem = ""

    def feed(self, data: bytes) -> None:
        """Takes a piece."""
        if self.problem:
            return
        try:
            for piece in self._form.feed(data):
                self._write(piece)
        except CodingError as error:
            self.problem = str(error)
            self.drop()

    def end(self) -> bytes:
        """Keeps it; returns its digest."""
        self._write(self._form.end())
        digest = self._hasher.digest()
        with self._spool or self._writer.spool() as spool:
            self._writer.keep(digest, spool)
        return digest

    def drop(self) -> None:
        """Gives it up."""
        if self._spool is not None:
            self._spool.close()

    def _write(self, piece: bytes) -> None:
        if self._spool is None:
            self._spool = self._writer.spool()
        self._hasher.update(piece)
        self._spool.write(piece)
        self.size += len(piece)
