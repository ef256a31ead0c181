"""A box's files from the caller's side: single files, whole trees, and watching.

The server at the other end runs inside the box with the rights of the box's programs; what it sends is checked here,
above all the names that are about to become files of the host.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import (
    DiskFull,
    FileMissing,
    FrameTooLarge,
    HostDiskFull,
    InvalidInput,
    KiboError,
    PathRefused,
)
from kibo.model.limits import MAX_PATH_BYTES, MAX_READ_BYTES
from kibo.model.record import Record
from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.refusals import refusal_error, violation
from kibo.runtime.waiting import Waiting

#: Bytes of one piece of a large file, and of many small files that share a frame.
PIECE_BYTES: Final = 4 << 20
#: Small files in one frame.
BATCH_FILES: Final = 512

#: Called with files and bytes done so far.
Progress = Callable[[int, int], None]
#: Called with each entry of a tree: path, mode, kind (``file``, ``more`` of it, ``link``, ``directory``) and content.
Take = Callable[[bytes, int, str, bytes], None]


class FileInfo(Record):
    """One entry of a directory in a box.

    Attributes:
        name: Its name in the directory.
        kind: ``"file"``, ``"directory"``, ``"link"`` or ``"other"``.
        size: In bytes.
        mode: Permission bits.
        modified_ns: Nanoseconds since 1970.
    """

    name: str
    kind: str
    size: int
    mode: int
    modified_ns: int


class FileChange(Record):
    """One change that `watch` saw.

    Attributes:
        kind: ``"created"``, ``"changed"`` or ``"removed"``.
        name: The entry's name in the watched directory.
    """

    kind: str
    name: str


def box_path(path: str | os.PathLike[str]) -> str:
    """Checks a path in a box. Relative ones start at ``/work``; ``..`` at the root stays there, as for any process.

    Raises:
        PathRefused: It is empty, too long, or holds a zero byte.
    """
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError:
        length = 0
    if not 0 < length < MAX_PATH_BYTES or "\0" in text:
        raise PathRefused(
            f"not a path in a box: {text[:80] or path!r}",
            hint=f"A path has 1 to {MAX_PATH_BYTES - 1} bytes and no zero byte.",
        )
    return text if text.startswith("/") else f"/work/{text}"


def content_of(content: bytes | str) -> bytes:
    """Checks what is to be written or read by a program: bytes, or text, which becomes UTF-8.

    Raises:
        InvalidInput: It is neither.
    """
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise InvalidInput(
        f"content must be bytes or text, got {type(content).__name__}",
        hint="Write str(value), or value.to_bytes(...).",
    )


@contextmanager
def host_files() -> Iterator[None]:
    """Gives what the host refuses the user's process, such as a file that is not there, as an error of ours."""
    try:
        yield
    except ConnectionError:
        raise  # the box, and not a file
    except OSError as error:
        raise _host_error(error) from error


