"""Taking hold of one branch for writing: the row is locked, and who may not write is refused, in the same transaction.

A writer claims a branch and gets an *epoch*, a number that grows with each claim. What it writes carries its epoch;
once another has claimed the branch, or it was committed or aborted, the older writer changes nothing any more, however
late its write arrives.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import bindparam, select

from kibo.model.errors import BranchClosed, BranchTaken, BranchUnknown
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import branches

OPEN: Final = "open"
COMMITTED: Final = "committed"
ABORTED: Final = "aborted"


class BranchRow(NamedTuple):
    """One row of `branches`, column by column; see the table."""

    id: str
    tree: str
    parent: str | None
    name: str
    goal: str
    status: str
    epoch: int
    head: str
    sealed: int
    next: str
    tail: int
    base: str | None
    base_seq: int
    result: str | None
    created: float
    closed: float | None

    @property
    def dirty(self) -> bool:
        """Whether it has entries that no snapshot has sealed."""
        return self.tail != self.sealed


_ROW: Final = select(*branches.columns).where(branches.c.id == bindparam("id"))
_HOLD: Final = Prepared(_ROW.with_for_update())
_READ: Final = Prepared(_ROW)


def find(tx: Transaction, branch: str) -> BranchRow:
    """Reads a branch without locking it.

    Raises:
        BranchUnknown: There is none, or it was collected.
    """
    return _made(tx.row(_READ, id=branch), branch)


def hold(tx: Transaction, branch: str, epoch: int | None = None) -> BranchRow:
    """Locks an open branch until the transaction ends.

    Args:
        tx: A writing transaction.
        branch: Its id.
        epoch: The writer's claim; None where the caller has none and takes part in no race.

    Raises:
        BranchUnknown: There is none, or it was collected.
        BranchClosed: It was committed or aborted.
        BranchTaken: Another writer has claimed it since.
    """
    row = lock(tx, branch)
    if row.status != OPEN:
        raise closed(row)
    if epoch is not None and epoch != row.epoch:
        raise taken(row, epoch)
    return row


def lock(tx: Transaction, branch: str) -> BranchRow:
    """Locks a branch in any state until the transaction ends.

    Raises:
        BranchUnknown: There is none, or it was collected.
    """
    return _made(tx.row(_HOLD, id=branch), branch)


def closed(row: BranchRow) -> BranchClosed:
    """Makes the error for a branch that can no longer be changed."""
    return BranchClosed(
        f"branch {row.id} was {row.status}",
        hint="It can be read. To go on from it, check out one of its snapshots as a new branch.",
        details={"branch": row.id, "status": row.status, "head": row.head},
    )


def taken(row: BranchRow, epoch: int) -> BranchTaken:
    """Makes the error for a writer whose claim is not the newest."""
    return BranchTaken(
        f"branch {row.id} is another writer's now",
        hint="Stop this one: what it would write belongs to nobody. Claim the branch again to take it back, "
        "or check out what it is now.",
        details={"branch": row.id, "epoch": epoch, "current_epoch": row.epoch},
    )


def _made(row: tuple[object, ...] | None, branch: str) -> BranchRow:
    if row is None:
        raise BranchUnknown(
            f"there is no branch {branch}",
            hint="It may have been collected; `kibo tree` lists what there is.",
            details={"branch": branch},
        )
    return BranchRow._make(row)
