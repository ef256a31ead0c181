"""How instances end with their branches, which undo first what they have done that can be undone, the newest first.

The history says that it is to be, in the transaction that ends a branch; here it is carried out, and what could not be
is said in the ledger, to whoever ended the branch, and in the log of the program.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from kibo.box.actions import ActionSpec
from kibo.box.marks import RESULT
from kibo.branch.family import Family
from kibo.branch.members import Member
from kibo.branch.records import Undone
from kibo.effects.recorder import unpacked
from kibo.effects.records import PACK, Called, Exact
from kibo.model.errors import KiboError, WrongState
from kibo.runtime.conversation import Conversation
from kibo.runtime.instance import give_up
from kibo.runtime.orders import UNWIND_S, Orders
from kibo.runtime.recording import ask_verifier, call_compensator
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
            for exact in listed:
                await self._undo(exact)
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

    async def _undo(self, exact: Exact) -> None:
        recorder, aside, effect = self._family.recorder, self._family.waiting.aside, exact.effect
        talk, spec = self._found(exact)
        if effect.state == "not_undone" and effect.reason.startswith(f"{effect.undo}()"):
            return  # it was tried before, and the reason stays
        if effect.state == "in_doubt":
            if not await self._has_happened(exact, talk, spec):
                return
            exact = await aside(lambda: self._family.ledger.get(effect.id))  # it may say what was returned
        if not await aside(lambda: recorder.undo(effect.id)):
            return  # another undoes it
        why = "it was interrupted: it may be undone"
        try:
            crash_point("undo.claimed")
            why = await self._called(exact, talk, spec)
            crash_point("undo.called")
        except KiboError as error:
            why = error.message
        finally:
            undoes = f"{effect.undo}()"
            if why:
                await aside(lambda: recorder.calls.stick(effect.id, f"{undoes}: {why}"))
            else:
                await aside(lambda: recorder.calls.undone(effect.id, f"{undoes} has undone it"))

    async def _called(self, exact: Exact, talk: Conversation | None, spec: ActionSpec | None) -> str:
        """Calls what undoes a call. Returns why it could not; empty where it is undone."""
        if talk is None or spec is None or spec.compensator is None:
            return "the instance that could has ended"
        outcome = exact.outcome
        result = {RESULT: unpacked(outcome.body)} if outcome is not None and outcome.whole else {}
        async with talk.having_turn():
            await call_compensator(
                self._family.egress, talk, exact.effect.id, spec.compensator, unpacked(exact.body), result
            )
        return ""

    async def _has_happened(self, exact: Exact, talk: Conversation | None, spec: ActionSpec | None) -> bool:
        """Asks of a call in doubt whether it has happened, and so is to be undone, where somebody can tell."""
        if talk is None or spec is None or spec.verifier is None:
            return False
        verifier, effect, aside = spec.verifier, exact.effect.id, self._family.waiting.aside
        calls = self._family.recorder.calls
        try:
            async with talk.having_turn():
                found = await ask_verifier(talk, verifier, unpacked(exact.body), last=True)
        except KiboError as error:
            _log.warning(
                "%s: %s() could not tell whether it has happened: %s", effect, verifier.name, error.message
            )
            return False
        why = f"{verifier.name}() says so"
        if found is False:
            await aside(lambda: calls.deny(effect, why))
        elif found is not None:
            result = None if found is True else PACK.encode(found)
            await aside(lambda: calls.confirm(effect, result, why))
            await aside(lambda: calls.owed(effect, "its branch came to nothing"))
            return True
        return False

    def _found(self, exact: Exact) -> tuple[Conversation | None, ActionSpec | None]:
        """Finds what made a call, as it is now, and the action."""
        talk: Conversation | None = self._family.recorder.maker_of(exact.effect.id)
        while talk is not None and talk.successor is not None:
            talk = talk.successor
        payload = exact.payload
        if talk is None or talk.ended or not isinstance(payload, Called):
            return None, None
        actions = talk.plan.actions.values()
        same = (each for each in actions if each.part == payload.part and each.label == payload.action)
        return talk, next(same, None)


async def stop_calls(talk: Conversation) -> None:
    """Has an instance that is about to end do nothing any more, and takes the last answer of what it did.

    One that does not stop is ended at once.
    """
    turn = talk.turn
    if talk.ended:
        return
    if turn.held:
        with suppress(KiboError, TimeoutError):
            await talk.session.ask(talk.waiting, "interrupt", {"id": talk.instance}, timeout_s=UNWIND_S)
    stopped = False
    with suppress(WrongState):  # whoever ends the branch reads a stream of it at this moment
        stopped = await turn.within(UNWIND_S)
    if stopped:
        await turn.__aexit__(None, None, None)
    elif not talk.ended:
        talk.ended = talk.ending
        talk.channel.hang_up()
        talk.session.forget(talk.instance)
