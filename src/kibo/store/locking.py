"""Locks between processes that end with their holder, flock(2).

A lock is a file below the state directory. The kernel releases it when the holder's last descriptor closes, however
the holder ended, so that no lock is ever stale.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def _same_file(fd: int, path: Path) -> bool:
    """Whether the locked descriptor is still what the path names; a remover may have unlinked it in between."""
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _try_flock(fd: int, *, shared: bool) -> bool:
    """Locks an open file without waiting; closes it where another holds the lock."""
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    return True


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Takes a lock without waiting.

    Args:
        path: The lock's file; made when it is missing.
        shared: Whether other shared holders may hold it too.

    Returns:
        A descriptor to close in order to release, or None when another holds the lock.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _try_flock(fd, shared=shared):
            return None
        if _same_file(fd, path):
            return fd
        os.close(fd)


#: Descriptors of locks that no child which `os.fork` makes of this process shares.
_own: set[int] = set()


def claim(fd: int) -> int:
    """Marks a lock as this process's alone: it ends with it, though children that were forked from it live on.

    Args:
        fd: Its descriptor, from now on to be given to `release` alone.
    """
    _own.add(fd)
    return fd


def release(fd: int) -> None:
    """Releases a lock that was marked by `claim`; in a forked child, which has no part in it, nothing."""
    if fd in _own:
        _own.remove(fd)
        os.close(fd)


def _in_child() -> None:
    if _own:
        # Not closed: the number stays taken, so that whoever still writes there writes to nobody's file.
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in _own:
            os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)
        _own.clear()


os.register_at_fork(after_in_child=_in_child)


def try_lock_directory(path: Path, *, shared: bool = False) -> int | None:
    """As `try_lock`, with a directory for the lock's file: it is there, and stays locked where it is renamed to.

    Returns:
        A descriptor to close in order to release, or None when another holds the lock, or there is no directory.
    """
    return _try_lock_found(path, os.O_DIRECTORY | os.O_NOFOLLOW, shared=shared)


def try_lock_found(path: Path, *, shared: bool = False) -> int | None:
    """As `try_lock`, where the lock's file is there; it is not made.

    Returns:
        A descriptor to close in order to release, or None when another holds the lock, or there is no file.
    """
    return _try_lock_found(path, 0, shared=shared)


def _try_lock_found(path: Path, flags: int, *, shared: bool) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        return None
    if not _try_flock(fd, shared=shared):
        return None
    if _same_file(fd, path):
        return fd
    os.close(fd)
    return None


def lock(path: Path) -> int:
    """Takes a lock; waits for it without bound, in the kernel.

    Args:
        path: The lock's file; made when it is missing.

    Returns:
        A descriptor to close in order to release.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _same_file(fd, path):
            return fd
        os.close(fd)


@contextmanager
def holding_if_free(path: Path) -> Iterator[bool]:
    """Holds a lock for the time of a block, as `holding`, where nobody else does. Yields whether it does."""
    fd = try_lock(path)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            path.unlink(missing_ok=True)
            os.close(fd)


@contextmanager
def holding(path: Path) -> Iterator[float]:
    """Holds a lock for the time of a block; waits for it without bound, in the kernel.

    Yields:
        The seconds that were spent waiting for another holder.
    """
    began = time.monotonic()
    fd = lock(path)
    try:
        yield time.monotonic() - began
    finally:
        # Unlinked while it is held: a waiter then finds that the name is another file, and opens that one.
        path.unlink(missing_ok=True)
        os.close(fd)
