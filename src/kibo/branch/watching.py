"""The disk that instances of branches use: no file system counts it for a directory, so it is looked at every so often.

A box in memory is refused a write; one in a branch may write past its limits for as long as nobody looks, and is then
ended. What it wrote before stays readable. A look costs what the box has written; so that a box which writes much is
not left alone for long, the whole disk is asked every second what it has lost, which costs nothing.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from typing import Final, NamedTuple, Protocol

from kibo.branch.deltas import Deltas
from kibo.branch.repeating import Repeating
from kibo.runtime import kernel
from kibo.runtime.handle import OUT_OF_DISK, OUT_OF_FILES

#: Seconds between two looks at the disk as a whole.
INTERVAL_S: Final = 1.0
#: The share of one processor that looking at layers may take where the disk loses little.
SHARE: Final = 0.05
#: How much more than its limit a box may write, as a share of it, before it is looked at, whatever that costs: what
#: the disk has lost since the last look tells that none can have.
PAST: Final = 0.25
_BLOCK: Final = 512  # what st_blocks counts, stat(2)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
#: Characters of a path below an anchor: with one more name, of four bytes a character, no longer than PATH_MAX.
_ANCHORED: Final = 700
#: Anchors on the way to one directory: each is an open file, and a path of 40 kB is nobody's project.
_MOST_ANCHORS: Final = 64


class Room(NamedTuple):
    """An amount of a disk: used, left or allowed."""

    bytes: int
    files: int

    def exceeds(self, other: Room) -> bool:
        """Whether it is more in either."""
        return self.bytes > other.bytes or self.files > other.files


class Writer(Protocol):
    """Who writes to a layer on disk: an instance, or those that share directories."""

    @property
    def layer(self) -> str:
        """The layer's name; empty where nothing writes."""
        ...

    @property
    def room(self) -> tuple[int, int]:
        """The bytes and files that it may take."""
        ...

    def give_up(self, why: str) -> None:
        """Ends what writes, without waiting."""
        ...


class DiskWatch:
    """Ends instances whose layers on disk grow past their limits.

    Args:
        deltas: Where the layers lie.
    """

    def __init__(self, deltas: Deltas) -> None:
        self._deltas = deltas
        #: What the disk had left when one was looked at, and how much of it that one might still take.
        self._writers: weakref.WeakKeyDictionary[Writer, tuple[Room, Room]] = weakref.WeakKeyDictionary()
        self._guard = threading.Lock()
        self._repeating = Repeating("kibo-disk-watch", self._look_at_all, INTERVAL_S)
        self._due_s = 0.0

    def add(self, writer: Writer) -> None:
        """Watches one more."""
        with self._guard:
            self._writers[writer] = (self._left(), _slack(Room(*writer.room), Room(0, 0)))
        self._repeating.begin()

    def close(self) -> None:
        """Ends the thread."""
        self._repeating.close()

    def _look_at_all(self) -> float:
        with self._guard:
            writers = dict(self._writers)
        left, all_of_them = self._left(), time.monotonic() >= self._due_s
        began = time.thread_time()
        for writer, (before, slack) in writers.items():
            lost = Room(before.bytes - left.bytes, before.files - left.files)
            if all_of_them or lost.exceeds(slack):
                used = self._look(writer)
                with self._guard:
                    self._writers[writer] = (left, _slack(Room(*writer.room), used))
        if all_of_them:
            self._due_s = time.monotonic() + (time.thread_time() - began) / SHARE
        return INTERVAL_S

    def _left(self) -> Room:
        found = os.statvfs(self._deltas.home)
        # A file system that makes inodes as they are needed says that it has none.
        return Room(found.f_bfree * found.f_frsize, found.f_ffree)

    def _look(self, writer: Writer) -> Room:
        if not writer.layer:
            return Room(0, 0)
        limit = Room(*writer.room)
        used = used_room(os.fspath(self._deltas.path(writer.layer)), limit)
        if used.exceeds(limit):
            writer.give_up(OUT_OF_DISK if used.bytes > limit.bytes else OUT_OF_FILES)
        return used


def _slack(limit: Room, used: Room) -> Room:
    """Returns what the disk may lose before a box must be looked at again."""
    past = Room(int(limit.bytes * PAST), int(limit.files * PAST))
    return Room(
        max(limit.bytes - used.bytes, past.bytes),
        max(limit.files - used.files, past.files),
    )


def used_room(directory: str, enough: Room) -> Room:
    """Returns what a tree takes on disk; stops counting past ``enough``. What vanishes meanwhile does not count.

    A box may nest directories deeper than a path can name, and move them about meanwhile. One that nests them deeper
    than `_MOST_ANCHORS` reach cannot be counted, and so counts as more than enough.
    """
    try:
        top = _Anchor(os.open(directory, _DIRECTORY), 1)
    except FileNotFoundError:
        return Room(0, 0)
    size, files, pending = 0, 0, [(top, "")]
    while pending and not Room(size, files).exceeds(enough):
        anchor, path = pending.pop()
        try:
            fd = kernel.openat2(anchor.fd, path or ".", _DIRECTORY, 0, _BENEATH)
        except OSError as error:
            # A directory that an ordinary user's box closed to itself cannot be looked into; the others are gone.
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES):
                continue
            raise
        here = _Anchor(fd, anchor.number + 1)
        if here.number > _MOST_ANCHORS:
            return Room(enough.bytes + 1, files)
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except (FileNotFoundError, PermissionError):
                    continue
                size += info.st_blocks * _BLOCK
                files += 1
                if size > enough.bytes or files > enough.files:
                    break
                if entry.is_dir(follow_symlinks=False):
                    far = len(path) + len(entry.name) >= _ANCHORED
                    pending.append((here, entry.name) if far else (anchor, os.path.join(path, entry.name)))
    return Room(size, files)


class _Anchor:
    """An open directory that paths begin at, for as long as one is left that does.

    Attributes:
        fd: Its descriptor.
        number: How many lead to it.
    """

    def __init__(self, fd: int, number: int) -> None:
        self.fd, self.number = fd, number

    def __del__(self) -> None:
        """Closes it."""
        os.close(self.fd)
