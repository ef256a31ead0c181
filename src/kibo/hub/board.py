"""The board of a tree of branches: what one branch has found out for all others, whatever becomes of it.

It lies beside the log: an entry is seen in every branch at once, also in those that were forked before, and stays where
the branch that wrote it is aborted. It says which branch that was, so that who reads it can tell.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, delete, func, select

from kibo.hub.bodies import checked_body
from kibo.model.errors import Exhausted, InvalidInput, StoreDamaged
from kibo.model.ids import BranchId
from kibo.model.limits import MAX_BOARD
from kibo.model.message import Posting
from kibo.store import crash, fencing
from kibo.store.database import Store, Transaction
from kibo.store.log import MAX_PAGE
from kibo.store.prepared import Prepared, insertion
from kibo.store.schema import board

_POST: Final = insertion(board, "position")
_COUNT: Final = Prepared(select(func.count()).select_from(board).where(board.c.tree == bindparam("of")))
_COUNT_OF_ONE: Final = Prepared(
    select(func.count())
    .select_from(board)
    .where(board.c.tree == bindparam("of"), board.c.author == bindparam("author"))
)
_READ: Final = Prepared(
    select(board.c.position, board.c.origin, board.c.author, board.c.body, board.c.at)
    .where(board.c.tree == bindparam("of"), board.c.position > bindparam("after"))
    .order_by(board.c.position)
    .limit(bindparam("most"))
)
_FORGET: Final = Prepared(delete(board).where(board.c.tree == bindparam("of")))


class _Kept(msgspec.Struct, omit_defaults=True, frozen=True):
    body: Any = None
    raw: bytes | None = None


class Board:
    """The board of one tree. Any number of threads and processes post and read at once.

    Args:
        store: The store.
        tree: The tree's root.
        branch: Where it is posted from.
    """

    def __init__(self, store: Store, tree: str, branch: str) -> None:
        self._store = store
        self._tree, self._branch = tree, branch

    def post(self, body: Any, author: str = "", *, most: int = MAX_BOARD) -> None:
        """Writes an entry, which every branch of the tree sees from now on. About 0.3 ms.

        Args:
            body: A value of JSON, or bytes, of up to 1 MiB.
            author: Who it is from: an instance of the branch, or empty.
            most: How many entries the author may have.

        Raises:
            MessageInvalid: The body is not what a message may have.
            BranchClosed: The branch was committed or aborted: it says nothing any more.
            Exhausted: The board has 100,000 entries, or the author has as many as he may have.
        """
        value, raw = checked_body(body)
        data = msgspec.json.encode(_Kept(value, raw))

        def work(tx: Transaction) -> None:
            fencing.hold(tx, self._branch)
            (count,) = tx.row(_COUNT, of=self._tree) or (0,)
            if count >= MAX_BOARD:
                raise Exhausted(
                    f"the board of tree {self._tree} has {count} entries",
                    hint="Post what others need, and keep the rest in messages and files.",
                )
            if most < MAX_BOARD:
                (own,) = tx.row(_COUNT_OF_ONE, of=self._tree, author=author) or (0,)
                if own >= most:
                    raise Exhausted(
                        f"{author} has {own} entries on the board of tree {self._tree}",
                        hint="Post what others need, and keep the rest in messages and files.",
                    )
            tx.run(_POST, tree=self._tree, origin=self._branch, author=author, body=data, at=time.time())
            crash.point("board.before_commit")

        self._store.write(work)

    def read(self, after: int = 0, limit: int = 1000) -> list[Posting]:
        """Returns entries of all branches, in order.

        Args:
            after: The `Posting.position` of the last one that is known; 0 for the beginning.
            limit: How many at most, 1 to 10,000.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(f"{limit} entries", hint=f"Ask for 1 to {MAX_PAGE:,} at a time.")
        rows = self._store.read(lambda tx: tx.rows(_READ, of=self._tree, after=after, most=limit))
        return [
            Posting(position, BranchId(origin), author, _body(position, data), at)
            for position, origin, author, data, at in rows
        ]


def forget(tx: Transaction, tree: str) -> None:
    """Removes the board of a tree that is gone."""
    tx.run(_FORGET, of=tree)


def _body(position: int, data: bytes) -> Any:
    try:
        kept = msgspec.json.decode(data, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreDamaged(
            f"the entry of a board at position {position} is none: {error}",
            details={"table": "board", "column": "body", "row": {"position": position}},
        ) from error
    return kept.body if kept.raw is None else kept.raw
