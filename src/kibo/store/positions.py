"""Rows that are read in order of their position, each once, by whoever comes back for more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from kibo.store.prepared import Row

#: How far below the newest a row may still appear: where several write at once, a database gives out positions in the
#: order in which rows are inserted, and shows rows in that of their commits.
OVERLAP: Final = 1000


class Reader:
    """Reads a table whose rows are only ever added. What it remembers is bounded.

    Args:
        page: Reads some rows above a position, in order of that; their position is their first column.
    """

    def __init__(self, page: Callable[[int], list[Row]]) -> None:
        self._page: Final = page
        self._newest = 0
        self._recent: set[int] = set()

    def unread(self) -> Iterator[Row]:
        """Yields all that is there and was not yielded before.

        Raises:
            StoreUnavailable: Retry later: what was yielded counts as read, whatever else has happened to it.
        """
        since = max(0, self._newest - OVERLAP)
        while rows := self._page(since):
            since = rows[-1][0]
            for row in rows:
                if row[0] not in self._recent:
                    self._recent.add(row[0])
                    yield row
            self._newest = max(self._newest, since)
            self._recent = {each for each in self._recent if each > self._newest - OVERLAP}
