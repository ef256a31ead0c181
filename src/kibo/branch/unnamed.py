"""What lies on disk and nothing names: layers and frozen workspaces that may go.

A layer is named by the world of a snapshot, by a frozen workspace, or by the digits of a living process that has it
written. A frozen workspace is named by a world, by the index of newest freezes, or by whoever holds it until a snapshot
names it. What is to go is moved away by one rename each, layers before the freeze that names them: killed at any
moment, something still names what is left, and half of nothing is found under its name.

The order keeps what comes to be meanwhile: layers are listed before the names of living owners and worlds are read, and
worlds are read once the freezes in question are taken from whoever could name them anew.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from kibo.branch.history import History
from kibo.branch.hostdir.frozen import FrozenId, indexed, layers_of, workspaces
from kibo.branch.worlds import names
from kibo.model.ids import SnapshotId
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.store.crash import point
from kibo.store.locking import try_lock_directory

#: Freezes that are taken at once: a descriptor each.
_AT_ONCE: Final = 100

_log: Final = logging.getLogger(__name__)


class Unnamed:
    """One look for what nothing names.

    Args:
        home: The state directory.
        history: Whose worlds name things.
        layers: Layers that go if nothing names them; listed before it was found out which owners live.
    """

    def __init__(self, home: Path, history: History, layers: Collection[str]) -> None:
        self._home, self._history, self._layers = home, history, layers
        self._freezes = workspaces(home) / "frozen"
        #: Snapshots whose worlds cannot be read. Nobody can tell what they name: as long as there is one, all stays.
        self.unreadable: list[SnapshotId] = []

    def place(self, name: str) -> Path:
        """Returns where a layer or a frozen workspace lies."""
        return (self._freezes if name.startswith(FrozenId.prefix) else self._home / "deltas") / name

    def remove(self, unused_s: float = float("inf")) -> tuple[str, ...]:
        """Removes it.

        Args:
            unused_s: How long ago, in seconds, a host directory must have been frozen last for its newest freeze to
                count as named no more. 0 takes all.

        Returns:
            The names of what is gone; empty where a world cannot be read.
        """
        gone: list[str] = []
        free = self._free(self._named(), unused_s)
        entry = TemporaryEntry.create(self._home, "unnamed")
        try:
            for start in range(0, max(1, len(free)), _AT_ONCE):
                with _taken(self._freezes, free[start : start + _AT_ONCE]) as taken:
                    gone += self._put_away(self._going(taken, self._named()), entry)
            point("sweep.before_removing")
        finally:
            entry.remove()
        return tuple(sorted(gone))

    def foreseen(self, told: Collection[str], unused_s: float) -> tuple[str, ...]:
        """Returns what `remove` would remove once no world names what was told. Removes nothing."""
        named = self._named() - set(told)
        with _taken(self._freezes, self._free(named, unused_s)) as taken:
            return tuple(sorted(self._going(taken, named)))

    def _named(self) -> set[str]:
        """Returns all that worlds name."""
        found: set[str] = set()
        self.unreadable = []
        for snapshot, world in self._history.worlds():
            try:
                found.update(names(world))
            except ValueError as error:
                self.unreadable.append(snapshot)
                _log.warning(
                    "snapshot %s cannot be read (%s); nothing is removed, since it may name it",
                    snapshot,
                    error,
                )
        return found

    def _free(self, named: Collection[str], unused_s: float) -> list[str]:
        """Lists the freezes that neither a world names nor an entry of the index that counts."""
        deadline = time.time() - unused_s
        recent = {name for _, name, made_s in indexed(self._home) if unused_s > 0 and made_s >= deadline}
        return sorted(set(_listed(self._freezes)) - set(named) - recent)

    def _going(self, taken: Collection[str], named: Collection[str]) -> list[str]:
        """Decides what goes, layers first, of the freezes that are taken and of the layers."""
        if self.unreadable:
            return []
        freezes = set(taken) - set(named)
        kept = {*named}
        for name in set(_listed(self._freezes)) - freezes:
            kept.update(layers_of(self._freezes / name))
        layers = {*self._layers, *(layer for name in freezes for layer in layers_of(self._freezes / name))}
        return [*sorted(each for each in layers - kept if self.place(each).is_dir()), *sorted(freezes)]

    def _put_away(self, going: list[str], entry: TemporaryEntry) -> list[str]:
        for note, name, _ in indexed(self._home):
            if name in going:
                note.unlink(missing_ok=True)
        point("sweep.before_moving")
        moved = []
        for name in going:
            with suppress(FileNotFoundError):  # another collection was faster
                os.rename(self.place(name), entry.path / name)
                moved.append(name)
            point("sweep.moved")
        return moved


@contextmanager
def _taken(freezes: Path, wanted: Iterable[str]) -> Iterator[list[str]]:
    """Takes those freezes that nobody holds, so that no new freeze begins from them."""
    with ExitStack() as held:
        taken = []
        for name in wanted:
            fd = try_lock_directory(freezes / name)
            if fd is not None:
                held.callback(os.close, fd)
                taken.append(name)
        yield taken


def _listed(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
