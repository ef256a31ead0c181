"""What all branches of one tree share: the history, the files, the runtime, and how they wait."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kibo.box.define import Box
from kibo.branch.deltas import Deltas
from kibo.branch.history import History
from kibo.branch.hostdir.frozen import FrozenId, mark_flushed, workspaces
from kibo.branch.owning import Owner
from kibo.branch.repeating import Repeating
from kibo.branch.watching import DiskWatch
from kibo.effects.ledger import Ledger
from kibo.effects.recorder import Recorder
from kibo.runtime.egress import Egress, Tape
from kibo.runtime.layers.store import flush_file_system
from kibo.runtime.states import Progress, Spawned, State, States
from kibo.runtime.waiting import Waiting

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


@dataclass(slots=True, eq=False)
class Family:
    """What all branches of one tree share.

    Attributes:
        history: Where they are recorded.
        deltas: Their files.
        flusher: Brings those to the disk.
        watch: Looks at the disk that instances use.
        owner: Names layers that this process has written.
        waiting: How to wait.
        ensure: Gives the cached state of a box.
        instance_face: Makes what a user holds of an instance.
        branch_face: Makes what a user holds of a branch.
        running: The branches of this process by their ids, of all trees, for as long as somebody has them.
        egress: The way out of instances.
        keeper: Of files in a workspace that boxes are to own, by whether they run as root; None for this user's own.
        recorder: Records calls of actions.
        listen: Has this process hear of it when another has written to the mail of a branch that runs here.
        telling: Wakes, at the end of a block that writes mail, those who follow it from other processes.
        tape: The recording that its traffic goes into, or the replay that answers it.
        lock: Held while branches of the tree begin or end.
        ledger: What instances have asked the outside world for.
    """

    history: History
    deltas: Deltas
    flusher: Flusher
    watch: DiskWatch
    owner: Owner
    waiting: Waiting
    ensure: Callable[[Box, Progress | None], Awaitable[tuple[States, State]]]
    instance_face: Callable[[Spawned], Any]
    branch_face: Callable[[Any], Any]
    running: MutableMapping[str, Any]
    egress: Egress
    keeper: Callable[[bool], tuple[int, int] | None]
    recorder: Recorder
    listen: Callable[[], None]
    telling: Callable[[], AbstractContextManager[None]]
    tape: Tape | None = None
    lock: AbstractAsyncContextManager[object] = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        """Makes the lock."""
        self.lock = self.waiting.lock()
        self.ledger = Ledger(self.history.store)
