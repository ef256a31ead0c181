"""Branches and snapshots: forked, sealed, committed, aborted, named and collected, in one store.

Forking writes one row for each branch and committing moves one pointer, whatever the depth, the number of siblings and
the length of the log. Every call is one transaction: killed at any moment, it has happened entirely or not at all.

What a world means is not known here: it is a value of JSON that the parts above give with each snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from kibo.branch import committing, finding, marks, recovery, retention, transfer
from kibo.branch.reach import Retention
from kibo.branch.records import BranchRecord, Committed, SnapshotRecord, World, written
from kibo.branch.recovery import Recovered
from kibo.branch.retention import Collected, Names
from kibo.branch.rows import (
    Flushing,
    SnapshotRow,
    fresh_record,
    insert_branches,
    insert_snapshot,
    keep_snapshot,
    snapshot_record,
    this_boot,
    update_branch,
)
from kibo.model.errors import BranchStale, InvalidInput, SnapshotUnknown
from kibo.model.ids import BranchId, SnapshotId
from kibo.model.limits import MAX_FORKS
from kibo.store import crash, fencing
from kibo.store.database import Store, Transaction
from kibo.store.fencing import OPEN, BranchRow
from kibo.store.log import Log

#: Statements that a caller adds to a step, so that both happen or neither does. May run again; see `Store.write`.
Within = Callable[[Transaction], None]


class History:
    """The history in one store. Any number of threads and processes may use it at once.

    Every call raises `StoreUnavailable` where the database does not answer, and `HostDiskFull` where it has no room;
    nothing has happened then, unless it says otherwise.

    Args:
        store: The store.
        here: This host and its boot, for `recover`; found out by default.
    """

    def __init__(self, store: Store, here: Flushing | None = None) -> None:
        self.store: Final = store
        self.log: Final = Log(store)
        self._here: Final = here or this_boot()

    # -- branches

    def create(
        self,
        goal: str = "",
        name: str = "main",
        *,
        world: World | None = None,
        id: BranchId | None = None,
        claimed: bool = False,
    ) -> BranchRecord:
        """Makes a root branch: a tree of its own.

        Args:
            goal: What it is for.
            name: What to call it.
            world: What its first snapshot holds; nothing by default.
            id: Its id, where that was made before it.
            claimed: Whether the caller takes it over for writing in the same transaction, as by `claim`.

        Raises:
            InvalidInput: The name, the goal or the world is not well formed.
        """
        branch, first, now = id or BranchId.new(), SnapshotId.new(), time.time()
        text = written(world or {})
        marks.checked_name(name, "name")
        marks.checked_goal(goal)
        row = transfer.first_row(branch, first, 0, name, goal, now)._replace(epoch=int(claimed))

        def work(tx: Transaction) -> None:
            insert_snapshot(
                tx,
                SnapshotRow(first, branch, branch, "root", None, None, text, 0, 0, b"", "whole", now),
                None,
            )
            crash.point("create.before_branch")
            insert_branches(tx, [row])
            crash.point("create.before_commit")

        self.store.write(work)
        return fresh_record(row)

    def get(self, ref: str) -> BranchRecord:
        """Finds a branch by its id, its name if only one has it, or the beginning of its id if only one begins so.

        Raises:
            BranchUnknown: None is called so, or several are; `details["candidates"]` names these.
        """
        return self.store.read(lambda tx: finding.branch(tx, ref))

    def children(self, branch: str) -> list[BranchRecord]:
        """Returns the branches forked from one, oldest first; closed ones too, until they are collected."""
        return self.store.read(lambda tx: finding.children(tx, branch))

    def tree(self, branch: str) -> list[BranchRecord]:
        """Returns all branches of the tree that a branch is in, oldest first; its root is the first."""
        return self.store.read(lambda tx: finding.tree(tx, fencing.find(tx, branch).tree))

    def roots(self) -> list[BranchRecord]:
        """Returns the root branches of the store, oldest first."""
        return self.store.read(finding.roots)

    def counts(self) -> dict[str, int]:
        """Counts branches by their status, of which none is stale."""
        return self.store.read(finding.counts)

    def claim(self, branch: str) -> int:
        """Takes an open branch over for writing.

        Returns:
            The epoch to give with every write. Those of earlier claims are refused from now on.

        Raises:
            BranchUnknown, BranchClosed: Nothing was changed.
        """

        def work(tx: Transaction) -> int:
            row = fencing.hold(tx, branch)
            update_branch(tx, row._replace(epoch=row.epoch + 1))
            crash.point("claim.before_commit")
            return row.epoch + 1

        return self.store.write(work)

    def fork(
        self,
        parent: str,
        n: int = 1,
        *,
        at: str | None = None,
        world: World | None = None,
        names: Sequence[str] = (),
        epoch: int | None = None,
        flushed: bool = True,
        within: Within | None = None,
        ids: Sequence[BranchId] = (),
    ) -> list[BranchRecord]:
        """Makes branches that begin where their parent is, in one transaction. One row each, about 0.3 ms for one.

        What the parent has written since its head is sealed first, so that the forks see it.

        Args:
            parent: The id of an open branch.
            n: How many, 1 to 10,000.
            at: A snapshot of the same tree to begin from instead. Where it is not the parent's head, the forks are
                stale from the start: they can be merged.
            world: The parent's world now, sealed first where it differs from its head's.
            names: What to call them; fewer than `n` leave the rest without a name.
            epoch: The caller's claim on the parent.
            flushed: Whether the files of `world` are on the disk.
            within: See `Within`.
            ids: From `BranchId.new`, one for each, where the caller had to know them before; new ones by default.

        Returns:
            The forks, in order.

        Raises:
            BranchUnknown, BranchClosed, BranchTaken: Of the parent.
            SnapshotUnknown: There is no `at`, or it is of another tree.
            WrongState: The files of `at` are gone.
            InvalidInput: `n`, a name or the world is not well formed.
        """
        if not 1 <= n <= MAX_FORKS:
            raise InvalidInput(f"{n} forks", hint=f"1 to {MAX_FORKS:,} in one call.")
        called = [marks.checked_name(name, "name") for name in names] + [""] * (n - len(names))
        text = None if world is None else written(world)
        chosen_ids = ids or [BranchId.new() for _ in range(n)]

        def work(tx: Transaction) -> list[BranchRecord]:
            row = self._sealed(tx, fencing.hold(tx, parent, epoch), text, flushed)
            if at is None:
                base, seq = row.head, row.sealed
            else:
                chosen = keep_snapshot(tx, at)
                if chosen.tree != row.tree:
                    raise _other_tree(at, row)
                base, seq = chosen.id, chosen.seq
            made = [
                _forked(row, base, seq, name, each) for name, each in zip(called, chosen_ids, strict=False)
            ]
            crash.point("fork.before_insert")
            insert_branches(tx, made)
            if within is not None:
                within(tx)
            crash.point("fork.before_commit")
            return [fresh_record(each) if at is None else finding.branch(tx, each.id) for each in made]

        return self.store.write(work)

    def at(self, snapshot: str, name: str = "", *, ref: str = "") -> BranchRecord:
        """Makes a branch that begins at a snapshot: a checkout.

        Its parent is the branch that the snapshot was found by, or else the one that it was made in; or, where that is
        closed, the nearest open one above it; none where all are closed.

        Args:
            snapshot: Its id; see `find_snapshot` for labels.
            name: What to call the branch.
            ref: What the snapshot was found by: a branch's id, or the beginning of one, says what it commits into.

        Raises:
            SnapshotUnknown: There is none, or it was collected.
            BranchUnknown: There is no such branch, or several.
            WrongState: Its files are gone.
        """
        marks.checked_name(name, "name")

        def work(tx: Transaction) -> BranchRecord:
            chosen = keep_snapshot(tx, snapshot)
            below = finding.branch(tx, ref).id if ref.startswith(BranchId.prefix) else chosen.branch
            parent = finding.open_from(tx, below)
            origin = transfer.first_row(BranchId(chosen.tree), chosen.id, chosen.seq, "", "", time.time())
            row = _forked(origin, chosen.id, chosen.seq, name, BranchId.new())._replace(parent=parent)
            crash.point("checkout.before_insert")
            insert_branches(tx, [row])
            crash.point("checkout.before_commit")
            return finding.branch(tx, row.id)

        return self.store.write(work)

    def rewind(self, branch: str) -> SnapshotRecord | None:
        """Takes a branch back to what was sealed last, for whoever goes on with it after its process was killed.

        What its log had beyond that becomes an aborted fork of it, to be read until it is collected; what of its mail
        stands is its own again, and sealed. Of a branch whose head has no instances, all stands. See `unsealed`.

        Returns:
            The new head, whose files count as not on the disk yet, see `mark_flushed`; None where the head stays.

        Raises:
            BranchUnknown, BranchClosed: Nothing was changed.
            WrongState: The files of its head are gone. Nothing was changed.
        """
        from kibo.branch import unsealed  # late: it knows of mail, and few branches are left so

        def work(tx: Transaction) -> SnapshotRecord | None:
            row = fencing.hold(tx, branch)
            made = unsealed.rewind(tx, row, self._here) if row.dirty else None
            return None if made is None else snapshot_record(made)

        return self.store.write(work)

    # -- snapshots

    def snapshot(
        self,
        branch: str,
        world: World | None = None,
        label: str = "",
        *,
        epoch: int | None = None,
        if_fresh: bool = False,
        flushed: bool = True,
        within: Within | None = None,
    ) -> SnapshotRecord:
        """Seals what a branch is. A turn that changed nothing makes no snapshot: its head is returned.

        Args:
            branch: The id of an open branch.
            world: Its world now; that of its head by default.
            label: A name for the snapshot, which another of the tree may have had.
            epoch: The caller's claim on the branch.
            if_fresh: Refuse where the branch has become stale.
            flushed: Whether the files of `world` are on the disk; if not, call `mark_flushed` once they are.
            within: See `Within`.

        Raises:
            BranchUnknown, BranchClosed, BranchTaken, BranchStale: Nothing was written.
            InvalidInput: The label or the world is not well formed.
        """
        text = None if world is None else written(world)

        def work(tx: Transaction) -> SnapshotRecord:
            row = fencing.hold(tx, branch, epoch)
            if if_fresh and finding.branch(tx, branch).status == "stale":
                raise _stale(row)
            row, head = committing.seal(tx, row, text, None if flushed else self._here)
            crash.point("snapshot.before_head")
            update_branch(tx, row)
            if label:
                marks.set_label(tx, head.id, label)
            if within is not None:
                within(tx)
            crash.point("snapshot.before_commit")
            return snapshot_record(head, marks.labels_of(tx, head.id) if label else ())

        return self.store.write(work)

    def get_snapshot(self, snapshot: str) -> SnapshotRecord:
        """Returns a snapshot by its id, with its labels.

        Raises:
            SnapshotUnknown: There is none, or it was collected.
        """
        return self.store.read(lambda tx: finding.snapshot(tx, snapshot))

    def find_snapshot(self, ref: str, tree: str | None = None) -> SnapshotRecord:
        """Finds a snapshot by its id, the beginning of its id if only one begins so, a branch's id, or a label.

        Args:
            ref: The id, its beginning, a branch for its head, or a label.
            tree: Where to look for a label; everywhere by default, if only one tree has it.

        Raises:
            SnapshotUnknown: None is called so, or several are; `details["candidates"]` names these.
        """
        return self.store.read(lambda tx: finding.snapshot_called(tx, ref, tree))

    def snapshots(self, of: str, limit: int = 100) -> list[SnapshotRecord]:
        """Returns the newest snapshots that a branch or a snapshot descends from, newest first. One row each."""
        return self.store.read(lambda tx: finding.line(tx, of, limit))

    def label(self, snapshot: str, label: str) -> None:
        """Names a snapshot. A label is unique in its tree and moves to where it was put last.

        Raises:
            SnapshotUnknown: There is none, or it was collected.
            InvalidInput: The label is empty, too long, or looks like an id.
        """
        self.store.write(lambda tx: marks.set_label(tx, snapshot, label))

    def unlabel(self, tree: str, label: str) -> None:
        """Takes a label away.

        Raises:
            NotFound: The tree has none such.
        """
        self.store.write(lambda tx: marks.remove_label(tx, tree, label))

    def labels(self, tree: str) -> dict[str, SnapshotId]:
        """Returns the labels of a tree, and what each names."""
        return self.store.read(lambda tx: marks.labels_of_tree(tx, tree))

    def pin(self, snapshot: str, holder: str, *, ttl_s: float | None = None) -> None:
        """Keeps a snapshot, and all that it descends from, from being collected.

        Args:
            snapshot: Its id.
            holder: Who needs it; one pin for each holder, and a second call renews it.
            ttl_s: After how many seconds the pin ends by itself; None for never.

        Raises:
            SnapshotUnknown: There is none, or it was collected.
        """
        self.store.write(lambda tx: marks.pin(tx, snapshot, holder, ttl_s))

    def unpin(self, snapshot: str, holder: str) -> None:
        """Lets a snapshot go; nothing happens where the holder had no pin."""
        self.store.write(lambda tx: marks.unpin(tx, snapshot, holder))

    # -- ends

    def commit(
        self,
        branch: str,
        world: World | None = None,
        *,
        overwrite: bool = False,
        epoch: int | None = None,
        parent_epoch: int | None = None,
        flushed: bool = True,
        within: Within | None = None,
    ) -> Committed:
        """Makes the parent what the branch is: a compare-and-set of the parent's head. Of many, exactly one wins.

        Args:
            branch: The id of an open branch that has a parent.
            world: Its world now, sealed first; that of its head by default.
            overwrite: Commit even where the parent has moved. What it had become is left behind, and stays named by
                the new head's `other`.
            epoch: The caller's claim on the branch.
            parent_epoch: Its claim on the parent; without one, the parent is taken over from whoever writes to it.
            flushed: Whether the files of `world` are on the disk.
            within: See `Within`.

        Raises:
            BranchStale: The parent has moved. The branch is as it was, `details["moved_by"]` says who was first.
            BranchUnknown, BranchClosed, BranchTaken: Of the branch, or of its parent.
            WrongState: The branch is a root.
        """
        text = None if world is None else written(world)
        step = committing.overwrite if overwrite else committing.commit
        flushing = None if flushed else self._here

        def work(tx: Transaction) -> Committed:
            done = step(tx, branch, text, epoch, parent_epoch, flushing)
            if within is not None:
                within(tx)
            return done

        return self.store.write(work)

    def record_merge(
        self,
        branch: str,
        world: World,
        parents: tuple[str, str],
        *,
        epoch: int | None = None,
        parent_epoch: int | None = None,
        flushed: bool = True,
        within: Within | None = None,
    ) -> Committed:
        """Commits a branch whose parent has moved, with a world that joins both.

        In the log, ours come first with the numbers they had, then theirs since the branch was forked, each marked
        with its origin.

        Args:
            branch: The id of an open branch that has a parent.
            world: The merged world.
            parents: The parent's head and the branch's, from which it was computed.
            epoch: The caller's claim on the branch.
            parent_epoch: As in `commit`.
            flushed: Whether the files of `world` are on the disk.
            within: See `Within`.

        Raises:
            BranchStale: One of the two has moved since. Merge again.
            BranchUnknown, BranchClosed, BranchTaken: Of the branch, or of its parent.
            WrongState: The branch is a root.
        """
        text = written(world)
        flushing = None if flushed else self._here

        def work(tx: Transaction) -> Committed:
            done = committing.merge(tx, branch, text, parents, epoch, parent_epoch, flushing)
            if within is not None:
                within(tx)
            return done

        return self.store.write(work)

    def abort(self, branch: str, *, epoch: int | None = None) -> list[BranchId]:
        """Ends a branch and all open ones below it. What they did is seen nowhere, and can be read until collected.

        Returns:
            What was ended, the branch first; none where it was aborted before.

        Raises:
            BranchUnknown, BranchClosed, BranchTaken: Nothing was changed.
        """
        return self.store.write(lambda tx: committing.abort(tx, branch, epoch))

    def finish(self, root: str, *, epoch: int | None = None) -> None:
        """Ends a root branch as done, so that retention may let it go one day.

        Raises:
            WrongState: It has a parent.
            BranchUnknown, BranchClosed, BranchTaken: Nothing was changed.
        """
        self.store.write(lambda tx: committing.finish(tx, root, epoch))

    # -- what is kept

    def mark_flushed(self, *snapshots: str) -> None:
        """Records that the files of snapshots are on the disk."""
        self.store.write(lambda tx: recovery.mark_flushed(tx, snapshots))

    def unflushed(self) -> list[SnapshotId]:
        """Lists the snapshots of this boot of this host whose files may not be on the disk yet."""
        return recovery.unflushed_here(self.store, self._here)

    def recover(self) -> Recovered:
        """After a power cut of this host, moves every branch back to the newest point that is on the disk.

        A commit whose files were lost has not happened: its branch is open again. Call it before anything is spawned;
        it costs one query where there was no power cut.
        """
        return recovery.recover(self.store, self._here)

    def reachable(self) -> Iterator[tuple[SnapshotId, dict[str, Any] | None]]:
        """Yields each snapshot that a branch, a label or a pin reaches and that can be started from, with its world;
        with None where that cannot be read.
        """
        return retention.reachable(self.store)

    def worlds(self) -> Iterator[tuple[SnapshotId, dict[str, Any] | None]]:
        """Yields every snapshot that has a world, whether anything reaches it or not, with it; with None where that
        cannot be read.
        """
        return ((SnapshotId(snapshot), world) for snapshot, world in retention.worlds(self.store))

    def collect(self, keep: Retention | None = None, *, names: Names) -> Collected:
        """Removes what nothing reaches, in small transactions; killed at any moment, the next call goes on.

        Args:
            keep: What to leave: `Retention()` by default.
            names: Gives the names of what a world needs on disk.

        Returns:
            What was removed, and what is to be removed from disk now: tell `released` when it is.
        """
        return retention.collect(self.store, keep or Retention(), names)

    def foreseen(self, keep: Retention | None = None, *, names: Names) -> Collected:
        """Returns what `collect` would remove now, entries not counted. Removes nothing."""
        return retention.foreseen(self.store, keep or Retention(), names)

    def released(self, resources: Iterable[str]) -> None:
        """Forgets resources that `collect` named, once they are removed from disk."""
        gone = list(resources)
        self.store.write(lambda tx: retention.released(tx, gone))

    def export(self, snapshot: str) -> Iterator[str]:
        """Yields a snapshot's world and log as lines of JSON, without line ends; the last has their digest.

        Raises:
            SnapshotUnknown: There is none, or it was collected.
        """
        return transfer.export(self.store, snapshot)

    def import_snapshot(
        self, lines: Iterable[str], *, world: World | None = None, goal: str = "", name: str = "imported"
    ) -> BranchRecord:
        """Makes a new tree of what `export` gave, once its digest has been checked.

        Args:
            lines: As `export` yields them.
            world: What to record in place of the world in them, where its files got other names here.
            goal: What the tree is for.
            name: What to call its root.

        Raises:
            InvalidInput: The lines are not whole; nothing was imported.
        """
        marks.checked_name(name, "name")
        marks.checked_goal(goal)
        branch = transfer.receive(self.store, lines, world, goal, name)
        return self.get(branch)

    def _sealed(self, tx: Transaction, row: BranchRow, world: str | None, flushed: bool) -> BranchRow:
        if world is None and not row.dirty:
            return row
        after, _ = committing.seal(tx, row, world, None if flushed else self._here)
        if after is not row:
            update_branch(tx, after)
        return after


def _forked(parent: BranchRow, base: str, seq: int, name: str, branch: BranchId) -> BranchRow:
    return parent._replace(
        id=branch,
        parent=parent.id,
        name=name,
        goal="",
        status=OPEN,
        epoch=0,
        head=base,
        sealed=seq,
        next=SnapshotId.new(),
        tail=seq,
        base=base,
        base_seq=seq,
        result=None,
        created=time.time(),
        closed=None,
    )


def _stale(row: BranchRow) -> BranchStale:
    return BranchStale(
        f"branch {row.id} is stale: its parent has moved since the fork",
        hint="Stop its work; merge() or abort() it.",
        details={"branch": row.id, "parent": row.parent, "base": row.base},
    )


def _other_tree(snapshot: str, row: BranchRow) -> SnapshotUnknown:
    return SnapshotUnknown(
        f"tree {row.tree} has no snapshot {snapshot}",
        hint="export() and import_snapshot() bring a snapshot into another tree.",
        details={"snapshot": snapshot, "tree": row.tree},
    )
