"""The ledger: what boxes have asked the outside world for, and what became of it, in the store.

Every step is a compare-and-set of one effect's state, in a transaction: two who want different things of one effect
cannot both have it. What a commit or an abort does to effects happens in its own transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar

import msgspec
from sqlalchemy import and_, bindparam, not_, or_, select, update

from kibo.effects import approvals
from kibo.effects.lifecycle import OPEN, SENT, STANDING, CallEvent, Event, State, after, before, reached
from kibo.effects.packed import RULE
from kibo.effects.records import (
    PACK,
    UNPACK_CALLED,
    UNPACK_FIELDS,
    UNPACK_PAYLOAD,
    Called,
    Draft,
    Effect,
    Exact,
    Outcome,
    Payload,
    Unsent,
)
from kibo.model.clock import moment
from kibo.model.errors import EffectUnknown, WrongState
from kibo.model.ids import BranchId, EffectId, InstanceId
from kibo.model.limits import REPEAT_WITHIN_S
from kibo.store import crash
from kibo.store.checking import damaged
from kibo.store.database import Store, Transaction
from kibo.store.fencing import ABORTED, COMMITTED
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import branches, effects

T = TypeVar("T")


def is_any(states: Sequence[State]) -> Any:
    """Asks for effects in one of some states."""
    return or_(*(effects.c.state == state for state in states))


SHORT: Final = (
    effects.c.id,
    effects.c.state,
    effects.c.reason,
    effects.c.branch,
    effects.c.origin,
    effects.c.instance,
    effects.c["class"],
    effects.c.method,
    effects.c.url,
    effects.c.digest,
    effects.c.created,
    effects.c.released,
    effects.c.sent,
    effects.c.ended,
    effects.c.status,
    effects.c.approval_s,
    effects.c.due,
    effects.c.approved,
    effects.c.approver,
    effects.c.action,
    effects.c.undo,
    effects.c.within,
)
LONG: Final = (
    effects.c.head,
    effects.c.body,
    effects.c.whole,
    effects.c.answer_head,
    effects.c.answer_body,
    effects.c.answer_whole,
)
_GIVEN: Final = [column.name for column in effects.columns if column.name != "position"]
_INSERT: Final = insertion(effects, "position")
_HERE: Final = or_(effects.c.branch == bindparam("branch"), effects.c.origin == bindparam("branch"))
_ALL: Final = Prepared(select(*SHORT).order_by(effects.c.position))
_OF_BRANCH: Final = Prepared(select(*SHORT).where(_HERE).order_by(effects.c.position))
_NAMED: Final = Prepared(select(*SHORT).where(effects.c.id == bindparam("id")))
_CALLED: Final = Prepared(
    select(*SHORT, *LONG).where(effects.c.id >= bindparam("first"), effects.c.id < bindparam("last")).limit(9)
)
_BY_KEY: Final = Prepared(
    select(*SHORT, *LONG)
    .where(
        effects.c.scope == bindparam("scope"),
        effects.c.key == bindparam("key"),
        is_any(SENT),
    )
    .order_by(effects.c.position)
    .limit(1)
)
_KEYED: Final = Prepared(select(effects.c.scope, effects.c.key).where(effects.c.id == bindparam("effect")))
#: Locked, so that of two gateways that want to send with one key the second sees what the first did.
_RIVALS: Final = Prepared(
    select(effects.c.state)
    .where(effects.c.scope == bindparam("scope"), effects.c.key == bindparam("key"))
    .order_by(effects.c.position)
    .with_for_update()
)
#: Those whose client has been answered already: who holds them waits for nothing, and may be gone.
_BUFFERED: Final = effects.c["class"] == "bufferable"
_HOLDERS: Final = Prepared(
    select(effects.c.instance)
    .where(effects.c.branch == bindparam("branch"), effects.c.state == "held", not_(_BUFFERED))
    .distinct()
)
_STANDING_IN: Final = Prepared(
    select(*SHORT)
    .where(effects.c.branch == bindparam("branch"), is_any(STANDING))
    .order_by(effects.c.position)
)
#: What one that is to be sent is known by: all of `Unsent` but whether a replay answers it.
_UNSENT: Final = (
    effects.c.id,
    effects.c.state,
    effects.c.branch,
    effects.c.origin,
    effects.c.scope,
    effects.c.key,
    effects.c.rule,
    effects.c.secrets,
)
_OPEN_OF: Final = Prepared(
    select(*_UNSENT, effects.c.gateway)
    .where(
        or_(effects.c.gateway == bindparam("gateway"), effects.c.gateway == bindparam("player")),
        is_any(OPEN),
    )
    .order_by(effects.c.position)
)
_IN_DOUBT: Final = Prepared(
    select(*_UNSENT)
    .where(
        effects.c.state == "in_doubt",
        effects.c.action.is_(None),
        effects.c.whole == 1,
        effects.c.sent > bindparam("after"),
        effects.c.sent <= bindparam("now"),
    )
    .order_by(effects.c.position)
)
_BRANCH: Final = Prepared(
    select(branches.c.status, branches.c.parent)
    .where(branches.c.id == bindparam("id"))
    .with_for_update(read=True)
)
#: Of one branch, all at once: each is one event of the table.
_RELEASE: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("old"), is_any(before("release")))
    .values(state=after("held", "release"), branch=bindparam("new"), released=bindparam("now"))
)
_MOVE: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("old"), is_any(STANDING))
    .values(branch=bindparam("new"))
)
_DROP: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("old"), is_any(before("drop")))
    .values(state=reached("drop"), reason=bindparam("why"), ended=bindparam("now"))
)
#: Those that somebody in a box has waited for.
_DROP_WAITING: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("old"), is_any(before("drop")), not_(_BUFFERED))
    .values(state=reached("drop"), reason=bindparam("why"), ended=bindparam("now"))
)
_UNDO: Final = Prepared(
    update(effects)
    .where(effects.c.origin == bindparam("asked_in"), is_any(before("fail")))
    .values(state=reached("fail"), reason=bindparam("why"), ended=bindparam("now"))
)
_BACK: Final = Prepared(
    update(effects)
    .where(effects.c.origin == bindparam("asked_in"), effects.c.action.is_not(None), is_any(STANDING))
    .values(branch=bindparam("new"))
)
_ADOPT: Final = Prepared(
    update(effects)
    .where(
        effects.c.gateway == bindparam("old"),
        or_(effects.c.state == "released", and_(effects.c.state == "held", _BUFFERED)),
    )
    .values(gateway=bindparam("new"))
)


def _of_dead(event: Event, *conditions: Any) -> Prepared:
    """One event of all that a dead gateway left in a state for that."""
    return Prepared(
        update(effects)
        .where(effects.c.gateway == bindparam("old"), is_any(before(event)), *conditions)
        .values(state=reached(event), reason=bindparam("why"), ended=bindparam("now"))
    )


_DROP_OF_DEAD: Final = _of_dead("drop", not_(_BUFFERED))
_DROP_REPLAYED: Final = _of_dead("drop")
_LOSE_OF_DEAD: Final = _of_dead("lose")
_FAIL_OF_DEAD: Final = _of_dead("fail")


def step(event: Event | CallEvent, *conditions: Any, **values: Any) -> Prepared:
    """Prepares one event of one effect, if it is in a state for that."""
    return Prepared(
        update(effects)
        .where(effects.c.id == bindparam("effect"), is_any(before(event)), *conditions)
        .values(state=reached(event), **values)
    )


_ENDED: Final[dict[str, Any]] = {"reason": bindparam("why"), "ended": bindparam("now")}
_OUTCOME: Final[dict[str, Any]] = {
    name: bindparam(name) for name in ("status", "answer_head", "answer_body", "answer_whole", "ended")
}
_STEPS: Final[dict[Event | CallEvent, Prepared]] = {
    "drop": step("drop", **_ENDED),
    "send": step("send", approvals.ALLOWED_AS_IT_IS, sent=bindparam("now")),
    "fail": step("fail", **_ENDED),
    "lose": step("lose", **_ENDED),
    "answer": step("answer", **_OUTCOME),
    "confirm": step("confirm", **_ENDED),
    "deny": step("deny", **_ENDED),
    "repeat": step(
        "repeat",
        effects.c.sent > bindparam("after"),
        effects.c.sent <= bindparam("now"),
        gateway=bindparam("by"),
        reason="",
        ended=None,
    ),
    "replay": step("replay", **_OUTCOME),
    "settle": step("settle", **_ENDED),
}
#: What is found out about a call is found out about what it was asking for when it was lost.
_OF_CALL: Final[dict[Event, Prepared]] = {
    event: Prepared(
        update(effects)
        .where(effects.c.within == bindparam("effect"), is_any(before(event)))
        .values(state=reached(event), **_ENDED)
    )
    for event in ("confirm", "deny")
}
_ON_ITS_WAY: Final = Prepared(
    select(effects.c.id)
    .where(effects.c.within == bindparam("effect"), is_any(("released", "sending")))
    .limit(1)
)
_LOST_PARTS: Final = Prepared(
    select(effects.c.id, effects.c.within).where(
        effects.c.gateway == bindparam("gateway"),
        effects.c.state == "in_doubt",
        effects.c.within.is_not(None),
    )
)
VOID: Final = step("void", **_ENDED)
_FORGET: Final = step("forget", **_ENDED)
#: A call that is to be undone: its branch has come to nothing.
OWE: Final = step("owe", reason=bindparam("why"))
_KEEP: Final = Prepared(
    update(effects)
    .where(effects.c.id == bindparam("effect"), effects.c.state == "done")
    .values(answer_body=bindparam("answer_body"), answer_whole=bindparam("answer_whole"))
)


def _player(gateway: str) -> str:
    """Names who answers what a gateway replays: nobody who sends, so that nobody finds it among what is to be sent."""
    return f"replay_{gateway}"


# -- within the transactions of a history


def standing(tx: Transaction, branch: str) -> tuple[Effect, ...]:
    """Lists what stands or falls with a branch, in order: what it holds, and what was done in it all the same."""
    return tuple(effect_of(row) for row in tx.rows(_STANDING_IN, branch=branch))


def settle(
    tx: Transaction, branch: str, parent: str, effects: tuple[Effect, ...], *, released: bool
) -> tuple[Effect, ...]:
    """Makes the effects of a committed branch its parent's, in the transaction of the commit.

    Args:
        tx: The transaction, which has locked the branch.
        branch: What is committed.
        parent: Into what.
        effects: What stands in it.
        released: Whether what it holds may happen now, or once a person has approved it: the parent is a root.

    Returns:
        Those that it held, as they are now.
    """
    if not effects:
        return ()
    moved, now = BranchId(parent), moment()
    held = [replace(each, branch=moved) for each in effects if each.state == "held"]
    if released and held:
        asks = any(each.approve_within_s is not None for each in held)
        if asks:
            approvals.ask(tx, branch, parent, now)
        tx.run(_RELEASE, old=branch, new=parent, now=now.at_s)
        if asks:
            held = [effect_of(row) for each in held for row in tx.rows(_NAMED, id=each.id)]
        else:
            state = after("held", "release")
            held = [replace(each, state=state, released_s=now.at_s) for each in held]
    tx.run(_MOVE, old=branch, new=parent)
    return tuple(held)


def drop(tx: Transaction, branch: str, why: str, *, fork: bool = True, buffered: bool = True) -> None:
    """Gives up what stands in a branch that ends, in the transaction that ends it: what waits in it is dropped, calls
    that can be undone are to be, and those that can have changed nothing are forgotten.

    Args:
        tx: The transaction.
        branch: The branch.
        why: Why it ends.
        fork: Whether it held what it asked for, so that calls of other classes have changed nothing.
        buffered: Whether what nobody waits for is given up as well.
    """
    effects = standing(tx, branch)
    now = time.time()
    if any(each.state in before("drop") for each in effects):
        tx.run(_DROP if buffered else _DROP_WAITING, old=branch, why=why, now=now)
    for each in effects:
        if each.undo and each.state == "done":
            tx.run(OWE, effect=each.id, why=why)
        elif each.action and not each.undo and fork and each.state in ("sending", "done"):
            tx.run(VOID if each.state == "sending" else _FORGET, effect=each.id, why=why, now=now)


def undo(tx: Transaction, origin: str, branch: str, why: str) -> None:
    """Gives up what the commit of a branch has released and nobody has sent: that commit has not happened after all.

    Args:
        tx: The transaction.
        origin: Where it was asked for: in that branch, or in one that was committed into it.
        branch: That branch, which is open again and has what was done there.
        why: What took the commit.
    """
    tx.run(_UNDO, asked_in=origin, why=why, now=time.time())
    tx.run(_BACK, asked_in=origin, new=branch)


def fate(tx: Transaction, branch: str) -> tuple[str, State]:
    """Tells what becomes of an effect that is asked for in a branch, and where it stands.

    The branch may have ended since it was asked for. Its row is locked, so that a commit or an abort that comes next
    finds the effect, and one that came first is seen.
    """
    if not branch:
        return branch, "released"
    at = branch
    while (row := tx.row(_BRANCH, id=at)) is not None:
        status, parent = row
        if status == ABORTED:
            return at, "dropped"
        if parent is None:
            return at, "released"
        if status != COMMITTED:
            return at, "held"
        at = parent
    return at, "held"  # it is being forked at this moment: nobody can have ended it yet


def find_out(tx: Transaction, effect: str, event: Literal["confirm", "deny"], why: str) -> bool:
    """Records what was found out about one in doubt, and of a call about its requests in doubt.

    Returns:
        Whether it was in doubt.
    """
    values = {"effect": effect, "why": why, "now": time.time()}
    if not tx.run(_STEPS[event], **values):
        return False
    tx.run(_OF_CALL[event], **values)
    return True


def on_its_way(tx: Transaction, call: str) -> str | None:
    """Returns a request of a call that may reach its server yet; None where there is none. Before that has an outcome,
    nobody can say that the call has not happened.
    """
    row = tx.row(_ON_ITS_WAY, effect=call)
    return None if row is None else row[0]


def _follow(tx: Transaction, part: str, call: str) -> None:
    """Has a request that is lost be what was found out meanwhile about the call that it is part of."""
    row = tx.row(_NAMED, id=call)
    found = None if row is None else effect_of(row)
    # One that was answered has nothing that needs a reason: it was not found out.
    if found is not None and found.state == "done" and found.reason:
        tx.run(_STEPS["confirm"], effect=part, why=found.reason, now=time.time())


def _repeats(tx: Transaction, scope: str, key: str | None) -> bool:
    """Tells whether something has been sent with a key, by whichever gateway."""
    return key is not None and any(state in SENT for (state,) in tx.rows(_RIVALS, scope=scope, key=key))


def _unsent(known: Sequence[Any], *, replayed: bool) -> Unsent:
    effect, state, branch, origin, scope, key, rule, secrets = known
    return Unsent(EffectId(effect), state, branch, origin, scope, key, rule, secrets, replayed)


class Ledger:
    """The ledger of one store. Any number of threads and processes may use it.

    Every call raises `StoreUnavailable` where the database does not answer, and `HostDiskFull` where it has no room.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store: Final = store

    # -- what a gateway does

    def hold(self, draft: Draft, gateway: str) -> Effect:
        """Records a request that waits for its branch, or for a person, or for both.

        Returns:
            The effect: held, or, where its branch is a root or has ended meanwhile, released, asking or dropped.
        """

        def work(tx: Transaction) -> Effect:
            branch, state = fate(tx, draft.branch)
            now = moment()
            times: dict[str, Any] = {}
            if state == "released" and draft.approve_within_s is not None:
                state = "asking"
                times = approvals.asking_since(now, draft.approve_within_s)
            elif state != "held":
                times = {"ended" if state == "dropped" else "released": now.at_s}
            return insert_effect(tx, draft, gateway, state, branch, now.at_s, times)

        crash.point("effect.before_hold")
        return self._store.write(work)

    def begin(self, draft: Draft, gateway: str) -> Effect:
        """Records a request that is sent at once: once this returns, its first byte may leave.

        Raises:
            WrongState: Another with its key has been sent meanwhile.
        """

        def work(tx: Transaction) -> Effect:
            if _repeats(tx, draft.scope, draft.key):
                raise WrongState(
                    "another request with this key has been sent",
                    hint="`kibo effects` lists it.",
                    details={"scope": draft.scope},
                )
            now = time.time()
            return insert_effect(
                tx, draft, gateway, "sending", draft.branch, now, {"released": now, "sent": now}
            )

        crash.point("effect.before_begin")
        return self._store.write(work)

    def sent_with(self, scope: str, key: str) -> Exact | None:
        """Finds what a client's key stands for already: what was sent with it first."""
        row = self._store.read(lambda tx: tx.row(_BY_KEY, scope=scope, key=key))
        return None if row is None else exact_of(row)

    def send(self, effect: str, digest: str) -> bool:
        """Records that a released one is about to be sent.

        Args:
            effect: Its id.
            digest: Of what is about to be sent.

        Returns:
            Whether it is: nobody else has sent it, nor another with its key, and, where a person has to approve it, one
            has approved just that and in time. Where none has, it is dropped.
        """

        def work(tx: Transaction) -> bool:
            keyed = tx.row(_KEYED, effect=effect)
            if keyed is None or _repeats(tx, *keyed):
                return False
            now = moment()
            if tx.run(_STEPS["send"], effect=effect, digest=digest, **approvals.clocks(now)):
                return True
            approvals.settle_unsent(tx, effect, digest, now)
            return False

        crash.point("effect.before_send")
        return self._store.write(work)

    def answer(self, effect: str, outcome: Outcome) -> bool:
        """Records an answer."""
        return self._step(effect, "answer", **_answered(outcome))

    def replay(self, effect: str, outcome: Outcome) -> bool:
        """Records that a released one was answered by a recording."""
        return self._step(effect, "replay", **_answered(outcome))

    def replayed(self, draft: Draft, gateway: str, outcome: Outcome) -> Effect:
        """Records a request that a recording has answered at once."""
        now = time.time()
        values = {"released": now, **_answered(outcome)}
        return self._store.write(
            lambda tx: insert_effect(tx, draft, gateway, "replayed", draft.branch, now, values)
        )

    def keep(self, effect: str, body: bytes, *, whole: bool) -> None:
        """Records the body of an answer whose head is recorded."""
        self._store.write(lambda tx: tx.run(_KEEP, effect=effect, answer_body=body, answer_whole=int(whole)))

    def fail(self, effect: str, why: str) -> bool:
        """Records that a released one was not sent, and is not going to be."""
        return self._move(effect, "fail", why)

    def lose(self, effect: str, why: str) -> bool:
        """Records that it is not known whether one has happened."""

        def work(tx: Transaction) -> bool:
            if not tx.run(_STEPS["lose"], effect=effect, why=why, now=time.time()):
                return False
            row = tx.row(_NAMED, id=effect)
            if row is not None and (call := effect_of(row).within) is not None:
                _follow(tx, effect, call)
            return True

        crash.point("effect.before_lose")
        return self._store.write(work)

    def repeatable(self) -> list[Unsent]:
        """Lists what is in doubt and may be sent again, in order: its server acts once on its key, and knows it yet."""
        now = time.time()
        rows = self._store.read(lambda tx: tx.sound(_IN_DOUBT, after=now - REPEAT_WITHIN_S, now=now))
        found = [_unsent(row, replayed=False) for row in rows]
        return [each for each in found if RULE.decode(each.rule).idempotent]

    def repeat(self, effect: str, gateway: str) -> bool:
        """Records that one in doubt is about to be sent again. Returns whether it is: nobody else does."""
        now = time.time()
        return self._step(effect, "repeat", by=gateway, after=now - REPEAT_WITHIN_S, now=now)

    def drop(self, effect: str, why: str) -> bool:
        """Records that one that waits is wanted no more. Returns whether it waited."""
        return self._move(effect, "drop", why)

    def expire(self, gateway: str) -> float | None:
        """Drops what has waited for its person for too long.

        Returns:
            The seconds until something else at this gateway will have; None where nothing waits.
        """
        crash.point("effect.before_expire")
        return self._store.write(lambda tx: approvals.expire(tx, gateway))

    def abandon(self, branch: str, why: str) -> None:
        """Drops what a branch holds whose boxes were stopped, but for what nobody in them waits for."""
        self._store.write(lambda tx: drop(tx, branch, why, buffered=False))

    def unsent(self, gateway: str) -> list[Unsent]:
        """Lists what waits for a gateway, in order. What is damaged stays there, the rest goes on."""
        rows = self._store.read(lambda tx: tx.sound(_OPEN_OF, gateway=gateway, player=_player(gateway)))
        return [_unsent(known, replayed=sender != gateway) for *known, sender in rows]

    def bury(self, gateway: str, heir: str | None = None) -> None:
        """Settles what a dead gateway has left: what it held is dropped, since its clients have heard of its end; what
        it was sending is in doubt; what it had still to send, or holds and nobody waits for, is left to its heir.

        Args:
            gateway: One that is known to be dead.
            heir: The gateway that goes on; None leaves what is released for another.
        """

        def work(tx: Transaction) -> None:
            now = time.time()
            tx.run(_DROP_OF_DEAD, old=gateway, why="the gateway that held it ended", now=now)
            why = "the gateway that sent it ended before there was an answer"
            tx.run(_LOSE_OF_DEAD, old=gateway, why=why, now=now)
            for part, call in tx.rows(_LOST_PARTS, gateway=gateway):
                _follow(tx, part, call)
            why = "the gateway that replayed it ended"
            for each in (_DROP_REPLAYED, _FAIL_OF_DEAD):
                tx.run(each, old=_player(gateway), why=why, now=now)
            crash.point("effect.before_adopt")
            if heir is not None:
                tx.run(_ADOPT, old=gateway, new=heir)

        self._store.write(work)

    # -- what people see and say

    def listed(self, branch: str | None = None) -> list[Effect]:
        """Lists effects in the order in which they were asked for.

        Args:
            branch: Those that stand in this one, or were asked for in it; all by default.
        """
        rows = self._store.read(
            lambda tx: tx.rows(_ALL) if branch is None else tx.rows(_OF_BRANCH, branch=branch)
        )
        return [effect_of(row) for row in rows]

    def waiting(self, branch: str) -> set[str]:
        """Returns the instances of a branch that wait for an effect that it holds."""
        return {row[0] for row in self._store.read(lambda tx: tx.rows(_HOLDERS, branch=branch))}

    def named(self, *names: str) -> list[Effect]:
        """Returns effects by their ids, in the order given; those that are there."""

        def work(tx: Transaction) -> list[Effect]:
            rows = (tx.row(_NAMED, id=name) for name in names)
            return [effect_of(row) for row in rows if row is not None]

        return self._store.read(work)

    def get(self, ref: str) -> Exact:
        """Finds an effect by its id, or the beginning of its id if only one begins so.

        Raises:
            EffectUnknown: None is called so, or several are; ``details["candidates"]`` names these.
        """
        rows = self._store.read(lambda tx: tx.rows(_CALLED, first=ref, last=f"{ref}~"))
        if len(rows) == 1 and ref.startswith(EffectId.prefix):
            return exact_of(rows[0])
        names = [row[0] for row in rows] if ref.startswith(EffectId.prefix) else []
        raise EffectUnknown(
            f"{'several effects begin' if names else 'no effect begins'} with {ref!r}",
            hint=f"Give more of the id: {', '.join(names)}."
            if names
            else "`kibo effects` lists what there is.",
            details={"ref": ref, "candidates": names},
        )

    def resolve(self, ref: str, *, done: bool, by: str) -> Effect:
        """Records what somebody has found out about an effect in doubt, of a call about its requests in doubt as well.

        Args:
            ref: See `get`.
            done: Whether it has happened. A call in an aborted branch that can be undone is to be, then.
            by: Who says so.

        Raises:
            EffectUnknown: See `get`.
            WrongState: It is not in doubt; or it is said not to have happened, and a request of it is still on its way.
        """
        found = self.get(ref).effect
        event: Literal["confirm", "deny"] = "confirm" if done else "deny"
        why = f"{by} found that it has{'' if done else ' not'} happened"

        def work(tx: Transaction) -> bool:
            if not done and (part := on_its_way(tx, found.id)) is not None:
                raise WrongState(
                    f"a request of {found.id}, {part}, is still on its way",
                    hint="It has an outcome once its server has answered, or its gateway has ended: say it then.",
                    details={"effect": found.id, "request": part},
                )
            moved = find_out(tx, found.id, event, why)
            if moved and done and found.undo and fate(tx, found.branch)[1] == "dropped":
                tx.run(OWE, effect=found.id, why=f"{why}, and its branch is aborted")
            return moved

        crash.point(f"effect.before_{event}")
        if not self._store.write(work):
            after(self.get(found.id).effect.state, event)
        return self.get(found.id).effect

    def settle_undone(self, ref: str, *, by: str) -> Effect:
        """Records that somebody has undone a call that Kibo has not.

        Raises:
            EffectUnknown: See `get`.
            WrongState: It is not to be undone.
        """
        found = self.get(ref).effect
        if not self._move(found.id, "settle", f"{by} says that it is undone"):
            after(self.get(found.id).effect.state, "settle")
        return self.get(found.id).effect

    def approve(self, ref: str, *, digest: str, by: str) -> Effect:
        """Records that a person approves what waits for one: it is sent once its branch lets it.

        Args:
            ref: See `get`.
            digest: Of the payload that is approved, as an effect's `digest`.
            by: Who says so.

        Raises:
            EffectUnknown: See `get`.
            WrongState: It has another digest, waits no more, was approved already, or needs no approval.
        """
        return self._say(ref, "approve", lambda tx, effect: approvals.approve(tx, effect, digest, by))

    def refuse(self, ref: str, *, by: str, why: str = "") -> Effect:
        """Records that a person refuses what waits for one, or was approved and is not sent yet: it is dropped.

        Args:
            ref: See `get`.
            by: Who says so.
            why: What the box is told, up to 1,000 characters.

        Raises:
            EffectUnknown: See `get`.
            InvalidInput: The reason is too long.
            WrongState: It is sent or has ended already, or needs no approval.
        """
        said = approvals.checked_why(why)
        return self._say(ref, "refuse", lambda tx, effect: approvals.refuse(tx, effect, by, said))

    def _say(
        self, ref: str, event: Event, work: Callable[[Transaction, EffectId], WrongState | None]
    ) -> Effect:
        effect = self.get(ref).effect.id
        crash.point(f"effect.before_{event}")
        problem = self._store.write(lambda tx: work(tx, effect))
        if problem is not None:
            raise problem
        return self.get(effect).effect

    def _move(self, effect: str, event: Event | CallEvent, why: str | None = None) -> bool:
        more = {} if why is None else {"why": why}
        return self._step(effect, event, now=time.time(), **more)

    def _step(self, effect: str, event: Event | CallEvent, **values: Any) -> bool:
        crash.point(f"effect.before_{event}")
        return bool(self._store.write(lambda tx: tx.run(_STEPS[event], effect=effect, **values)))


