"""Reads and writes a box's files from inside it, with the rights of the box's own programs.

Paths are resolved by the kernel in the box's own root, so that ``..``, absolute paths and links lead nowhere else. The
stream carries frames; large files travel in pieces, many small ones share a frame. Paths travel as bytes, which is
what the kernel has: a name need not be text.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from typing import Any, Final

from kibo.runtime import wire

#: Bytes of one piece of a large file. A quarter of the largest frame.
PIECE_BYTES: Final = 4 << 20
#: Entries of one frame of a listing.
LISTING_ENTRIES: Final = 4096


def serve(stream: socket.socket) -> None:
    """Answers requests one by one until the stream closes."""
    while True:
        try:
            kind, *arguments = wire.receive_frame(stream)
        except wire.Closed:
            return
        try:
            _REQUESTS[kind](stream, *arguments)
        except OSError as error:
            # The path is the caller's own word; the text is the kernel's.
            path = os.fsencode(error.filename or "")
            wire.send_frame(stream, ["error", error.errno or 0, error.strerror or "", path])


def _send_ok(stream: socket.socket, value: object = None) -> None:
    wire.send_frame(stream, ["ok", value])


def _named(error: OSError, path: str) -> OSError:
    """Gives an error of a descriptor, or of a link's target, the path that the caller knows."""
    return OSError(error.errno, os.strerror(error.errno or 0), path)


