"""Branches as they stand in the history: found, compared, ended, applied and copied without the process that made them.

What is seen here is what was sealed. A branch may go on in a process of its own meanwhile; what that process would lose
is refused, and what it has not sealed is not seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kibo.branch.committing import parent_of
from kibo.branch.deltas import BranchChange, Deltas
from kibo.branch.flushing import Flusher
from kibo.branch.history import History
from kibo.branch.hostdir.apply import Applied, apply_all
from kibo.branch.hostdir.plan import ApplyPlan
from kibo.branch.hostdir.staging import HOST_BITS
from kibo.branch.joining import join
from kibo.branch.owning import Owner, collect, foreseen
from kibo.branch.parcels import Ids, Received, receive, send
from kibo.branch.patches import patch
from kibo.branch.points import Points, Side, refuse_running
from kibo.branch.reach import Retention
from kibo.branch.records import BranchRecord, Committed, SnapshotRecord
from kibo.branch.retention import Collected
from kibo.branch.workspaces import write_workspaces
from kibo.branch.worlds import InstanceWorld, World, labels, layers, to_json, world_of
from kibo.effects import retention
from kibo.effects.calls import Calls
from kibo.effects.records import Effect
from kibo.effects.sessions import versions
from kibo.model.errors import BranchClosed, Denied, InvalidInput, NotFound, WrongState
from kibo.model.ids import BranchId
from kibo.runtime.trees.archive import Exported
from kibo.runtime.trees.conflict import Resolver
from kibo.store.crash import point

if TYPE_CHECKING:
    from kibo.branch.comparing import Comparison

#: As many snapshots as one line may have.
_ALL: Final = 1 << 40
#: Branches that an error names.
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class CommittedHere:
    """What a commit or a merge did.

    Attributes:
        committed: As the history tells it.
        sealed_s: How long ago what came into the parent had been sealed, in seconds.
        stale: Branches that became stale by it, oldest first.
    """

    committed: Committed
    sealed_s: float
    stale: tuple[BranchId, ...]


@dataclass(frozen=True, slots=True)
class AbortedHere:
    """What an abort did.

    Attributes:
        branches: What was ended, the branch first; empty where it was aborted before.
        process: The process that still runs it, and will be told when it next forks, commits or seals; None for none.
        to_undo: What was done in them that can be undone, and is not, the newest first.
    """

    branches: tuple[BranchId, ...]
    process: int | None
    to_undo: tuple[Effect, ...] = ()


class Standing:
    """The branches of one state directory.

    Args:
        history: Where they are recorded.
        deltas: Their files.
        flusher: Brings those to the disk.
        owner: Names new ones.
        ids: Says whose numbers files that come from elsewhere get.
    """

    def __init__(
        self, history: History, deltas: Deltas, flusher: Flusher, owner: Owner, ids: Callable[[], Ids]
    ) -> None:
        self.history: Final = history
        self.deltas: Final = deltas
        self._flusher: Final = flusher
        self._owner: Final = owner
        self._ids: Final = ids
        self._points: Final = Points(history, deltas)

    def point(self, ref: str) -> SnapshotRecord:
        """Finds the snapshot that a reference names; see `Points.point`."""
        return self._points.point(ref)

    def process_of(self, branch: BranchRecord) -> int | None:
        """Returns the living process that runs a branch; see `Points.process_of`."""
        return self._points.process_of(branch)

    # -- comparing

    def _sides(self, a: str, b: str | None) -> tuple[Side, Side]:
        """Finds what a comparison is of: two points or, of one alone, the start of its tree and that."""
        one = Side(*self._points.named(a))
        if b is not None:
            return one, Side(*self._points.named(b))
        begun = self.history.snapshots(one.snapshot.id, _ALL)[-1]
        return Side(begun.id, begun), one

    def _worlds(self, one: Side, two: Side) -> tuple[dict[str, InstanceWorld], dict[str, InstanceWorld]]:
        """Returns the instances of two points. What is in one of them alone is compared with what it was when it came
        into its branch.
        """
        # Nothing needs the files of a tree's start: what began later is compared with how it began.
        first = one.snapshot.parent is None and two.snapshot.tree == one.snapshot.tree
        before = world_of(one.snapshot) if first else self._points.world(one.snapshot)
        after = self._points.world(two.snapshot)
        before |= {name: self._start(each) for name, each in after.items() if name not in before}
        after |= {name: self._start(each) for name, each in before.items() if name not in after}
        return before, after

    def compare(self, a: str, b: str | None = None) -> Comparison:
        """Tells what differs between two points, or between one and the start of its tree.

        Args:
            a: Where to begin or, alone, what to compare with the start of its tree; see `point`. Of a branch, files are
                compared as they were sealed last, and all else as it is now.
            b: What it became.

        Raises:
            SnapshotUnknown, WrongState: As `point` and `world`.
        """
        from kibo.branch.comparing import compare  # late: it brings contexts and mail along

        one, two = self._sides(a, b)
        return compare(self.history, self._changes(one, two), one, two)

    def diff(self, a: str, b: str | None = None) -> Iterator[BranchChange]:
        """Lists the files that differ; arguments and errors as `compare`. By instance, in order of path."""
        return self._changes(*self._sides(a, b))

    def _changes(self, one: Side, two: Side) -> Iterator[BranchChange]:
        before, after = self._worlds(one, two)
        for name in sorted(after):
            yield from self.deltas.changes(name, before[name], after[name], HOST_BITS)

    def patch(self, a: str, b: str | None = None) -> Iterator[bytes]:
        """As `diff`, as text in git's form. Paths begin at the box's root: ``git apply -p2`` takes a workspace's."""
        one, two = self._worlds(*self._sides(a, b))
        for name in sorted(two):
            title = b"# %b\n" % name.encode() if len(two) > 1 else b""
            for place, change in self.deltas.compared(one[name], two[name], HOST_BITS):
                for piece in patch(place.encode(), change):
                    yield title + piece
                    title = b""

    def _start(self, world: InstanceWorld) -> InstanceWorld:
        return replace(world, deltas=world.deltas[: self.deltas.shown(world)])

    # -- ends

    def commit(self, ref: str, *, overwrite: bool = False) -> CommittedHere:
        """Makes a branch's parent what the branch was when it was sealed last.

        Args:
            ref: The branch.
            overwrite: Commit even where the parent has moved.

        Raises:
            WrongState: It is a root, or it or its parent runs in a living process, whose work would be lost.
            BranchStale: The parent has moved.
            BranchUnknown, BranchClosed: Nothing was changed.
        """
        branch = self._left(ref)
        sealed = self.history.get_snapshot(branch.head)
        before = self._fresh_siblings(branch)
        self._flusher.add(branch.head)
        self._flusher.flush()
        done = self.history.commit(branch.id, overwrite=overwrite)
        return self._committed(done, sealed, before)

    def merge(self, ref: str, resolver: Resolver | None = None) -> CommittedHere:
        """Joins what a branch and its parent have become, file by file and text line by line, into the parent.

        Args:
            ref: The branch; it may be stale.
            resolver: Called for each conflict; without one, conflicts are an error.

        Raises:
            MergeConflict: With base, ours and theirs of each path. The branch and its parent are as they were.
            BranchStale: One of the two went on meanwhile. Merge again.
            WrongState: It is a root, or it or its parent runs in a living process, whose work would be lost; or the
                files of one side, or of what both came from, are gone.
            BranchUnknown, BranchClosed: Nothing was changed.
            HostDiskFull: Nothing was changed.
        """
        branch = self._left(ref)
        # What was written to their logs since their heads is sealed: the merge is of two points that stay.
        theirs = self.history.snapshot(branch.id, flushed=False)
        ours = self.history.snapshot(parent_of(branch), flushed=False)
        base = self.history.get_snapshot(str(branch.base))
        one, two, three = (self._points.world(each) for each in (base, ours, theirs))
        merged = join(self.deltas, (one, two, three), resolver, None)
        before = self._fresh_siblings(branch)
        point("merge.decided")
        self._flusher.add(ours.id, theirs.id)
        self._flusher.flush()
        point("merge.flushed")
        done = self.history.record_merge(branch.id, to_json(merged), (ours.id, theirs.id))
        point("merge.recorded")
        return self._committed(done, theirs, before)

    def _left(self, ref: str) -> BranchRecord:
        """Finds a branch that no process runs, as it was sealed last."""
        branch = self.history.get(ref)
        refuse_running(branch, self.process_of(branch))
        return self.history.get(branch.id) if self.rewind(branch) else branch

    def _committed(
        self, done: Committed, sealed: SnapshotRecord, before: Sequence[BranchId]
    ) -> CommittedHere:
        still = {each.id for each in self.history.children(done.parent) if each.status == "open"}
        stale = tuple(each for each in before if each not in still)
        return CommittedHere(done, time.time() - sealed.created_s, stale)

    def _fresh_siblings(self, branch: BranchRecord) -> list[BranchId]:
        if branch.parent is None:
            return []
        siblings = self.history.children(branch.parent)
        return [each.id for each in siblings if each.id != branch.id and each.status == "open"]

    def abort(self, ref: str) -> AbortedHere:
        """Ends a branch and all below it. What they are can be read until it is collected.

        Raises:
            BranchUnknown, BranchClosed: Nothing was changed.
        """
        branch = self.history.get(ref)
        process = self.process_of(branch)
        ended = tuple(self.history.abort(branch.id))
        to_undo = Calls(self.history.store).to_undo(ended)
        return AbortedHere(ended, process, tuple(exact.effect for exact in to_undo))

    # -- the host

    def plan(self, ref: str | None = None) -> tuple[BranchRecord, dict[str, ApplyPlan]]:
        """Plans how the workspaces of a root come to the host's directories.

        Args:
            ref: The root, open or finished; without it, the only one that has something to apply.

        Returns:
            The root, and the plan for each instance with a workspace.

        Raises:
            BranchUnknown, BranchClosed: There is none such, or it was aborted.
            WrongState: It is no root, or its files are gone.
            InvalidInput: None was named, and not exactly one has something to apply.
        """
        if ref is not None:
            root = self.history.get(ref)
            if root.parent is not None:
                raise WrongState(
                    f"branch {root.id} has a parent: only a root's files are applied",
                    hint=f"`kibo commit {root.id}`, then apply its root.",
                    details={"branch": root.id, "parent": root.parent},
                )
            if root.status == "aborted":
                raise BranchClosed(
                    f"branch {root.id} was aborted: what it became is not wanted",
                    hint=f"If it is after all: `kibo checkout {root.id}`, and apply the branch that this makes.",
                    details={"branch": root.id, "status": root.status},
                )
            return root, self._plans(root)
        found = []
        for root in self.history.roots():
            try:
                plans = {} if root.status == "aborted" else self._plans(root)
            except (WrongState, NotFound):
                continue  # its files are gone: there is nothing left to apply
            if any(plan.operations for plan in plans.values()):
                found.append((root, plans))
        if len(found) != 1:
            names = ", ".join(f"{root.name} ({root.id})" for root, _ in found[-_SHOWN:])
            raise InvalidInput(
                f"{len(found)} trees have something to apply" if found else "no tree has anything to apply",
                hint=f"Name one of {names}."
                if found
                else "`kibo tree --all` lists the trees that there are.",
                details={"candidates": [root.id for root, _ in found]},
            )
        return found[0]

    def _plans(self, root: BranchRecord) -> dict[str, ApplyPlan]:
        world: World = self._points.world(self.history.get_snapshot(root.head))
        return {name: self.deltas.plan(each) for name, each in world.items() if each.frozen}

    def apply(self, ref: str | None = None) -> tuple[BranchRecord, dict[str, Applied]]:
        """Brings the files of a root's workspaces to the host, each workspace entirely or not at all.

        Args:
            ref: See `plan`.

        Returns:
            The root, and what was done, by instance.

        Raises:
            HostDrift: The host's files are not what they were. Nothing was written.
            HostDiskFull, Denied: Nothing of that workspace was written; ``details["applied"]`` names those before it.
            BranchUnknown, BranchClosed, WrongState, InvalidInput: As `plan`.
        """
        root, plans = self.plan(ref)
        return root, apply_all(plans)

    # -- going on

    def checkout(self, ref: str, name: str = "") -> tuple[BranchRecord, tuple[str, ...]]:
        """Makes a branch at a snapshot.

        Args:
            ref: See `point`. A branch that its process has left unsealed, because it was killed, is taken back to what
                was sealed last; see `kibo.branch.unsealed`.
            name: What to call it.

        Returns:
            The branch, and the labels of the boxes that going on from it needs.

        Raises:
            SnapshotUnknown, WrongState: As `point` and `world`.
        """
        named, snapshot = self._points.named(ref)
        if isinstance(named, BranchId) and self.rewind(self.history.get(named)):
            snapshot = self.point(named)
        needed = labels(self._points.world(snapshot))
        return self.history.at(snapshot.id, name, ref=ref), needed

    def rewind(self, branch: BranchRecord) -> bool:
        """Takes a branch back to what was sealed last, where its process has left it; says whether its head moved."""
        if (
            not branch.unsealed
            or branch.status not in ("open", "stale")
            or self.process_of(branch) is not None
        ):
            return False
        head = self.history.rewind(branch.id)
        if head is None:
            return False
        self._flusher.add(head.id)
        return True

    def write(self, ref: str, to: Path) -> tuple[dict[str, Path], tuple[bytes, ...]]:
        """Writes the workspaces of a snapshot into a new directory; see `write_workspaces`.

        Raises:
            SnapshotUnknown, WrongState: As `point` and `world`.
            InvalidInput, FileMissing, HostDiskFull: Nothing was written.
        """
        return write_workspaces(self.deltas, self._points.world(self.point(ref)), to)

    # -- elsewhere

    def send(self, ref: str, to: Path, *, with_sessions: bool = False) -> tuple[SnapshotRecord, Exported]:
        """Writes a snapshot into a file: its log, and all layers that are not of its environments.

        Args:
            ref: See `point`.
            to: The file; nothing may be there.
            with_sessions: Whether it may have the files of sessions that boxes of its tree have loaded.

        Raises:
            Denied: It may have such files, and was not asked for with them.
            SnapshotUnknown, WrongState: As `point` and `world`.
            InvalidInput, FileMissing, HostDiskFull: Nothing was written.
        """
        snapshot = self.point(ref)
        loaded = self.history.store.read(lambda tx: versions.loaded_into(tx, snapshot.tree))
        if loaded and not with_sessions:
            raise Denied(
                f"boxes of this tree have loaded {', '.join(map(repr, loaded))}: who has the file may be signed in",
                hint="Export it --with-sessions if that is wanted.",
                details={"sessions": loaded},
            )
        return snapshot, send(self.history, self.deltas, snapshot, self._points.world(snapshot), to)

    def receive(self, file: Path, name: str = "imported", goal: str = "") -> Received:
        """Makes a tree of what `send` wrote; see `kibo.branch.parcels.receive`."""
        return receive(self.history, self.deltas, self._owner, self._ids(), file, name=name, goal=goal)

    # -- the disk

    def collect(
        self,
        closed_s: float,
        unused_s: float,
        effects_s: float = math.inf,
        *,
        worlds: int | None = None,
        dry: bool = False,
    ) -> Collected:
        """Removes branches that ended some time ago, and all that nothing names any more.

        Args:
            closed_s: How long ago, in seconds.
            unused_s: How long ago a host directory must have been frozen last for what the next freeze of it would
                begin from to go.
            effects_s: How long ago an effect must have ended, in seconds, that no branch has; see
                `kibo.effects.retention`.
            worlds: How many snapshots of each branch can be started from afterwards; see `Retention`.
            dry: Only find out what would go.
        """
        home, store, keep = self.deltas.home, self.history.store, Retention(closed_s, worlds)
        if dry:
            found = foreseen(home, self.history, keep, unused_s=unused_s)
            return replace(found, effects=retention.foreseen(store, effects_s, found.branches))
        self._flusher.flush()  # of what is not on the disk, nobody can say yet whether it counts
        found = collect(home, self.history, keep, unused_s=unused_s)
        return replace(found, effects=retention.collect(store, effects_s))

    def layers(self) -> set[str]:
        """Returns the layers of environments that branches lie over; all there are where one cannot be read."""
        try:
            return {layer for _, world in self.history.reachable() for layer in layers(world)}
        except ValueError:
            return {path.name for path in (self.deltas.home / "layers").iterdir()}
