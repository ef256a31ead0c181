"""One instance's files as coroutines: a conversation with its file server that is opened on first use."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from kibo.model.errors import FileMissing, FrameTooLarge, GuestViolation, KiboError, PathRefused
from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.files import (
    FileChange,
    FileInfo,
    FileStream,
    Progress,
    Take,
    box_path,
    content_of,
    host_files,
)
from kibo.runtime.handle import Handle

Result = TypeVar("Result")


class FileAccess:
    """Reads and writes in a box, one request at a time. What each does is said in `kibo.runtime.instance.Files`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._waiting = handle.waiting
        self._stream: FileStream | None = None
        self._turn = handle.waiting.lock()

    def _open(self) -> FileStream:
        channel, theirs = Channel.pair()
        try:
            self._handle.session.order("files", {"id": self._handle.instance}, [theirs.fileno()])
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return FileStream(channel)

    async def _do(self, work: Callable[[FileStream], Awaitable[Result]]) -> Result:
        self._handle.check()
        async with self._turn:
            stream = self._stream
            if stream is None:
                await self._handle.rouse()
                stream = self._stream = self._open()
            try:
                return await work(stream)
            except (wire.Closed, ConnectionError):
                self.close()
                raise await self._handle.why_gone() from None
            except (GuestViolation, FrameTooLarge):
                self.close()  # it may still be sending
                raise
            except KiboError:
                raise
            except BaseException:
                # An unfinished conversation cannot be taken up again.
                self.close()
                raise

    def close(self) -> None:
        """Closes this process's end; nobody may wait on it. A child that was forked from the origin may do so, too."""
        if (stream := self._stream) is not None:
            self._stream = None
            stream.channel.close()

    def hang_up(self) -> None:
        """Ends the server in the box, also under whoever waits on it in another thread; the next use starts another."""
        if (stream := self._stream) is not None:
            self._stream = None
            stream.channel.hang_up()

    async def read(self, path: str) -> bytes:
        """Reads a whole file."""
        place = box_path(path)
        return await self._do(lambda stream: stream.read(self._waiting, place))

    async def write(self, path: str, content: bytes | str, mode: int) -> None:
        """Writes a whole file; makes the directories above it."""
        data, place = content_of(content), box_path(path)
        await self._do(lambda stream: stream.write(self._waiting, place, data, mode))

    async def list(self, path: str) -> list[FileInfo]:
        """Lists a directory, in order of name."""
        place = box_path(path)
        return await self._do(lambda stream: stream.list(self._waiting, place))

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it."""
        place = box_path(path)
        await self._do(lambda stream: stream.ask(self._waiting, ["remove", place]))

    async def upload(self, source: str | os.PathLike[str], target: str, progress: Progress | None) -> int:
        """Copies a file or a tree of the host into the box."""
        place = box_path(target)
        with host_files():
            return await self._do(lambda stream: stream.upload(self._waiting, Path(source), place, progress))

    async def download(self, source: str, target: str | os.PathLike[str], progress: Progress | None) -> int:
        """Copies a file or a tree of the box to the host."""
        place = box_path(source)
        with host_files():
            return await self._do(
                lambda stream: stream.download(self._waiting, place, Path(target), progress)
            )

    async def replace(self, path: str, files: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Makes a directory that has these files, each a path, a mode and a content, and nothing else.

        Raises:
            PathRefused: It is the box's root.
        """
        place = box_path(path)
        if os.path.normpath(place).strip("/") == "":
            raise PathRefused("the root of a box is not replaced", hint="Name a directory in it.")
        with suppress(FileMissing):
            await self.remove(place)
        await self._do(lambda stream: stream.put(self._waiting, place, files))

    async def collect(self, path: str, take: Take) -> None:
        """Gives what is at and below a path, entry by entry. What `take` raises ends it."""
        place = box_path(path)

        async def work(stream: FileStream) -> None:
            try:
                await stream.collect(self._waiting, place, take)
            except BaseException:
                self.close()  # it may still be sending
                raise

        await self._do(work)

    async def watch(self, path: str) -> AsyncGenerator[FileChange, None]:
        """Yields changes in one directory as they happen, until closed."""
        self._handle.check()
        await self._handle.rouse()
        stream = self._open()
        try:
            await stream.watch(self._waiting, box_path(path))
            while True:
                yield await stream.changes(self._waiting)
        except (wire.Closed, ConnectionError):
            raise await self._handle.why_gone() from None
        finally:
            stream.channel.close()