def _open_regular(path: str, flags: int = 0) -> int:
    """Opens a file that has an end. Does not block on a FIFO that somebody in the box put there."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", path)
    raise OSError(errno.EINVAL, "is no regular file", path)


def _read(stream: socket.socket, name: bytes) -> None:
    fd = _open_regular(os.fsdecode(name))
    try:
        while piece := os.read(fd, PIECE_BYTES):
            wire.send_frame(stream, ["piece", piece])
    finally:
        os.close(fd)
    _send_ok(stream)


def _open_for_writing(path: str, mode: int, *, replace: bool) -> int:
    """Opens a file to be written from its start; makes the directories above it.

    Args:
        path: Where.
        mode: Of a file that is not there yet.
        replace: Whether a link at the path is replaced, as copying a tree does; else it is followed.
    """
    flags = (
        os.O_WRONLY
        | os.O_CREAT
        | os.O_TRUNC
        | os.O_NONBLOCK
        | os.O_CLOEXEC
        | (os.O_NOFOLLOW if replace else 0)
    )
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, flags, mode)
    except OSError as error:
        if error.errno != errno.ELOOP or not replace:
            raise
        os.unlink(path)
        return os.open(path, flags, mode)


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _put(stream: socket.socket, entries: list[list[Any]], replace: bool) -> None:
    """Writes many small files: each entry is path, mode, kind and content."""
    for name, mode, kind, content in entries:
        path = os.fsdecode(name)
        try:
            _put_one(path, mode, kind, content, replace=replace)
        except OSError as error:
            raise _named(error, path) from None
    _send_ok(stream, len(entries))


def _put_one(path: str, mode: int, kind: str, content: bytes, *, replace: bool) -> None:
    if kind == "directory":
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    elif kind == "link":
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        os.symlink(os.fsdecode(content), path)
    else:
        fd = _open_for_writing(path, mode, replace=replace)
        try:
            _write_whole(fd, content)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)


def _write(stream: socket.socket, name: bytes, mode: int, replace: bool) -> None:
    """Writes one file of any size, whose pieces follow until an empty one."""
    path = os.fsdecode(name)
    failure: OSError | None = None
    fd = -1
    try:
        fd = _open_for_writing(path, mode, replace=replace)
    except OSError as error:
        failure = error
    try:
        # After a failure too: the caller sends all of it before it listens.
        while piece := wire.receive_frame(stream):
            if failure is None:
                try:
                    _write_whole(fd, piece)
                except OSError as error:
                    failure = error
    finally:
        if fd >= 0:
            os.close(fd)
    if failure is not None:
        raise _named(failure, path)
    _send_ok(stream)


def _describe(name: str, info: os.stat_result) -> list[Any]:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}
    kind = kinds.get(stat.S_IFMT(info.st_mode), "other")
    return [os.fsencode(name), kind, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime_ns]


def _list(stream: socket.socket, name: bytes) -> None:
    batch: list[list[Any]] = []
    with os.scandir(os.fsdecode(name)) as entries:
        for entry in entries:
            batch.append(_describe(entry.name, entry.stat(follow_symlinks=False)))
            if len(batch) == LISTING_ENTRIES:
                wire.send_frame(stream, ["entries", batch])
                batch = []
    wire.send_frame(stream, ["entries", batch])
    _send_ok(stream)


def _get(stream: socket.socket, name: bytes) -> None:
    """Sends a tree: small files whole and many to a frame, large ones in pieces."""
    path = os.fsdecode(name)
    if not stat.S_ISDIR(os.stat(path).st_mode):
        _send_tree_file(stream, path, b"", [], 0)
        _send_ok(stream)
        return
    batch: list[list[Any]] = [[b"", stat.S_IMODE(os.stat(path).st_mode), "directory", b""]]
    size = 0
    for directory, names, files in os.walk(path):
        below = os.path.relpath(directory, path)
        relative = "" if below == "." else below + "/"
        for entry in names + files:
            full, place = os.path.join(directory, entry), os.fsencode(relative + entry)
            info = os.lstat(full)
            if stat.S_ISLNK(info.st_mode):
                batch.append([place, 0o777, "link", os.fsencode(os.readlink(full))])
            elif stat.S_ISDIR(info.st_mode):
                batch.append([place, stat.S_IMODE(info.st_mode), "directory", b""])
            elif stat.S_ISREG(info.st_mode):
                size = _send_tree_file(stream, full, place, batch, size)
            if len(batch) >= LISTING_ENTRIES:
                wire.send_frame(stream, ["entries", batch])
                batch, size = [], 0
    wire.send_frame(stream, ["entries", batch])
    _send_ok(stream)


def _send_tree_file(
    stream: socket.socket, full: str, relative: bytes, batch: list[list[Any]], size: int
) -> int:
    fd = _open_regular(full, os.O_NOFOLLOW if relative else 0)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        content = os.read(fd, PIECE_BYTES)
        more = os.read(fd, PIECE_BYTES) if len(content) == PIECE_BYTES else b""
        if size + len(content) > PIECE_BYTES and batch:
            wire.send_frame(stream, ["entries", list(batch)])
            batch.clear()
            size = 0
        batch.append([relative, mode, "file", content])
        size += len(content)
        if more or not relative:
            wire.send_frame(stream, ["entries", list(batch)])
            batch.clear()
            size = 0
        while more:
            wire.send_frame(stream, ["entries", [[relative, mode, "more", more]]])
            more = os.read(fd, PIECE_BYTES)
    finally:
        os.close(fd)
    return size


def _remove(stream: socket.socket, name: bytes) -> None:
    import shutil  # late: it brings three compression libraries along, which every fork would pay for

    path = os.fsdecode(name)
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    _send_ok(stream)


_IN_CHANGES: Final = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
_IN_EVENT: Final = struct.Struct("iIII")


def _watch(stream: socket.socket, path: bytes) -> None:
    """Sends a frame for each change in one directory (inotify(7)) until the stream closes."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0 or libc.inotify_add_watch(fd, path, _IN_CHANGES) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    wire.send_frame(stream, ["watching"])
    while data := os.read(fd, 65536):
        at = 0
        while at < len(data):
            _, mask, _, length = _IN_EVENT.unpack_from(data, at)
            name = data[at + _IN_EVENT.size : at + _IN_EVENT.size + length].rstrip(b"\0")
            change = "removed" if mask & (0x200 | 0x40) else "created" if mask & (0x100 | 0x80) else "changed"
            wire.send_frame(stream, ["change", change, name])
            at += _IN_EVENT.size + length


_REQUESTS: Final[dict[str, Callable[..., None]]] = {
    "read": _read,
    "put": _put,
    "write": _write,
    "list": _list,
    "get": _get,
    "remove": _remove,
    "watch": _watch,
}
