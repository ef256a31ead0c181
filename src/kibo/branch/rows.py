"""Branches and snapshots as rows: the statements that read and write them, and what becomes of a row."""

from __future__ import annotations

import platform
from functools import cache
from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, update

from kibo.branch.records import BranchRecord, SnapshotRecord, read_world
from kibo.model.clock import boot
from kibo.model.errors import SnapshotUnknown, WrongState
from kibo.model.ids import BranchId, SnapshotId
from kibo.store.database import Transaction
from kibo.store.fencing import OPEN, BranchRow
from kibo.store.lineage import extend
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import branches, snapshots, unflushed


class SnapshotRow(NamedTuple):
    """One row of `snapshots`, column by column; see the table."""

    id: str
    tree: str
    branch: str
    kind: str
    parent: str | None
    other: str | None
    world: str | None
    entries: int
    seq: int
    near: bytes
    state: str
    created: float


class Flushing(NamedTuple):
    """Whose power cut would lose a snapshot that is not on the disk yet."""

    host: str
    boot: str


_MUTABLE: Final = "status epoch head sealed next tail base base_seq result closed".split()
_INSERT_BRANCH: Final = insertion(branches)
_UPDATE_BRANCH: Final = Prepared(
    update(branches)
    .where(branches.c.id == bindparam("branch"))
    .values({name: bindparam(name) for name in _MUTABLE})
)
_INSERT_SNAPSHOT: Final = insertion(snapshots)
_INSERT_UNFLUSHED: Final = insertion(unflushed)
_SNAPSHOT: Final = select(*snapshots.columns).where(
    snapshots.c.id == bindparam("id"), snapshots.c.state != "doomed"
)
_READ_SNAPSHOT: Final = Prepared(_SNAPSHOT)
_KEEP_SNAPSHOT: Final = Prepared(_SNAPSHOT.with_for_update(read=True))

_parent = branches.alias("parent")
#: A branch with what its status is derived from: where its parent is now.
WITH_PARENT: Final = select(
    *branches.columns, _parent.c.status, _parent.c.head, _parent.c.tail, _parent.c.sealed
).select_from(branches.outerjoin(_parent, _parent.c.id == branches.c.parent))


def insert_branches(tx: Transaction, rows: list[BranchRow]) -> None:
    """Writes new branches."""
    if len(rows) == 1:
        tx.run(_INSERT_BRANCH, **rows[0]._asdict())
    else:
        tx.run_all(_INSERT_BRANCH, [row._asdict() for row in rows])


def update_branch(tx: Transaction, row: BranchRow) -> None:
    """Writes what may change of a branch that the transaction holds."""
    tx.run(_UPDATE_BRANCH, branch=row.id, **{name: getattr(row, name) for name in _MUTABLE})


def insert_snapshot(tx: Transaction, row: SnapshotRow, flushing: Flushing | None) -> None:
    """Writes a new snapshot, and with `flushing` that its files are not on the disk yet."""
    tx.run(_INSERT_SNAPSHOT, **row._asdict())
    if flushing is not None:
        tx.run(_INSERT_UNFLUSHED, snapshot=row.id, **flushing._asdict())


def read_snapshot(tx: Transaction, snapshot: str) -> SnapshotRow:
    """Reads a snapshot.

    Raises:
        SnapshotUnknown: There is none, or it is being collected.
    """
    return _found(tx.row(_READ_SNAPSHOT, id=snapshot), snapshot)


def keep_snapshot(tx: Transaction, snapshot: str) -> SnapshotRow:
    """Reads a snapshot that this transaction is about to refer to: the collector waits until it has.

    Raises:
        SnapshotUnknown: There is none, or it is being collected.
        WrongState: Its files are gone.
    """
    row = _found(tx.row(_KEEP_SNAPSHOT, id=snapshot), snapshot)
    if row.state != "whole":
        why = "retention let its files go" if row.state == "thinned" else "a power cut took its files"
        raise WrongState(
            f"nothing can start from snapshot {snapshot}: {why}",
            hint="Its log can be read. Start from a newer one, or from a flushed one before it.",
            details={"snapshot": snapshot, "state": row.state, "parent": row.parent},
        )
    return row


def sealed(
    row: BranchRow, head: SnapshotRow, world: str, now: float, position: int
) -> tuple[BranchRow, SnapshotRow]:
    """Returns a branch and its new head, once its open segment, at `position`, is sealed. Writes nothing."""
    count = row.tail - row.sealed
    made = SnapshotRow(
        id=row.next,
        tree=row.tree,
        branch=row.id,
        kind="turn",
        parent=row.head,
        other=None,
        world=world,
        entries=count,
        seq=row.tail,
        near=extend(head.near, row.next, count, position),
        state="whole",
        created=now,
    )
    return row._replace(head=made.id, sealed=row.tail, next=SnapshotId.new()), made


def branch_record(row: Row) -> BranchRecord:
    """Makes the record of a row of `WITH_PARENT`."""
    own = BranchRow._make(row[:-4])
    status, head, tail, sealed_seq = row[-4:]
    moved = own.parent is not None and (status != OPEN or head != own.base or tail != sealed_seq)
    return BranchRecord(
        id=BranchId(own.id),
        tree=BranchId(own.tree),
        parent=None if own.parent is None else BranchId(own.parent),
        name=own.name,
        goal=own.goal,
        status="stale" if moved and own.status == OPEN else own.status,  # type: ignore[arg-type]  # of the table
        epoch=own.epoch,
        head=SnapshotId(own.head),
        base=_snapshot_id(own.base),
        seq=own.tail,
        unsealed=own.tail - own.sealed,
        result=_snapshot_id(own.result),
        created_s=own.created,
        closed_s=own.closed,
    )


def fresh_record(row: BranchRow) -> BranchRecord:
    """Makes the record of a branch that this transaction forked: its parent is where it was."""
    return branch_record((*row, OPEN, row.base, 0, 0))


def snapshot_record(row: SnapshotRow, labels: tuple[str, ...] = ()) -> SnapshotRecord:
    """Makes the record of a snapshot."""
    return SnapshotRecord(
        id=SnapshotId(row.id),
        tree=BranchId(row.tree),
        branch=BranchId(row.branch),
        kind=row.kind,  # type: ignore[arg-type]  # of the table
        state=row.state,  # type: ignore[arg-type]  # of the table
        parent=_snapshot_id(row.parent),
        other=_snapshot_id(row.other),
        world=None if row.world is None else read_world(row.id, row.world),
        seq=row.seq,
        entries=row.entries,
        created_s=row.created,
        labels=labels,
    )


@cache
def this_boot() -> Flushing:
    """Names this host and its present boot: a killed process leaves the boot as it was, a power cut does not."""
    return Flushing(platform.node() or "localhost", boot())


def _snapshot_id(value: str | None) -> SnapshotId | None:
    return None if value is None else SnapshotId(value)


def _found(row: Row | None, snapshot: str) -> SnapshotRow:
    if row is None:
        raise SnapshotUnknown(
            f"there is no snapshot {snapshot}",
            hint="It may have been collected; labels and pins keep snapshots.",
            details={"snapshot": snapshot},
        )
    return SnapshotRow._make(row)