def insert_effect(
    tx: Transaction,
    draft: Draft,
    gateway: str,
    state: State,
    branch: str,
    now: float,
    more: Mapping[str, Any],
) -> Effect:
    made: dict[str, Any] = dict.fromkeys(_GIVEN)
    made |= {
        "id": draft.id,
        "state": state,
        "reason": "its branch was aborted" if state == "dropped" else "",
        "branch": branch,
        "origin": draft.branch,
        "instance": draft.instance,
        "gateway": _player(gateway) if draft.replayed else gateway,
        "scope": draft.scope,
        "key": draft.key,
        "class": draft.effect,
        "rule": draft.rule,
        "secrets": draft.secrets,
        "method": draft.payload.method.decode("latin-1"),
        "url": draft.payload.url,
        "digest": draft.digest,
        "head": PACK.encode(draft.payload),
        "body": draft.body,
        "whole": int(draft.whole),
        "action": draft.payload.action if isinstance(draft.payload, Called) else None,
        "undo": draft.undo,
        "within": draft.within,
        "created": now,
        "approval_s": draft.approve_within_s,
        "approver": "",
        **more,
    }
    tx.run(_INSERT, **made)
    return effect_of([made[column.name] for column in SHORT])


def _answered(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "answer_head": PACK.encode(outcome.fields),
        "answer_body": outcome.body,
        "answer_whole": int(outcome.whole),
        "ended": time.time(),
    }


