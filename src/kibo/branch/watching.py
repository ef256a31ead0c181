"""The disk that instances of branches use: no file system counts it for a directory, so it is looked at every so often.

A box in memory is refused a write; one in a branch may write past its limit for as long as nobody looks, and is then
ended. What it wrote before stays readable.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any, Final

from kibo.branch.deltas import Deltas
from kibo.branch.members import Member
from kibo.branch.repeating import Repeating
from kibo.model.limits import DEFAULT_DISK_BYTES
from kibo.runtime.handle import OUT_OF_DISK
from kibo.runtime.instance import give_up

#: Seconds between two looks at the least.
INTERVAL_S: Final = 1.0
#: The share of one processor that looking may take.
SHARE: Final = 0.05
_BLOCK: Final = 512  # what st_blocks counts, stat(2)


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
    """Returns what a tree takes on disk; stops counting past ``enough``. What vanishes meanwhile does not count."""
    total, pending = 0, [directory]
    while pending and total <= enough:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    total += info.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            continue  # of an ordinary user's box, which closed it to itself; what is in it is not counted
    return total
