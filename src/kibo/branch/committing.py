"""How a branch ends: its world becomes its parent's, at once and entirely, or is left where it is.

Rows are locked from a branch to its parent, never the other way, so that two commits cannot wait for each other.
"""

from __future__ import annotations

import functools
import time
from typing import Final

from sqlalchemy import bindparam, func, insert, or_, select, update

from kibo.branch.records import BranchRecord, Committed
from kibo.branch.rows import (
    Flushing,
    SnapshotRow,
    insert_snapshot,
    keep_snapshot,
    read_snapshot,
    sealed,
    update_branch,
)
from kibo.effects import ledger
from kibo.effects.records import Effect
from kibo.effects.sessions import versions
from kibo.model.errors import BranchStale, WrongState
from kibo.model.ids import BranchId, SnapshotId
from kibo.store import crash, fencing
from kibo.store.database import Transaction
from kibo.store.fencing import ABORTED, COMMITTED, OPEN, BranchRow
from kibo.store.lineage import NEAR, extend, segment_of
from kibo.store.log import Lineage, position_of, with_free_segment
from kibo.store.prepared import Prepared
from kibo.store.schema import branches, entries, snapshots

#: Stands for a claim that the caller does not have: it takes the parent over from whoever has it.
_NO_CLAIM: Final = -1
#: The compare-and-set that decides every race. A parent with entries of its own since its head has moved, too.
_SWAP: Final = Prepared(
    update(branches)
    .where(
        branches.c.id == bindparam("parent_id"),
        branches.c.status == OPEN,
        branches.c.head == bindparam("expected"),
        branches.c.tail == branches.c.sealed,
        or_(bindparam("claim") == _NO_CLAIM, branches.c.epoch == bindparam("claim")),
    )
    .values(
        head=bindparam("new_head"),
        sealed=bindparam("seq"),
        tail=bindparam("seq"),
        epoch=branches.c.epoch + bindparam("taken"),
    )
)
_MAKER: Final = Prepared(select(snapshots.c.branch).where(snapshots.c.id == bindparam("id")))
_CHILDREN: Final = Prepared(
    select(branches.c.id, branches.c.status).where(branches.c.parent == bindparam("parent_id"))
)


def seal(
    tx: Transaction, row: BranchRow, world: str | None, flushing: Flushing | None, *, anew: bool = False
) -> tuple[BranchRow, SnapshotRow]:
    """Seals what a held branch has done since its head; a turn that changed nothing makes no snapshot.

    Args:
        tx: A transaction that holds the branch.
        row: The branch.
        world: Its world now; None for that of its head.
        flushing: Given where the world's files are not on the disk yet.
        anew: Whether to make one in any case.

    Returns:
        The branch, not written yet, and its head.
    """
    head = read_snapshot(tx, row.head)
    if world is None:
        world = keep_snapshot(tx, row.head).world
    if not row.dirty and world == head.world and not anew:
        return row, head
    position = position_of(tx, row.next, row.tail, row.tail - row.sealed)
    row, made = sealed(row, head, world or "{}", time.time(), position)
    crash.point("snapshot.before_insert")
    insert_snapshot(tx, made, flushing)
    return row, made


def commit(
    tx: Transaction,
    branch: str,
    world: str | None,
    epoch: int | None,
    parent_epoch: int | None,
    flushing: Flushing | None,
) -> Committed:
    """Fast-forwards the parent to the branch, if it is still where the branch was forked.

    Raises:
        BranchStale: It is not. Nothing was changed, the branch is as it was.
    """
    row = fencing.hold(tx, branch, epoch)
    parent = parent_of(row)
    # What is released, or done, moves the parent, also where no file has: its siblings must not be able to add theirs.
    standing, saved = ledger.standing(tx, branch), versions.pending(tx, branch)
    row, head = seal(tx, row, world, flushing, anew=saved or bool(standing))
    crash.point("commit.before_swap")
    claim = _NO_CLAIM if parent_epoch is None else parent_epoch
    swap = {"parent_id": parent, "expected": row.base, "new_head": head.id, "seq": head.seq}
    if not tx.run(_SWAP, claim=claim, taken=int(parent_epoch is None), **swap):
        raise _refused(tx, row, fencing.lock(tx, parent), parent_epoch)
    crash.point("commit.before_close")
    _close(tx, row, head.id)
    effects = _settle(tx, row, fencing.find(tx, parent), standing) if saved or standing else ()
    crash.point("commit.before_commit")
    return Committed(
        BranchId(branch), BranchId(parent), SnapshotId(head.id), SnapshotId(row.base or ""), True, effects
    )


