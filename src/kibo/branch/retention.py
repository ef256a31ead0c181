"""Garbage collection by reachability: what nothing can reach any more goes, in steps that a crash may come between.

1. *Doom*, one transaction a tree: decide, and mark. From here nothing can start from what is doomed. What the doomed
   worlds name is written down as garbage in the same transaction.
2. *Sweep*, many small transactions: entries, snapshots, branches.
3. *Tell*: of the garbage, what no world names that is left. It is told again until the caller says that it is removed.

A branch that is about to start from a snapshot locks its row for sharing; dooming locks it for itself, and looks again
at who refers to it only then. So one of the two sees the other, and neither waits while files are removed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import bindparam, delete, func, insert, or_, select, update

from kibo.branch.reach import Decision, Node, Retention, decide
from kibo.hub import board
from kibo.model.ids import BranchId, SnapshotId
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.fencing import BranchRow
from kibo.store.lineage import segment_of
from kibo.store.prepared import Prepared
from kibo.store.schema import branches, entries, garbage, labels, pins, snapshots, unflushed

#: Entries that one transaction removes: a few milliseconds, for which other writers of the same file wait.
BATCH: Final = 1000

#: Gives the names of what a world needs on disk, such as its deltas. Raises ValueError where it cannot read the world:
#: what that names is not known, and nothing is told to be garbage as long as it is there.
Names = Callable[[dict[str, Any]], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection did.

    Attributes:
        branches: Those that are gone.
        snapshots: How many are gone.
        entries: How many are gone.
        thinned: Snapshots whose log stays and whose files go.
        resources: What no world names any more: to be removed from disk, then told to `History.released`.
        effects: How many of the ledger are gone.
    """

    branches: tuple[BranchId, ...]
    snapshots: int
    entries: int
    thinned: int
    resources: tuple[str, ...]
    effects: int = 0


_in_tree: Final[Any] = bindparam("tree")
_TREES: Final = Prepared(select(snapshots.c.tree).distinct())
#: What names trees and snapshots, and would keep nothing if it were damaged.
_KEEPERS: Final = (
    Prepared(select(branches.c.tree).distinct()),
    Prepared(select(labels.c.tree, labels.c.label)),
    Prepared(select(pins.c.snapshot, pins.c.holder)),
)
_BRANCHES: Final = Prepared(select(*branches.columns).where(branches.c.tree == _in_tree))
_NODES: Final = Prepared(
    select(snapshots.c.id, snapshots.c.parent, snapshots.c.state).where(snapshots.c.tree == _in_tree)
)
_LABELLED: Final = Prepared(select(labels.c.snapshot).where(labels.c.tree == _in_tree))
_PINNED: Final = Prepared(
    select(pins.c.snapshot)
    .join_from(pins, snapshots, snapshots.c.id == pins.c.snapshot)
    .where(snapshots.c.tree == _in_tree, or_(pins.c.expires.is_(None), pins.c.expires > bindparam("now")))
)
_EXPIRED_PINS: Final = Prepared(delete(pins).where(pins.c.expires <= bindparam("now")))
_UNFLUSHED: Final = Prepared(select(unflushed.c.snapshot))
_LOCK: Final = Prepared(
    select(snapshots.c.world, snapshots.c.state).where(snapshots.c.id == bindparam("id")).with_for_update()
)
_DOOM: Final = Prepared(update(snapshots).where(snapshots.c.id == bindparam("what")).values(state="doomed"))
_THIN: Final = Prepared(
    update(snapshots).where(snapshots.c.id == bindparam("what")).values(state="thinned", world=None)
)
_DOOMED: Final = Prepared(
    select(snapshots.c.id, snapshots.c.entries, snapshots.c.seq)
    .where(snapshots.c.tree == _in_tree, snapshots.c.state == "doomed")
    .limit(BATCH)
)
_DELETE_ENTRIES: Final = Prepared(
    delete(entries).where(
        entries.c.segment == bindparam("of"),
        entries.c.seq >= bindparam("first"),
        entries.c.seq <= bindparam("last"),
    )
)
_EXTENT: Final = Prepared(
    select(entries.c.seq)
    .where(
        entries.c.segment == bindparam("of"),
        entries.c.seq >= bindparam("first"),
        entries.c.seq <= bindparam("last"),
    )
    .order_by(entries.c.seq.desc())
    .limit(1)
)
_DELETE_SNAPSHOT: Final = Prepared(delete(snapshots).where(snapshots.c.id == bindparam("what")))
_DELETE_UNFLUSHED: Final = Prepared(delete(unflushed).where(unflushed.c.snapshot == bindparam("what")))
_DELETE_BRANCH: Final = Prepared(
    delete(branches).where(branches.c.id == bindparam("what"), branches.c.status != "open")
)
_KNOWN_GARBAGE: Final = Prepared(
    select(func.count()).select_from(garbage).where(garbage.c.resource == bindparam("name"))
)
_ADD_GARBAGE: Final = Prepared(insert(garbage).values(resource=bindparam("name")))
_DROP_GARBAGE: Final = Prepared(delete(garbage).where(garbage.c.resource == bindparam("name")))
_GARBAGE: Final = Prepared(select(garbage.c.resource).order_by(garbage.c.resource))
_WORLDS: Final = Prepared(
    select(snapshots.c.id, snapshots.c.world)
    .where(snapshots.c.id > bindparam("after"), snapshots.c.state != "doomed", snapshots.c.world.is_not(None))
    .order_by(snapshots.c.id)
    .limit(BATCH),
    checked=False,
)


