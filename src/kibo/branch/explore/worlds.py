"""The branches of one exploration: where none can be lost, whatever thread makes it and whenever it is to end."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence

from kibo.branch.explore.port import World


class Worlds:
    """The branch of each attempt. Thread-safe.

    A branch is registered on the thread that made it: Ctrl-C reaches the main thread alone, so none falls between being
    made and being known. What is to end before it was made ends when it is registered.

    Args:
        root: The explored branch.
    """

    def __init__(self, root: World) -> None:
        self._root = root
        self._guard = threading.Lock()
        self._known: dict[int, World] = {}
        self._ended: set[int] = set()
        self._closed = False

    def get(self, number: int | None) -> World:
        """Returns the branch of an attempt, or the explored one."""
        return self._root if number is None else self._known[number]

    def find(self, number: int) -> World | None:
        """Returns the branch of an attempt, if there is one."""
        return self._known.get(number)

    def adopt(self, numbers: Sequence[int], worlds: Sequence[World]) -> list[int]:
        """Registers branches that were made.

        Returns:
            The attempts that may go on; the branches of the others were ended.
        """
        with self._guard:
            self._known.update(zip(numbers, worlds, strict=True))
            live = [number for number in numbers if not self._closed and number not in self._ended]
            self._ended.update(numbers if self._closed else ())
        for number in numbers:
            if number not in live:
                self._known[number].abort()
        return live

    def abort(self, number: int) -> None:
        """Ends the branch of an attempt, now or as soon as there is one."""
        with self._guard:
            self._ended.add(number)
            world = self._known.get(number)
        if world is not None:
            world.abort()

    def close(self, kept: Container[int]) -> list[BaseException]:
        """Ends all branches but the kept ones, also those still being made.

        Returns:
            What went wrong; every branch was tried.
        """
        with self._guard:
            self._closed = True
            # The youngest first, so that a child is not ended through its parent while it is used.
            ending = [number for number in reversed(self._known) if number not in kept]
        errors: list[BaseException] = []
        for number in ending:
            if number in self._ended:
                continue
            try:
                self.abort(number)
            except Exception as error:  # noqa: BLE001 - told to the caller, once all were tried
                errors.append(error)
        return errors
