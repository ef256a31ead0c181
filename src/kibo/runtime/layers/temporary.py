"""Work in progress below the state directory, and the removal of what a killed process left.

An entry is a directory ``tmp/<name>`` with a lock file ``tmp/<name>.lock`` beside it that its maker holds. An entry
whose lock nobody holds belongs to nobody, and `sweep` removes it. The lock is taken before the directory is made and
unlinked after it is gone, so that at no moment a live entry looks abandoned, or a dead one looks live.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kibo.runtime.cgroups import PLACES_FILE, remove_places
from kibo.runtime.trees.removing import remove
from kibo.store.locking import try_lock

#: The kernel counts a killed process out of its group within milliseconds; one that writes to a slow disk takes longer.
PATIENCE_S: Final = 5.0


def remove_tree(path: Path) -> None:
    """Removes a tree whatever its modes are, without following links. Missing is fine.

    Overlay work directories have mode 0, and packages make directories that their owner cannot write.

    Raises:
        OSError: Something in it belongs to an id that this process has no power over.
    """
    try:
        fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove(fd, os.fsencode(path.name))
    finally:
        os.close(fd)


@dataclass(slots=True)
class TemporaryEntry:
    """A directory of work in progress that lives no longer than its holder.

    Attributes:
        path: The directory.
        lock_fd: The descriptor that holds the entry's lock. A child that inherits it keeps the entry alive.
    """

    path: Path
    lock_fd: int

    @classmethod
    def create(cls, home: Path, purpose: str) -> TemporaryEntry:
        """Makes an empty entry. ``purpose`` is a word for its name that a person reads in ``tmp``."""
        while True:
            path = home / "tmp" / f"{purpose}-{secrets.token_hex(6)}"
            lock_fd = try_lock(_lock_path(path))
            if lock_fd is not None:
                break
        entry = cls(path, lock_fd)
        try:
            path.mkdir(mode=0o700)
        except OSError:
            entry.remove()  # a full disk, say: the lock's file takes no block
            raise
        return entry

    def remove(self) -> None:
        """Removes the directory, then its lock. Safe to call twice."""
        if self.lock_fd < 0:
            return
        remove_tree(self.path)
        _lock_path(self.path).unlink(missing_ok=True)
        os.close(self.lock_fd)
        self.lock_fd = -1


def remove_groups(directory: Path) -> bool:
    """Removes the control groups that are written down in a directory, which may take `PATIENCE_S`.

    Returns whether none is left.
    """
    record = directory / PLACES_FILE
    try:
        places = json.loads(record.read_text())
    except (FileNotFoundError, ValueError):
        return True  # none were made, or the machine stopped while they were written down, before any was
    deadline = time.monotonic() + PATIENCE_S
    while not remove_places(places):
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.01)
    record.unlink()
    return True


def _lock_path(entry: Path) -> Path:
    return entry.with_name(entry.name + ".lock")


def sweep(home: Path) -> list[str]:
    """Removes the entries whose holders have ended. Returns their names. Leaves every held entry alone.

    Raises:
        OSError: An entry belongs to ids that this process has no power over; run it in the builder then.
    """
    removed = []
    for lock_path in sorted((home / "tmp").glob("*.lock")):
        lock_fd = try_lock(lock_path)
        if lock_fd is None:
            continue
        entry = TemporaryEntry(lock_path.with_suffix(""), lock_fd)
        if not remove_groups(entry.path):
            os.close(lock_fd)
            continue  # something in it has not ended yet: the next sweep looks again
        entry.remove()
        removed.append(entry.path.name)
    for lock_path in (home / "locks").glob("*.build"):
        # A killed builder's lock is free, but its file is still there; a waiter notices when it goes.
        if (lock_fd := try_lock(lock_path)) is not None:
            lock_path.unlink(missing_ok=True)
            os.close(lock_fd)
    return removed