def effect_of(row: Sequence[Any]) -> Effect:
    effect, state, reason, branch, origin, instance, *rest = row
    return Effect(
        EffectId(effect), state, reason, BranchId(branch), BranchId(origin), InstanceId(instance), *rest
    )


def exact_of(row: Row) -> Exact:
    short, (head, body, whole, answer_head, answer_body, answer_whole) = (
        row[: len(SHORT)],
        row[len(SHORT) :],
    )
    effect = effect_of(short)
    outcome = None
    if effect.status is not None:
        fields = _unpacked(UNPACK_FIELDS, effect.id, "answer_head", answer_head)
        outcome = Outcome(effect.status, fields, answer_body or b"", bool(answer_whole))
    elif answer_body is not None:
        outcome = Outcome(0, [], answer_body, bool(answer_whole))
    payload: Payload | Called
    if effect.action is None:
        payload = _unpacked(UNPACK_PAYLOAD, effect.id, "head", head)
    else:
        payload = _unpacked(UNPACK_CALLED, effect.id, "head", head)
    return Exact(effect, payload, body, bool(whole), outcome)


def _unpacked(decoder: msgspec.msgpack.Decoder[T], effect: str, column: str, packed: bytes | None) -> T:
    """Unpacks what the ledger has packed.

    Raises:
        StoreDamaged: It is no such thing.
    """
    try:
        return decoder.decode(packed or b"")
    except msgspec.MsgspecError as error:
        raise damaged("effects", column, {"id": effect}, f"cannot be unpacked: {error}") from error
