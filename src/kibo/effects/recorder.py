"""This process as one that calls recorded actions: the ledger has its calls, and learns when it has ended."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import msgspec

from kibo.effects import presence
from kibo.effects.calls import Calls, Found
from kibo.effects.ledger import Ledger
from kibo.effects.records import PACK, Called, Draft, key_digest
from kibo.model.calls import Begun, Call
from kibo.model.ids import CallerId, EffectId
from kibo.model.limits import MAX_EFFECT_ANSWER_BYTES

if TYPE_CHECKING:
    from kibo.store.database import Store

_UNPACK: Final = msgspec.msgpack.Decoder()


class Recorder:
    """Records the calls of this process; see `kibo.runtime.recording.Recorder`. Thread-safe.

    Args:
        store: The store that has the ledger.
        callers: The directory by which processes of a state directory that call recorded actions know each other.
        gateways: The same for gateways.
    """

    def __init__(self, store: Store, callers: Path, gateways: Path) -> None:
        self.calls: Final = Calls(store)
        self._ledger = Ledger(store)
        self._callers, self._gateways = callers, gateways
        self._guard = threading.Lock()
        self._me = ""
        #: By what each call was made that is not undone yet: what made it can undo it, as long as it lives.
        self._makers: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.bury_dead()

    @property
    def used(self) -> bool:
        """Whether this process has called anything that is recorded."""
        return bool(self._me)

    def begin(self, call: Call, maker: object) -> Begun:
        """See `kibo.runtime.recording.Recorder.begin`."""
        draft = _draft(call)
        found = self.calls.begin(draft, self._owner())
        if isinstance(found, Found) and found.exact.effect.state == "sending" and found.owner != self._me:
            self.bury_dead()  # it may have been one of them
            found = self.calls.begin(draft, self._me)
        if not isinstance(found, Found):
            self._makers[found.id] = maker
            return Begun(found.id, "new")
        effect, outcome = found.exact.effect, found.exact.outcome
        if effect.digest != draft.digest:
            return Begun(effect.id, "other")
        if effect.state == "done":
            known = outcome is not None and outcome.whole
            return Begun(effect.id, "done", unpacked(outcome.body) if outcome and known else None, known)
        return Begun(effect.id, "going" if effect.state == "sending" else "in_doubt")

    def returned(self, effect: str, result: Any) -> None:
        """See the port."""
        packed = PACK.encode(result)
        self.calls.returned(effect, packed if len(packed) <= MAX_EFFECT_ANSWER_BYTES else None)

    def raised(self, effect: str, why: str) -> None:
        """See the port."""
        self.calls.raised(effect, why)

    def lost(self, effect: str, why: str) -> None:
        """See the port."""
        self.calls.lost(effect, why)

    def confirm(self, effect: str, result: Any, why: str, *, known: bool) -> None:
        """See the port."""
        self.calls.confirm(effect, PACK.encode(result) if known else None, why)

    def deny(self, effect: str, why: str) -> bool:
        """See the port."""
        return self.calls.deny(effect, why)

    def maker_of(self, effect: str) -> Any:
        """Returns what made a call, where that lives; else None."""
        return self._makers.get(effect)

    def undo(self, effect: str) -> bool:
        """Records that a call is about to be undone by this process. Returns whether it is: nobody else does."""
        return self.calls.undo(effect, self._owner())

    # -- beginning and end

    def _owner(self) -> str:
        with self._guard:
            if not self._me:
                me = CallerId.new()
                presence.appear(self._callers, me)
                self._me = me
            return self._me

    def bury_dead(self) -> None:
        """Settles what processes have left that have ended: gateways first, whose requests are parts of calls."""
        presence.bury_dead(self._ledger, self._gateways, None)
        for caller in presence.known(self._callers):
            with presence.buried(self._callers, caller) as dead:
                if dead:
                    self._bury(caller)

    def close(self) -> None:
        """Settles what this process leaves: nothing of it runs any more."""
        with self._guard:
            if self._me:
                self._bury(self._me)
                self._me = ""

    def _bury(self, caller: str) -> None:
        self.calls.bury(caller)
        presence.forget(self._callers, caller)


def unpacked(data: bytes) -> Any:
    """Returns what the ledger keeps of a call: its arguments by name, or its result."""
    return _UNPACK.decode(data)


def _draft(call: Call) -> Draft:
    key = None if call.key is None else key_digest(f"{call.action}\0{call.key}".encode())
    return Draft(
        EffectId.new(),
        call.effect,
        str(call.asker.branch),
        str(call.instance),
        str(call.asker.scope),
        key,
        b"",
        b"",
        Called(call.box, call.part, call.action),
        call.arguments,
        True,
        undo=call.undo,
    )