def overwrite(
    tx: Transaction,
    branch: str,
    world: str | None,
    epoch: int | None,
    parent_epoch: int | None,
    flushing: Flushing | None,
) -> Committed:
    """Makes the parent what the branch is, wherever it has gone meanwhile. What it was stays named by the new head."""
    row = fencing.hold(tx, branch, epoch)
    parent = _held(tx, parent_of(row), parent_epoch)
    standing, saved = ledger.standing(tx, branch), versions.pending(tx, branch)
    row, head = seal(tx, row, world, flushing, anew=saved or bool(standing))
    moved = parent.head != row.base or parent.dirty
    before = parent.head
    if moved:
        parent, theirs = seal(tx, parent, None, None)  # what it wrote since is part of what is overwritten
        before = theirs.id
        fresh = SnapshotId.new()
        head = head._replace(
            id=fresh,
            branch=parent.id,
            kind="overwrite",
            parent=head.id,
            other=before,
            entries=0,
            created=time.time(),
        )
        insert_snapshot(tx, head, flushing)
    crash.point("overwrite.before_swap")
    update_branch(tx, parent._replace(head=head.id, sealed=head.seq, tail=head.seq))
    crash.point("overwrite.before_close")
    _close(tx, row, head.id)
    effects = _settle(tx, row, parent, standing)
    crash.point("overwrite.before_commit")
    return Committed(
        BranchId(branch), BranchId(parent.id), SnapshotId(head.id), SnapshotId(before), not moved, effects
    )


def merge(
    tx: Transaction,
    branch: str,
    world: str,
    parents: tuple[str, str],
    epoch: int | None,
    parent_epoch: int | None,
    flushing: Flushing | None,
) -> Committed:
    """Records that the branch was merged into its parent: the merged world, and theirs' entries after ours.

    Raises:
        BranchStale: One of the two is no longer where the merge was computed from.
    """
    row = fencing.hold(tx, branch, epoch)
    parent = _held(tx, parent_of(row), parent_epoch)
    if (parent.head, row.head) != parents:
        raise BranchStale(
            f"branch {branch} or its parent went on while they were merged",
            hint="Merge again: from the heads as they are now.",
            details={"expected": list(parents), "actual": [parent.head, row.head]},
        )
    row, theirs = seal(tx, row, None, None)
    parent, ours = seal(tx, parent, None, None)
    count = row.tail - row.base_seq
    parent = with_free_segment(tx, parent)
    crash.point("merge.before_copy")
    _copy_entries(tx, row, segment_of(parent.next), parent.tail - row.base_seq)
    made = SnapshotRow(
        id=parent.next,
        tree=parent.tree,
        branch=parent.id,
        kind="merge",
        parent=ours.id,
        other=theirs.id,
        world=world,
        entries=count,
        seq=parent.tail + count,
        near=extend(ours.near, parent.next, count, position_of(tx, parent.next, parent.tail + count, count)),
        state="whole",
        created=time.time(),
    )
    insert_snapshot(tx, made, flushing)
    crash.point("merge.before_swap")
    update_branch(tx, parent._replace(head=made.id, sealed=made.seq, tail=made.seq, next=SnapshotId.new()))
    crash.point("merge.before_close")
    _close(tx, row, made.id)
    effects = _settle(tx, row, parent, ledger.standing(tx, branch))
    crash.point("merge.before_commit")
    return Committed(
        BranchId(branch), BranchId(parent.id), SnapshotId(made.id), SnapshotId(parents[0]), False, effects
    )


def abort(tx: Transaction, branch: str, epoch: int | None) -> list[BranchId]:
    """Closes a branch, and every open one that descends from it: they have nothing to commit into any more.

    Returns:
        What was closed, the branch first; none where it was aborted already.
    """
    row = fencing.lock(tx, branch)
    if row.status == ABORTED:
        return []
    waiting, met = [fencing.hold(tx, branch, epoch)], {branch}
    ended: list[BranchId] = []
    now = time.time()
    while waiting:
        row = waiting.pop()
        if row.status == OPEN:
            update_branch(tx, row._replace(status=ABORTED, epoch=row.epoch + 1, closed=now))
            ledger.drop(tx, row.id, "its branch was aborted", fork=row.parent is not None)
            versions.drop(tx, row.id)
            ended.append(BranchId(row.id))
            crash.point("abort.before_next")
        children = [child for child, _ in tx.rows(_CHILDREN, parent_id=row.id) if child not in met]
        met.update(children)
        waiting += [fencing.lock(tx, child) for child in children]
    crash.point("abort.before_commit")
    return ended


