"""Counts of effects, by class and by what became of them, and how long they were held; read from the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

from sqlalchemy import bindparam, func, select

from kibo.model.histogram import Histogram
from kibo.model.limits import METER_PAGE
from kibo.store.database import Store, Transaction
from kibo.store.positions import Reader
from kibo.store.prepared import Prepared, Row
from kibo.store.schema import effects

#: States in which one has not been let out yet.
_HELD: Final = ("held", "asking")
#: How much of the time is spent on counting at most.
_SHARE: Final = 0.02
_ROW: Final = (effects.c.position, effects.c["class"], effects.c.state, effects.c.created, effects.c.released)
_NEW: Final = Prepared(
    select(*_ROW)
    .where(effects.c.position > bindparam("since"))
    .order_by(effects.c.position)
    .limit(bindparam("most"))
)
_ONE: Final = Prepared(select(*_ROW).where(effects.c.position == bindparam("position")))
_COUNTS: Final = Prepared(
    select(effects.c["class"], effects.c.state, func.count(), func.count(effects.c.action)).group_by(
        effects.c["class"], effects.c.state
    )
)


class Count(NamedTuple):
    """How many effects the ledger has.

    Attributes:
        kind: `request`, or `call` of an action.
        effect: Their class.
        state: How they stand.
        number: How many.
    """

    kind: str
    effect: str
    state: str
    number: int


class StoredEffects:
    """What a ledger holds, counted. For one thread at a time.

    Args:
        store: Where the ledger is.
        clock: Gives seconds of a clock that nobody sets.

    Attributes:
        counts: As of the last `catch_up`, or somewhat older where the ledger is long.
        held: By class, how long effects were held until they were released or approved.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store: Final = store
        self._clock: Final = clock
        self._reader: Final = Reader(
            lambda since: store.read(lambda tx: tx.rows(_NEW, since=since, most=METER_PAGE))
        )
        self._waiting: dict[int, None] = {}
        self._again_s = float("-inf")
        self.counts: list[Count] = []
        self.held: Final[dict[str, Histogram]] = {}

    def catch_up(self) -> None:
        """Takes in what has happened since the last time.

        Raises:
            StoreUnavailable: Retry later; what was taken in counts.
        """
        waiting = list(self._waiting)
        for n in range(0, len(waiting), METER_PAGE):
            self._look_again(waiting[n : n + METER_PAGE])
        for row in self._reader.unread():
            self._hear(row)
        if self._clock() >= self._again_s:
            self._count()

    def _look_again(self, positions: list[int]) -> None:
        for position, row in zip(positions, self._store.read(lambda tx: _rows(tx, positions)), strict=True):
            del self._waiting[position]
            if row is not None:
                self._hear(row)

    def _hear(self, row: Row) -> None:
        position, effect, state, created_s, released_s = row
        if released_s is None and state in _HELD:
            self._waiting[position] = None
        elif released_s is not None and released_s > created_s:  # else it was let out as it came
            self.held.setdefault(effect, Histogram()).add(released_s - created_s)

    def _count(self) -> None:
        began_s = self._clock()
        found = self._store.read(lambda tx: tx.rows(_COUNTS))
        self.counts = [
            Count(kind, effect, state, number)
            for effect, state, both, calls in found
            for kind, number in (("request", both - calls), ("call", calls))
            if number
        ]
        now_s = self._clock()
        self._again_s = now_s + (now_s - began_s) / _SHARE


def _rows(tx: Transaction, positions: list[int]) -> list[Row | None]:
    return [tx.row(_ONE, position=position) for position in positions]