def _host_error(error: OSError) -> KiboError:
    place = os.fsdecode(error.filename or "a file")
    message = f"{place} on this host: {error.strerror}"
    details = {"errno": error.errno, "path": place}
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileMissing(
            message, hint="Name a file or directory of this host that exists.", details=details
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostDiskFull(message, hint="Make room there, and call again.", details=details)
    return InvalidInput(
        message, hint="It is this program's own user who must read it, or write it.", details=details
    )


class FileStream:
    """A conversation with one box's file server."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    async def _answer(self, waiting: Waiting) -> list[Any]:
        try:
            reply = await self.channel.receive(waiting)
        except wire.FrameError as error:
            raise violation(str(error)) from None
        if not isinstance(reply, list) or not reply:
            raise violation("its file server's answer has no form")
        if reply[0] == "error":
            raise _file_error(int(reply[1]), str(reply[2]), _text(reply[3]))
        if reply[0] == "failed":
            raise refusal_error(reply[2])
        return reply

    async def ask(self, waiting: Waiting, request: list[Any]) -> Any:
        """Makes a request with one answer and returns its value."""
        await self.channel.send(waiting, request)
        return (await self._answer(waiting))[1]

    async def read(self, waiting: Waiting, path: str) -> bytes:
        """Reads a whole file."""
        await self.channel.send(waiting, ["read", os.fsencode(path)])
        content = bytearray()
        while (reply := await self._answer(waiting))[0] == "piece":
            content += _content(reply[1])
            if len(content) > MAX_READ_BYTES:
                raise FrameTooLarge(
                    f"{path} has more than {MAX_READ_BYTES} bytes",
                    hint="Use files.download(), which streams.",
                )
        return bytes(content)

    async def write(self, waiting: Waiting, path: str, content: bytes, mode: int) -> None:
        """Writes a whole file, and the directories above it."""
        if len(content) <= PIECE_BYTES:
            await self.ask(waiting, ["put", [[os.fsencode(path), mode, "file", content]], False])
            return
        await self.channel.send(waiting, ["write", os.fsencode(path), mode, False])
        view = memoryview(content)
        while view:
            await self.channel.send(waiting, view[:PIECE_BYTES])
            view = view[PIECE_BYTES:]
        await self.channel.send(waiting, b"")
        await self._answer(waiting)

    async def list(self, waiting: Waiting, path: str) -> list[FileInfo]:
        """Lists a directory, in order of name."""
        await self.channel.send(waiting, ["list", os.fsencode(path)])
        found: list[FileInfo] = []
        while (reply := await self._answer(waiting))[0] == "entries":
            found += [
                FileInfo(
                    name=_text(name),
                    kind=str(kind),
                    size=int(size),
                    mode=int(mode),
                    modified_ns=int(modified),
                )
                for name, kind, size, mode, modified in reply[1]
            ]
        return sorted(found, key=lambda info: info.name)

    async def upload(self, waiting: Waiting, source: Path, target: str, progress: Progress | None) -> int:
        """Copies a file or tree of the host into the box; see `Files.upload`."""
        files = total = size = 0
        batch: list[list[Any]] = []
        for relative, path, info in _host_tree(source):
            place = os.fsencode(f"{target}/{relative}" if relative else target)
            mode = stat.S_IMODE(info.st_mode)
            if stat.S_ISDIR(info.st_mode):
                batch.append([place, mode | 0o700, "directory", b""])
            elif stat.S_ISLNK(info.st_mode):
                batch.append([place, mode, "link", os.fsencode(os.readlink(path))])
            elif (content := _small_content(path, info)) is not None:
                batch.append([place, mode, "file", content])
                size += len(content)
                total += len(content)
            else:
                total += await self._upload_large(waiting, path, place, mode)
            files += 1
            if size >= PIECE_BYTES or len(batch) >= BATCH_FILES:
                await self.ask(waiting, ["put", batch, True])
                batch, size = [], 0
                if progress is not None:
                    progress(files, total)
        if batch:
            await self.ask(waiting, ["put", batch, True])
        if progress is not None:
            progress(files, total)
        return files

    async def _upload_large(self, waiting: Waiting, path: Path, place: bytes, mode: int) -> int:
        done = 0
        await self.channel.send(waiting, ["write", place, mode, True])
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE_BYTES):
                await self.channel.send(waiting, piece)
                done += len(piece)
        await self.channel.send(waiting, b"")
        await self._answer(waiting)
        return done

    async def download(self, waiting: Waiting, source: str, target: Path, progress: Progress | None) -> int:
        """Copies a file or tree of the box to the host; see `Files.download`."""
        await self.channel.send(waiting, ["get", os.fsencode(source)])
        files = total = 0
        while (reply := await self._answer(waiting))[0] == "entries":
            for name, mode, kind, content in _entries(reply[1]):
                _place(target, _safe_name(name), mode, kind, content)
                files += kind != "more"
                total += len(content)
            if progress is not None:
                progress(files, total)
        return files

    async def put(self, waiting: Waiting, target: str, files: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Makes a directory, and files below it: each a path, a mode and a content."""
        below = os.fsencode(target)
        batch: list[list[Any]] = [[below, 0o700, "directory", b""]]
        size = 0
        for name, mode, content in files:
            place = below + b"/" + name
            if len(content) > PIECE_BYTES:
                await self.write(waiting, os.fsdecode(place), content, mode)
                continue
            batch.append([place, mode, "file", content])
            size += len(content)
            if size >= PIECE_BYTES or len(batch) >= BATCH_FILES:
                await self.ask(waiting, ["put", batch, True])
                batch, size = [], 0
        if batch:
            await self.ask(waiting, ["put", batch, True])

    async def collect(self, waiting: Waiting, source: str, take: Take) -> None:
        """Gives what is at and below a path, entry by entry, as the box sends it: checked in form alone."""
        await self.channel.send(waiting, ["get", os.fsencode(source)])
        while (reply := await self._answer(waiting))[0] == "entries":
            for name, mode, kind, content in _entries(reply[1]):
                take(os.fsencode(_safe_name(name)), mode, kind, content)

    async def watch(self, waiting: Waiting, path: str) -> None:
        """Asks for the changes in a directory, which `changes` then waits for."""
        await self.channel.send(waiting, ["watch", os.fsencode(path)])
        await self._answer(waiting)

    async def changes(self, waiting: Waiting) -> FileChange:
        """Waits for the next change after a ``watch`` request."""
        reply = await self._answer(waiting)
        return FileChange(kind=str(reply[1]), name=_text(reply[2]))


def _host_tree(source: Path) -> Iterator[tuple[str, Path, os.stat_result]]:
    info = os.lstat(source)
    if not stat.S_ISDIR(info.st_mode):
        yield "", source, os.stat(source)
        return
    yield "", source, info
    for directory, names, files in os.walk(source):
        base = Path(directory)
        for name in sorted(names + files):
            path = base / name
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
                yield str(path.relative_to(source)), path, found


def _small_content(path: Path, info: os.stat_result) -> bytes | None:
    """Reads a file that fits a piece; None for one that does not, even if its size says so."""
    if info.st_size > PIECE_BYTES:
        return None
    with open(path, "rb") as file:
        content = file.read(PIECE_BYTES + 1)
    return content if len(content) <= PIECE_BYTES else None


def _text(data: object) -> str:
    """A path as Python names it; one that is no text keeps its bytes as surrogates (PEP 383)."""
    return os.fsdecode(_content(data))


def _content(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise violation("its file server sent no bytes where bytes belong")
    return data


def _entries(batch: object) -> Iterator[tuple[bytes, int, str, bytes]]:
    """Checks the form of what is about to become files of the host."""
    for entry in batch if isinstance(batch, list) else [None]:
        match entry:
            case [bytes(name), int(mode), ("file" | "more" | "link" | "directory") as kind, bytes(content)]:
                yield name, mode, kind, content
            case _:
                raise violation("its file server sent an entry that has no form")


def _safe_name(data: bytes) -> str:
    """Checks a name that a box sent and that is to become a path of the host."""
    name = os.fsdecode(data)
    if "\0" in name or name.startswith("/") or ".." in name.split("/"):
        raise violation(f"its file server sent the name {name!r}")
    return name


def _place(target: Path, name: str, mode: int, kind: str, content: bytes) -> None:
    """Makes one file of the host from what a box sent, never through a link that the box sent before."""
    path = target / name if name else target
    if name:
        for parent in path.parents:
            if parent == target:
                break
            if parent.is_symlink():
                raise violation(f"it sent a file behind its own link {name!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The target itself is the caller's own choice, a link or not.
    if (name and path.is_symlink()) or (kind == "link" and path.is_file()):
        path.unlink()
    if kind == "directory":
        path.mkdir(exist_ok=True)
        path.chmod(mode & 0o777 | 0o700)
    elif kind == "link":
        path.symlink_to(os.fsdecode(content))
    else:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_NOFOLLOW if name else 0)
        flags |= os.O_APPEND if kind == "more" else os.O_TRUNC
        with open(os.open(path, flags, 0o600), "wb") as file:
            file.write(content)
        path.chmod(mode & 0o777)


def _file_error(number: int, text: str, path: str) -> KiboError:
    details = {"errno": number, "path": path}
    message = f"{path}: {text}" if path else text
    if number == 2:
        return FileMissing(message, hint="List the directory to see what is there.", details=details)
    if number in (28, 122):
        return DiskFull(
            message,
            hint="Raise Limits.disk_bytes or disk_files, or remove files in the box.",
            details=details,
        )
    if number in (13, 1, 40, 30):
        return PathRefused(message, hint="The box's own programs may not do that either.", details=details)
    return InvalidInput(message, hint="files.list() tells what there is, and of which kind.", details=details)
