"""Makes a tree of records that anybody may have written: every one is checked before it has any effect.

Entries must come in strict order, each in a directory that was made just before; so a path cannot leave the tree,
pass through a link, or come twice. Everything is made new, relative to the descriptor of the tree.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import zstandard

from kibo.model.errors import ArchiveInvalid
from kibo.model.limits import MAX_NAME_BYTES
from kibo.runtime import kernel
from kibo.runtime.trees import attributes, records
from kibo.runtime.trees.copying import write_whole
from kibo.runtime.trees.stack import order, parent

Owners = Callable[[int, int], tuple[int, int]]
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
#: A box gains nothing from set-id bits, and the host might lose something.
_KEPT_BITS: Final = 0o1777
#: Before 1678 and after 2261 a count of nanoseconds does not fit; such times are somebody's mistake or attack.
_MAX_NS: Final = (1 << 63) - 1
_BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
#: What the kernel says of entries that no tree has had: too many names of one file, or attributes that no file holds.
_IMPOSSIBLE: Final = (errno.EMLINK, errno.E2BIG, errno.ENAMETOOLONG, errno.ERANGE)


class Reader:
    """Reads sections of known length and digest from a compressed stream."""

    def __init__(self, stream: IO[bytes] | zstandard.ZstdDecompressionReader) -> None:
        self._stream = stream
        self._hasher = hashlib.blake2b(digest_size=32)
        self.left = 0

    def begin(self, size: int) -> None:
        """Starts a section of ``size`` bytes."""
        self._hasher = hashlib.blake2b(digest_size=32)
        self.left = size

    def take(self, count: int) -> bytes:
        """Returns exactly ``count`` bytes of the section.

        Raises:
            ArchiveInvalid: It has fewer.
        """
        if count > self.left:
            raise ArchiveInvalid("an entry is longer than its section")
        pieces, missing = [], count
        while missing:
            try:
                piece = self._stream.read(min(missing, records.PIECE_BYTES))
            except zstandard.ZstdError as error:
                raise ArchiveInvalid(f"it is damaged: {error}", hint="get the file again") from None
            if not piece:
                raise ArchiveInvalid("it is cut short", hint="get the file again")
            pieces.append(piece)
            missing -= len(piece)
        found = b"".join(pieces)
        self._hasher.update(found)
        self.left -= count
        return found

    def finish(self, digest: str) -> None:
        """Ends a section.

        Raises:
            ArchiveInvalid: Something of it is left, or its bytes are not those that were exported.
        """
        if self.left:
            raise ArchiveInvalid("a section goes on after its end")
        if self._hasher.hexdigest() != digest:
            raise ArchiveInvalid("a section is not what was exported", hint="get the file again")

    def expect_end(self) -> None:
        """Checks that the stream ends where its sections do, so that its checksum has been looked at too."""
        try:
            if self._stream.read(1):
                raise ArchiveInvalid("something follows its last section")
        except zstandard.ZstdError as error:
            raise ArchiveInvalid(f"it is damaged: {error}", hint="get the file again") from None


def unpack(
    reader: Reader, tree: Path, limit_bytes: int, limit_entries: int, owners: Owners | None
) -> tuple[int, int]:
    """Makes the tree of one section. Returns the bytes that its files claim, and how many entries it has.

    Memory is bounded, whatever the section holds.

    Args:
        reader: Stands at the section's start.
        tree: An empty directory.
        limit_bytes: What the files may claim together, holes counted.
        limit_entries: How many entries there may be: each takes an inode, and in a compressed file next to nothing.
        owners: Gives ids for those of the archive, or None for this process's own.

    Raises:
        ArchiveInvalid: A record is malformed or out of order.
        OSError: It cannot be written.
    """
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        work = _Unpacking(reader, fd, limit_bytes, owners)
        entries = -1  # the root is none
        while work.one():
            entries += 1
            if entries > limit_entries:
                raise ArchiveInvalid(
                    f"it has more than the {limit_entries:,} entries that may be imported",
                    details={"limit": limit_entries},
                )
        return limit_bytes - work.left, entries
    except OSError as error:
        if error.errno not in _IMPOSSIBLE:
            raise
        raise ArchiveInvalid(f"it has an entry that cannot be: {error}") from error
    finally:
        os.close(fd)


class _Unpacking:
    def __init__(self, reader: Reader, fd: int, limit_bytes: int, owners: Owners | None) -> None:
        self._reader, self._fd, self._owners = reader, fd, owners
        self.left = limit_bytes
        self._last: list[bytes] | None = None
        #: The directories that lead to the last entry, each with what it is to look like in the end.
        self._open: list[tuple[bytes, _Look]] = []

    def one(self) -> bool:
        """Makes one entry; returns False at the end."""
        head = records.HEAD.unpack(self._reader.take(records.HEAD.size))
        kind, length, mode, uid, gid, mtime_ns, count = head
        if kind == records.END:
            self._leave(None)
            return False
        if length > records.MAX_RECORD_PATH or count > records.MAX_ATTRIBUTES or not 0 <= mtime_ns <= _MAX_NS:
            raise ArchiveInvalid("an entry claims what no file has")
        path = self._reader.take(length)
        self._check(path, kind)
        look = _Look(mode & _KEPT_BITS, self._ids(uid, gid), mtime_ns, self._attributes(count))
        if kind in (records.DIRECTORY, records.OPAQUE):
            self._directory(path, look, opaque=kind == records.OPAQUE)
        elif kind == records.WHITEOUT:
            os.mknod(path, stat.S_IFCHR, 0, dir_fd=self._fd)
            os.setxattr(self._place(self._open[-1][0]), attributes.ORIGIN, b"")
        elif kind == records.HARD_LINK:
            self._hard_link(path)
        else:
            self._entry(kind, path, look)
        return True

    def _check(self, path: bytes, kind: int) -> None:
        """Refuses a path that is not next in order, or not in a directory that is open."""
        parts = order(path)
        if self._last is None:
            if parts or kind != records.DIRECTORY:
                raise ArchiveInvalid("a tree does not begin with its root")
        elif any(
            not part or part in (b".", b"..") or b"\0" in part or len(part) > MAX_NAME_BYTES for part in parts
        ):
            raise ArchiveInvalid(f"{path!r} is no path in a tree")
        elif parts <= self._last:
            raise ArchiveInvalid(f"{path!r} comes twice, or out of order")
        else:
            self._leave(path)
            if self._open[-1][0] != path.rpartition(b"/")[0]:
                raise ArchiveInvalid(f"{path!r} lies in no directory of the tree")
        self._last = parts

    def _ids(self, uid: int, gid: int) -> tuple[int, int] | None:
        return None if self._owners is None else self._owners(uid, gid)

    def _attributes(self, count: int) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for _ in range(count):
            name_bytes, value_bytes = records.VALUE.unpack(self._reader.take(records.VALUE.size))
            if name_bytes > MAX_NAME_BYTES or value_bytes > records.MAX_VALUE_BYTES:
                raise ArchiveInvalid("an attribute is longer than any file has")
            name = os.fsdecode(self._reader.take(name_bytes))
            if not name.startswith("user.") or len(name) == 5 or "\0" in name or name in found:
                raise ArchiveInvalid(f"{name!r} is no attribute that a delta keeps")
            found[name] = self._reader.take(value_bytes)
        return found

    def _directory(self, path: bytes, look: _Look, *, opaque: bool) -> None:
        if path:
            os.mkdir(path, 0o700, dir_fd=self._fd)
        if opaque:
            os.setxattr(self._place(path), attributes.OPAQUE, b"y")
        self._open.append((path, look))

    def _hard_link(self, path: bytes) -> None:
        (length,) = records.LENGTH.unpack(self._reader.take(records.LENGTH.size))
        first = self._reader.take(length)
        gone = ArchiveInvalid(f"{path!r} is another name of a file that is not there")
        # What is looked up now was made here; but a link that was may stand for a directory.
        try:
            fd = kernel.openat2(self._fd, parent(first) or b".", os.O_PATH | os.O_DIRECTORY, 0, _BENEATH)
        except OSError:
            raise gone from None
        try:
            name = first.rpartition(b"/")[2]
            info = os.lstat(name, dir_fd=fd)
            if stat.S_ISDIR(info.st_mode) or stat.S_ISCHR(info.st_mode):
                raise gone
            os.link(name, path, src_dir_fd=fd, dst_dir_fd=self._fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise gone from None
        finally:
            os.close(fd)

    def _entry(self, kind: int, path: bytes, look: _Look) -> None:
        if kind == records.LINK:
            (length,) = records.LENGTH.unpack(self._reader.take(records.LENGTH.size))
            target = self._reader.take(length)
            if not target or b"\0" in target or length > records.MAX_TARGET_BYTES:
                raise ArchiveInvalid(f"{path!r} points at nothing that could be")
            os.symlink(target, path, dir_fd=self._fd)
        elif kind == records.FIFO:
            os.mkfifo(path, 0o600, dir_fd=self._fd)
        elif kind == records.FILE:
            self._file(path)
        else:
            raise ArchiveInvalid(f"{path!r} is of a kind that no delta has")
        self._settle(path, look, link=kind == records.LINK)

    def _file(self, path: bytes) -> None:
        size, count = records.SIZE.unpack(self._reader.take(records.SIZE.size))
        if size > self.left or count > records.MAX_EXTENTS:
            raise ArchiveInvalid(f"{path!r} claims {size} bytes, more than may be imported")
        self.left -= size
        found, end = [], 0
        for _ in range(count):
            start, stop = records.EXTENT.unpack(self._reader.take(records.EXTENT.size))
            if not end <= start < stop <= size:
                raise ArchiveInvalid(f"{path!r} has stretches that overlap or pass its end")
            found.append((start, stop))
            end = stop
        target = os.open(path, _NEW, 0o600, dir_fd=self._fd)
        try:
            for start, stop in found:
                os.lseek(target, start, os.SEEK_SET)
                missing = stop - start
                while missing:
                    piece = self._reader.take(min(missing, records.PIECE_BYTES))
                    write_whole(target, piece)
                    missing -= len(piece)
            os.ftruncate(target, size)
        finally:
            os.close(target)

    def _leave(self, path: bytes | None) -> None:
        while self._open and (path is None or not _inside(path, self._open[-1][0])):
            place, look = self._open.pop()
            self._settle(place, look)

    def _settle(self, path: bytes, look: _Look, *, link: bool = False) -> None:
        where = path or b"."
        if look.owner is not None and look.owner != (os.geteuid(), os.getegid()):
            os.chown(where, *look.owner, dir_fd=self._fd, follow_symlinks=False)
        if not link:
            attributes.write(self._place(path), look.own)
            os.chmod(where, look.mode, dir_fd=self._fd)
        os.utime(where, ns=(look.mtime_ns, look.mtime_ns), dir_fd=self._fd, follow_symlinks=False)

    def _place(self, path: bytes) -> bytes:
        return b"/proc/self/fd/%d/%b" % (self._fd, path)


class _Look:
    __slots__ = ("mode", "mtime_ns", "own", "owner")

    def __init__(
        self, mode: int, owner: tuple[int, int] | None, mtime_ns: int, own: dict[str, bytes]
    ) -> None:
        self.mode, self.owner, self.mtime_ns, self.own = mode, owner, mtime_ns, own


def _inside(path: bytes, directory: bytes) -> bool:
    return not directory or path.startswith(directory + b"/")
