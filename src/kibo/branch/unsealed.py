"""What a branch had not sealed when its process was killed: undone, but for what the world outside had a part in.

Files and live state of its instances end with the process, back to the branch's head. So does all else that their code
has done since: what it sent, and that it handled what it got; whoever handles that next does so from the same state as
before. What was sent to them from outside stands, and so does what functions outside have handled. Decision 0042.
"""

from __future__ import annotations

import time
from typing import Final

from kibo.branch import committing
from kibo.branch.rows import Flushing, SnapshotRow, insert_branches, read_snapshot, update_branch
from kibo.hub.accepted import accepted
from kibo.model.ids import BranchId, SnapshotId
from kibo.store import crash
from kibo.store.database import Transaction
from kibo.store.fencing import ABORTED, BranchRow
from kibo.store.lineage import segment_of
from kibo.store.log import MAX_PAGE, Entry, following_in, insert_copies, with_free_segment

#: What the fork is called that has what was undone.
UNSEALED: Final = "unsealed"
#: A world without instances: nothing that a crash undoes.
_EMPTY: Final = "{}"


def rewind(tx: Transaction, row: BranchRow, here: Flushing) -> SnapshotRow | None:
    """Takes a held branch with unsealed entries back to its head; see `History.rewind`.

    Args:
        tx: A transaction that holds the branch.
        row: The branch.
        here: Whose power cut would lose the head's files.

    Returns:
        The new head; None where it stays.
    """
    if read_snapshot(tx, row.head).world == _EMPTY:
        after, head = committing.seal(tx, row, None, here)
    else:
        stands = accepted(_unsealed(tx, row))
        now = time.time()
        insert_branches(tx, [_undone(row, now)])
        crash.point("rewind.before_head")
        after = row._replace(next=SnapshotId.new(), tail=row.sealed, epoch=row.epoch + 1)
        update_branch(tx, after)
        after = with_free_segment(tx, after)
        numbered = enumerate(stands, after.sealed + 1)
        insert_copies(
            tx,
            segment_of(after.next),
            [(seq, each.kind, each.body, each.at_s, each.origin) for seq, each in numbered],
        )
        after, head = committing.seal(tx, after._replace(tail=after.sealed + len(stands)), None, here)
    update_branch(tx, after)
    crash.point("rewind.before_commit")
    return head if head.id != row.head else None


def _unsealed(tx: Transaction, row: BranchRow) -> list[Entry]:
    found: list[Entry] = []
    while row.sealed + len(found) < row.tail:
        found += following_in(tx, row.id, row.sealed + len(found), MAX_PAGE)
    return found


def _undone(row: BranchRow, now: float) -> BranchRow:
    """Returns the aborted fork that has the branch's unsealed entries."""
    return row._replace(
        id=BranchId.new(),
        parent=row.id,
        name=UNSEALED,
        goal="",
        status=ABORTED,
        epoch=0,
        base=row.head,
        base_seq=row.sealed,
        result=None,
        created=now,
        closed=now,
    )
