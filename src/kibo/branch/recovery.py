"""After a power cut: each branch goes back to what was on the disk, entirely.

A snapshot may be recorded before its files are flushed, with the host's name and its boot. As long as that boot lasts,
the files are in the page cache, whatever process was killed; under another boot they may be torn. So every head that
rests on such a snapshot moves back to the newest one that does not; and where a commit made the head, to where the
parent was before the commit: half a commit is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, delete, select, update

from kibo.branch.rows import Flushing, update_branch
from kibo.effects import ledger
from kibo.effects.sessions import versions
from kibo.model.errors import StoreDamaged
from kibo.model.ids import BranchId, SnapshotId
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.fencing import COMMITTED, OPEN, BranchRow
from kibo.store.prepared import Prepared
from kibo.store.schema import branches, labels, pins, snapshots, unflushed


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a power cut took.

    Attributes:
        lost: Snapshots whose files were not on the disk.
        moved: Branches whose head went back.
        reopened: Branches whose commit has not happened after all.
        labels: Names of lost snapshots, which are gone with them, as ``tree/label``.
        damaged: Why branches of a tree did not go back: a row of it is damaged. They rest on what is marked as lost.
    """

    lost: tuple[SnapshotId, ...] = ()
    moved: tuple[BranchId, ...] = ()
    reopened: tuple[BranchId, ...] = ()
    labels: tuple[str, ...] = ()
    damaged: tuple[StoreDamaged, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """A snapshot as recovery sees it."""

    parent: str | None
    other: str | None
    kind: str
    seq: int


_FLUSHED: Final = Prepared(delete(unflushed).where(unflushed.c.snapshot == bindparam("what")))
_UNFLUSHED: Final = Prepared(
    select(unflushed.c.snapshot).where(
        unflushed.c.host == bindparam("host"), unflushed.c.boot == bindparam("boot")
    )
)
_SUSPECT: Final = (
    select(snapshots.c.tree, snapshots.c.id)
    .join_from(unflushed, snapshots, snapshots.c.id == unflushed.c.snapshot)
    .where(unflushed.c.host == bindparam("host"), unflushed.c.boot != bindparam("boot"))
)
_SUSPECTS: Final = Prepared(_SUSPECT, checked=False)
_OF_TREE: Final = Prepared(_SUSPECT.where(snapshots.c.tree == bindparam("tree")), checked=False)
_BRANCHES: Final = Prepared(
    select(*branches.columns)
    .where(branches.c.tree == bindparam("tree"))
    .order_by(branches.c.id)
    .with_for_update()
)
_POINTS: Final = Prepared(
    select(snapshots.c.id, snapshots.c.parent, snapshots.c.other, snapshots.c.kind, snapshots.c.seq).where(
        snapshots.c.tree == bindparam("tree")
    )
)
_LOSE: Final = Prepared(
    update(snapshots)
    .where(snapshots.c.id == bindparam("what"), snapshots.c.state == "whole")
    .values(state="lost")
)
_NAMED: Final = Prepared(
    select(labels.c.tree, labels.c.label).where(labels.c.snapshot == bindparam("what")), checked=False
)
_UNLABEL: Final = Prepared(delete(labels).where(labels.c.snapshot == bindparam("what")))
_UNPIN: Final = Prepared(delete(pins).where(pins.c.snapshot == bindparam("what")))


def mark_flushed(tx: Transaction, found: tuple[str, ...]) -> None:
    """Records that the files of snapshots are on the disk."""
    for snapshot in found:
        tx.run(_FLUSHED, what=snapshot)
    crash.point("flush.before_commit")


def unflushed_here(store: Store, here: Flushing) -> list[SnapshotId]:
    """Lists the snapshots of this boot of this host whose files may not be on the disk yet."""
    return [SnapshotId(name) for (name,) in store.read(lambda tx: tx.rows(_UNFLUSHED, **here._asdict()))]


def recover(store: Store, here: Flushing) -> Recovered:
    """Moves every branch back to what survived; see `History.recover`."""
    suspects = store.read(lambda tx: tx.rows(_SUSPECTS, **here._asdict()))
    total = Recovered()
    for tree in sorted({row[0] for row in suspects}, key=repr):  # damaged ones may be of any type
        part = store.write(lambda tx, tree=tree: _recover_tree(tx, tree, here))  # type: ignore[misc]
        total = Recovered(
            total.lost + part.lost,
            total.moved + part.moved,
            total.reopened + part.reopened,
            total.labels + part.labels,
            total.damaged + part.damaged,
        )
    return total


def _recover_tree(tx: Transaction, tree: str, here: Flushing) -> Recovered:
    lost = {name for _, name in tx.rows(_OF_TREE, tree=tree, **here._asdict())}
    damaged: tuple[StoreDamaged, ...] = ()
    try:
        rows = {row[0]: BranchRow._make(row) for row in tx.rows(_BRANCHES, tree=tree)}
        points = {name: Point(*rest) for name, *rest in tx.rows(_POINTS, tree=tree)}
    except StoreDamaged as error:
        # Nobody can tell where its branches were. They stay, and nothing starts from what is lost.
        rows, points, damaged = {}, {}, (error,)
    moved, reopened = [], []
    for row in settled(rows, points, lost):
        before = rows[row.id]
        if row != before:
            update_branch(tx, row)
            moved += [BranchId(row.id)] if row.head != before.head else []
            reopened += [BranchId(row.id)] if row.status != before.status else []
    within = {branch: _committed_into([branch], rows) for branch in reopened}
    # The innermost last: what was committed into one that is open again stands there.
    for branch in sorted(within, key=lambda each: -len(within[each])):
        for origin in within[branch]:
            ledger.undo(tx, origin, branch, "a power cut took the commit that released it")
            versions.undo(tx, origin)
    names: list[str] = []
    for snapshot in sorted(lost, key=repr):
        names += [f"{where}/{label}" for where, label in tx.rows(_NAMED, what=snapshot)]
        for statement in (_UNLABEL, _UNPIN, _FLUSHED, _LOSE):
            tx.run(statement, what=snapshot)
    crash.point("recover.before_commit")
    gone = tuple(map(SnapshotId, sorted(lost, key=repr)))
    return Recovered(gone, tuple(moved), tuple(reopened), tuple(names), damaged)


def _committed_into(reopened: Sequence[str], rows: Mapping[str, BranchRow]) -> list[str]:
    """Lists branches, those that were committed into them, and so on down."""
    below: dict[str, list[str]] = {}
    for row in rows.values():
        if row.status == COMMITTED and row.parent is not None:
            below.setdefault(row.parent, []).append(row.id)
    found, waiting = list(reopened), list(reopened)
    while waiting:
        more = below.pop(waiting.pop(), [])
        found += more
        waiting += more
    return found


def settled(rows: Mapping[str, BranchRow], points: Mapping[str, Point], lost: set[str]) -> list[BranchRow]:
    """Returns each branch of a tree as it is once what is lost is gone. Decides, and writes nothing."""
    results: dict[str, dict[str, BranchRow]] = {}
    for row in rows.values():
        if row.parent is not None and row.result is not None:
            results.setdefault(row.parent, {})[row.result] = row
    found = []
    for row in rows.values():
        head = _survivor(row.head, row.id, points, lost, results)
        base = row.base and _survivor(row.base, row.parent or "", points, lost, results)
        changed = row._replace(
            base=base, base_seq=points[base].seq if base and base in points else row.base_seq
        )
        if head != row.head:
            seq = points[head].seq
            changed = changed._replace(
                head=head, sealed=seq, tail=seq, next=SnapshotId.new(), epoch=row.epoch + 1
            )
        parent = rows.get(row.parent or "")
        if row.status == COMMITTED and row.result in lost and parent is not None:
            now = _survivor(parent.head, parent.id, points, lost, results)
            if not _on_line(row.result, now, points):
                changed = changed._replace(status=OPEN, result=None, closed=None, epoch=row.epoch + 1)
        found.append(changed)
    return found


def _survivor(
    head: str,
    branch: str,
    points: Mapping[str, Point],
    lost: set[str],
    results: Mapping[str, Mapping[str, BranchRow]],
) -> str:
    """Walks back from a head to the newest snapshot that is on the disk, over whole commits."""
    commits = results.get(branch, {})
    at, passed = head, set[str]()
    # A damaged line may lead back to itself; what is on it is lost then.
    while at in lost and at not in passed:
        passed.add(at)
        point = points[at]
        child = commits.get(at)
        if point.kind == "overwrite" and point.other in points:
            at = str(point.other)
        elif child is not None and point.kind not in ("merge", "overwrite") and child.base is not None:
            at = child.base
        elif point.parent is not None:
            at = point.parent
        else:
            break  # a root: it has no files to lose
    return at


def _on_line(snapshot: str | None, head: str, points: Mapping[str, Point]) -> bool:
    at: str | None = head
    passed = set[str | None]()
    while at is not None and at != snapshot and at not in passed:
        passed.add(at)
        at = points[at].parent if at in points else None
    return at is not None and at == snapshot
