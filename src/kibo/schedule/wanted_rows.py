"""What is wanted, as rows."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, literal, or_, select, update
from sqlalchemy import insert as insert_into

from kibo.store.database import Transaction
from kibo.store.prepared import Prepared, Row, insertion
from kibo.store.schema import branches, entries, heard, snapshots, wanted, wanted_state


class WantedRow(NamedTuple):
    """One row of `wanted`, column by column; see the table."""

    kind: str
    name: str
    spec: bytes
    work: bytes
    applied: float
    done: int
    run: str | None
    problem: str


class Ahead(NamedTuple):
    """A root branch in which something may not have been heard yet.

    Attributes:
        root: Its id.
        name: What it is called.
        status: How it stands.
        head: Its head now.
        tail: The number of the last entry that it sees now.
        born: The number of the last one that it began with.
        known: Its head when it was last listened to; None where it never was.
        seq: The number of the last entry that was heard then.
    """

    root: str
    name: str
    status: str
    head: str
    tail: int
    born: int
    known: str | None
    seq: int


_ALL: Final = Prepared(select(*wanted.columns).order_by(wanted.c.kind, wanted.c.name))
_ONE: Final = Prepared(
    select(*wanted.columns).where(wanted.c.kind == bindparam("of"), wanted.c.name == bindparam("called"))
)
_INSERT: Final = insertion(wanted)
_DELETE: Final = Prepared(
    delete(wanted).where(wanted.c.kind == bindparam("of"), wanted.c.name == bindparam("called"))
)
_SETTLE: Final = Prepared(
    update(wanted)
    .where(wanted.c.kind == bindparam("of"), wanted.c.name == bindparam("called"))
    .values(done=bindparam("settled"), run=bindparam("newest"), problem=bindparam("why"))
)
_LOCK: Final = Prepared(
    select(wanted_state.c.number).where(wanted_state.c.number == bindparam("n")).with_for_update()
)
_POSITION: Final = Prepared(select(entries.c.position).order_by(entries.c.position.desc()).limit(1))
_FORGET: Final = Prepared(delete(heard))
_FORGET_GONE: Final = Prepared(
    delete(heard).where(~select(branches.c.id).where(branches.c.id == heard.c.root).exists())
)
#: From now on: what was said before is nobody's to hear.
_BEGIN: Final = Prepared(
    insert_into(heard).from_select(
        ["root", "born", "head", "seq"],
        select(branches.c.id, literal(0), branches.c.head, branches.c.tail).where(
            branches.c.parent.is_(None)
        ),
    )
)
#: An imported root begins with a log that was written elsewhere.
_IMPORTED: Final = Prepared(
    select(snapshots.c.seq).where(snapshots.c.tree == bindparam("root"), snapshots.c.kind == "import")
)
_COLUMNS: Final = [branches.c[name] for name in ("id", "name", "status", "head", "tail", "base_seq")]
_SOME: Final = Prepared(
    select(*_COLUMNS, heard.c.born, heard.c.head, heard.c.seq)
    .select_from(branches.outerjoin(heard, heard.c.root == branches.c.id))
    .where(
        branches.c.parent.is_(None),
        or_(heard.c.root.is_(None), heard.c.head != branches.c.head, heard.c.seq != branches.c.tail),
    )
    .order_by(branches.c.created, branches.c.id)
    .limit(bindparam("most"))
)
_HEARD: Final = insertion(heard)
_HEARD_ON: Final = Prepared(
    update(heard)
    .where(heard.c.root == bindparam("of"))
    .values(head=bindparam("now_head"), seq=bindparam("now_seq"))
)


def lock(tx: Transaction) -> None:
    """Has nobody else change what is wanted, or what was heard, until the transaction ends."""
    tx.row(_LOCK, n=1)


def read_all(tx: Transaction) -> list[WantedRow]:
    """Reads all that is wanted, in order of kind and name."""
    return [WantedRow._make(row) for row in tx.rows(_ALL)]


def find(tx: Transaction, kind: str, name: str) -> WantedRow | None:
    """Reads one thing; None where it is not wanted."""
    row = tx.row(_ONE, of=kind, called=name)
    return None if row is None else WantedRow._make(row)


def put(tx: Transaction, row: WantedRow) -> None:
    """Writes what is wanted, instead of what was wanted under that name."""
    remove(tx, row.kind, row.name)
    tx.run(_INSERT, **row._asdict())


def remove(tx: Transaction, kind: str, name: str) -> None:
    """Has something wanted no more."""
    tx.run(_DELETE, of=kind, called=name)


def settle(tx: Transaction, row: WantedRow) -> None:
    """Writes how far something has got: `done`, `run` and `problem` of its row."""
    tx.run(_SETTLE, of=row.kind, called=row.name, settled=row.done, newest=row.run, why=row.problem)


def position(tx: Transaction) -> int:
    """Returns the position of the newest entry of the log."""
    row = tx.row(_POSITION)
    return 0 if row is None else int(row[0])


def begin_hearing(tx: Transaction) -> None:
    """Has everything heard that is said in any root from now on."""
    tx.run(_FORGET)
    tx.run(_BEGIN)


def end_hearing(tx: Transaction) -> None:
    """Forgets what was heard."""
    tx.run(_FORGET)


def forget_gone(tx: Transaction) -> None:
    """Forgets what was heard in roots that were collected since."""
    tx.run(_FORGET_GONE)


def ahead(tx: Transaction, most: int) -> list[Ahead]:
    """Finds roots in which something may not have been heard, the oldest first. About 2 us for each root there is."""
    return [_ahead(tx, row) for row in tx.rows(_SOME, most=most)]


def _ahead(tx: Transaction, row: Row) -> Ahead:
    root, name, status, head, tail, base, born, known, seq = row
    if known is None:
        imported = tx.row(_IMPORTED, root=root)
        born = seq = max(base, 0 if imported is None else imported[0])
    return Ahead(root, name, status, head, tail, born, known, seq)


def heard_to(tx: Transaction, root: Ahead, seq: int) -> None:
    """Notes that all was heard in a root up to an entry, with the head that it has now."""
    if root.known is None:
        tx.run(_HEARD, root=root.root, born=root.born, head=root.head, seq=seq)
    else:
        tx.run(_HEARD_ON, of=root.root, now_head=root.head, now_seq=seq)
