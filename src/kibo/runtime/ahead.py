"""Forks of a cached state that are made before they are asked for, so that who asks finds one ready.

Most of a spawn is the kernel's: it copies a process into seven new namespaces, and then the root is made and the fork
looked at. None of that depends on who asks. So a state that is in use has one fork waiting, which is taken as it is at
the next order, at whatever step of its way it has come to; the next is made while the first one works. It has been
looked at like every other and has no channel, no streams and no name yet; `resume` runs once it is let in. There is
one that writes to memory, and one to a layer on disk, whose name it gets when it is taken, each where such are in use.

A state that was forked from once costs nothing. What waits costs about 1 MB, ends when nobody has asked for it for a
while, and with its state at the latest.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from kibo.model.ids import DeltaId
from kibo.runtime.cells import Cell, CellState, has_ended

if TYPE_CHECKING:
    from kibo.runtime.warden import Warden

#: How soon a state must be forked from again to have a fork waiting, and how long that waits.
AHEAD_S: Final = 3.0
#: How long after one was let in the next is begun: what has just come has the processors for its first call.
PAUSE_S: Final = 0.001
#: How many wait at once, of all states.
MAX_AHEAD: Final = 8

#: What an order may say of a fork that makes no difference to how it is made.
_PLAIN: Final = frozenset({"id", "source", "name", "label", "setup", "upper", "over"})
#: The same of its setup.
_PLAIN_SETUP: Final = frozenset({"wall_s"})


class Ahead:
    """The forks that wait."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._waiting = 0
        self._made = 0

    def take(self, source: Cell, arguments: dict[str, Any]) -> Cell | None:
        """Returns a fork of a state that was made or begun ahead and is as an order wants it; None where there is none.

        It has no id, channel or name of its own yet.
        """
        cell = source.ahead.get(bool(arguments.get("upper")))
        if cell is None or not _is_plain(arguments):
            return None
        self.forget(cell)
        return None if cell.pidfd >= 0 and has_ended(cell.pidfd) else cell

    def follow(self, source: Cell, upper: str) -> None:
        """Notes that a fork of a cell was let in, and has the next made where the last of its kind was not long ago.

        Args:
            source: The cell.
            upper: The layer on disk that the fork writes to; empty for one in memory.
        """
        kind, now = bool(upper), time.monotonic()
        before, source.forked_s[kind] = source.forked_s.get(kind), now
        if before is not None and now - before < AHEAD_S and kind not in source.ahead and not source.instance:
            self._warden.loop.after(PAUSE_S, lambda: self._make(source, upper))

    def _make(self, source: Cell, upper: str) -> None:
        if source.state is not CellState.SEALED or bool(upper) in source.ahead or self._waiting == MAX_AHEAD:
            return
        self._made += 1
        # Of the same owner, with whose layers it goes if nobody else removes it.
        beside = DeltaId(upper).beside() if upper else ""
        cell = self._warden.fork_ahead(source, f"ahead_{self._made}", beside)
        if cell.state is CellState.ENDED:
            return  # the kernel would not have it; whoever asks next is told, if it is still so then
        source.ahead[bool(upper)] = cell
        self._waiting += 1
        cell.deadline = self._warden.loop.after(AHEAD_S, lambda: self._give_up(cell))

    def _give_up(self, cell: Cell) -> None:
        self.forget(cell)
        self._warden.destroy(cell, "nobody asked for it")

    def forget(self, cell: Cell) -> None:
        """Notes that a fork waits no more, if it did: it was taken, or has ended."""
        kind = bool(cell.root.upper_path)
        if cell.source is not None and cell.source.ahead.get(kind) is cell:
            del cell.source.ahead[kind]
            self._waiting -= 1
            if cell.deadline is not None:
                cell.deadline.cancel()
                cell.deadline = None


def _is_plain(arguments: dict[str, Any]) -> bool:
    """Whether an order wants a fork with a root as its source's."""
    return (
        _PLAIN.issuperset(arguments)
        and _PLAIN_SETUP.issuperset(arguments.get("setup", ()))
        and not arguments.get("over")
    )
