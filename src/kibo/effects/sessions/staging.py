"""What one save brings into a profile, file by file: from a box or from a person, checked and within bounds."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from kibo.effects.sessions.content import (
    Contents,
    Manifest,
    ProfileFile,
    Take,
    check_path,
    digest_of,
    on_disk,
    shown,
)
from kibo.model.errors import FileMissing, InvalidInput, KiboError, PathRefused, ProfileTooLarge
from kibo.model.limits import MAX_PROFILE_BYTES, MAX_PROFILE_FILES, MIB
from kibo.store import crash
from kibo.store.flushing import flush
from kibo.store.locking import try_lock_directory

_PIECE_BYTES: Final = 1 * MIB


class Staging:
    """What one save brings, file by file, within the bounds of a profile. Nothing that is sent is trusted.

    Attributes:
        left_out: Paths of links, which are not part of a profile: they would lead elsewhere in the next box.
    """

    def __init__(self, contents: Contents, path: Path) -> None:
        self._contents = contents
        self._path = path
        self._manifest: Manifest = {}
        self._directories: set[bytes] = set()
        self._size = 0
        self._last: tuple[bytes, int, list[bytes]] | None = None
        self.left_out: list[str] = []

    def take(self, name: bytes, mode: int, kind: str, content: bytes) -> None:
        """Takes one entry; see `Take`.

        Raises:
            ProfileTooLarge: There are more files or bytes than a profile may hold.
            PathRefused: The path is none of a tree.
            HostDiskFull: There is no room for it.
        """
        if kind == "more":
            self._more(name, content)
            return
        self._settle()
        if not name and kind != "directory":
            raise InvalidInput(
                "what was named is no directory", hint="Name the directory that the profile is in."
            )
        if not name:
            return
        check_path(name)
        if kind == "link":
            self.left_out.append(shown(name))
        elif kind == "directory":
            self._count()
            self._directories.add(name)
        else:
            if name in self._manifest:
                raise _twice(name)
            self._count()
            self._grow(len(content))
            self._last = (name, mode, [content])
        if len(self.left_out) > MAX_PROFILE_FILES:
            raise _too_large(f"more than {MAX_PROFILE_FILES} links")

    def finish(self) -> Manifest:
        """Returns what was taken, on the disk.

        Raises:
            PathRefused: One path is a file, and a directory of another.
        """
        self._settle()
        for path in self._manifest:
            at = path
            while b"/" in at:
                at = at.rpartition(b"/")[0]
                if at in self._manifest:
                    raise _twice(at)
            if path in self._directories:
                raise _twice(path)
        return self._manifest

    def read(self, path: bytes, file: ProfileFile) -> bytes:
        """Reads one file of what was brought, or of the profile.

        Raises:
            ProfileDamaged: See `Contents.read`.
        """
        try:
            return (self._path / file.digest).read_bytes()
        except FileNotFoundError:
            return self._contents.read(file, path)

    def keep(self, content: bytes) -> str:
        """Takes a content, and returns its digest. Returns once it is on the disk."""
        digest = digest_of(content)
        path = self._path / digest
        if path.exists():
            return digest
        with on_disk(self._contents.place):
            try:
                # What is there already is there for good as long as this link is.
                os.link(self._contents.files / digest, path)
            except FileNotFoundError:
                self._write(path, content)
            else:
                self._check(path, digest, content)
        return digest

    def _check(self, path: Path, digest: str, content: bytes) -> None:
        """Puts a whole file in the place of one that a fault of the disk has changed."""
        if path.stat().st_size == len(content) and digest_of(path.read_bytes()) == digest:
            return
        path.unlink()
        self._write(path, content)
        (self._contents.files / digest).unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            crash.point("session.before_flush")
            os.fsync(fd)

    def publish(self) -> None:
        """Makes what was brought part of the profile's files, in the transaction that makes it a version.

        May be done again, where the database begins that again.
        """
        with on_disk(self._contents.place):
            new = False
            for name in os.listdir(self._path):
                try:
                    os.link(self._path / name, self._contents.files / name)
                    new = True
                except FileExistsError:
                    pass  # of another version, or of the same transaction, which the database has begun again
            crash.point("session.published")
            if new:
                flush(self._contents.files)

    def _more(self, name: bytes, content: bytes) -> None:
        if self._last is None or self._last[0] != name:
            raise _twice(name)
        self._grow(len(content))
        self._last[2].append(content)

    def _settle(self) -> None:
        if self._last is None:
            return
        name, mode, pieces = self._last
        self._last = None
        content = b"".join(pieces)
        self._manifest[name] = ProfileFile(self.keep(content), len(content), mode & 0o700 | 0o600)

    def _count(self) -> None:
        count = len(self._manifest) + len(self._directories)
        if count >= MAX_PROFILE_FILES:
            raise _too_large(f"more than {MAX_PROFILE_FILES} files and directories")

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_PROFILE_BYTES:
            raise _too_large(f"more than {MAX_PROFILE_BYTES // MIB} MiB")


@contextmanager
def staging(contents: Contents) -> Iterator[Staging]:
    """Gives a place for what one save brings; it is gone at the end of the block. Sweeps what dead ones left."""
    with on_disk(contents.place):
        contents.prepare()
        _sweep(contents)
        path, lock_fd = _staged(contents)
    try:
        yield Staging(contents, path)
    finally:
        shutil.rmtree(path)
        os.close(lock_fd)


def _staged(contents: Contents) -> tuple[Path, int]:
    while True:
        path = contents.place / "staging" / secrets.token_hex(8)
        path.mkdir(mode=0o700)
        if (lock_fd := try_lock_directory(path)) is not None:
            return path, lock_fd


def _sweep(contents: Contents) -> None:
    for path in (contents.place / "staging").iterdir():
        if (lock_fd := try_lock_directory(path)) is not None:
            shutil.rmtree(path, ignore_errors=True)  # another may sweep it too
            os.close(lock_fd)


def take_directory(place: Path, take: Take) -> None:
    """Brings a directory of the host in, without following links.

    Raises:
        FileMissing: There is none.
        InvalidInput: It cannot be read.
    """
    try:
        _walk(place, take)
    except OSError as error:
        raise _unreadable(error) from error


def _walk(place: Path, take: Take) -> None:
    if not stat.S_ISDIR(os.stat(place).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(place))

    def fail(error: OSError) -> None:
        raise error

    for directory, names, files in os.walk(place, onerror=fail):
        base = Path(directory)
        for name in sorted(names + files):
            path = base / name
            relative, info = os.fsencode(path.relative_to(place)), os.lstat(path)
            if stat.S_ISLNK(info.st_mode):
                take(relative, 0, "link", b"")
            elif stat.S_ISDIR(info.st_mode):
                take(relative, info.st_mode, "directory", b"")
            elif stat.S_ISREG(info.st_mode):
                _take_file(path, relative, take)


def _take_file(path: Path, relative: bytes, take: Take) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        take(relative, mode, "file", file.read(_PIECE_BYTES))
        while piece := file.read(_PIECE_BYTES):
            take(relative, mode, "more", piece)


def _twice(name: bytes) -> PathRefused:
    return PathRefused(
        f"{shown(name[:80])!r} was sent as two different things",
        hint="What was sent is no tree of files; nothing of it was kept.",
    )


def _too_large(what: str) -> ProfileTooLarge:
    return ProfileTooLarge(
        f"a session may not hold {what}",
        hint="Save less: a browser's caches need not be kept, or its storage_state alone is.",
    )


def _unreadable(error: OSError) -> KiboError:
    place = os.fsdecode(error.filename or "it")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return FileMissing(
            f"{place}: {error.strerror}", hint="Name the directory that has the profile's files."
        )
    return InvalidInput(f"{place}: {error.strerror}", hint="Make it readable, and give it again.")
