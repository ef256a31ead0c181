"""The disk that instances of branches use: no file system counts it for a directory, so it is looked at every so often.

A box in memory is refused a write; one in a branch may write past its limit for as long as nobody looks, and is then
ended. What it wrote before stays readable.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import weakref
from typing import Any, Final

from kibo.branch.deltas import Deltas
from kibo.branch.members import Member
from kibo.branch.repeating import Repeating
from kibo.model.limits import DEFAULT_DISK_BYTES
from kibo.runtime import kernel
from kibo.runtime.handle import OUT_OF_DISK
from kibo.runtime.instance import give_up

#: Seconds between two looks at the least.
INTERVAL_S: Final = 1.0
#: The share of one processor that looking may take.
SHARE: Final = 0.05
_BLOCK: Final = 512  # what st_blocks counts, stat(2)
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BENEATH: Final = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS
#: Characters of a path below an anchor: with one more name, of four bytes a character, no longer than PATH_MAX.
_ANCHORED: Final = 700
#: Anchors on the way to one directory: each is an open file, and a path of 40 kB is nobody's project.
_MOST_ANCHORS: Final = 64


class DiskWatch:
    """Ends instances whose layers on disk grow past their limits.

    Args:
        deltas: Where the layers lie.
    """

    def __init__(self, deltas: Deltas) -> None:
        self._deltas = deltas
        self._members: weakref.WeakSet[Member] = weakref.WeakSet()
        self._guard = threading.Lock()
        self._repeating = Repeating("kibo-disk-watch", self._look_at_all, INTERVAL_S)

    def add(self, member: Member) -> None:
        """Watches one more."""
        with self._guard:
            self._members.add(member)
        self._repeating.begin()

    def close(self) -> None:
        """Ends the thread."""
        self._repeating.close()

    def _look_at_all(self) -> float:
        with self._guard:
            members = list(self._members)
        began = time.thread_time()
        for member in members:
            self._look(member)
        return max(INTERVAL_S, (time.thread_time() - began) / SHARE)

    def _look(self, member: Member) -> None:
        face: Any = member.face
        spawned = member.spawned
        if member.talk.ended or not spawned.upper:
            return
        limit = spawned.state.plan.limits.disk_bytes or DEFAULT_DISK_BYTES
        if used_bytes(os.fspath(self._deltas.path(spawned.upper)), limit) > limit:
            give_up(face, OUT_OF_DISK)


def used_bytes(directory: str, enough: int) -> int:
    """Returns what a tree takes on disk; stops counting past ``enough``. What vanishes meanwhile does not count.

    A box may nest directories deeper than a path can name, and move them about meanwhile. One that nests them deeper
    than `_MOST_ANCHORS` reach cannot be counted, and so counts as more than enough.
    """
    try:
        top = _Anchor(os.open(directory, _DIRECTORY), 1)
    except FileNotFoundError:
        return 0
    total, pending = 0, [(top, "")]
    while pending and total <= enough:
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
            return enough + 1
        with os.scandir(fd) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                except (FileNotFoundError, PermissionError):
                    continue
                total += info.st_blocks * _BLOCK
                if entry.is_dir(follow_symlinks=False):
                    far = len(path) + len(entry.name) >= _ANCHORED
                    pending.append((here, entry.name) if far else (anchor, os.path.join(path, entry.name)))
    return total


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