def finish(tx: Transaction, branch: str, epoch: int | None) -> None:
    """Closes a root branch as done."""
    row = fencing.hold(tx, branch, epoch)
    if row.parent is not None:
        raise WrongState(
            f"branch {branch} has a parent to commit into",
            hint="commit() or abort() it.",
            details={"branch": branch},
        )
    row, head = seal(tx, row, None, None)
    _close(tx, row, head.id)
    crash.point("finish.before_commit")


def _close(tx: Transaction, row: BranchRow, result: str) -> None:
    update_branch(tx, row._replace(status=COMMITTED, epoch=row.epoch + 1, result=result, closed=time.time()))


def _settle(
    tx: Transaction, row: BranchRow, parent: BranchRow, standing: tuple[Effect, ...]
) -> tuple[Effect, ...]:
    """What the branch did and was holding is the parent's now, and the latter may happen where that is a root."""
    released = parent.parent is None
    versions.settle(tx, row.id, parent.id, released=released)
    return ledger.settle(tx, row.id, parent.id, standing, released=released)


def _held(tx: Transaction, parent: str, epoch: int | None) -> BranchRow:
    """Locks a parent for a commit. One who has no claim on it takes it over: its writer knows nothing of the commit."""
    row = fencing.hold(tx, parent, epoch)
    return row._replace(epoch=row.epoch + (epoch is None))


def parent_of(row: BranchRow | BranchRecord) -> str:
    """Returns what a branch commits into.

    Raises:
        WrongState: It is a root.
    """
    if row.parent is None:
        raise WrongState(
            f"branch {row.id} is a root: there is nothing to commit it into",
            hint="apply() brings its files to the host's directories; commit() is for forks.",
            details={"branch": row.id},
        )
    return row.parent


def _refused(tx: Transaction, row: BranchRow, parent: BranchRow, epoch: int | None) -> Exception:
    if parent.status != OPEN:
        return fencing.closed(parent)
    if epoch is not None and epoch != parent.epoch:
        return fencing.taken(parent, epoch)
    maker = tx.row(_MAKER, id=parent.head)
    by = maker[0] if maker and parent.head != row.base else parent.id
    who = f"branch {by} committed first" if by != parent.id else "it went on itself"
    return BranchStale(
        f"branch {row.id} cannot be committed as it is: its parent has moved since the fork, {who}",
        hint="merge() or `kibo merge` joins the two, commit(overwrite=True) discards what the parent has become, "
        "abort() gives up.",
        details={
            "branch": row.id,
            "parent": parent.id,
            "base": row.base,
            "head": parent.head,
            "moved_by": by,
        },
    )


def _copy_entries(tx: Transaction, row: BranchRow, segment: int, shift: int) -> None:
    """Writes a branch's entries since its base into another segment, each marked with where it comes from."""
    first, last = row.base_seq + 1, row.tail
    # The oldest first, so that positions grow with numbers.
    segments = [each[0] for each in Lineage(tx, row.head).segments(range(first, last + 1))][::-1]
    for start in range(0, len(segments), NEAR):
        some = segments[start : start + NEAR]
        values = {f"s{number}": each for number, each in enumerate(some)}
        tx.run(
            _copying(len(some)), target=segment, shift=shift, writer=row.id, first=first, last=last, **values
        )


@functools.cache
def _copying(size: int) -> Prepared:
    table = entries.c
    query = (
        select(
            bindparam("target", type_=table.segment.type),
            table.seq + bindparam("shift"),
            table.kind,
            table.body,
            table.at,
            func.coalesce(table.origin, bindparam("writer", type_=table.origin.type)),
        )
        .where(
            table.segment.in_([bindparam(f"s{number}") for number in range(size)]),
            table.seq >= bindparam("first"),
            table.seq <= bindparam("last"),
        )
        .order_by(table.seq)
    )
    return Prepared(insert(entries).from_select(["segment", "seq", "kind", "body", "at", "origin"], query))
