"""Who acts as a node, or as the dispatcher: rows whose holder counts a beat up. Nobody compares clocks.

A holder writes with its epoch. Whoever has seen one beat for `LEASE_S`, by a clock that nobody sets, may take the
lease; that raises the epoch, and the older holder's writes are refused from then on. A holder that could not renew
for `LEASE_GIVE_UP_S` has to end what it runs by itself. See decision 0033.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import bindparam, select, update

from kibo.model.errors import PlaceTaken
from kibo.model.limits import LEASE_GIVE_UP_S, LEASE_S
from kibo.store import crash
from kibo.store.database import Store, Transaction
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import leases

#: What the dispatcher's lease is called, and what those of nodes begin with.
DISPATCHER: Final = "dispatcher"
NODE: Final = "node/"


class LeaseRow(NamedTuple):
    """One row of `leases`, column by column.

    Attributes:
        name: Of what.
        holder: Who holds it, for people; empty where nobody does.
        epoch: Grows with each holder.
        beat: Grows with each renewal.
    """

    name: str
    holder: str
    epoch: int
    beat: int

    def is_of(self, process: str) -> bool:
        """Tells whether a process holds it, by the name that ends what its holder is called, in parentheses."""
        return self.holder.endswith(f"({process})")


_LEASE: Final = select(*leases.columns).where(leases.c.name == bindparam("lease"))
_LOOK: Final = Prepared(_LEASE)
_HOLD: Final = Prepared(_LEASE.with_for_update())
_KEEP: Final = Prepared(_LEASE.with_for_update(read=True))
_ALL: Final = Prepared(select(*leases.columns).order_by(leases.c.name))
_NEW: Final = insertion(leases)
_TAKE: Final = Prepared(
    update(leases)
    .where(leases.c.name == bindparam("lease"))
    .values(holder=bindparam("new_holder"), epoch=bindparam("new_epoch"), beat=bindparam("new_beat"))
)
_RENEW: Final = Prepared(
    update(leases)
    .where(leases.c.name == bindparam("lease"), leases.c.epoch == bindparam("held"))
    .values(beat=leases.c.beat + 1)
)


def fence(tx: Transaction, name: str, epoch: int) -> None:
    """Makes sure that a transaction is the holder's: until it ends, nobody takes the lease.

    Raises:
        PlaceTaken: Another has it.
    """
    row = tx.row(_KEEP, lease=name)
    if row is None or LeaseRow._make(row).epoch != epoch:
        raise taken(name, epoch)


def taken(name: str, epoch: int) -> PlaceTaken:
    """Makes the error for a holder that was given up."""
    return PlaceTaken(f"the lease of {name} is another's now", details={"lease": name, "epoch": epoch})


def read_leases(tx: Transaction) -> list[LeaseRow]:
    """Reads all, in order of name."""
    return [LeaseRow._make(row) for row in tx.rows(_ALL)]


class Leases:
    """The leases of one store. Every call raises `StoreUnavailable` and `HostDiskFull` as the store does.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store: Final = store

    def all(self) -> list[LeaseRow]:
        """Lists all, in order of name."""
        return self._store.read(read_leases)

    def look(self, name: str) -> LeaseRow | None:
        """Reads one; None where nobody ever held it."""
        row = self._store.read(lambda tx: tx.row(_LOOK, lease=name))
        return None if row is None else LeaseRow._make(row)

    def take(self, name: str, holder: str, seen: LeaseRow | None) -> int:
        """Takes a lease.

        Args:
            name: Which.
            holder: Who takes it, for people; empty to take it away only.
            seen: As it was for `LEASE_S`, or as the caller knows it to be nobody's; None where there was none.

        Returns:
            The epoch to write with.

        Raises:
            PlaceTaken: It is not what was seen any more.
        """

        def work(tx: Transaction) -> int:
            row = tx.row(_HOLD, lease=name)
            found = None if row is None else LeaseRow._make(row)
            if found != seen:
                raise taken(name, -1 if seen is None else seen.epoch)
            crash.point("lease.before_take")
            if found is None:
                tx.run(_NEW, name=name, holder=holder, epoch=1, beat=0)
                return 1
            tx.run(_TAKE, lease=name, new_holder=holder, new_epoch=found.epoch + 1, new_beat=found.beat + 1)
            return found.epoch + 1

        epoch = self._store.write(work)
        crash.point("lease.taken")
        return epoch

    def renew(self, name: str, epoch: int) -> None:
        """Shows that a holder is there.

        Raises:
            PlaceTaken: Another has it.
        """
        if self._store.write(lambda tx: tx.run(_RENEW, lease=name, held=epoch)) == 0:
            raise taken(name, epoch)

    def end(self, name: str, epoch: int) -> None:
        """Gives a lease back: the next holder need not wait. Nothing happens where another has it already."""

        def work(tx: Transaction) -> None:
            row = tx.row(_HOLD, lease=name)
            if row is not None and (found := LeaseRow._make(row)).epoch == epoch:
                tx.run(_TAKE, lease=name, new_holder="", new_epoch=epoch + 1, new_beat=found.beat + 1)

        self._store.write(work)


class Watch:
    """Tells which leases have not been renewed for so long that they may be taken. Pure.

    It has to be told what the leases are, at least a few times within `LEASE_S`. Whoever has looked rarely, or was
    stopped, has not seen a silence: a gap between two looks counts no more than it should.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[LeaseRow, float]] = {}
        self._looked_s: float | None = None

    def look(self, rows: list[LeaseRow], now_s: float) -> list[LeaseRow]:
        """Takes in what the leases are. Returns those that have a holder and were silent for `LEASE_S`.

        Args:
            rows: They.
            now_s: The time, by a clock that nobody sets.
        """
        before, self._looked_s = self._looked_s, now_s
        if before is not None and now_s - before > LEASE_S / 2:
            self._seen.clear()  # this process slept: the others may have, too, and have not renewed yet
        known, self._seen = self._seen, {}
        silent = []
        for row in rows:
            last = known.get(row.name)
            since = last[1] if last is not None and last[0] == row else now_s
            self._seen[row.name] = (row, since)
            if row.holder and now_s - since >= LEASE_S:
                silent.append(row)
        return silent


class Holding:
    """One lease, as its holder knows it.

    Args:
        leases: Where it is.
        name: Of what.
        holder: Who this is, for people.
    """

    def __init__(self, leases: Leases, name: str, holder: str) -> None:
        self._leases: Final = leases
        self.name: Final = name
        self._holder: Final = holder
        self.epoch = 0
        self._renewed_s = float("-inf")

    def take(self, seen: LeaseRow | None, now_s: float) -> None:
        """Takes it; see `Leases.take`."""
        self.epoch = self._leases.take(self.name, self._holder, seen)
        self._renewed_s = now_s

    def renew(self, now_s: float) -> None:
        """Renews it.

        Args:
            now_s: The time before it is asked for: what is slow to arrive holds for less long.

        Raises:
            PlaceTaken: Another has it.
        """
        self._leases.renew(self.name, self.epoch)
        self._renewed_s = now_s

    def overdue(self, now_s: float) -> bool:
        """Whether it was not renewed for so long that the holder must end all that it runs."""
        return now_s - self._renewed_s >= LEASE_GIVE_UP_S

    def end(self) -> None:
        """Gives it back."""
        self._leases.end(self.name, self.epoch)
