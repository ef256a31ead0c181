"""Branches and snapshots, found by whatever a person or a program calls them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import bindparam, func, select

from kibo.branch import marks
from kibo.branch.records import BranchRecord, SnapshotRecord, unreadable
from kibo.branch.rows import WITH_PARENT, branch_record, read_snapshot, snapshot_record
from kibo.model.errors import BranchUnknown, SnapshotUnknown
from kibo.model.ids import ID_HEX_DIGITS, BranchId, Id, SnapshotId
from kibo.store import fencing
from kibo.store.database import Transaction
from kibo.store.fencing import OPEN
from kibo.store.prepared import Prepared, Row
from kibo.store.schema import branches, snapshots

#: How many candidates an error shows where a name is not unique.
_SHOWN: Final = 5

_OLDEST: Final = (branches.c.created, branches.c.id)
_BY_ID: Final = Prepared(WITH_PARENT.where(branches.c.id == bindparam("called")))
_BY_PREFIX: Final = Prepared(
    WITH_PARENT.where(branches.c.id >= bindparam("low"), branches.c.id < bindparam("high")).limit(_SHOWN)
)
_BY_NAME: Final = Prepared(
    WITH_PARENT.where(branches.c.name == bindparam("called")).order_by(*_OLDEST).limit(_SHOWN)
)
_CHILDREN: Final = Prepared(WITH_PARENT.where(branches.c.parent == bindparam("of")).order_by(*_OLDEST))
_TREE: Final = Prepared(
    WITH_PARENT.where(branches.c.tree == bindparam("of")).order_by(branches.c.parent.is_not(None), *_OLDEST)
)
_PER_STATUS: Final = Prepared(select(branches.c.status, func.count()).group_by(branches.c.status))
_ROOTS: Final = Prepared(WITH_PARENT.where(branches.c.parent.is_(None)).order_by(*_OLDEST))
_SNAPSHOTS_BY_PREFIX: Final = Prepared(
    select(snapshots.c.id)
    .where(
        snapshots.c.id >= bindparam("low"), snapshots.c.id < bindparam("high"), snapshots.c.state != "doomed"
    )
    .limit(_SHOWN)
)


def branch(tx: Transaction, ref: str) -> BranchRecord:
    """Finds a branch by id, unique name, or unique beginning of an id; see `History.get`."""
    found = _branches_called(tx, ref)
    if len(found) != 1:
        raise BranchUnknown(
            f"{'several branches are' if found else 'no branch is'} called {ref!r}",
            hint=_which([row[0] for row in found]) or "`kibo tree` lists what there is.",
            details={"branch": ref, "candidates": [row[0] for row in found]},
        )
    return branch_record(found[0])


def _branches_called(tx: Transaction, ref: str) -> list[Row]:
    if not marks.storable(ref):
        return []
    found = tx.rows(_BY_ID, called=ref)
    # A name before digits alone, or somebody's branch "b" would be whichever id begins so.
    if not found and ref:
        found = tx.rows(_BY_NAME, called=ref)
    if not found and (bounds := _bounds(ref, BranchId)):
        found = tx.rows(_BY_PREFIX, low=bounds[0], high=bounds[1])
    return found


def children(tx: Transaction, parent: str) -> list[BranchRecord]:
    """Returns the branches forked from one, oldest first."""
    fencing.find(tx, parent)
    return [branch_record(row) for row in tx.rows(_CHILDREN, of=parent)]


def tree(tx: Transaction, root: str) -> list[BranchRecord]:
    """Returns all branches of a tree, its root first, then oldest first."""
    return [branch_record(row) for row in tx.rows(_TREE, of=root)]


def counts(tx: Transaction) -> dict[str, int]:
    """Counts branches by what their status says."""
    return {row[0]: row[1] for row in tx.rows(_PER_STATUS)}


def roots(tx: Transaction) -> list[BranchRecord]:
    """Returns all branches without a parent, oldest first."""
    return [branch_record(row) for row in tx.rows(_ROOTS)]


def open_from(tx: Transaction, start: str) -> str | None:
    """Returns the nearest open branch, from one upwards, or None."""
    at: str | None = start
    passed = set[str]()
    while at is not None and at not in passed:
        passed.add(at)
        try:
            row = fencing.lock(tx, at)
        except BranchUnknown:
            return None  # collected; so are those above it
        if row.status == OPEN:
            return at
        at = row.parent
    return None  # all are closed, or, damaged, they lead back to where they began


def snapshot(tx: Transaction, name: str) -> SnapshotRecord:
    """Returns a snapshot by id, with its labels."""
    return snapshot_record(read_snapshot(tx, name), marks.labels_of(tx, name))


def snapshot_called(tx: Transaction, ref: str, in_tree: str | None) -> SnapshotRecord:
    """Finds a snapshot by id, beginning of an id, branch or label; see `History.find_snapshot`."""
    if ref.startswith(BranchId.prefix):
        return snapshot(tx, branch(tx, ref).head)
    storable = marks.storable(ref)
    candidates = [name for where, name in marks.labelled(tx, ref) if in_tree is None] if storable else []
    if in_tree is not None:
        named = marks.labels_of_tree(tx, in_tree).get(ref)
        candidates = [named] if named else []
    if not candidates and (bounds := _bounds(ref, SnapshotId)):
        candidates = [name for (name,) in tx.rows(_SNAPSHOTS_BY_PREFIX, low=bounds[0], high=bounds[1])]
    if len(candidates) != 1:
        raise SnapshotUnknown(
            f"{'several snapshots are' if candidates else 'no snapshot is'} called {ref!r}",
            hint=_which(candidates) or "It may have been collected.",
            details={"snapshot": ref, "candidates": candidates},
        )
    return snapshot(tx, candidates[0])


def line(tx: Transaction, of: str, limit: int) -> list[SnapshotRecord]:
    """Returns snapshots from a branch's head, or from a snapshot, towards the root."""
    at: Any = fencing.find(tx, of).head if of.startswith(BranchId.prefix) else of
    found: list[SnapshotRecord] = []
    passed: set[str] = set()
    while at is not None and len(found) < limit:
        if at in passed:
            raise unreadable(at, ValueError("it descends from itself"))
        passed.add(at)
        found.append(snapshot(tx, at))
        at = found[-1].parent
    return found


def _which(candidates: list[str]) -> str:
    return f"Give more of the id: {', '.join(candidates)}." if candidates else ""


def _bounds(ref: str, kind: type[Id]) -> tuple[str, str] | None:
    """The ids that begin so lie between the two: ``g`` follows the last hex digit."""
    digits = ref.removeprefix(kind.prefix)
    if not 0 < len(digits) <= ID_HEX_DIGITS or set(digits) - set("0123456789abcdef"):
        return None
    low = kind.prefix + digits
    return low, low + "g"
