"""What a person has to say yes to, in the ledger: who has, until when that holds, and what comes of it otherwise.

An approval is of a payload, by its digest: what is about to be sent is held against it in the step that says so. The
digest is of placeholders where secrets go, so that what is approved stays the same where a secret is renewed.

Until when anything holds is written down by the clock that people set and by the one that runs from the machine's start
(`kibo.model.clock`): to set the clock lengthens nothing.
"""

from __future__ import annotations

import os
import pwd
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, bindparam, not_, or_, select, update

from kibo.effects.lifecycle import State, after, before, reached
from kibo.effects.records import payload_digest
from kibo.model.clock import Moment, moment
from kibo.model.errors import EffectUnknown, InvalidInput, WrongState
from kibo.model.limits import MAX_WHY
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import effects, moment_row

#: Whether an approval holds. As `Moment.left_s` has it, for rows that another may approve at this moment.
_HOLDS: Final = or_(
    and_(effects.c.due_boot == bindparam("boot"), effects.c.due_up > bindparam("up")),
    and_(
        effects.c.due_boot != bindparam("boot"),
        effects.c.due > bindparam("now"),
        effects.c.due - effects.c.approval_s <= bindparam("now"),
    ),
)
#: Whether nobody has to be asked, or somebody has said yes to just this.
_ALLOWED: Final = or_(effects.c.approval_s.is_(None), and_(effects.c.approved.is_not(None), _HOLDS))
ALLOWED_AS_IT_IS: Final = or_(
    effects.c.approval_s.is_(None),
    and_(effects.c.approved_digest == bindparam("digest"), _HOLDS),
)
#: What a commit would let happen, and nobody has approved, or not in time: from now on it waits for its person.
_ASK: Final = Prepared(
    update(effects)
    .where(effects.c.branch == bindparam("old"), effects.c.state == "held", not_(_ALLOWED))
    .values(
        state=reached("ask"),
        branch=bindparam("new"),
        due=bindparam("now") + effects.c.approval_s,
        due_up=bindparam("up") + effects.c.approval_s,
        due_boot=bindparam("boot"),
        approved=None,
        approver="",
        approved_digest=None,
    )
)
_FOUND: Final = Prepared(
    select(
        effects.c.state,
        effects.c.reason,
        effects.c.approval_s,
        effects.c.due,
        effects.c.due_up,
        effects.c.due_boot,
        effects.c.approved,
        effects.c.approver,
        effects.c.digest,
        effects.c.head,
        effects.c.body,
        effects.c.approved_digest,
    )
    .where(effects.c.id == bindparam("effect"))
    .with_for_update()
)
_APPROVE: Final = Prepared(
    update(effects)
    .where(effects.c.id == bindparam("effect"), effects.c.state == bindparam("old"))
    .values(
        state=bindparam("new"),
        released=bindparam("free"),
        approved=bindparam("now"),
        approver=bindparam("by"),
        approved_digest=bindparam("digest"),
        due=bindparam("due"),
        due_up=bindparam("due_up"),
        due_boot=bindparam("boot"),
    )
)
_DROP: Final = Prepared(
    update(effects)
    .where(effects.c.id == bindparam("effect"), effects.c.state == bindparam("old"))
    .values(state=reached("refuse"), reason=bindparam("why"), ended=bindparam("now"))
)
_ASKING: Final = Prepared(
    select(effects.c.id, effects.c.due, effects.c.due_up, effects.c.due_boot, effects.c.approval_s)
    .where(effects.c.gateway == bindparam("gateway"), effects.c.state == "asking")
    .order_by(effects.c.position)
)


class _Asked(NamedTuple):
    """What a row says of an approval."""

    state: State
    reason: str
    within_s: float
    due: float | None
    up: float | None
    boot: str | None
    approved: float | None
    approver: str
    digest: str
    head: bytes
    body: bytes
    approved_digest: str | None

    def left_s(self, now: Moment) -> float:
        """Returns the seconds until what it waits for, or its approval, is over."""
        return _left_s(self.due, self.up, self.boot, self.within_s, now)


def person() -> str:
    """Names who runs this process, as the ledger records it."""
    uid = os.getuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def clocks(now: Moment) -> dict[str, Any]:
    """Returns a moment as statements take it."""
    return {"now": now.at_s, "up": now.up_s, "boot": now.boot}


def asking_since(now: Moment, within_s: float) -> dict[str, Any]:
    """Returns what a row says of something that has begun to wait for its person."""
    return moment_row("due", now.after(within_s))


def ask(tx: Transaction, branch: str, parent: str, now: Moment) -> None:
    """Has what a committed branch held, and nobody has approved, wait for its person; in the commit's transaction.

    Before the rest is released: who approves at this moment finds one or the other.
    """
    tx.run(_ASK, old=branch, new=parent, **clocks(now))


