"""How instances end with their branches, which undo first what they have done that can be undone, the newest first.

The history says that it is to be, in the transaction that ends a branch; here it is carried out, and what could not be
is said in the ledger, to whoever ended the branch, and in the log of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from kibo.branch.family import Family
from kibo.branch.members import Member
from kibo.branch.records import Undone
from kibo.branch.undoing import Undoing
from kibo.effects.records import Exact
from kibo.model.errors import KiboError, WrongState
from kibo.runtime.conversation import Conversation
from kibo.runtime.instance import give_up
from kibo.runtime.orders import UNWIND_S, Orders
from kibo.store.crash import point as crash_point

_log: Final = logging.getLogger(__name__)


class Ending:
    """What ends with a commit, a merge or an abort: instances that are killed at once, and those that undo first.

    Args:
        family: What their tree shares.
    """

    def __init__(self, family: Family) -> None:
        self._family = family
        #: Those that were told to kill instances.
        self._told: set[Orders] = set()
        self._branches: list[str] = []
        self._spared: list[Member] = []
        #: What came of what was to be undone.
        self.undone = Undone()

    def kill(self, face: Any, why: str) -> None:
        """Ends an instance, without waiting."""
        self._told.add(give_up(face, why))

    @property
    def spares(self) -> bool:
        """Whether anything is to be undone."""
        return bool(self._branches)

    def can_undo(self, branch: str) -> bool:
        """Tells whether something in a branch can be undone."""
        recorder = self._family.recorder
        return recorder.used and recorder.calls.undoable(branch)

    def spare(self, branch: str, members: Iterable[Member], why: str) -> None:
        """Takes over the instances of a branch that has ended until they have undone what it had done: nobody else
        calls them from now on.
        """
        self._branches.append(branch)
        for member in members:
            member.talk.ending = why
            self._spared.append(member)

    async def silence(self) -> None:
        """Waits until what was killed is. It may still be on its way out, but nothing in it runs on."""
        for session in self._told:
            await session.carried_out(self._family.waiting)

    async def stop(self) -> None:
        """Waits until what was killed is, and has the spared do nothing any more. The caller does not hold the tree's
        lock, for which a call in them may wait.
        """
        await self.silence()
        for member in self._spared:
            await stop_calls(member.talk)

    async def undo(self, *, stale: bool) -> None:
        """Has the spared undo what was done, the newest first, and ends them, whatever happens.

        Args:
            stale: Whether their branches are stale: the history has not been told that they have ended.
        """
        if not self.spares:
            return
        calls, aside = self._family.recorder.calls, self._family.waiting.aside
        listed: list[Exact] = []
        try:
            await self.stop()
            if stale:
                await aside(lambda: calls.owe(self._branches, "its branch became stale"))
            crash_point("undo.owed")
            listed = await aside(lambda: calls.to_undo(self._branches))
            undoing = Undoing(self._family, self._maker)
            for exact in listed:
                # What was tried before has its reason, which stays.
                if not exact.effect.reason.startswith(f"{exact.effect.undo}()"):
                    await undoing.undo(exact)
        finally:
            self.kill_spared()
            await self.silence()
        names = [exact.effect.id for exact in listed]
        self.undone = Undone(tuple(await aside(lambda: self._family.ledger.named(*names))))
        for effect in self.undone.left:
            _log.warning(
                "%s of a branch that came to nothing is %s: %r (%s)",
                effect.url, effect.state.replace("_", " "), effect.reason, effect.id,
            )  # fmt: skip

    def kill_spared(self) -> None:
        """Ends those that were spared. Idempotent."""
        while self._spared:
            member = self._spared.pop()
            self.kill(member.face, member.talk.ending)

    def _maker(self, exact: Exact) -> Conversation | None:
        """Finds what made a call, as it is now."""
        talk: Conversation | None = self._family.recorder.maker_of(exact.effect.id)
        while talk is not None and talk.successor is not None:
            talk = talk.successor
        return talk


async def stop_calls(talk: Conversation) -> None:
    """Has an instance that is about to end do nothing any more, and takes the last answer of what it did.

    One that does not stop is ended at once.
    """
    turn = talk.turn
    if talk.ended:
        return
    if turn.held:
        with suppress(KiboError, TimeoutError):
            await talk.interrupt()
    stopped = False
    with suppress(WrongState):  # whoever ends the branch reads a stream of it at this moment
        stopped = await turn.within(UNWIND_S)
    if stopped:
        await turn.__aexit__(None, None, None)
    elif not talk.ended:
        talk.ended = talk.ending
        talk.channel.hang_up()
        talk.session.forget(talk.instance)
