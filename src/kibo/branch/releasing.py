"""What one branch has asked the outside world for: who waits for it, and what a commit lets happen.

The history and the ledger decide; the gateway is told, and asked what came of it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from kibo.branch.family import Family
from kibo.branch.members import Member
from kibo.branch.records import BranchRecord, Committed
from kibo.effects.records import Effect
from kibo.model.asker import Asker
from kibo.model.errors import RuntimeLost
from kibo.model.limits import SETTLED_S
from kibo.runtime.egress import Egress


def asker_for(record: BranchRecord, family: Family) -> Asker:
    """Says on whose behalf the instances of a branch ask for something outside."""
    tape = "" if family.tape is None else family.tape.id
    return Asker(record.id, record.tree, holds=record.parent is not None, tape=tape)


def tell(egress: Egress, done: Committed, asker: Asker) -> socket.socket | None:
    """Has a gateway send what a commit has released; see `Releasing.tell`."""
    try:
        return egress.settle(done.branch, asker, released=any(e.state == "released" for e in done.effects))
    except RuntimeLost:
        return None  # it has died since: the next one sends what was released


class Releasing:
    """The effects of one branch that runs here.

    Args:
        family: What its tree shares.
        branch: Its id.
    """

    def __init__(self, family: Family, branch: str) -> None:
        self._family = family
        self._branch = branch

    async def listed(self) -> list[Effect]:
        """Lists what it has asked for; see `Branch.effects`."""
        await self.bury()
        return await self._family.waiting.aside(lambda: self._family.ledger.listed(self._branch))

    def waits(self, members: Iterable[Member]) -> bool:
        """Tells whether all that is called in its instances waits for effects that it holds, and something does."""
        if not self._family.egress.used:
            return False
        waiting = self._family.ledger.waiting(self._branch)
        return bool(waiting) and all(each.talk.instance in waiting for each in members if each.talk.turn.held)

    async def at_boundary(self, member: Member) -> bool:
        """Tells whether one instance waits for an effect that the branch holds."""
        if not self._family.egress.used:
            return False
        ledger = self._family.ledger
        return member.talk.instance in await self._family.waiting.aside(lambda: ledger.waiting(self._branch))

    async def bury(self) -> None:
        """Records what gateways that have died left. What they held is dropped before a commit could release it: its
        clients have heard of their end.
        """
        await self._family.waiting.aside(self._bury)

    def _bury(self) -> None:
        ledger = self._family.ledger
        for gateway in self._family.egress.lost():
            if ledger.unsent(gateway):
                ledger.bury(gateway)

    def drop_lost(self, *, stale: bool) -> None:
        """Drops what a commit that is about to be recorded must not release: nobody waits for it any more.

        Args:
            stale: Whether the branch was stopped: what it leaves is files.
        """
        self._bury()
        if stale:
            self._family.ledger.abandon(self._branch, "its branch became stale")

    def tell(self, done: Committed, asker: Asker) -> socket.socket | None:
        """Has the gateway send what a commit has released, and ask on the parent's behalf from now on.

        Returns:
            What ends once all of it has an outcome; None where there is nothing to send, or nobody to send it.
        """
        return tell(self._family.egress, done, asker)

    async def outcomes(self, done: Committed, told: socket.socket | None) -> Committed:
        """Waits until what a commit has released has an outcome, for a while."""
        if told is None:
            return done
        family = self._family
        with told:
            if done.effects:
                with suppress(TimeoutError):
                    await family.waiting.ready((told.fileno(),), timeout_s=SETTLED_S)
                await self.bury()
                names = [effect.id for effect in done.effects]
                known = await family.waiting.aside(lambda: family.ledger.named(*names))
                return replace(done, effects=tuple(known))
        return done
