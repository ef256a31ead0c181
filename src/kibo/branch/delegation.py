"""An action that one instance has another do for it: begun, watched, and ended, by whoever holds it.

It is this process's, and ends with it: the branch's log says that it began and how it ended, and `delegations` what
became of one whose process could not say. Cancelled, it interrupts its action and nobody else's.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Literal

from kibo.box.actions import ActionSpec
from kibo.branch.mailroom import Correspondent, Mailroom
from kibo.hub import carriers
from kibo.hub.entries import Delegated, Ended
from kibo.hub.waiters import Waiters
from kibo.model.errors import BranchClosed, BranchTaken, KiboError, ReplyTimedOut, WrongState
from kibo.model.ids import DelegationId
from kibo.model.message import Progress
from kibo.runtime.orders import UNWIND_S
from kibo.runtime.recording import perform

_log: Final = logging.getLogger(__name__)
State = Literal["begun", "done", "failed", "cancelled"]
_AGAIN: Final = "Delegate it again."
#: What of its progress is kept for whoever looks late.
_MOST_EVENTS: Final = 1000


class Delegation:
    """One action that an instance does for another.

    Args:
        room: What brings the mail of the branch that it is begun in.
        process: What this process is called; see `kibo.branch.owning.Owner.name`.
        sender: Who has it done.
        other: Who does it.
        spec: What.
        args: Its arguments.
        kwargs: Its arguments by name.
    """

    def __init__(
        self,
        room: Mailroom,
        process: str,
        sender: str,
        other: tuple[str, Correspondent],
        spec: ActionSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.id: Final = DelegationId.new()
        self.state: State = "begun"
        self._room, self._waiting = room, room.waiting
        self._process, self._sender = process, sender
        self._to, self._member = other
        self._face = self._member.face  # held: it lives for as long as it is at it
        self._spec, self._args, self._kwargs = spec, args, kwargs
        self._waiters = Waiters()
        self._events: deque[Progress] = deque(maxlen=_MOST_EVENTS)
        self._count = 0
        self._result: Any = None
        self._error: KiboError | None = None
        self._fence = room.waiting.lock()
        self._asks = self._stopping = False

    async def begin(self) -> None:
        """Has it done. That it began is on the disk when this returns.

        Raises:
            InvalidArguments: As a call of it.
            BranchClosed, BranchTaken: The branch is not open, or not this process's. Nothing has begun.
        """
        self._spec.check_arguments(self._args, self._kwargs)
        post = self._room.post
        begun = Delegated(
            str(self.id), self._sender, self._to, self._spec.name, str(post.branch), self._process
        )
        await self._waiting.aside(lambda: post.delegate(begun))
        self._tell("begun")
        carriers.carriers.submit(self._carry)

    def _tell(self, kind: str, value: Any = None) -> None:
        self._count += 1
        self._events.append(Progress(self._count, kind, value))
        self._waiters.ring()

    def _was_cancelled(self) -> bool:
        return self.state == "cancelled"

    # -- doing

    def _carry(self) -> None:
        try:
            self._result = self._room.outside(self._do)
            self._end("done", None)
        except KiboError as error:
            self._end("cancelled" if self._stopping else "failed", error)
        except BaseException as error:  # noqa: BLE001 - whoever waits for it is to know
            wrapped = WrongState(f"{self._spec.name}() was broken off: {error!r}", hint=_AGAIN)
            wrapped.__cause__ = error
            self._end("cancelled" if self._stopping else "failed", wrapped)

    async def _do(self) -> Any:
        spec, talk = self._spec, self._member.talk
        if self._stopping:
            raise WrongState(f"{spec.name}() was cancelled before it began", hint=_AGAIN)
        if spec.streaming:
            return await self._stream()
        if spec.recorded:
            return await perform(self._face, spec, self._args, self._kwargs)
        positional, named = spec.check_arguments(self._args, self._kwargs)
        async with talk.having_turn():
            if self._stopping:
                raise WrongState(f"{spec.name}() was cancelled before it began", hint=_AGAIN)
            self._asks = True
            try:
                await talk.ask_action(spec, positional, named)
                result = await talk.answer_of(spec)
            finally:
                async with self._fence:  # who cancels it has done so, or does not any more
                    self._asks = False
        return spec.check_result(result)

    async def _stream(self) -> Any:
        items = self._member.talk.stream(self._spec, self._args, self._kwargs)
        try:
            while True:
                going, value = await items.next()
                if not going:
                    return value
                self._tell("progress", value)
                if self._stopping:
                    raise WrongState(f"{self._spec.name}() was cancelled", hint=_AGAIN)
        finally:
            await items.close()

    def _end(self, state: Literal["done", "failed", "cancelled"], error: KiboError | None) -> None:
        try:
            self._room.now.post.end(Ended(str(self.id), state, "" if error is None else error.message))
        except (BranchClosed, BranchTaken):
            pass  # whoever asks sees by that what became of it
        except Exception as unwritten:  # noqa: BLE001 - whoever waits for the result is to have it
            _log.warning("how delegation %s ended could not be noted: %s", self.id, unwritten)
        self._error, self.state = error, state
        self._tell(state, self._result if error is None else error.message)

    # -- watching

    async def result(self, timeout_s: float | None) -> Any:
        """Waits for what it returns; see `kibo.branch.mail_faces.Delegated.result`."""
        over = await self._waiters.until(self._waiting, lambda: self.state != "begun" or None, timeout_s)
        if over is None:
            raise ReplyTimedOut(
                f"{self._spec.name}() of {self._to} has not ended within {timeout_s:g} s; it goes on",
                hint="Wait for longer, watch events(), or cancel() it.",
                details={"delegation": str(self.id)},
            )
        if self.state == "cancelled":
            raise WrongState(
                f"{self._spec.name}() of {self._to} was cancelled",
                hint=_AGAIN,
                details={"delegation": str(self.id)},
            )
        if self._error is not None:
            raise self._error
        return self._result

    async def next_event(self, after: int) -> Progress | None:
        """Waits for the next event after one; None once there are no more."""

        def found() -> Progress | Literal[True] | None:
            for event in list(self._events):
                if event.number > after:
                    return event
            return True if self.state != "begun" else None

        event = await self._waiters.until(self._waiting, found, None)
        return event if isinstance(event, Progress) else None

    async def cancel(self) -> bool:
        """Ends it. Returns whether it has not ended by itself."""
        self._stopping = True
        if self.state != "begun":
            return False
        await self._interrupt()
        await self._waiters.until(self._waiting, lambda: self.state != "begun" or None, 2 * UNWIND_S)
        return self._was_cancelled()

    async def _interrupt(self) -> None:
        # The turn is given on only after this, so that nobody else's action is interrupted.
        async with self._fence:
            if self._asks:
                with suppress(KiboError, TimeoutError):  # it has ended, and so has what it did
                    await self._member.talk.interrupt()
