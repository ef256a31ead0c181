"""The calls to the guest of one instance, as coroutines: what is sent, what may come back, and what that means."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

from kibo.box.actions import ActionSpec
from kibo.box.handlers import Handler
from kibo.box.plan import Plan
from kibo.model.errors import (
    ActionExited,
    ActionTimedOut,
    FrameTooLarge,
    InvalidResult,
    KiboError,
    MemoryExceeded,
    UnknownAction,
)
from kibo.model.limits import BATCH_S, DEFAULT_ACTION_S, DEFAULT_LAUNCH_S, MAX_ERROR_TEXT_BYTES
from kibo.runtime import wire
from kibo.runtime.channel import Channel
from kibo.runtime.handle import RUNTIME_ENDED, Handle, ended_error
from kibo.runtime.orders import UNWIND_S, Orders, lost
from kibo.runtime.refusals import raised_error, violation
from kibo.runtime.waiting import Blocking, Lock, Waiting, run

#: How long a runner has to get ready to be forked: its boxes' `suspend()` and `resume()` run in that time.
HOLD_S: Final = 60.0


class Conversation(Handle):
    """The calls to one guest, one at a time, as coroutines. A call that is cancelled interrupts its action."""

    def __init__(
        self, session: Orders, instance: str, waiting: Waiting, plan: Plan, channel: Channel
    ) -> None:
        super().__init__(session, instance, waiting)
        self.plan = plan
        self.channel = channel
        #: Held by whoever talks to the guest. Becomes another's with the guest: see `having_turn`.
        self.turn = waiting.lock()
        #: What talks to the guest now, once that has become another's.
        self.successor: Conversation | None = None
        #: Sealed to be forked from, and not used since: the first word on its channel is that it goes on.
        self.parked = False
        #: Has it go on in good order; None where its first use does that by itself.
        self.goes_on: Callable[[Waiting], Awaitable[None]] | None = None
        #: Calls of actions that may have changed its live state.
        self.acts = 0
        #: When its guest was last known to be there, by the monotonic clock.
        self.seen_s = 0.0
        self._numbers = itertools.count(1)
        self._asked: list[Any] = []
        #: Whether what was asked last is asked of an instance whose branch has ended.
        self._last = False

    @asynccontextmanager
    async def having_turn(self) -> AsyncIterator[None]:
        """Waits until nobody talks to the guest, whichever guest that has become meanwhile."""
        turn = await self.take_turn()
        try:
            yield
        finally:
            await turn.__aexit__(None, None, None)

    async def take_turn(self) -> Lock:
        """As `having_turn`, for whoever ends it otherwise: by the end of the lock that is returned."""
        while True:
            turn = self.turn
            await turn.__aenter__()
            if turn is self.turn:
                return turn
            await turn.__aexit__(None, None, None)

    def spec(self, name: str) -> ActionSpec:
        """Finds an action.

        Raises:
            UnknownAction: The box has none of that name.
        """
        found = self.plan.actions.get(name)
        if found is None:
            known = ", ".join(sorted(self.plan.actions)) or "none"
            raise UnknownAction(
                f"the box has no action {name!r}", hint=f"It has: {known}.", details={"action": name}
            )
        return found

    async def call(
        self,
        spec: ActionSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        timeout_s: float | None = None,
    ) -> Any:
        """Calls an action and returns its checked result."""
        positional, named = spec.check_arguments(args, kwargs)
        async with self.having_turn():
            await self.ask_action(spec, positional, named)
            result = await self.answer_of(spec, timeout_s)
        return spec.check_result(result)

    async def ask_action(
        self,
        spec: ActionSpec,
        positional: list[Any],
        named: Mapping[str, Any],
        *,
        last: bool = False,
        trace: str = "",
    ) -> None:
        """Begins an action with arguments that are checked; the caller has the turn, and takes the answer next.

        Args:
            spec: The action.
            positional: Its arguments.
            named: Its arguments by name.
            last: Whether it is called although the instance's branch has ended.
            trace: Where it belongs in a trace, as its programs are told: a traceparent; empty for nowhere.

        Raises:
            KiboError: It has not begun.
        """
        if not last:
            self.check()
        self._last = last
        self.count(spec)
        request = ["call", next(self._numbers), spec.part, spec.name, positional, named, spec.plain]
        await self._send([*request, trace] if trace else request)

    async def answer_of(self, spec: ActionSpec, timeout_s: float | None = None) -> Any:
        """Takes the answer of the action that was begun last, which is not checked yet."""
        return (await self._receive(spec, self._limit(spec, timeout_s)))[2]

    async def hand(
        self, handler: Handler, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[int, Any, KiboError | None]:
        """Gives messages to a method that handles them, in order; the caller has the turn.

        Returns:
            How many it has handled; what it returned for the last of them, if somebody waits for that; and what it
            raised at the next, or None.

        Raises:
            KiboError: As any call. It is not known how many it has handled.
        """
        self.check()
        self._last = False
        self.acts += 1
        await self._send(["deliver", next(self._numbers), handler.part, handler.method, messages])
        limit_s = self._limit(handler, None)
        match (await self._receive(handler, limit_s + BATCH_S))[2]:
            case [int(count), answer, dict(report)] if 0 <= count < len(messages):
                if report.get("kind") == "interrupted":
                    where = str(report.get("traceback", ""))
                    return count, answer, self._too_slow(handler, limit_s, "The instance lives on.", where)
                return count, answer, self._raised(handler, report)
            case [int(count), answer, None] if 0 < count <= len(messages):
                return count, answer, None
        self._destroy("broke the protocol")
        raise violation("it did not say what it has handled")

    def stream(self, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ActionItems:
        """Prepares a streaming action, which begins when its first item is asked for."""
        positional, named = spec.check_arguments(args, kwargs)
        return ActionItems(self, spec, ["stream", 0, spec.part, spec.name, positional, named, spec.plain])

    def count(self, spec: ActionSpec) -> None:
        """Notes that an action begins."""
        self.acts += spec.effect != "read"

    def _limit(self, spec: ActionSpec | Handler, timeout_s: float | None) -> float:
        return timeout_s or spec.timeout_s or self.plan.limits.action_s or DEFAULT_ACTION_S

    async def _send(self, request: list[Any]) -> None:
        self.check_running()
        if self.parked:
            await self._go_on(self.waiting)
        if request[0] != "stop":
            self._asked = request
        try:
            await self.channel.send(self.waiting, request)
        except wire.FrameError as error:
            raise FrameTooLarge(str(error), hint="Send large data with files.upload().") from None
        except OSError:
            raise await self.why("") from None
        except BaseException:
            # Half a request cannot be taken back.
            self._destroy("a call was cancelled while it was sent")
            raise

    async def ask(self, request: str) -> Any:
        """Asks its runner, and not its box, for something; the caller has the turn.

        Raises:
            InstanceEnded: It ended.
            GuestViolation: It did not do as it was asked, and was destroyed.
        """
        self.check()
        number = next(self._numbers)
        await self._send([request, number])
        try:
            reply = await self.channel.receive(self.waiting, HOLD_S)
        except wire.Closed:
            raise await self.why("") from None
        except (wire.FrameError, TimeoutError) as error:
            self._destroy("broke the protocol")
            raise violation(str(error) or f"its runner did not answer {request!r} in time") from None
        if isinstance(reply, list) and len(reply) == 3 and reply[:2] == ["ok", number]:
            return reply[2]
        if isinstance(reply, list) and len(reply) == 3 and reply[:2] == ["error", number]:
            raise raised_error(reply[2])
        self._destroy("broke the protocol")
        raise violation(f"its runner did not do as it was asked: {request}")

    async def be_awake(self) -> None:
        """Has an instance that sleeps since it was forked go on; the caller has the turn.

        Raises:
            KiboError: It could not.
        """
        self.check_running()
        if self.parked:
            await self._go_on(self.waiting)

    async def _go_on(self, waiting: Waiting) -> None:
        # Whole: it is woken once, and its first word is for whoever woke it.
        await waiting.whole(self._wake(waiting))

    async def _wake(self, waiting: Waiting) -> None:
        if self.goes_on is not None:
            await self.goes_on(waiting)
        else:
            self.session.order("wake", {"id": self.instance})
            await self.awake()

    async def rouse(self) -> None:
        """See `Handle.rouse`."""
        if self.parked and self.goes_on is not None:
            async with self.having_turn():
                if self.parked:
                    await self._go_on(self.waiting)

    def rouse_blocking(self) -> None:
        """See `Handle.rouse_blocking`."""
        if self.parked and self.goes_on is not None:
            run(self._go_on(Blocking()))

    def become(self, other: Conversation) -> None:
        """Goes on as the conversation with another guest, which that one gives up.

        A call that is under way there goes on there, and has the turn here, too.
        """
        self.channel.close()
        self.instance, self.channel, self.parked = other.instance, other.channel, other.parked
        self.acts, self.ended = other.acts, other.ended
        self._numbers, self._asked = other._numbers, other._asked
        self.turn, other.successor = other.turn, self

    def park(self, channel: Channel) -> None:
        """Goes on with another channel, on which the instance speaks first when it is woken."""
        self.channel.replace(channel.sock)
        self.parked = True

    async def awake(self) -> None:
        """Waits until a parked instance that was woken goes on.

        Raises:
            KiboError: It could not.
        """
        await self.session.finish(
            self.waiting, self.channel, self.instance, self.plan.limits.launch_s or DEFAULT_LAUNCH_S
        )
        self.parked = False

    async def _stop(self, spec: ActionSpec) -> None:
        """Ends a stream between two items, or interrupts it where it does not come to one soon."""
        number = next(self._numbers)
        await self._send(["stop", number])
        try:
            while (await self._receive(spec, UNWIND_S))[0] == "item":
                pass
        except ActionTimedOut:
            pass  # its reader has left; what it was doing is over
        finally:
            # The stream has its answer, and the stop has one of its own.
            if not self.ended:
                await self._confirm(["stopped", number])

    async def _confirm(self, expected: list[Any]) -> None:
        try:
            if await self.channel.receive(self.waiting, UNWIND_S) == expected:
                return
        except (TimeoutError, wire.Closed, wire.FrameError):
            pass  # destroyed below, and said so by whatever is called next
        self._destroy("broke the protocol")

    async def _receive(self, spec: ActionSpec | Handler, limit_s: float) -> list[Any]:
        try:
            reply = await self.channel.receive(self.waiting, limit_s)
        except TimeoutError:
            reply = await self._interrupt(spec, limit_s)
        except wire.Closed:
            raise await self.why(spec.name) from None
        except wire.FrameError as error:
            self._destroy("broke the protocol")
            raise violation(str(error)) from None
        except BaseException:
            # Cancelled, or Ctrl-C: the caller no longer wants the action, nor may the next call get its answer.
            with self.waiting.unbroken():
                await self._abandon()
            raise
        if not (isinstance(reply, list) and len(reply) >= 2 and isinstance(reply[0], str)):
            self._destroy("broke the protocol")
            raise violation("its answer has no form")
        if reply[1] != self._asked[1]:
            # It may have been written ahead, for whatever would be asked next.
            self._destroy("broke the protocol")
            raise violation("it answered a call that was not made")
        if reply[0] == "error" and len(reply) == 3 and isinstance(reply[2], dict):
            raise self._raised(spec, reply[2])
        if reply[0] == "interrupted" and self.ending and not self._last:
            raise ended_error(self.ending)
        if reply[0] == "interrupted":
            raise self._too_slow(spec, limit_s, "The instance lives on.", "".join(map(str, reply[2:3])))
        known = ("ok", "item", "stopped") if self._asked[0] == "stream" else ("ok",)
        if reply[0] not in known or (reply[0] != "stopped" and len(reply) != 3):
            self._destroy("broke the protocol")
            raise violation(f"it answered {str(reply[0])[:40]!r}")
        return reply

    def _raised(self, spec: ActionSpec | Handler, report: dict[str, Any]) -> KiboError:
        if report.get("kind") == "too-large":
            return FrameTooLarge(
                f"the result of {spec.name}() is too large: {report.get('message')}",
                hint="Write it to a file in the box and fetch it with files.read() or files.download().",
            )
        error = raised_error(report)
        if report.get("type") == "MemoryError":
            return MemoryExceeded(f"{spec.name}() ran out of memory", hint="Raise Limits.memory_bytes.")
        return error

    async def interrupt(self) -> None:
        """Interrupts the action that was asked for last, whether it runs, is about to, or has ended.

        Raises:
            KiboError: The instance has ended, or the runtime.
            TimeoutError: The warden did not answer in time.
        """
        order = {"id": self.instance, "request": self._asked[1] if self._asked else 0}
        await self.session.ask(self.waiting, "interrupt", order, timeout_s=UNWIND_S)

    async def _interrupt(self, spec: ActionSpec | Handler, limit_s: float) -> Any:
        await self.interrupt()
        try:
            return await self.channel.receive(self.waiting, UNWIND_S)
        except (TimeoutError, wire.Closed, wire.FrameError):
            self._destroy("did not stop in time")
            raise self._too_slow(
                spec, limit_s, "It did not stop when interrupted: the instance was destroyed."
            ) from None

    async def _abandon(self) -> None:
        """Interrupts the action and takes its last answer; destroys an instance that does not give one."""
        deadline = time.monotonic() + UNWIND_S
        try:
            await self.interrupt()
            reply: object = ["item"]
            while isinstance(reply, list) and reply[:1] == ["item"]:
                reply = await self.channel.receive(self.waiting, max(0.0, deadline - time.monotonic()))
        except (KiboError, TimeoutError, wire.Closed, wire.FrameError):
            self._destroy("an action was cancelled and did not stop in time")
        except BaseException:
            self._destroy("an action was cancelled")
            raise

    def _too_slow(
        self, spec: ActionSpec | Handler, limit_s: float, then: str, where: str = ""
    ) -> ActionTimedOut:
        return ActionTimedOut(
            f"{spec.name}() did not end within {limit_s:g} s and was interrupted",
            hint=f"{then} Raise @action(timeout_s=...) or Limits.action_s if it needs longer.",
            details={
                "action": spec.name,
                "timeout_s": limit_s,
                "ended": bool(self.ended),
                "traceback": where[-MAX_ERROR_TEXT_BYTES:],
            },
        )

    async def why(self, action: str) -> KiboError:
        """Finds out why a guest is gone."""
        if not self.session.alive:
            self.ended = RUNTIME_ENDED
            return lost()
        if self.ended:
            return ended_error(self.ended)
        try:
            answer, _ = await self.session.ask(
                self.waiting, "destroy", {"id": self.instance}, timeout_s=UNWIND_S
            )
            self.ended = str(answer["reason"])
        except (KiboError, TimeoutError):
            return lost()
        if self.ended == "out of memory":
            return MemoryExceeded(
                f"{action + '() used' if action else 'the instance used'} more memory than the box has, "
                "and the kernel ended it",
                hint="Raise Limits.memory_bytes, or use less.",
            )
        if not action:
            return ended_error(self.ended)
        return ActionExited(
            f"{action}() ended the process that ran it; the instance is gone",
            hint="An action returns or raises; os._exit(), a crash or a kill ends its box. Spawn another one.",
            details={"action": action, "reason": self.ended},
        )

    def _destroy(self, reason: str) -> None:
        self.ended = reason
        self.session.forget(self.instance)

    async def destroy(self) -> None:
        """As `Handle.destroy`, and closes the channel once nobody waits on it: another thread may, in a call."""
        try:
            await super().destroy()
        finally:
            self.channel.hang_up()


class ActionItems:
    """The items of one streaming action, which has its instance's turn until it ends or is closed."""

    def __init__(self, conversation: Conversation, spec: ActionSpec, request: list[Any]) -> None:
        self._conversation = conversation
        self._spec = spec
        self._request = request
        self._state: Literal["new", "going", "over"] = "new"
        self._turn: Lock | None = None

    @property
    def _talk(self) -> Conversation:
        """What talks to the guest now: a commit may have given it to another meanwhile."""
        talk = self._conversation
        while talk.successor is not None and self._state == "going":
            talk = talk.successor
        return talk

    async def next(self, timeout_s: float | None = None) -> tuple[bool, Any]:
        """Returns whether the stream goes on, with its next item or else its result."""
        talk, spec = self._talk, self._spec
        if self._state == "over":
            return False, None
        if self._state == "new":
            self._turn = await talk.take_turn()
            self._state = "going"
        going = False
        try:
            if self._request:
                request, self._request = self._request, []
                request[1] = next(talk._numbers)
                talk.check()
                talk.count(spec)
                await talk._send(request)
            reply = await talk._receive(spec, talk._limit(spec, timeout_s))
            if reply[0] == "item":
                item = spec.check_item(reply[2])
                going = True
                return True, item
            return False, spec.check_result(reply[2]) if reply[0] == "ok" else None
        except InvalidResult:
            going = True  # the action is still at it
            await self.close()
            raise
        finally:
            if not going:
                await self._over()

    async def close(self) -> None:
        """Stops a stream that its reader left, and takes what was under way. Idempotent."""
        talk = self._talk
        if self._state != "going":
            self._state = "over"
            return
        try:
            if not talk.ended:
                with talk.waiting.unbroken():
                    await talk._stop(self._spec)
        finally:
            await self._over()

    async def _over(self) -> None:
        if self._state == "going":
            self._state = "over"
            assert self._turn is not None
            await self._turn.__aexit__(None, None, None)
