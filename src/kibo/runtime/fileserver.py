"""Reads and writes a box's files from inside it, with the rights of the box's own programs.

Paths are resolved by the kernel in the box's own root, so that ``..``, absolute paths and links lead nowhere else. The
stream carries frames; large files travel in pieces, many small ones share a frame.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import struct
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
            wire.send_frame(stream, ["error", error.errno or 0, os.strerror(error.errno or 0), str(error.filename or "")])


def _send_ok(stream: socket.socket, value: object = None) -> None:
    wire.send_frame(stream, ["ok", value])


def _read(stream: socket.socket, path: str) -> None:
    # Not blocking on a FIFO that somebody in the box put there.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise IsADirectoryError(21, "is a directory", path)
        while piece := os.read(fd, PIECE_BYTES):
            wire.send_frame(stream, ["piece", piece])
    finally:
        os.close(fd)
    _send_ok(stream)


def _open_for_writing(path: str, mode: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, flags, mode)


def _write_whole(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _put(stream: socket.socket, entries: list[list[Any]]) -> None:
    """Writes many small files: each entry is path, mode, kind and content."""
    done = 0
    for path, mode, kind, content in entries:
        if kind == "directory":
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
        elif kind == "link":
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            os.symlink(content, path)
        else:
            fd = _open_for_writing(path, mode)
            try:
                _write_whole(fd, content)
                os.fchmod(fd, mode)
            finally:
                os.close(fd)
        done += 1
    _send_ok(stream, done)


def _write(stream: socket.socket, path: str, mode: int) -> None:
    """Writes one file of any size, whose pieces follow until an empty one."""
    failure: OSError | None = None
    fd = -1
    try:
        fd = _open_for_writing(path, mode)
    except OSError as error:
        failure = error
    try:
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
        raise failure
    _send_ok(stream)


def _describe(name: str, info: os.stat_result) -> list[Any]:
    kind = {stat.S_IFDIR: "directory", stat.S_IFLNK: "link", stat.S_IFREG: "file"}.get(stat.S_IFMT(info.st_mode), "other")
    return [name, kind, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime_ns]


def _list(stream: socket.socket, path: str) -> None:
    batch: list[list[Any]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            batch.append(_describe(entry.name, entry.stat(follow_symlinks=False)))
            if len(batch) == LISTING_ENTRIES:
                wire.send_frame(stream, ["entries", batch])
                batch = []
    wire.send_frame(stream, ["entries", batch])
    _send_ok(stream)


def _stat(stream: socket.socket, path: str) -> None:
    _send_ok(stream, _describe(path, os.lstat(path)))


def _get(stream: socket.socket, path: str) -> None:
    """Sends a tree: small files whole and many to a frame, large ones in pieces."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        _send_tree_file(stream, path, "", [], 0)
        _send_ok(stream)
        return
    batch: list[list[Any]] = []
    size = 0
    for directory, names, files in os.walk(path):
        below = os.path.relpath(directory, path)
        relative = "" if below == "." else below + "/"
        for name in names + files:
            full = os.path.join(directory, name)
            info = os.lstat(full)
            if stat.S_ISLNK(info.st_mode):
                batch.append([relative + name, 0o777, "link", os.readlink(full)])
            elif stat.S_ISDIR(info.st_mode):
                batch.append([relative + name, stat.S_IMODE(info.st_mode), "directory", b""])
            elif stat.S_ISREG(info.st_mode):
                size = _send_tree_file(stream, full, relative + name, batch, size)
            if len(batch) >= LISTING_ENTRIES:
                wire.send_frame(stream, ["entries", batch])
                batch, size = [], 0
    if batch:
        wire.send_frame(stream, ["entries", batch])
    _send_ok(stream)


def _send_tree_file(stream: socket.socket, full: str, relative: str, batch: list[list[Any]], size: int) -> int:
    fd = os.open(full, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
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


def _remove(stream: socket.socket, path: str) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
    _send_ok(stream)


_IN_CHANGES: Final = 0x2 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200
_IN_EVENT: Final = struct.Struct("iIII")


def _watch(stream: socket.socket, path: str) -> None:
    """Sends a frame for each change in one directory (inotify(7)) until the stream closes."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0 or libc.inotify_add_watch(fd, os.fsencode(path), _IN_CHANGES) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    wire.send_frame(stream, ["watching"])
    while data := os.read(fd, 65536):
        at = 0
        while at < len(data):
            _, mask, _, length = _IN_EVENT.unpack_from(data, at)
            name = data[at + _IN_EVENT.size : at + _IN_EVENT.size + length].rstrip(b"\0")
            change = "removed" if mask & (0x200 | 0x40) else "created" if mask & (0x100 | 0x80) else "changed"
            wire.send_frame(stream, ["change", change, os.fsdecode(name)])
            at += _IN_EVENT.size + length


_REQUESTS: Final = {
    "read": _read,
    "put": _put,
    "write": _write,
    "list": _list,
    "stat": _stat,
    "get": _get,
    "remove": _remove,
    "watch": _watch,
}
