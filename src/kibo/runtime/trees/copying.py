"""Copies of file contents that cost as little as the file system allows, and keep holes.

Sources: ioctl_ficlone(2), copy_file_range(2), lseek(2) on SEEK_DATA.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from typing import Final

_FICLONE: Final = 0x40049409
#: Below this, one read and one write cost less than asking for anything better.
_SMALL_BYTES: Final = 1 << 17
_PIECE_BYTES: Final = 1 << 24
_NOT_HERE: Final = (
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EPERM,
    errno.ETXTBSY,
)
#: Pairs of devices between which cloning failed; tried once a process.
_uncloned: set[tuple[int, int]] = set()


def copy_content(source: int, target: int, info: os.stat_result, target_device: int) -> None:
    """Copies a regular file's bytes into an empty one: shares them where it can, and leaves holes.

    Args:
        source: A descriptor to read, at its start.
        target: A descriptor to write, of an empty file.
        info: The source's status. Where it shrinks meanwhile, what is missing reads as zeros: compare afterwards.
        target_device: ``st_dev`` of the target.
    """
    size = info.st_size
    if not size:
        return
    pair = info.st_dev, target_device
    if pair not in _uncloned:
        try:
            fcntl.ioctl(target, _FICLONE, source)
            return
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            _uncloned.add(pair)
    sparse = info.st_blocks * 512 < size
    if size <= _SMALL_BYTES and not sparse:
        write_whole(target, os.read(source, size))
        return
    for start, end in extents(source, size) if sparse else ((0, size),):
        _copy_range(source, target, start, end)
    if sparse:
        os.ftruncate(target, size)


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the start and end of each stretch of a file that is no hole."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size:
            return
        yield start, end


def write_whole(fd: int, data: bytes | memoryview) -> None:
    """Writes all of it."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, target, min(end - start, _PIECE_BYTES), start, start)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
            data = os.pread(source, min(end - start, _PIECE_BYTES), start)
            copied = len(data)
            written = 0
            while written < copied:
                written += os.pwrite(target, memoryview(data)[written:], start + written)
        if not copied:
            return  # it was cut short meanwhile
        start += copied