def reachable(store: Store, now: float | None = None) -> Iterator[tuple[SnapshotId, dict[str, Any] | None]]:
    """Yields each snapshot that a living branch, a label or a pin reaches and that has a world, with it; see `worlds`.

    Closed branches count as long as they are there: what they reach goes with the next collection, not before.
    """
    everything = Retention(closed_s=float("inf"))
    wanted: set[str] = set()
    moment = time.time() if now is None else now
    for tree in store.read(_trees):
        wanted |= store.read(lambda tx, tree=tree: _decide(tx, tree, everything, moment)).reached  # type: ignore[misc]
    for snapshot, world in worlds(store):
        if snapshot in wanted:
            yield SnapshotId(snapshot), world


def collect(store: Store, keep: Retention, names: Names, now: float | None = None) -> Collected:
    """Removes what `keep` does not keep; see `History.collect`."""
    moment = time.time() if now is None else now
    store.write(lambda tx: tx.run(_EXPIRED_PINS, now=moment))
    gone: list[BranchId] = []
    counts = [0, 0, 0]
    for tree in store.read(_trees):
        before = store.read(lambda tx, tree=tree: _decide(tx, tree, keep, moment))  # type: ignore[misc]
        for branch in before.branches:
            removed = _remove_branch(store, tree, branch, keep, moment)
            if removed is not None:
                gone.append(BranchId(branch))
                counts[1] += removed
        if before.snapshots or before.worlds:
            counts[2] += store.write(lambda tx, tree=tree: _doom(tx, tree, keep, names, moment))  # type: ignore[misc]
        swept = _sweep(store, tree)
        counts[0] += swept[0]
        counts[1] += swept[1]
    return Collected(tuple(gone), counts[0], counts[1], counts[2], _unnamed(store, names))


def foreseen(store: Store, keep: Retention, names: Names, now: float | None = None) -> Collected:
    """Returns what `collect` would remove now, and removes nothing. Entries are not counted."""
    moment = time.time() if now is None else now
    gone: list[BranchId] = []
    dead: set[str] = set()
    thinned: set[str] = set()
    for tree in store.read(_trees):
        found = store.read(lambda tx, tree=tree: _decide(tx, tree, keep, moment))  # type: ignore[misc]
        gone += map(BranchId, found.branches)
        dead |= found.snapshots
        thinned |= found.worlds
    let_go = {name for (name,) in store.read(lambda tx: tx.rows(_GARBAGE))}
    named: set[str] = set()
    going = dead | thinned
    for snapshot, world in worlds(store):
        known = _named(world, names)
        if known is not None:
            (let_go if snapshot in going else named).update(known)
        elif snapshot not in going:
            let_go = set()
            break
    return Collected(tuple(gone), len(dead), 0, len(thinned), tuple(sorted(let_go - named)))


def released(tx: Transaction, resources: Iterable[str]) -> None:
    """Forgets garbage that has been removed from disk."""
    for name in resources:
        tx.run(_DROP_GARBAGE, name=name)
    crash.point("collect.before_forgetting")


def _trees(tx: Transaction) -> list[str]:
    """Returns the trees that have snapshots.

    Raises:
        StoreDamaged: A branch, a label or a pin is of none. What it reaches would be taken for unreachable.
    """
    for statement in _KEEPERS:
        tx.rows(statement)
    return [tree for (tree,) in tx.rows(_TREES)]


def _decide(tx: Transaction, tree: str, keep: Retention, now: float) -> Decision:
    rows = [BranchRow._make(row) for row in tx.rows(_BRANCHES, tree=tree)]
    nodes = {name: Node(parent, state) for name, parent, state in tx.rows(_NODES, tree=tree)}
    marked = [name for (name,) in tx.rows(_LABELLED, tree=tree) + tx.rows(_PINNED, tree=tree, now=now)]
    undecided = [name for (name,) in tx.rows(_UNFLUSHED)]
    return decide(rows, nodes, marked, undecided, keep, now)


