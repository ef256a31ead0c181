"""Profiles, and who holds each or waits for it, in the store. Every step is one transaction.

Leases of a profile stand in a queue: the first may have it, in the order in which they were asked for. Each that is
given has an epoch, which grows; nothing is written with an older one. Deadlines are by the clock that runs since the
host's start, which nobody sets: over a restart no holder lives on anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import bindparam, delete, select, update

from kibo.model.clock import up_s
from kibo.model.errors import InvalidInput, LeaseEnded, ProfileUnknown, WrongState
from kibo.model.ids import LeaseId, ProfileId
from kibo.model.limits import MAX_NAME
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import profile_leases, profiles

T = TypeVar("T")

WAITING: Final = "waiting"
HELD: Final = "held"
ASKED: Final = "asked"
TAKEN: Final = "taken"


class ProfileRow(NamedTuple):
    """One row of `profiles`, column by column; see the table."""

    id: ProfileId
    name: str
    epoch: int
    version: int
    created: float


class LeaseRow(NamedTuple):
    """One row of `profile_leases`, column by column; see the table."""

    position: int
    id: LeaseId
    profile: ProfileId
    state: str
    holder: str
    epoch: int
    since: float
    idle_s: float
    expires: float
    why: str
    until: float | None
    copy: str | None

    @property
    def with_person(self) -> bool:
        """Whether it is a person's turn."""
        return self.state in (ASKED, TAKEN)


