"""What all branches of one tree share: the history, the files, the runtime, and how they wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from kibo.box.define import Box
from kibo.branch.deltas import Deltas
from kibo.branch.flushing import Flusher
from kibo.branch.history import History
from kibo.branch.owning import Owner
from kibo.branch.watching import DiskWatch
from kibo.effects.ledger import Ledger
from kibo.effects.recorder import Recorder
from kibo.runtime.egress import Egress, Tape
from kibo.runtime.states import Progress, Spawned, State, States
from kibo.runtime.waiting import Waiting


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