def _remove_branch(store: Store, tree: str, branch: str, keep: Retention, now: float) -> int | None:
    """Removes a closed branch and what it wrote since its head. Returns how many entries; None where it stays."""

    def unsealed(tx: Transaction) -> tuple[int, int, int] | None:
        if branch not in _decide(tx, tree, keep, now).branches:
            return None
        row = next(BranchRow._make(row) for row in tx.rows(_BRANCHES, tree=tree) if row[0] == branch)
        return segment_of(row.next), row.sealed + 1, row.tail

    found = store.read(unsealed)
    if found is None:
        return None
    removed = _remove_entries(store, *found)
    crash.point("collect.before_branch")

    def work(tx: Transaction) -> int:
        gone = tx.run(_DELETE_BRANCH, what=branch)
        if gone and branch == tree:  # its root: nobody has the board any more
            board.forget(tx, tree)
        return gone

    return removed if store.write(work) else None


def _doom(tx: Transaction, tree: str, keep: Retention, names: Names, now: float) -> int:
    """Marks what nothing reaches and thins what need not be started from. Returns how many were thinned."""
    before = _decide(tx, tree, keep, now)
    found = {
        name: tx.row(_LOCK, id=name) for name in sorted(before.snapshots | before.worlds)
    }  # in one order, for all collectors
    after = _decide(tx, tree, keep, now)  # with the locks held: who came first is seen, who comes later waits
    dead = {name for name in before.snapshots & after.snapshots if found[name] is not None}
    thin = {name for name in before.worlds & after.worlds if found[name] is not None}
    let_go: set[str] = set()
    for name in dead | thin:
        world = (found[name] or (None,))[0]
        if world is not None:
            let_go.update(_named(_read(world), names) or ())
    for resource in sorted(let_go):
        known = tx.row(_KNOWN_GARBAGE, name=resource)
        if known is None or not known[0]:
            tx.run(_ADD_GARBAGE, name=resource)
    for name in sorted(dead):
        tx.run(_DOOM, what=name)
    for name in sorted(thin):
        tx.run(_THIN, what=name)
    crash.point("collect.before_dooming")
    return len(thin)


def _sweep(store: Store, tree: str) -> tuple[int, int]:
    """Removes the doomed snapshots of a tree and their entries. Returns how many of each."""
    gone = removed = 0
    while found := store.read(lambda tx: tx.rows(_DOOMED, tree=tree)):
        small: list[str] = []
        for name, count, seq in found:
            if count > BATCH // 10:
                removed += _remove_entries(store, segment_of(name), seq - count + 1, seq)
            small.append(name)
        removed += store.write(lambda tx, these=found: _remove_snapshots(tx, these))  # type: ignore[misc]
        gone += len(small)
    return gone, removed


def _remove_snapshots(tx: Transaction, found: list[tuple[Any, ...]]) -> int:
    removed = 0
    for name, count, seq in found:
        removed += tx.run(_DELETE_ENTRIES, of=segment_of(name), first=seq - count + 1, last=seq)
        tx.run(_DELETE_UNFLUSHED, what=name)
        tx.run(_DELETE_SNAPSHOT, what=name)
    crash.point("collect.before_removing")
    return removed


def _remove_entries(store: Store, segment: int, first: int, last: int) -> int:
    """Removes a stretch of one segment, a batch a transaction."""
    # A damaged row may claim more than any store has.
    newest = store.read(lambda tx: tx.row(_EXTENT, of=segment, first=first, last=last))
    last = first - 1 if newest is None else newest[0]
    removed = 0
    for start in range(first, last + 1, BATCH):
        end = min(start + BATCH - 1, last)
        removed += store.write(
            lambda tx, start=start, end=end: tx.run(_DELETE_ENTRIES, of=segment, first=start, last=end)  # type: ignore[misc]
        )
        crash.point("collect.between_batches")
    return removed


def _unnamed(store: Store, names: Names) -> tuple[str, ...]:
    """Returns the garbage that no world names; what one does name is no garbage."""
    left = {name for (name,) in store.read(lambda tx: tx.rows(_GARBAGE))}
    if not left:
        return ()
    for _, world in worlds(store):
        known = _named(world, names)
        if known is None:
            return ()
        named = left & known
        if named:
            left -= named
            store.write(lambda tx, named=named: released(tx, named))  # type: ignore[misc]
    return tuple(sorted(left))


def worlds(store: Store) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yields every snapshot that has a world and is not doomed, with it; with None where it cannot be read."""
    after = ""
    while found := store.read(lambda tx, after=after: tx.rows(_WORLDS, after=after)):  # type: ignore[misc]
        for snapshot, world in found:
            yield snapshot, _read(world)
        after = found[-1][0]


def _read(text: str) -> dict[str, Any] | None:
    try:
        world = json.loads(text)
    except (ValueError, RecursionError, TypeError):
        return None
    return world if isinstance(world, dict) else None


def _named(world: dict[str, Any] | None, names: Names) -> set[str] | None:
    """Returns what a world names; None where nobody can tell."""
    try:
        return None if world is None else set(names(world))
    except ValueError:
        return None
