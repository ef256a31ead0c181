"""The recordings of a state directory: one file each, which is there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kibo.effects.recording_file import Stored
from kibo.model.errors import FileMissing, HostDiskFull, InvalidInput, RecordingInvalid, RecordingUnknown
from kibo.model.ids import RecordingId
from kibo.model.limits import MAX_RECORDING_BYTES
from kibo.store import crash
from kibo.store.flushing import flush
from kibo.store.locking import lock, try_lock_found

SUFFIX: Final = ".recording"
_PART: Final = ".part"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A recording of a state directory.

    Attributes:
        name: What it is called.
        stored: What it has; None where it is damaged.
        problem: In what way.
    """

    name: str
    stored: Stored | None
    problem: str = ""


class Recordings:
    """The recordings of one state directory. Any number of processes may use it at once.

    Args:
        home: The state directory.
    """

    def __init__(self, home: Path) -> None:
        self._folder = home / "recordings"

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self._folder

    def begin(self, recording: RecordingId) -> tuple[int, Path]:
        """Makes the file of a recording that begins, and removes what was left of those whose makers died.

        Returns:
            Its descriptor, which has it locked, and its path.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._sweep()
        part = self._folder / f".{recording}{_PART}"
        with _exhausting(self._folder):
            # A lock of the open file, which the gateway shares: it is free when both have closed it, however they end.
            return lock(part), part

    def publish(self, part: Path, name: str) -> Path:
        """Gives a recording that is whole, and on the disk, its name; one that has the name is replaced."""
        to = self._folder / f"{name}{SUFFIX}"
        crash.point("recording.before_rename")
        os.replace(part, to)
        crash.point("recording.renamed")
        flush(self._folder)
        return to

    def listed(self) -> list[Listed]:
        """Lists them by name. Reads their indexes, and not their bodies."""
        found = []
        with suppress(FileNotFoundError):
            for entry in sorted(os.listdir(self._folder)):
                name = entry.removesuffix(SUFFIX)
                if entry == name or not _NAME.fullmatch(name):
                    continue
                try:
                    with self.opened(name, verified=False) as stored:
                        found.append(Listed(name, stored))
                except RecordingInvalid as error:
                    found.append(Listed(name, None, error.message))
                except RecordingUnknown:
                    continue  # removed just now
        return found

    @contextmanager
    def opened(self, ref: str | os.PathLike[str], *, verified: bool = True) -> Iterator[Stored]:
        """Opens a recording for a block.

        Args:
            ref: Its name, or the path of an exported one: a path object, or a string with a slash or the ending.
            verified: Whether to read all of its bodies first, and see that they are what they should be.

        Raises:
            RecordingUnknown: There is none such.
            RecordingInvalid: It is damaged.
        """
        path = self.path(ref)
        fd = _open(path, ref)
        try:
            stored = Stored.read(fd, str(path))
            if verified:
                stored.verify(str(path))
            yield stored
        finally:
            os.close(fd)

    def path(self, ref: str | os.PathLike[str]) -> Path:
        """Returns where a recording is, or would be.

        Raises:
            InvalidInput: It is neither a name nor a path.
        """
        if not isinstance(ref, str) or "/" in ref or ref.endswith(SUFFIX):
            return Path(ref).absolute()
        return self._folder / f"{checked(ref)}{SUFFIX}"

    def send(self, ref: str, to: Path) -> Stored:
        """Copies a recording into a file, which appears whole or not at all.

        Raises:
            RecordingUnknown, RecordingInvalid: As `opened`.
            InvalidInput: Something of that name is there already.
            FileMissing: There is no such directory.
            HostDiskFull: There is no room.
        """
        with self.opened(ref, verified=False) as stored:
            return _copied(stored, to.absolute(), str(self.path(ref)))

    def receive(self, file: Path, name: str = "") -> tuple[str, Stored]:
        """Takes in what `send` wrote, here or elsewhere.

        Args:
            file: The file, which anybody may have made.
            name: What to call it; by default as it was called where it was made.

        Returns:
            What it is called, and what it has.

        Raises:
            RecordingInvalid: It is damaged. Nothing was imported.
            InvalidInput: There is one of that name.
            FileMissing: There is no such file.
            HostDiskFull: There is no room.
        """
        with self.opened(file, verified=False) as stored:
            called = checked(name or stored.index.name)
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return called, _copied(stored, self._folder / f"{called}{SUFFIX}", str(file))

    def remove(self, name: str) -> None:
        """Removes one. Who replays it at this moment goes on.

        Raises:
            RecordingUnknown: There is none.
        """
        path = self._folder / f"{checked(name)}{SUFFIX}"
        try:
            path.unlink()
        except FileNotFoundError:
            raise _unknown(name) from None
        flush(self._folder)

    def _sweep(self) -> None:
        for part in self._folder.glob(f".*{_PART}"):
            fd = try_lock_found(part)
            if fd is not None:
                part.unlink(missing_ok=True)
                os.close(fd)


def checked(name: str) -> str:
    """Returns a name that a recording can have.

    Raises:
        InvalidInput: It is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.endswith(SUFFIX):
        raise InvalidInput(
            f"a recording cannot be called {name!r}",
            hint="Use up to 100 letters, digits, dots, - and _. A file is named by its path.",
        )
    return name


def open_verified(recordings: Recordings, ref: str | os.PathLike[str]) -> int:
    """Opens a recording to replay it, once all of it is verified. Returns its descriptor.

    Raises:
        RecordingUnknown, RecordingInvalid: As `Recordings.opened`.
    """
    with recordings.opened(ref) as stored:
        return os.dup(stored.fd)


def _open(path: Path, ref: object) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        raise _unknown(str(ref)) from None
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise RecordingInvalid(f"{path} cannot be read: {why}", details={"path": str(path)}) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RecordingInvalid(f"{path} is no recording: it is no file", details={"path": str(path)})
    return fd


def _copied(stored: Stored, to: Path, source: str) -> Stored:
    """Copies a recording, verifies the copy, and gives it its name, which must be free."""
    if not to.parent.is_dir():
        raise FileMissing(
            f"there is no directory {to.parent}", hint="Make it first.", details={"path": str(to)}
        )
    part = to.with_name(f".{RecordingId.new()}{_PART}")
    try:
        with _exhausting(to):
            with open(lock(part), "rb+") as out:
                at = 0
                while piece := os.pread(stored.fd, _COPY_BYTES, at):
                    at += out.write(piece)
                    if at > stored.total_bytes or at > 2 * MAX_RECORDING_BYTES:
                        raise RecordingInvalid(f"{source} is being written", details={"path": source})
                out.flush()
                copy = Stored.read(out.fileno(), source)
                copy.verify(source)
                os.fsync(out.fileno())
                crash.point("recording.copied")
                try:
                    os.link(part, to)  # which refuses what is there, or has appeared meanwhile
                except FileExistsError:
                    raise InvalidInput(
                        f"{to} is there already", hint="Choose another name.", details={"path": str(to)}
                    ) from None
                crash.point("recording.linked")
            part.unlink()
            flush(to.parent)
            return copy
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _exhausting(place: Path) -> Iterator[None]:
    """Says so where the disk that holds something is full."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(place) from error
        raise


def disk_full(place: Path) -> HostDiskFull:
    """The error for a disk without room for a recording."""
    return HostDiskFull(
        f"the disk that holds {place} is full; the recording was not kept",
        hint="Make room there, or point KIBO_HOME elsewhere, and record again.",
        details={"path": str(place)},
    )


def _unknown(name: str) -> RecordingUnknown:
    return RecordingUnknown(f"there is no recording {name!r}", details={"recording": name})
