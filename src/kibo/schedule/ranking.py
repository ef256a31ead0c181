"""Things by rank, of which any may leave or change its rank at any time."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Ranked(Generic[T]):
    """Things by rank, the smallest first. Each call takes the logarithm of their number; what has left takes no room.

    A heap in which what was changed stays until it comes to the top, or until there is more of that than of the rest.
    """

    __slots__ = ("_heap", "_ranks", "_serial")

    def __init__(self) -> None:
        self._ranks: dict[T, tuple[Any, int]] = {}
        self._heap: list[tuple[Any, int, T]] = []
        self._serial = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, thing: T) -> bool:
        return thing in self._ranks

    def __iter__(self) -> Iterator[T]:
        """All of them, in no order."""
        return iter(self._ranks)

    def put(self, thing: T, rank: Any) -> None:
        """Adds it, or gives it another rank. Equal ranks are in the order in which they were put."""
        known = self._ranks.get(thing)
        if known is not None and known[0] == rank:
            return
        self._serial += 1
        self._ranks[thing] = (rank, self._serial)
        heappush(self._heap, (rank, self._serial, thing))
        self._tidy()

    def discard(self, thing: T) -> None:
        """Takes it away, if it is there."""
        if self._ranks.pop(thing, None) is not None:
            self._tidy()

    def first(self) -> T | None:
        """Returns the one of the smallest rank, which stays; None where there is none."""
        heap, ranks = self._heap, self._ranks
        while heap:
            _, serial, thing = heap[0]
            known = ranks.get(thing)
            if known is not None and known[1] == serial:
                return thing
            heappop(heap)
        return None

    def rank(self, thing: T) -> Any:
        """Returns the rank of one that is there."""
        return self._ranks[thing][0]

    def least(self, default: Any = None) -> Any:
        """Returns the smallest rank; something else where there is none."""
        first = self.first()
        return default if first is None else self._ranks[first][0]

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._ranks) + 16:
            self._heap = [(rank, serial, thing) for thing, (rank, serial) in self._ranks.items()]
            heapify(self._heap)
