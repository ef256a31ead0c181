"""The builder's worker: goes through the steps, takes what is there, makes what is not, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kibo.model.errors import LockMismatch
from kibo.runtime.idmap import ROOT_BASE, IdMap
from kibo.runtime.images import host_tree, interpreter
from kibo.runtime.images.bounds import StepBounds
from kibo.runtime.images.ownership import move_ids
from kibo.runtime.images.running import StepRun
from kibo.runtime.images.steps import Step
from kibo.runtime.layers.store import Built, LayerStore, exhausting_disk, pin
from kibo.runtime.layers.temporary import TemporaryEntry
from kibo.store.locking import holding

Emit = Callable[[dict[str, Any]], None]


class Worker:
    """Builds the steps of one job.

    Args:
        home: The state directory.
        idmap: Which ids of the host the ids inside boxes are.
        emit: Sends an event to the user's process.
        locked: What ``kibo.lock`` records a step, by its key, or None where nothing is locked.
        bounds: What each step may use.
    """

    def __init__(
        self,
        home: Path,
        idmap: IdMap,
        emit: Emit,
        locked: dict[str, Any] | None,
        bounds: StepBounds = StepBounds(),  # noqa: B008 - frozen
    ) -> None:
        self.home = home
        self.store = LayerStore(home)
        self.idmap = idmap
        self.emit = emit
        self.locked = locked or {}
        self.bounds = bounds
        self.steps: dict[str, Step] = {}
        self.built: dict[str, Built] = {}

    def build(self, steps: list[dict[str, Any]]) -> None:
        """Brings every step's layers into the store, in order. Concurrent builders of one step wait for one build.

        Raises:
            KiboError: What the failing step raised; earlier steps stay cached, nothing of this one is kept.
        """
        for index, data in enumerate(steps):
            step = Step.from_dict(data)
            self.steps[step.key] = step
            place = {"step": step.label, "kind": step.kind, "index": index, "total": len(steps)}
            began = time.monotonic()
            built = self.store.find(step.key)
            state = "cached"
            if built is None:
                self.emit({"event": "step", "state": "started", **place})
                with holding(self.home / "locks" / f"{step.key}.build"), exhausting_disk(self.home):
                    built = self.store.find(step.key)
                    if built is None:
                        state = "built"
                        built = self._checked(step, self._make(step))
                        self.store.record(step.key, built)
            pin(self.home, built.layers)  # a collection must not take what the next step stands on
            self.built[step.key] = built
            self.emit({"event": "step", "state": state, "seconds": time.monotonic() - began, **place})

    def lowers(self, keys: tuple[str, ...]) -> list[tuple[Step, Path]]:
        """Returns the layers of earlier steps, lowest first, with the step that each is of."""
        return [(self.steps[key], layer.path) for key in keys for layer in self.built[key].layers]

    def inside(self, number: int) -> int:
        """Returns the id that a box sees for an id that this process sees on disk."""
        return number - ROOT_BASE if self.idmap.kind == "root" and number >= ROOT_BASE else number

    def _make(self, step: Step) -> Built:
        entry = TemporaryEntry.create(self.home, step.kind)
        try:
            match step.kind:
                case "interpreter":
                    return self._direct(entry, step, interpreter.write_base)
                case "guest":
                    base = self.built[step.below[0]].layers[0].path
                    return self._direct(entry, step, lambda tree: interpreter.write_guest(base, tree))
                case "host":
                    return self._direct(entry, step, host_tree.write_host_tree)
                case _:
                    return StepRun(self, entry, step, self.locked.get(step.key)).make()
        finally:
            entry.remove()

    def _direct(self, entry: TemporaryEntry, step: Step, write: Callable[[Path], None]) -> Built:
        """Builds a layer by a function that writes files, with no program of the step's running."""
        tree = entry.path / "tree"
        tree.mkdir(mode=0o755)
        write(tree)
        if self.idmap.kind == "root":
            move_ids(tree, ROOT_BASE)
        return Built((self.store.seal(entry, tree, inside=self.inside, cleaning="nothing", step=step.label),))

    def _checked(self, step: Step, built: Built) -> Built:
        """Holds a step's layers against the lock.

        Raises:
            LockMismatch: They have other digests.
        """
        locked = self.locked.get(step.key)
        digests = [str(layer.digest) for layer in built.layers]
        if locked and digests != locked["layers"]:
            raise LockMismatch(
                f"{step.label} gave other files than the lock records, from the same packages",
                hint="The step depends on something that the lock does not hold (the host's own packages, a time, "
                "the network); build without --locked to record what it gives now",
                details={"step": step.label, "locked": locked["layers"], "found": digests},
            )
        return built
