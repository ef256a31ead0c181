"""Which processes of a state directory that carry runs out live: a dead one's leases end without waiting for them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from kibo.model.errors import PlaceTaken
from kibo.schedule.leases import Leases
from kibo.store.locking import claim, lock, release, try_lock_found


class Alive:
    """Known by a file of each, which it holds the lock of, flock(2): that ends with it however it ends.

    Args:
        directory: It; made where it is missing.
    """

    def __init__(self, directory: Path) -> None:
        self._directory: Final = directory
        self._held: dict[str, int] = {}

    def appear(self, name: str) -> None:
        """Makes this process known until `leave`, or its end."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._held[name] = claim(lock(self._directory / name))

    def leave(self, name: str) -> None:
        """Has it known no more; it holds no lease."""
        (self._directory / name).unlink(missing_ok=True)
        release(self._held.pop(name))

    def dead(self) -> frozenset[str]:
        """Names those that are dead and were not buried yet."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return frozenset()  # nobody was ever known here
        return frozenset(name for name in names if name not in self._held and self._is_free(name))

    def _is_free(self, name: str) -> bool:
        fd = try_lock_found(self._directory / name)
        if fd is not None:
            os.close(fd)
        return fd is not None

    def bury(self, leases: Leases) -> None:
        """Ends the leases of those that are dead: whoever comes next need not wait to see that they are silent."""
        for name in os.listdir(self._directory):
            fd = try_lock_found(self._directory / name) if name not in self._held else None
            if fd is None:
                continue
            try:
                for row in leases.all():
                    if row.is_of(name):
                        with suppress(PlaceTaken):
                            leases.take(row.name, "", row)
                (self._directory / name).unlink(missing_ok=True)
            finally:
                os.close(fd)
