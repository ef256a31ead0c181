"""Labels and pins: what names a snapshot, and what keeps it, besides branches."""

from __future__ import annotations

import reprlib
import time
from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from kibo.branch.rows import keep_snapshot, read_snapshot
from kibo.model.errors import InvalidInput, NotFound
from kibo.model.ids import BranchId, SnapshotId
from kibo.model.limits import MAX_WORLD_BYTES
from kibo.store import crash
from kibo.store.database import Transaction
from kibo.store.prepared import Prepared
from kibo.store.schema import labels, pins

MAX_NAME: Final = 200
#: Characters of a name that is too long which stay at its beginning; the rest stays at its end.
_HEAD: Final = 20

_HERE: Final = (labels.c.tree == bindparam("in_tree"), labels.c.label == bindparam("called"))
_MOVE: Final = Prepared(update(labels).where(*_HERE).values(snapshot=bindparam("to")))
_ADD: Final = Prepared(
    insert(labels).values(tree=bindparam("in_tree"), label=bindparam("called"), snapshot=bindparam("to"))
)
_REMOVE: Final = Prepared(delete(labels).where(*_HERE))
_OF_TREE: Final = Prepared(
    select(labels.c.label, labels.c.snapshot)
    .where(labels.c.tree == bindparam("in_tree"))
    .order_by(labels.c.label)
)
_OF_SNAPSHOT: Final = Prepared(
    select(labels.c.label).where(labels.c.snapshot == bindparam("of")).order_by(labels.c.label)
)
_CALLED: Final = Prepared(
    select(labels.c.tree, labels.c.snapshot).where(labels.c.label == bindparam("called")).limit(2)
)
_THIS: Final = (pins.c.snapshot == bindparam("what"), pins.c.holder == bindparam("by"))
_REPIN: Final = Prepared(update(pins).where(*_THIS).values(expires=bindparam("until")))
_PIN: Final = Prepared(
    insert(pins).values(snapshot=bindparam("what"), holder=bindparam("by"), expires=bindparam("until"))
)
_UNPIN: Final = Prepared(delete(pins).where(*_THIS))


def checked_name(name: str, what: str) -> str:
    """Returns a name that people can read and type.

    Raises:
        InvalidInput: It is no text, too long, or has control characters.
    """
    if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidInput(
            f"not a {what}: {reprlib.repr(name)}", hint=f"At most {MAX_NAME} printable characters."
        )
    return name


def checked_goal(goal: str) -> str:
    """Returns what a tree is for, as every database can hold it.

    Raises:
        InvalidInput: It is no text, or longer than a snapshot that is exported could tell.
    """
    if not isinstance(goal, str) or len(goal) > MAX_WORLD_BYTES or not storable(goal):
        raise InvalidInput(
            f"not a goal: {reprlib.repr(goal)}",
            hint="A text without null characters and half surrogate pairs, of at most "
            f"{MAX_WORLD_BYTES:,} characters.",
        )
    return goal


def storable(text: str) -> bool:
    """Tells whether every database can hold a text: none has one that is not Unicode, PostgreSQL none with a null."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def numbered(name: str, number: int) -> str:
    """Names a fork after what it was forked from. Of a name that would be too long the middle is left out."""
    full = f"{name}.{number}"
    return (
        full
        if len(full) <= MAX_NAME
        else f"{full[:_HEAD]}\N{HORIZONTAL ELLIPSIS}{full[_HEAD + 1 - MAX_NAME :]}"
    )


def set_label(tx: Transaction, snapshot: str, label: str) -> None:
    """Gives a snapshot a name, which another of its tree may have had."""
    if not checked_name(label, "label") or label.startswith((BranchId.prefix, SnapshotId.prefix)):
        raise InvalidInput(f"not a label: {label!r}", hint="A label is not empty, and looks like no id.")
    row = keep_snapshot(tx, snapshot)
    values = {"in_tree": row.tree, "called": label, "to": snapshot}
    crash.point("label.before_move")
    if not tx.run(_MOVE, **values):
        tx.run(_ADD, **values)
    crash.point("label.before_commit")


def remove_label(tx: Transaction, tree: str, label: str) -> None:
    """Takes a name away.

    Raises:
        NotFound: The tree has none such.
    """
    if not tx.run(_REMOVE, in_tree=tree, called=label):
        raise NotFound(f"tree {tree} has no label {label!r}", hint="`kibo tree` shows the labels.")


def labels_of_tree(tx: Transaction, tree: str) -> dict[str, SnapshotId]:
    """Returns a tree's labels and what they name."""
    return {label: SnapshotId(snapshot) for label, snapshot in tx.rows(_OF_TREE, in_tree=tree)}


def labels_of(tx: Transaction, snapshot: str) -> tuple[str, ...]:
    """Returns the labels of one snapshot."""
    return tuple(label for (label,) in tx.rows(_OF_SNAPSHOT, of=snapshot))


def labelled(tx: Transaction, label: str) -> list[tuple[str, str]]:
    """Returns up to two trees that have a label, with the snapshot that it names there."""
    return [(tree, snapshot) for tree, snapshot in tx.rows(_CALLED, called=label)]


def pin(tx: Transaction, snapshot: str, holder: str, ttl_s: float | None) -> None:
    """Keeps a snapshot and all before it from being collected."""
    keep_snapshot(tx, snapshot)
    values = {
        "what": snapshot,
        "by": checked_name(holder, "holder"),
        "until": None if ttl_s is None else time.time() + ttl_s,
    }
    crash.point("pin.before_insert")
    if not tx.run(_REPIN, **values):
        tx.run(_PIN, **values)


def unpin(tx: Transaction, snapshot: str, holder: str) -> None:
    """Lets a snapshot go; nothing happens where the holder had no pin."""
    read_snapshot(tx, snapshot)
    tx.run(_UNPIN, what=snapshot, by=holder)