_PROFILE: Final = select(*profiles.columns)
_BY_NAME: Final = Prepared(_PROFILE.where(profiles.c.name == bindparam("name")))
_HOLD: Final = Prepared(_PROFILE.where(profiles.c.id == bindparam("id")).with_for_update())
_LOOK: Final = Prepared(_PROFILE.where(profiles.c.id == bindparam("id")))
_ALL: Final = Prepared(_PROFILE.order_by(profiles.c.name))
_NEW: Final = insertion(profiles)
_SET: Final = Prepared(
    update(profiles)
    .where(profiles.c.id == bindparam("profile"))
    .values(epoch=bindparam("new_epoch"), version=bindparam("new_version"))
)
_QUEUE: Final = Prepared(
    select(*profile_leases.columns)
    .where(profile_leases.c.profile == bindparam("profile"))
    .order_by(profile_leases.c.position)
)
_LEASE: Final = select(*profile_leases.columns).where(profile_leases.c.id == bindparam("lease"))
_HOLD_LEASE: Final = Prepared(_LEASE.with_for_update())
_LOOK_LEASE: Final = Prepared(_LEASE)
_GIVEN: Final = [column.name for column in profile_leases.columns if column.name != "position"]
_ASK: Final = insertion(profile_leases, "position")
_CHANGING: Final = ("state", "epoch", "since", "expires", "why", "until", "copy")
_CHANGE: Final = Prepared(
    update(profile_leases)
    .where(profile_leases.c.id == bindparam("lease"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)
_END: Final = Prepared(delete(profile_leases).where(profile_leases.c.id == bindparam("lease")))


def check_name(name: str) -> None:
    """Checks the name of a session.

    Raises:
        InvalidInput: It is none.
    """
    if isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() and name == name.strip():
        return
    raise InvalidInput(
        f"not the name of a session: {str(name)[:80]!r}",
        hint=f"A name has 1 to {MAX_NAME} printable characters, such as shop.example/ada.",
    )


# -- within a transaction


def hold(tx: Transaction, profile: str) -> ProfileRow:
    """Locks a profile until the transaction ends; what belongs to it is written by nobody else meanwhile.

    Raises:
        ProfileUnknown: It was forgotten.
    """
    return _made(tx.row(_HOLD, id=profile))


def look(tx: Transaction, profile: str) -> ProfileRow:
    """Reads a profile.

    Raises:
        ProfileUnknown: It was forgotten.
    """
    return _made(tx.row(_LOOK, id=profile))


def _made(row: tuple[Any, ...] | None) -> ProfileRow:
    if row is None:
        raise ProfileUnknown("the session was forgotten", hint="`kibo sessions` lists what there is.")
    return ProfileRow._make(row)


def advance(
    tx: Transaction, row: ProfileRow, *, epoch: int | None = None, version: int | None = None
) -> None:
    """Sets a held profile's epoch, or its newest version."""
    tx.run(
        _SET,
        profile=row.id,
        new_epoch=row.epoch if epoch is None else epoch,
        new_version=row.version if version is None else version,
    )


def queue(tx: Transaction, profile: str) -> list[LeaseRow]:
    """Lists a profile's leases in order: the holder first, where it has one."""
    return [LeaseRow._make(row) for row in tx.rows(_QUEUE, profile=profile)]


def find(tx: Transaction, lease: str) -> LeaseRow:
    """Reads a lease, and locks its row.

    Raises:
        LeaseEnded: It has ended, or was taken away.
    """
    return _leased(tx.row(_HOLD_LEASE, lease=lease))


def _leased(row: tuple[Any, ...] | None) -> LeaseRow:
    if row is None:
        raise LeaseEnded("the lease has ended: it was revoked, or was idle while another waited")
    return LeaseRow._make(row)


def fenced(tx: Transaction, profile: ProfileRow, lease: str) -> LeaseRow:
    """Returns a lease of a held profile that may write.

    Raises:
        LeaseEnded: It may not: it has ended, or another had the profile since.
        WrongState: A person has the profile.
    """
    row = find(tx, lease)
    if row.state == WAITING or row.epoch != profile.epoch:
        raise LeaseEnded("the lease is not the newest", details={"epoch": row.epoch, "now": profile.epoch})
    if row.with_person:
        raise WrongState(
            f"a person has session {profile.name!r} now", hint="Save before hand_over(), or after it."
        )
    return row


def change(tx: Transaction, row: LeaseRow) -> None:
    """Writes what a lease is now."""
    tx.run(_CHANGE, lease=row.id, **{f"new_{name}": getattr(row, name) for name in _CHANGING})


def renewed(row: LeaseRow) -> LeaseRow:
    """Returns a lease that has shown that it is in use."""
    return row._replace(expires=up_s() + row.idle_s)


class Register:
    """The profiles of one store and their leases. Every call raises `StoreUnavailable` and `HostDiskFull` as the store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self.store: Final = store

    def find(self, name: str) -> ProfileRow:
        """Finds a profile.

        Raises:
            InvalidInput: The name is none.
            ProfileUnknown: There is none of that name.
        """
        check_name(name)
        row = self.store.read(lambda tx: tx.row(_BY_NAME, name=name))
        if row is None:
            raise ProfileUnknown(f"there is no session {name!r}", hint="`kibo sessions` lists what there is.")
        return ProfileRow._make(row)

    def ensure(self, name: str) -> ProfileRow:
        """Finds a profile, or makes one that has no files yet."""
        check_name(name)

        def work(tx: Transaction) -> ProfileRow:
            if (row := tx.row(_BY_NAME, name=name)) is not None:
                return ProfileRow._make(row)
            made = ProfileRow(ProfileId.new(), name, 0, 0, time.time())
            tx.run(_NEW, **made._asdict())
            return made

        row = self.store.read(lambda tx: tx.row(_BY_NAME, name=name))
        return ProfileRow._make(row) if row is not None else self.store.write(work)

    def listed(self) -> list[ProfileRow]:
        """Lists all, in order of name."""
        return [ProfileRow._make(row) for row in self.store.read(lambda tx: tx.rows(_ALL))]

    def queue(self, profile: str) -> list[LeaseRow]:
        """Lists a profile's leases in order."""
        return self.store.read(lambda tx: queue(tx, profile))

    def ask(self, profile: str, lease: str, holder: str, idle_s: float) -> None:
        """Puts a lease at the end of the queue; its holder's presence is there already."""
        values: dict[str, Any] = dict.fromkeys(_GIVEN)
        values |= {"id": lease, "profile": profile, "state": WAITING, "holder": holder, "epoch": 0}
        values |= {"since": time.time(), "idle_s": idle_s, "expires": 0.0, "why": ""}

        def work(tx: Transaction) -> None:
            hold(tx, profile)
            tx.run(_ASK, **values)

        crash.point("session.before_ask")
        self.store.write(work)
        crash.point("session.asked")

    def grant(self, profile: str, lease: str, gone: Collection[str]) -> int | None:
        """Gives a lease the profile, if it is the first.

        Args:
            profile: Its id.
            lease: Who wants it.
            gone: Leases whose holders have ended.

        Returns:
            Its epoch, or None where one before it still has or wants the profile.

        Raises:
            LeaseEnded: It was revoked while it waited.
        """

        def work(tx: Transaction) -> int | None:
            row = hold(tx, profile)
            mine = find(tx, lease)
            for each in queue(tx, profile):
                if each.id == lease:
                    break
                if each.id not in gone and not overdue(each):
                    return None
                tx.run(_END, lease=each.id)
            epoch = row.epoch + 1
            advance(tx, row, epoch=epoch)
            change(tx, renewed(mine._replace(state=HELD, epoch=epoch, since=time.time())))
            crash.point("session.before_grant")
            return epoch

        found = self.store.write(work)
        crash.point("session.granted")
        return found

    def end(self, lease: str) -> None:
        """Ends a lease, or the wait for one. Idempotent."""
        crash.point("session.before_end")
        self.store.write(lambda tx: tx.run(_END, lease=lease))

    def revoke(self, profile: str) -> LeaseRow | None:
        """Takes the profile from who holds it: nothing of theirs is saved any more. Returns who that was, or None."""

        def work(tx: Transaction) -> LeaseRow | None:
            row = hold(tx, profile)
            first = next(iter(queue(tx, profile)), None)
            if first is None or first.state == WAITING:
                return None
            tx.run(_END, lease=first.id)
            advance(tx, row, epoch=row.epoch + 1)
            crash.point("session.before_revoke")
            return first

        return self.store.write(work)

    def renew(self, profile: str, lease: str) -> None:
        """Notes that a lease is in use.

        Raises:
            LeaseEnded, WrongState: See `fenced`.
        """
        self._step(profile, lease, renewed)

    def ask_person(self, profile: str, lease: str, why: str, timeout_s: float) -> None:
        """Notes that a person is to go on, and until when that is waited for.

        Raises:
            LeaseEnded, WrongState: See `fenced`.
        """
        until = up_s() + timeout_s
        self._step(
            profile,
            lease,
            lambda row: row._replace(
                state=ASKED, why=why, until=until, expires=until + row.idle_s, copy=None
            ),
        )
        crash.point("session.person_asked")

    def recall(self, profile: str, lease: str) -> bool:
        """Takes back what a person was asked for. Returns whether they had not answered before.

        Raises:
            LeaseEnded: The lease has ended meanwhile.
        """

        def work(tx: Transaction) -> bool:
            hold(tx, profile)
            row = find(tx, lease)
            if not row.with_person:
                return False
            change(tx, answered(row))
            return True

        return self.store.write(work)

    def state(self, lease: str) -> LeaseRow:
        """Reads a lease.

        Raises:
            LeaseEnded: It has ended, or was taken away.
        """
        return self.store.read(lambda tx: _leased(tx.row(_LOOK_LEASE, lease=lease)))

    def _step(self, profile: str, lease: str, step: Callable[[LeaseRow], LeaseRow]) -> None:
        self.store.write(lambda tx: change(tx, step(fenced(tx, hold(tx, profile), lease))))


def answered(row: LeaseRow) -> LeaseRow:
    """Returns a lease that is its program's again."""
    return renewed(row._replace(state=HELD, why="", until=None, copy=None))


def overdue(row: LeaseRow) -> bool:
    """Tells whether a lease may be taken from its holder, who has done nothing with it for too long."""
    return row.state != WAITING and row.expires < up_s()
