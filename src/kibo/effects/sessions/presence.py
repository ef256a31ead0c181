"""Which holders live, and how those who wait are woken: locked files in one directory, which inotify(7) watches.

Each holder keeps the lock of a file of its lease's name, flock(2), which ends with it however it ends. The kernel tells
of a file's last close, also of a killed process's, and of its removal: so whoever waits is woken by a release, by a
death, and by whoever rings the bell, and looks in the store what has become of its wish.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kibo.model.limits import LEASE_LOOK_S, LEASE_SETTLE_S
from kibo.store import wakeups
from kibo.store.locking import claim, lock, release, try_lock_found


class Presence:
    """This process's sign of life for one lease. Made before the lease is recorded.

    Args:
        directory: Where those of one profile are.
        lease: Its id.
    """

    def __init__(self, directory: Path, lease: str) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._path: Final = directory / lease
        self._fd = claim(lock(self._path))
        self.owner_pid: Final = os.getpid()

    def end(self) -> None:
        """Gives the sign up, which wakes those who wait. A forked child has none to give up. Idempotent."""
        if self._fd >= 0 and self.owner_pid == os.getpid():
            self._path.unlink(missing_ok=True)
            release(self._fd)
            self._fd = -1


def is_dead(directory: Path, lease: str) -> bool:
    """Tells whether a lease's holder has ended. Locks are taken shared, so that two who look do not see each other."""
    fd = try_lock_found(directory / lease, shared=True)
    if fd is None:
        return not (directory / lease).exists()
    os.close(fd)
    return True


def sweep(directory: Path, known: set[str]) -> None:
    """Removes the files of dead holders that no lease is recorded of."""
    for name in os.listdir(directory):
        if name in known or name == wakeups.BELL:
            continue
        # Whoever has just made it, and waits for its lock, finds that the name is gone, and makes it anew.
        if (fd := try_lock_found(directory / name, shared=True)) is not None:
            (directory / name).unlink(missing_ok=True)
            os.close(fd)


class Watch(wakeups.Watch):
    """Wakes who waits at one profile. Where this user has no inotify instance left, by the clock alone.

    Args:
        directory: Where its holders' files are.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._pause_s = LEASE_SETTLE_S
        self._longest_s = LEASE_SETTLE_S if self.deaf else LEASE_LOOK_S

    @property
    def pause_s(self) -> float:
        """How long to wait at most before looking again."""
        return self._pause_s

    def woken(self, awaited: set[str]) -> bool:
        """Reads what has happened. What is awaited is looked at now, and once more when the kernel has freed a lock.

        Args:
            awaited: Names of files.

        Returns:
            Whether anything of that has happened, or the kernel cannot tell.
        """
        found = self.heard()
        if found is not None and not found & awaited:
            return False
        self._pause_s = LEASE_SETTLE_S
        return True

    def slept(self) -> None:
        """Notes that nothing has."""
        self._pause_s = self._longest_s
