"""Removes trees that others made: however deep, whatever their modes, never through a link."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def remove(fd: int, name: bytes) -> None:
    """Removes a name and everything below it. Missing is fine.

    Holds two descriptors and goes up again by ``..``: a box may nest directories deeper than a process may open
    files, call functions, or name paths.

    Args:
        fd: The directory that it is in.
        name: The name.

    Raises:
        OSError: Something in it belongs to an id that this process has no power over, or another process moves
            directories about in it (``ESTALE``).
    """
    try:
        info = os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=fd)
        return
    here = enter(fd, name)
    try:
        levels = [(name, _clear(here), identity(here))]
        while True:
            if directories := levels[-1][1]:
                below = directories.pop()
                here = replaced(here, enter(here, below))
                levels.append((below, _clear(here), identity(here)))
                continue
            empty = levels.pop()[0]
            if not levels:
                break
            here = replaced(here, leave(here, levels[-1][2]))
            os.rmdir(empty, dir_fd=here)
    finally:
        os.close(here)
    os.rmdir(name, dir_fd=fd)


def replaced(old: int, new: int) -> int:
    """Closes one descriptor in favour of another."""
    os.close(old)
    return new


def _clear(fd: int) -> list[bytes]:
    """Removes what is no directory, and returns the names of the directories."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                directories.append(os.fsencode(entry.name))
                continue
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=fd)
    return directories


def enter(fd: int, name: bytes) -> int:
    """Opens a directory, never through a link; gives itself the rights first where they are missing."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        itself = b"/proc/self/fd/%d" % found
        if os.fstat(found).st_mode & 0o700 != 0o700:
            os.chmod(itself, 0o700)
        return os.open(itself, _DIRECTORY)
    finally:
        os.close(found)


def leave(fd: int, expected: tuple[int, int]) -> int:
    """Opens the directory that a directory is in, which must be the one that it was entered from."""
    above = os.open(b"..", _DIRECTORY, dir_fd=fd)
    if identity(above) != expected:
        os.close(above)
        raise OSError(errno.ESTALE, "a directory was moved by another process meanwhile")
    return above


def identity(fd: int) -> tuple[int, int]:
    """Returns what tells one open file from another."""
    info = os.fstat(fd)
    return info.st_dev, info.st_ino
