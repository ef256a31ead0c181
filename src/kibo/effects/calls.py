"""Calls of actions in the ledger: begun once for each key, ended by what came of them, and undone with their branch.

What a key stands for is looked for where its caller can see: in its branch and those above it, wherever a commit has
brought it. A sibling's call is another world's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, delete, insert, or_, select, update

from kibo.effects.ledger import (
    LONG,
    OWE,
    SHORT,
    VOID,
    effect_of,
    exact_of,
    fate,
    find_out,
    insert_effect,
    is_any,
    on_its_way,
    step,
)
from kibo.effects.lifecycle import SENT
from kibo.effects.records import Draft, Effect, Exact, key_digest
from kibo.model.errors import BranchClosed
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import branches, call_keys, effects

_BY_KEY: Final = Prepared(
    select(*SHORT, *LONG, effects.c.gateway)
    .where(
        effects.c.scope == bindparam("scope"),
        effects.c.key == bindparam("key"),
        effects.c.action.is_not(None),
        is_any(SENT),
    )
    .order_by(effects.c.position)
)
_LOCK_KEY: Final = Prepared(
    select(call_keys.c.name).where(call_keys.c.name == bindparam("key_name")).with_for_update()
)
_MAKE_KEY: Final = Prepared(insert(call_keys).values(name=bindparam("key_name")))
_DROP_KEY: Final = Prepared(delete(call_keys).where(call_keys.c.name == bindparam("key_name")))
_WITH_KEY: Final = Prepared(
    select(effects.c.id)
    .where(
        effects.c.scope == bindparam("scope"),
        effects.c.key == bindparam("key"),
        effects.c.action.is_not(None),
    )
    .limit(1)
)
_PARTS: Final = Prepared(
    select(effects.c.state, effects.c.status).where(
        effects.c.within == bindparam("effect"), is_any((*SENT, "released"))
    )
)
_WAITING: Final = Prepared(
    select(effects.c.id).where(effects.c.within == bindparam("effect"), is_any(("held", "asking")))
)
_PARENT: Final = Prepared(select(branches.c.parent).where(branches.c.id == bindparam("id")))
_NAMED: Final = Prepared(select(*SHORT).where(effects.c.id == bindparam("id")))
_OF_BRANCH: Final = (
    effects.c.branch == bindparam("branch"),
    effects.c.undo.is_not(None),
    is_any(("sending", "done", "in_doubt", "not_undone")),
)
_TO_UNDO: Final = Prepared(select(*SHORT, *LONG, effects.c.position).where(*_OF_BRANCH))
_UNDOABLE: Final = Prepared(select(effects.c.id).where(*_OF_BRANCH).limit(1))
_LEFT: Final = Prepared(
    select(*SHORT)
    .where(
        effects.c.gateway == bindparam("owner"),
        effects.c.action.is_not(None),
        or_(is_any(("sending", "undoing")), (effects.c.state == "done") & effects.c.undo.is_not(None)),
    )
    .order_by(effects.c.position)
)
_KEEP: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("of"), effects.c.action.is_not(None), effects.c.state == "done")
    .values(gateway="")
)
_ENDED: Final[dict[str, Any]] = {"reason": bindparam("why"), "ended": bindparam("now")}
_ANSWER: Final[dict[str, Any]] = {name: bindparam(name) for name in ("answer_body", "answer_whole")}
_DROP: Final = step("drop", **_ENDED)
_RETURN: Final = step("answer", ended=bindparam("now"), **_ANSWER)
_RAISE: Final = step("raise", **_ENDED)
_LOSE: Final = step("lose", **_ENDED)
_RESULT: Final = Prepared(update(effects).where(effects.c.id == bindparam("effect")).values(**_ANSWER))
_UNDO: Final = step("undo", gateway=bindparam("owner"))
_UNDONE: Final = step("undone", **_ENDED)
_STICK: Final = step("stick", reason=bindparam("why"))


#: Ends the reason of a call of which nobody knows whether it is undone: it is not undone a second time.
MAY_BE_UNDONE: Final = "it may be undone"


class Found(NamedTuple):
    """A call whose key stands for one that was made before.

    Attributes:
        exact: That one.
        owner: Whose process makes it, or made it.
    """

    exact: Exact
    owner: str


class Calls:
    """The calls in the ledger of one store. Any number of threads and processes may use it; raises as `Ledger`."""

    def __init__(self, store: Store) -> None:
        self._store: Final = store

    def begin(self, draft: Draft, owner: str) -> Effect | Found:
        """Records a call that is to be made, unless its key stands for one already.

        Args:
            draft: The call.
            owner: Names this process, which makes it.

        Raises:
            BranchClosed: Its branch is aborted.
        """

        def work(tx: Transaction) -> Effect | Found:
            branch, state = fate(tx, draft.branch) if draft.branch else ("", "sending")
            if state == "dropped":
                raise BranchClosed(
                    f"branch {draft.branch} was aborted",
                    hint="Fork again from its parent: nothing that it does is wanted any more.",
                    details={"branch": draft.branch},
                )
            if draft.key is not None:
                _lock_key(tx, draft.scope, draft.key)
                if found := _visible(tx, branch, draft.scope, draft.key):
                    return found
            now = time.time()
            return insert_effect(tx, draft, owner, "sending", branch, now, {"released": now, "sent": now})

        crash.point("call.before_begin")
        return self._store.write(work)

    def returned(self, effect: str, result: bytes | None) -> None:
        """Records what a call returned; None where that is longer than is kept.

        In a branch that was aborted meanwhile it is to be undone.
        """

        def work(tx: Transaction) -> None:
            now = time.time()
            if tx.run(
                _RETURN,
                effect=effect,
                now=now,
                answer_body=result or b"",
                answer_whole=int(result is not None),
            ):
                _owe_if_over(tx, effect)

        crash.point("call.before_answer")
        self._store.write(work)

    def raised(self, effect: str, why: str) -> None:
        """Records that a call has not happened: the action said so, or it was never sent.

        One that has sent a request which may have changed something is in doubt all the same.
        """

        def work(tx: Transaction) -> None:
            _drop_waiting(tx, effect)
            if any(_may_have_changed(*row) for row in tx.rows(_PARTS, effect=effect)):
                _lose(tx, effect, f"it raised after it had changed something outside: {why}")
            else:
                tx.run(_RAISE, effect=effect, why=why, now=time.time())

        self._store.write(work)

    def lost(self, effect: str, why: str) -> None:
        """Records that nobody knows whether a call has happened."""
        self._store.write(lambda tx: _lose(tx, effect, why))

    def confirm(self, effect: str, result: bytes | None, why: str) -> None:
        """Records that a call in doubt has happened, with what it asked for, and what it was to return, if known."""

        def work(tx: Transaction) -> None:
            if find_out(tx, effect, "confirm", why) and result is not None:
                tx.run(_RESULT, effect=effect, answer_body=result, answer_whole=1)

        self._store.write(work)

    def deny(self, effect: str, why: str) -> bool:
        """Records that a call in doubt has not happened, nor what it asked for last.

        Returns:
            Whether it is so: by a request that is still on its way it may happen yet.
        """
        return self._store.write(
            lambda tx: on_its_way(tx, effect) is None and find_out(tx, effect, "deny", why)
        )

    # -- undoing

    def undoable(self, branch: str) -> bool:
        """Tells whether something in a branch can be undone that was done there, or is being."""
        return self._store.read(lambda tx: tx.row(_UNDOABLE, branch=branch)) is not None

    def owe(self, branches: Sequence[str], why: str) -> None:
        """Records that what was done in branches that have become stale is to be undone."""

        def work(tx: Transaction) -> None:
            for branch in branches:
                for row in tx.rows(_TO_UNDO, branch=branch):
                    tx.run(OWE, effect=row[0], why=why)

        crash.point("call.before_owe")
        self._store.write(work)

    def to_undo(self, branches: Sequence[str]) -> list[Exact]:
        """Lists what is to be undone in branches that have ended, or may be, the newest first."""

        def work(tx: Transaction) -> list[Exact]:
            rows = [row for branch in branches for row in tx.rows(_TO_UNDO, branch=branch)]
            return [exact_of(row[:-1]) for row in sorted(rows, key=lambda row: -row[-1])]

        return self._store.read(work)

    def owed(self, effect: str, why: str) -> None:
        """Records that a call of which it was found out that it has happened is to be undone."""
        self._run(OWE, effect=effect, why=why)

    def undo(self, effect: str, owner: str) -> bool:
        """Records that one is about to be undone. Returns whether it is: nobody else does."""
        crash.point("call.before_undo")
        return bool(self._run(_UNDO, effect=effect, owner=owner))

    def undone(self, effect: str, why: str) -> None:
        """Records that it is undone."""
        crash.point("call.before_undone")
        self._run(_UNDONE, effect=effect, why=why, now=time.time())

    def stick(self, effect: str, why: str) -> None:
        """Records that it could not be undone."""
        self._run(_STICK, effect=effect, why=why)

    # -- the ends of processes

    def bury(self, owner: str) -> None:
        """Settles what a process has left that has ended: what it was calling is in doubt, unless it can have changed
        nothing, and what it has done in forks that can be undone is to be: no live state of them is left.
        """

        def work(tx: Transaction) -> None:
            for row in tx.rows(_LEFT, owner=owner):
                effect = effect_of(row)
                if effect.state == "sending":
                    _lose(tx, effect.id, "the process that made the call ended before it returned")
                elif effect.state == "undoing":
                    tx.run(
                        _STICK,
                        effect=effect.id,
                        why=f"the process that undid it ended meanwhile: {MAY_BE_UNDONE}",
                    )
                elif effect.branch and fate(tx, effect.branch)[1] == "held":
                    tx.run(OWE, effect=effect.id, why="the process ended in which its branch ran")

        crash.point("call.before_bury")
        self._store.write(work)

    def keep(self, branch: str) -> None:
        """Leaves what was done in a branch that is kept to the branch: it stands, whatever becomes of this process."""
        self._run(_KEEP, of=branch)

    def _run(self, statement: Prepared, **values: Any) -> int:
        return self._store.write(lambda tx: tx.run(statement, **values))


def _lock_key(tx: Transaction, scope: str, key: str) -> None:
    """Has those who call with one key look for what it stands for one by one. Who makes its row second begins again."""
    name = _key_name(scope, key)
    if tx.row(_LOCK_KEY, key_name=name) is None:
        tx.run(_MAKE_KEY, key_name=name)


def forget_key(tx: Transaction, scope: str, key: str) -> None:
    """Lets a key go that no call has any more, in the transaction that removes one which had it."""
    name = _key_name(scope, key)
    if tx.row(_LOCK_KEY, key_name=name) is not None and tx.row(_WITH_KEY, scope=scope, key=key) is None:
        tx.run(_DROP_KEY, key_name=name)


def _key_name(scope: str, key: str) -> str:
    return key_digest(f"{scope}:{key}".encode())


def _visible(tx: Transaction, branch: str, scope: str, key: str) -> Found | None:
    """Finds what a key stands for, as a branch sees it."""
    rows = tx.rows(_BY_KEY, scope=scope, key=key)
    if not rows:
        return None
    there = {
        str(effect_of(row[: len(SHORT)]).branch): row for row in reversed(rows)
    }  # the first of each branch
    at: str | None = branch
    while at is not None:
        if at in there:
            return Found(exact_of(there[at][:-1]), there[at][-1])
        row = tx.row(_PARENT, id=at)
        at = row[0] if row is not None else None
    return None


def _may_have_changed(state: str, status: int | None) -> bool:
    """Tells whether a request that was sent may have done something: any that was not refused by its server.

    One that a recording answers counts as it did live: what a program sees of its calls is the same.
    """
    return state not in ("done", "replayed") or status is None or not 400 <= status < 500


def _drop_waiting(tx: Transaction, call: str) -> None:
    """Drops what a call that is over still waits with: a commit that comes next must not let it happen."""
    for (part,) in tx.rows(_WAITING, effect=call):
        tx.run(_DROP, effect=part, why="the call that it was part of is over", now=time.time())


def _lose(tx: Transaction, effect: str, why: str) -> None:
    _drop_waiting(tx, effect)
    found = _found(tx, effect)
    tx.run(VOID if _is_harmless(tx, found) else _LOSE, effect=effect, why=why, now=time.time())


def _is_harmless(tx: Transaction, call: Effect) -> bool:
    """Tells whether all that a call asked for was held: it stands in a fork, and nothing lets it out of there."""
    if call.undo or not call.branch:
        return False
    branch, state = fate(tx, call.branch)
    parent = tx.row(_PARENT, id=branch)
    return state != "released" and parent is not None and parent[0] is not None


def _owe_if_over(tx: Transaction, effect: str) -> None:
    call = _found(tx, effect)
    if call.undo and call.branch and fate(tx, call.branch)[1] == "dropped":
        tx.run(OWE, effect=effect, why="its branch was aborted while it was called")


def _found(tx: Transaction, effect: str) -> Effect:
    row = tx.row(_NAMED, id=effect)
    assert row is not None, "a call that was begun"
    return effect_of(row)