def approve(tx: Transaction, effect: str, digest: str, by: str) -> WrongState | None:
    """Records that somebody approves a payload. Returns what is wrong where it cannot be."""
    now = moment()
    found, problem = _found(tx, effect)
    if problem is not None:
        return problem
    state, over = found.state, found.due is not None and not found.left_s(now)
    if state == "asking" and over:
        why = overdue(found.within_s)
        tx.run(_DROP, effect=effect, old=state, why=why, now=now.at_s)
        return _wrong(effect, f"was dropped: {why}", "A program that still wants it asks again.")
    if state not in before("approve"):
        said = f"was approved by {found.approver} and is {state}" if found.approver else f"is {state}"
        return _ended(effect, said, found.reason)
    if found.approved is not None and not over:
        said = f"was approved already, by {found.approver}"
        return _wrong(effect, said, "It is sent once its branch is committed.")
    recorded = payload_digest(found.head, found.body)
    if recorded != found.digest:
        said = "is not recorded any more as it was asked for"
        return _wrong(effect, said, f"Nothing of it is sent. `kibo deny {effect}` ends it.")
    if recorded != digest:
        return _wrong(
            effect,
            f"has another digest, {recorded}",
            f"Look at what it is: `kibo effects show {effect}`. An approval is of one payload.",
        )
    ending = now.after(found.within_s)
    new: State = after(state, "approve")
    tx.run(
        _APPROVE,
        effect=effect,
        old=state,
        new=new,
        free=now.at_s if new == "released" else None,
        now=now.at_s,
        by=by,
        digest=digest,
        due=ending.at_s,
        due_up=ending.up_s,
        boot=ending.boot,
    )
    return None


def refuse(tx: Transaction, effect: str, by: str, why: str) -> WrongState | None:
    """Records that somebody refuses a payload. Returns what is wrong where it cannot be."""
    found, problem = _found(tx, effect)
    if problem is not None:
        return problem
    if found.state not in before("refuse"):
        return _ended(effect, f"is {found.state}", found.reason)
    reason = f"{by} refused it{f': {why}' if why else ''}"
    tx.run(_DROP, effect=effect, old=found.state, why=reason, now=moment().at_s)
    return None


def expire(tx: Transaction, gateway: str) -> float | None:
    """Drops what has waited for too long at a gateway; see `Ledger.expire`."""
    now, next_s = moment(), None
    for effect, due, up, boot, within_s in tx.rows(_ASKING, gateway=gateway):
        left_s = _left_s(due, up, boot, within_s, now)
        if left_s:
            next_s = min(left_s, next_s or left_s)
        else:
            tx.run(_DROP, effect=effect, old="asking", why=overdue(within_s), now=now.at_s)
    return next_s


def settle_unsent(tx: Transaction, effect: str, digest: str, now: Moment) -> None:
    """Drops what was released, and must not be sent: its approval is over, or was of something else."""
    found, problem = _found(tx, effect)
    if problem is not None or found.state != "released":
        return
    if not found.left_s(now):
        why = f"its approval was over before it could be sent, after {_duration(found.within_s)}"
    elif found.approved_digest != digest:
        why = "what is recorded of it is not what was approved"
    else:
        return
    tx.run(_DROP, effect=effect, old=found.state, why=why, now=now.at_s)


def checked_why(why: str) -> str:
    """Checks what somebody says of why a request is refused.

    Raises:
        InvalidInput: It is too long.
    """
    if len(why) > MAX_WHY:
        raise InvalidInput(f"a reason of {len(why)} characters", hint=f"Say it in {MAX_WHY}.")
    return why


def overdue(within_s: float) -> str:
    """Says why something was dropped that nobody approved."""
    return f"nobody approved it within {_duration(within_s)}"


def _left_s(due: float | None, up: float | None, boot: str | None, within_s: float, now: Moment) -> float:
    """Returns the seconds until something is over, by its row; one that does not say has none."""
    if due is None or up is None or boot is None:
        return 0.0
    return Moment(due, up, boot).left_s(within_s, now)


def _found(tx: Transaction, effect: str) -> tuple[_Asked, WrongState | None]:
    row = tx.row(_FOUND, effect=effect)
    if row is None:
        raise EffectUnknown(
            f"{effect} is not in the ledger any more",
            hint="It had ended, and was collected: `kibo effects` lists what there is.",
            details={"effect": effect},
        )
    if row[2] is None:
        hint = "`kibo effects` lists what waits for a person first."
        return _Asked(*row), _wrong(effect, "needs no approval", hint)
    return _Asked(*row), None


def _ended(effect: str, said: str, reason: str) -> WrongState:
    hint = f"`kibo effects show {effect}` tells how it stands."
    return _wrong(effect, said + (f": {reason}" if reason else ""), hint)


def _wrong(effect: str, what: str, hint: str) -> WrongState:
    return WrongState(f"{effect} {what}", hint=hint, details={"effect": effect})


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
