"""How one call is undone that is to be: by an instance that can, claimed in the ledger before, and recorded after."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from kibo.box.actions import ActionSpec
from kibo.box.marks import RESULT
from kibo.branch.family import Family
from kibo.effects.calls import MAY_BE_UNDONE
from kibo.effects.recorder import unpacked
from kibo.effects.records import PACK, Called, Exact
from kibo.model.errors import ActionRaised, InvalidArguments, KiboError
from kibo.runtime.conversation import Conversation
from kibo.runtime.recording import ask_verifier, call_compensator
from kibo.store.crash import point as crash_point

_log: Final = logging.getLogger(__name__)


class Undoing:
    """Undoes calls, one after the other.

    Args:
        family: What the tree shares of whose instances undo.
        maker: Finds what is to undo a call: what made it, or what stands for that; None where there is none.
    """

    def __init__(self, family: Family, maker: Callable[[Exact], Conversation | None]) -> None:
        self._family = family
        self._maker = maker

    async def undo(self, exact: Exact) -> None:
        """Undoes a call that is to be, or of which it is found out that it has happened; unless somebody else does.

        What could not be undone says why, in the ledger.
        """
        recorder, aside, effect = self._family.recorder, self._family.waiting.aside, exact.effect
        talk, spec = self._action(exact)
        if effect.state == "in_doubt":
            if not await self._has_happened(exact, talk, spec):
                return
            exact = await aside(lambda: self._family.ledger.get(effect.id))  # it may say what was returned
        if not await aside(lambda: recorder.undo(effect.id)):
            return  # another undoes it
        why = f"it was interrupted: {MAY_BE_UNDONE}"
        try:
            crash_point("undo.claimed")
            why = await self._called(exact, talk, spec)
            crash_point("undo.called")
        except (ActionRaised, InvalidArguments) as error:
            why = error.message
        except KiboError as error:  # it may have come as far as what it undoes
            why = f"{error.message}: {MAY_BE_UNDONE}"
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

    def _action(self, exact: Exact) -> tuple[Conversation | None, ActionSpec | None]:
        """Finds what is to undo a call, and the action that was called."""
        talk, payload = self._maker(exact), exact.payload
        if talk is None or talk.ended or not isinstance(payload, Called):
            return None, None
        actions = talk.plan.actions.values()
        same = (each for each in actions if each.part == payload.part and each.label == payload.action)
        return talk, next(same, None)
