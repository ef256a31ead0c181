"""A delta as a stream of bytes: the same delta gives the same bytes, and reading them trusts nothing.

Each entry is a record: kind, path, mode, owner, time, attributes, then what its kind needs. Entries come in order, a
directory before what is in it, so that no path can name a place that its reader has not made itself.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from kibo.model.limits import MAX_PATH_BYTES, MAX_TREE_PATH_BYTES
from kibo.runtime.trees import attributes
from kibo.runtime.trees.copying import extents
from kibo.runtime.trees.stack import Stack, join, kind_of, unreadable

#: Kinds of record.
FILE, DIRECTORY, OPAQUE, LINK, FIFO, WHITEOUT, HARD_LINK, END = b"fdolpwhe"
#: Kind, length of path, mode, user, group, time in ns, number of attributes.
HEAD: Final = struct.Struct(">BHIIIqH")
SIZE: Final = struct.Struct(">QI")
EXTENT: Final = struct.Struct(">QQ")
LENGTH: Final = struct.Struct(">H")
VALUE: Final = struct.Struct(">HI")
#: One piece of a file's bytes while it is copied.
PIECE_BYTES: Final = 1 << 20
#: More attributes, or longer ones, than any file system of Linux keeps at one file.
MAX_ATTRIBUTES: Final = 1024
MAX_VALUE_BYTES: Final = 1 << 16
#: Stretches of data in one sparse file.
MAX_EXTENTS: Final = 1 << 20


@dataclass(slots=True)
class Counted:
    """What a stream holds; filled in while it is written.

    Attributes:
        entries: Records.
        dropped: Sockets and devices, which are left out.
    """

    entries: int = 0
    dropped: list[bytes] = field(default_factory=list)


def write_records(tree: bytes, counted: Counted) -> Iterator[bytes | memoryview]:
    """Yields a delta's tree as bytes, in pieces of bounded size.

    Args:
        tree: The directory ``u`` of a delta.
        counted: Is filled in.

    Raises:
        WorkspaceUnreadable: It cannot be read by this user.
        PathTooLong: Something in it lies too deep.
    """
    with Stack([tree]) as stack:
        fd = stack.descriptors[0]
        firsts: dict[int, bytes] = {}
        info = os.stat(b".", dir_fd=fd)
        yield _head(DIRECTORY, b"", info, stack.place(0, b""))
        pending = [(b"", iter(sorted(stack.names(b"", (0,)))))]
        while pending:
            directory, names = pending[-1]
            name = next(names, None)
            if name is None:
                pending.pop()
                continue
            path = join(directory, name)
            with _named(path):
                info = os.lstat(path, dir_fd=fd)
            if stat.S_ISDIR(info.st_mode):
                counted.entries += 1
                kind = OPAQUE if stack.mark(0, path) == b"y" else DIRECTORY
                yield _head(kind, path, info, stack.place(0, path))
                pending.append((path, iter(sorted(stack.names(path, (0,))))))
            elif stack.is_whiteout(0, path, info):
                counted.entries += 1
                yield HEAD.pack(WHITEOUT, len(path), 0, 0, 0, 0, 0) + path
            elif kind_of(info.st_mode) in ("socket", "device"):
                counted.dropped.append(path)
            else:
                counted.entries += 1
                yield from _entry(stack, path, info, firsts)
        yield HEAD.pack(END, 0, 0, 0, 0, 0, 0)


@contextmanager
def _named(path: bytes) -> Iterator[None]:
    """Names what this user may not read."""
    try:
        yield
    except PermissionError:
        raise unreadable(path) from None


def _entry(
    stack: Stack, path: bytes, info: os.stat_result, firsts: dict[int, bytes]
) -> Iterator[bytes | memoryview]:
    fd = stack.descriptors[0]
    if info.st_nlink > 1:
        first = firsts.setdefault(info.st_ino, path)
        if first != path:
            yield HEAD.pack(HARD_LINK, len(path), 0, 0, 0, 0, 0) + path + LENGTH.pack(len(first)) + first
            return
    if stat.S_ISLNK(info.st_mode):
        target = os.readlink(path, dir_fd=fd)
        yield _head(LINK, path, info, b"") + LENGTH.pack(len(target)) + target
        return
    kind = FILE if stat.S_ISREG(info.st_mode) else FIFO
    yield _head(kind, path, info, stack.place(0, path))
    if kind == FILE:
        yield from _content(fd, path, info)


def _head(kind: int, path: bytes, info: os.stat_result, place: bytes) -> bytes:
    with _named(path):
        own = attributes.seen(place) if place else {}
    head = HEAD.pack(
        kind, len(path), stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, info.st_mtime_ns, len(own)
    )
    values = b"".join(
        VALUE.pack(len(os.fsencode(name)), len(value)) + os.fsencode(name) + value
        for name, value in own.items()
    )
    return head + path + values


def _content(fd: int, path: bytes, info: os.stat_result) -> Iterator[bytes | memoryview]:
    with _named(path):
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        sparse = info.st_blocks * 512 < info.st_size
        found = list(extents(source, info.st_size)) if sparse else [(0, info.st_size)] if info.st_size else []
        yield SIZE.pack(info.st_size, len(found)) + b"".join(EXTENT.pack(*extent) for extent in found)
        for start, end in found:
            at = start
            while at < end:
                piece = os.pread(source, min(PIECE_BYTES, end - at), at)
                if not piece:
                    raise OSError(
                        f"{os.fsdecode(path)!r} became shorter while it was read: deltas never change"
                    )
                yield piece
                at += len(piece)
    finally:
        os.close(source)


MAX_RECORD_PATH: Final = MAX_TREE_PATH_BYTES
MAX_TARGET_BYTES: Final = MAX_PATH_BYTES - 1
