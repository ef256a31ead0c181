"""Snapshots and branches by whatever a person calls them, and whether their files and their processes are here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kibo.branch.deltas import Deltas
from kibo.branch.history import History
from kibo.branch.owning import running
from kibo.branch.records import BranchRecord, SnapshotRecord
from kibo.branch.worlds import InstanceWorld, world_of
from kibo.model.errors import BranchUnknown, SnapshotUnknown, WrongState
from kibo.model.ids import BranchId, SnapshotId

#: Whether a reference is all of a name, the id to show for it, and the snapshot.
_Named = tuple[bool, BranchId | SnapshotId, SnapshotRecord]


@dataclass(frozen=True, slots=True)
class Side:
    """One of two worlds.

    Attributes:
        of: The branch, for all that it has written up to now; or the snapshot.
        snapshot: The branch's head, or the snapshot.
    """

    of: BranchId | SnapshotId
    snapshot: SnapshotRecord


class Points:
    """What references name in one state directory.

    Args:
        history: Where branches and snapshots are recorded.
        deltas: Their files.
    """

    def __init__(self, history: History, deltas: Deltas) -> None:
        self._history: Final = history
        self._deltas: Final = deltas

    def point(self, ref: str) -> SnapshotRecord:
        """Finds the snapshot that a reference names.

        Args:
            ref: The id of a snapshot or, for its head, of a branch; the beginning of either; a label; or the name of a
                branch.

        Raises:
            SnapshotUnknown: There is none such, or several; ``details["candidates"]`` names these.
        """
        return self.named(ref)[1]

    def named(self, ref: str) -> tuple[BranchId | SnapshotId, SnapshotRecord]:
        """As `point`, with the id of what was named: that of the branch, where it is the head of one."""
        found = self._snapshots(ref) + self._heads(ref)
        # Whole names before digits that ids begin with.
        found = [each for each in found if each[0]] or found
        if len({snapshot.id for *_, snapshot in found}) == 1:
            return found[0][1:]
        names = [name for _, name, _ in found]
        raise SnapshotUnknown(
            f"{'several branches or snapshots are' if names else 'no branch or snapshot is'} called {ref!r}",
            hint=f"Give an id: {', '.join(names)}." if names else "`kibo tree --all` lists what there is.",
            details={"ref": ref, "candidates": names},
        )

    def _snapshots(self, ref: str) -> list[_Named]:
        """Finds the snapshots that a reference may mean, each with whether it is all of its id or of a label."""
        if ref.startswith(BranchId.prefix):
            return []
        try:
            found = [self._history.find_snapshot(ref)]
        except SnapshotUnknown as error:
            found = [self._history.get_snapshot(name) for name in error.details.get("candidates", ())]
        return [(ref in (each.id, *each.labels), each.id, each) for each in found]

    def _heads(self, ref: str) -> list[_Named]:
        """Finds the branches that a reference may mean, as `_snapshots`, with their heads."""
        if ref.startswith(SnapshotId.prefix):
            return []
        try:
            found = [self._history.get(ref)]
        except BranchUnknown as error:
            found = [self._history.get(name) for name in error.details.get("candidates", ())]
        return [
            (ref in (each.id, each.name), each.id, self._history.get_snapshot(each.head)) for each in found
        ]

    def world(self, snapshot: SnapshotRecord) -> dict[str, InstanceWorld]:
        """Returns what a snapshot's instances are, once it is sure that their files are here.

        Raises:
            WrongState: Their files are gone.
        """
        if snapshot.state != "whole":
            why = "a power cut took its files" if snapshot.state == "lost" else "retention let its files go"
            raise _gone(
                snapshot, f"{why}; its log can still be read", "Take a newer one, or one with a label."
            )
        world = world_of(snapshot)
        for name, each in world.items():
            if missing := [delta for delta in each.deltas if not self._deltas.path(delta).is_dir()]:
                raise _gone(snapshot, f"{missing[0]} of {name} is not there", "Take another one.", missing)
            if missing := [layer for layer in each.layers if not self._deltas.layer(layer).is_dir()]:
                raise _gone(
                    snapshot,
                    f"what {name} lies over is not there: layer {missing[0][:12]} of the environment of {each.label}",
                    f"Build that box with `kibo build`, which makes its layers anew: {each.label}.",
                    missing,
                )
        return world

    def process_of(self, branch: BranchRecord) -> int | None:
        """Returns the number of the living process that runs a branch or what it was forked from, if there is one."""
        known = running(self._deltas.home)
        at: BranchRecord | None = branch
        passed: set[str] = set()
        while at is not None and at.status in ("open", "stale") and known and at.id not in passed:
            passed.add(at.id)
            if at.id in known:
                return known[at.id]
            try:
                at = None if at.parent is None else self._history.get(at.parent)
            except BranchUnknown:
                at = None  # collected
        return None


def refuse_running(branch: BranchRecord, process: int | None) -> None:
    """Refuses to end or move a branch behind the back of the process that runs it.

    Raises:
        WrongState: There is such a process.
    """
    if process is not None:
        raise WrongState(
            f"branch {branch.id}, or what it was forked from, runs in process {process}, which would not know",
            hint="commit() there, or end that process first: what it has sealed stays.",
            details={"branch": branch.id, "process": process},
        )


def _gone(snapshot: SnapshotRecord, why: str, hint: str, missing: list[str] | None = None) -> WrongState:
    details = {"snapshot": snapshot.id, "state": snapshot.state, "missing": missing or []}
    return WrongState(f"snapshot {snapshot.id} cannot be used: {why}", hint=hint, details=details)
