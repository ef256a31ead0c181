"""How the files of snapshots and freezes reach the disk."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Final

from kibo.branch.history import History
from kibo.branch.hostdir.frozen import FrozenId, mark_flushed, workspaces
from kibo.branch.repeating import Repeating
from kibo.runtime.layers.store import flush_file_system

#: Seconds for which a snapshot may rest in the page cache alone: so much work a power cut takes.
FLUSH_S: Final = 1.0


class Flusher:
    """Brings the files of snapshots and freezes to the disk, some time after they were made, in a thread of its own.

    Args:
        history: Where it is recorded that they are there.
        home: The state directory.
    """

    def __init__(self, history: History, home: Path) -> None:
        self._history = history
        self._home = home
        self._waiting: set[str] = set()
        self._guard = threading.Lock()
        self._repeating = Repeating("kibo-flusher", self._again, FLUSH_S)

    def add(self, *names: str) -> None:
        """Notes snapshots and frozen workspaces whose files may not be on the disk."""
        with self._guard:
            self._waiting.update(names)
        self._repeating.begin()

    def flush(self) -> None:
        """Brings all of them to the disk now."""
        with self._guard:
            taken, self._waiting = self._waiting, set()
        if not taken:
            return
        try:
            flush_file_system(self._home)
            freezes = {name for name in taken if name.startswith(FrozenId.prefix)}
            for name in freezes:
                mark_flushed(workspaces(self._home) / "frozen" / name)
            if snapshots := taken - freezes:
                self._history.mark_flushed(*snapshots)
        except BaseException:
            with self._guard:
                self._waiting |= taken
            raise

    def close(self) -> None:
        """Brings all of them to the disk, and ends the thread."""
        self._repeating.close()
        self.flush()

    def _again(self) -> float:
        # What fails stays noted: the next turn tries again, or `close`, which tells.
        with contextlib.suppress(Exception):
            self.flush()
        return FLUSH_S
