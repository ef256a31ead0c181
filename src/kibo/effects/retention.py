"""What of the ledger nobody needs any more: effects that ended some time ago, whose branch is gone and whose key stands
for nothing. What waits, is in doubt or is to be undone stays, however old it is.

A key of a tree of branches stands as long as anything of that tree is there. Outside of branches it stands for
`KEY_STANDS_S` from the end of what it stands for, whatever else is let go sooner. The requests of a call go after it.

Effects are looked for without a transaction that writes, and removed in small ones: killed at any moment, the next
collection goes on. Each is looked at again as it is removed.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, exists, func, select

from kibo.effects.calls import forget_key
from kibo.effects.ledger import is_any
from kibo.effects.lifecycle import ENDED
from kibo.model.ids import BranchId
from kibo.model.limits import KEY_STANDS_S
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import branches, effects, labels, pins, snapshots

#: Effects that are looked at together, and bytes of them that one transaction removes: some milliseconds, for which
#: other writers of the same file wait.
BATCH: Final = 500
_BATCH_BYTES: Final = 16 << 20

_GONE: Final = ~exists(select(branches.c.id).where(branches.c.id == effects.c.branch))


def _old(*conditions: Any) -> Prepared:
    return Prepared(
        select(
            effects.c.position,
            effects.c.id,
            effects.c.branch,
            effects.c.scope,
            effects.c.key,
            effects.c.action,
            effects.c.within,
            effects.c.ended,
            # Its bodies alone may be large.
            func.length(effects.c.body) + func.coalesce(func.length(effects.c.answer_body), 0),
        )
        .where(
            effects.c.position > bindparam("after"),
            is_any(ENDED),
            effects.c.ended < bindparam("before"),
            *conditions,
        )
        .order_by(effects.c.position)
        .limit(BATCH)
    )


#: Calls, and requests that are of none; then those that are of one.
_WHOLE: Final = _old(effects.c.within.is_(None))
_PARTS: Final = _old(effects.c.within.is_not(None))
_KNOWN: Final = Prepared(select(effects.c.id).where(effects.c.id == bindparam("id")))
_REMOVE: Final = Prepared(
    delete(effects).where(effects.c.position == bindparam("which"), is_any(ENDED), _GONE)
)
_BRANCHES: Final = Prepared(select(branches.c.id, branches.c.tree))
#: Snapshots that a branch can begin at again, though none of their tree is left.
_NAMED_TREES: Final = (
    Prepared(select(labels.c.tree).distinct()),
    Prepared(
        select(snapshots.c.tree).join_from(pins, snapshots, snapshots.c.id == pins.c.snapshot).distinct()
    ),
)


class _Old(NamedTuple):
    position: int
    id: str
    branch: str
    scope: str
    key: str | None
    action: str | None
    within: str | None
    ended: float
    size: int


@dataclass(frozen=True, slots=True)
class _There:
    """What is there: branches, and trees of which something is."""

    branches: frozenset[str]
    trees: frozenset[str]

    def needs(self, effect: _Old, keys_before: float) -> bool:
        """Tells whether an effect that has ended is needed: by its branch, or by whoever comes with its key."""
        if effect.branch in self.branches:
            return True
        if effect.key is None:
            return False
        if effect.scope.startswith(BranchId.prefix):
            return effect.scope in self.trees
        return effect.ended >= keys_before


def collect(store: Store, ended_s: float, *, now: float | None = None) -> int:
    """Removes what nobody needs any more.

    Args:
        store: The store.
        ended_s: How long ago an effect must have ended, in seconds.
        now: In seconds since 1970.

    Returns:
        How many effects were removed.
    """
    moment = time.time() if now is None else now
    there = store.read(lambda tx: _there(tx, ()))
    removed = 0
    for statement in (_WHOLE, _PARTS):
        for batch in _batches(
            store, statement, there, (moment - ended_s, moment - KEY_STANDS_S), frozenset()
        ):
            removed += store.write(lambda tx, these=batch: _remove(tx, these))  # type: ignore[misc]
            crash.point("forget.between_batches")
    return removed


def foreseen(store: Store, ended_s: float, gone: Collection[str], *, now: float | None = None) -> int:
    """Returns how many effects `collect` would remove once some branches are gone. Removes nothing."""
    moment = time.time() if now is None else now
    there = store.read(lambda tx: _there(tx, gone))
    going: set[str] = set()
    for statement in (_WHOLE, _PARTS):
        for batch in _batches(store, statement, there, (moment - ended_s, moment - KEY_STANDS_S), going):
            going.update(each.id for each in batch)
    return len(going)


def _there(tx: Transaction, gone: Collection[str]) -> _There:
    """Finds what is there, but for branches that are to be gone."""
    left = [(branch, tree) for branch, tree in tx.rows(_BRANCHES) if branch not in gone]
    trees = {tree for _, tree in left}
    for statement in _NAMED_TREES:
        trees.update(tree for (tree,) in tx.rows(statement))
    return _There(frozenset(branch for branch, _ in left), frozenset(trees))


def _batches(
    store: Store, statement: Prepared, there: _There, before: tuple[float, float], going: Collection[str]
) -> Iterator[list[_Old]]:
    """Yields what nobody needs, as much as one transaction removes.

    Args:
        store: The store.
        statement: What to look at.
        there: What is there.
        before: When an effect must have ended, and when one with a key outside of branches, in seconds since 1970.
        going: Calls that count as gone already.
    """
    after = 0
    while rows := store.read(lambda tx, after=after: tx.rows(statement, after=after, before=before[0])):  # type: ignore[misc]
        found = [_Old._make(row) for row in rows]
        after = found[-1].position
        free = [each for each in found if not there.needs(each, before[1])]
        known = store.read(lambda tx, these=free: _calls(tx, these))  # type: ignore[misc]
        yield from _cut([each for each in free if each.within not in known or each.within in going])


def _cut(found: list[_Old]) -> Iterator[list[_Old]]:
    """Cuts what is to go into what one transaction takes."""
    batch: list[_Old] = []
    size = 0
    for each in found:
        if batch and size + each.size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += each.size
    if batch:
        yield batch


def _calls(tx: Transaction, parts: list[_Old]) -> set[str]:
    """Returns the calls that are there of which these are part."""
    named = {each.within for each in parts if each.within is not None}
    return {name for name in named if tx.row(_KNOWN, id=name) is not None}


def _remove(tx: Transaction, these: list[_Old]) -> int:
    removed = 0
    for each in these:
        removed += tx.run(_REMOVE, which=each.position)
        if each.action is not None and each.key is not None:
            forget_key(tx, each.scope, each.key)
    crash.point("forget.before_removing")
    return removed
