"""Files that are one thing together: an SQLite database, and the log beside it that holds what is not in it yet.

One of each side would be joined without a conflict, since they are two files; but a log is good for the very file that
it was written for, and is lost, or destroys the database, beside another. Source: "How To Corrupt An SQLite Database
File", 1.4, and "Write-Ahead Logging" in SQLite's documentation. The third file, ``-shm``, is made anew from these.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kibo.model.limits import MAX_NAME_BYTES
from kibo.runtime.trees.stack import Node, Stack, parent

_MAGIC: Final = b"SQLite format 3\0"
_LOGS: Final = (b"-wal", b"-journal")
#: How a rollback journal begins that holds nothing, where journals are kept between transactions.
_NOTHING: Final = bytes(8)


def parted(path: bytes, base: Stack, one: Stack, other: Stack) -> bool:
    """Tells whether a path that one side changed belongs to what the other did, so that neither can be taken alone.

    Cheap where the other side has written nothing beside the path.

    Args:
        path: What the one side changed.
        base: What both sides come from.
        one: The side that changed it.
        other: The side that did not.
    """
    if base.shown(parent(path)) == other.shown(parent(path)):
        return False

    def differ(path: bytes, main: bytes, left: Stack, right: Stack) -> bool:
        return _differ(left.find(path), right.find(path), log=path != main)

    return any(
        differ(member, main, base, other)
        and differ(member, main, one, other)
        and differ(path, main, base, one)
        and any(_is_database(stack.find(main)) for stack in (base, one, other))
        for main, member in _others(path)
    )


def _others(path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields what may belong to a path: the database, and a member of it other than the path."""
    databases = [path.removesuffix(log) for log in _LOGS if path.endswith(log)]
    for main in (path, *databases):
        for member in (main, *(main + log for log in _LOGS)):
            # Of a name that is nearly as long as one can be there is no log.
            if member != path and len(member.rpartition(b"/")[2]) <= MAX_NAME_BYTES:
                yield main, member


def _differ(one: Node | None, two: Node | None, *, log: bool) -> bool:
    if log:
        one, two = (node if _holds_something(node) else None for node in (one, two))
    if one is None or two is None:
        return one is not two
    return not one.same_content(two)


def _holds_something(log: Node | None) -> bool:
    if log is None or log.kind != "file":
        return log is not None
    with log.open() as file:
        return file.read(len(_NOTHING)) not in (b"", _NOTHING)


def _is_database(node: Node | None) -> bool:
    if node is None or node.kind != "file":
        return False
    with node.open() as file:
        return file.read(len(_MAGIC)) == _MAGIC
