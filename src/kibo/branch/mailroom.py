"""Delivers the mail of one branch: each address one letter after the other, to a method in a box or to a function here.

A method runs in the turn of its instance, in which the letter is taken and settled, too: whoever forks or commits has
the turn, and so finds each letter either handled, and known to be, or not begun. A function runs on a thread of its
own, and in the branch that it was given to alone: it is outside of the branch's world, and hears what a fork has sent
once that is committed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, Protocol

from kibo.box.handlers import Handler
from kibo.hub import carriers
from kibo.hub.entries import Address
from kibo.hub.letters import Letter
from kibo.hub.mailboxes import FUNCTION, WAITER
from kibo.hub.post import Post
from kibo.hub.waiters import Waiters
from kibo.model.errors import (
    ActionExited,
    BranchClosed,
    BranchTaken,
    BranchUnknown,
    InstanceEnded,
    KiboError,
    MessageInvalid,
    RuntimeLost,
)
from kibo.model.limits import BATCH_S, BOUNDARY_POLL_S, DEFAULT_ACTION_S
from kibo.model.message import Message, call_handler
from kibo.runtime.conversation import Conversation
from kibo.runtime.handle import RUNTIME_ENDED
from kibo.runtime.instance import was_destroyed
from kibo.runtime.orders import UNWIND_S
from kibo.runtime.waiting import Blocking, Waiting

_log: Final = logging.getLogger(__name__)
#: How long after the store did not answer it is asked again.
_AGAIN_S: Final = 1.0
#: How long an instance that was there is taken to be there: to look takes as long as to send.
SEEN_S: Final = 0.02
ENDED: Final = "its recipient has ended"


class Correspondent(Protocol):
    """An instance, as whoever brings its mail knows it."""

    @property
    def face(self) -> Any:
        """It, as its user holds it."""

    @property
    def talk(self) -> Conversation:
        """The conversation with its guest."""


@dataclass(frozen=True, slots=True)
class Function:
    """A function of this program that handles messages on behalf of an instance.

    Attributes:
        call: It.
        timeout_s: How long it may take.
    """

    call: Callable[..., Any]
    timeout_s: float = DEFAULT_ACTION_S

    @property
    def bounded(self) -> bool:
        """Whether it ends by itself when its time is up: a coroutine function does."""
        return iscoroutinefunction(self.call)


@dataclass(slots=True, eq=False)
class Handling:
    """The letters that one function is at.

    Attributes:
        room: Where.
        function: Who.
        done: Those that it has handled, which is not noted yet.
        current: The one that it has now.
        since_s: Since when, by the monotonic clock.
        overdue: Whether it has had it for too long, which is noted.
    """

    room: Mailroom
    function: Function
    done: list[Letter] = field(default_factory=list)
    current: Letter | None = None
    since_s: float = 0.0
    overdue: bool = False

    def settle(self) -> None:
        """Notes all of them as handled: what its function does now ends what the branch was."""
        done, self.done = self.done, []
        if self.current is not None and not self.overdue:
            done.append(self.current)
            self.current = None
        self.room.now.post.settle(done)


_handling: Final[ContextVar[Handling | None]] = ContextVar("kibo_handling", default=None)


class AwaitsAnother(Exception):
    """An action of an instance that is to be sealed waits for what another is to do."""


class Mailroom:
    """Delivers the mail of one branch, for as long as it runs.

    Args:
        waiting: How its instances are waited for.
        make_post: Makes its mail, given whom to tell of changes.
        members: Its instances by name, as they are now.
        rests: Tells whether nothing is to be delivered for now.
    """

    def __init__(
        self,
        waiting: Waiting,
        make_post: Callable[[Callable[[], None]], Post],
        members: Callable[[], Mapping[str, Correspondent]],
        rests: Callable[[int], bool],
    ) -> None:
        self.waiting = waiting
        self.waiters = Waiters()
        self.functions: dict[Address, Function] = {}
        self._members, self._rests = members, rests
        #: How a thread waits for them.
        self.outside: Final = waiting.outside()
        #: Whether its instances are waited for on an event loop, which functions may run on too.
        self.on_loop: Final = not isinstance(waiting, Blocking)
        self._guard = threading.RLock()
        self._active: set[Address] = set()
        self._handlings: set[Handling] = set()
        self._pauses = self._takings = 0
        #: Instances whose code waits for another's to answer, and how often.
        self._asking: Counter[str] = Counter()
        self._alarm_s = self._watch_s = 0.0
        self._closed = False
        self._successor: Mailroom | None = None
        self.post: Final = make_post(self.changed)

    # -- when

    def changed(self) -> None:
        """Has whoever waits for something look again, and delivers what there is to deliver."""
        self.waiters.ring()
        self.look()

    def look(self) -> None:
        """Begins to deliver what can be delivered. Waits for nothing."""
        with self._guard:
            if not self._may():
                return
            for address in self.post.addresses():
                if address in self._active or self._work(address) is None or not self.post.ready(address):
                    continue
                self._active.add(address)
                carriers.carriers.submit(partial(self._carry, address))
            self._set_alarm(self.post.due_s())

    def _may(self) -> bool:
        return not self._closed and not self._pauses and not self._rests(self.post.seq)

    def _set_alarm(self, due_s: float | None) -> None:
        if due_s is None:
            return
        when = time.monotonic() + due_s
        if self._alarm_s <= time.monotonic() or when < self._alarm_s:
            self._alarm_s = when
            carriers.alarms.after(due_s, self.changed)

    @asynccontextmanager
    async def still(self, at_boundary: Callable[[], bool]) -> AsyncIterator[None]:
        """Delivers nothing during a block that seals the branch, once its functions have ended what they are at.

        Of a function that is itself what runs the block, the message counts as handled from now on.

        Args:
            at_boundary: Tells whether all that is called waits for what the block lets happen.
        """
        mine = _handling.get()
        if mine is not None and mine.room is self:
            await self.waiting.aside(mine.settle)
        with self._guard:
            self._pauses += 1
        try:
            while not at_boundary():
                if await self.waiters.until(self.waiting, lambda: self._quiet(mine) or None, BOUNDARY_POLL_S):
                    break
            yield
        finally:
            with self._guard:
                self._pauses -= 1
            self.changed()

    @contextmanager
    def asks(self, name: str) -> Iterator[None]:
        """Notes during a block that an instance waits for what another is to do: whoever seals both lets it be done."""
        with self._guard:
            self._asking[name] += 1
        try:
            yield
        finally:
            with self._guard:
                self._asking[name] -= 1
                self._asking += Counter()  # keeps what is above 0
            for room in (self, self.now):
                room.waiters.ring()

    def check_unasked(self) -> None:
        """Checks that no action waits for what another instance is to do: to keep that from it would wait for ever.

        Raises:
            AwaitsAnother: One does.
        """
        with self._guard:
            asking = list(self._asking)
        members = self._members() if asking else {}
        if any(name in members and members[name].talk.turn.held for name in asking):
            raise AwaitsAnother

    async def unasked(self) -> None:
        """Waits until `check_unasked` finds nothing, and no longer than until it is time to look again."""

        def found() -> bool | None:
            with suppress(AwaitsAnother):
                self.check_unasked()
                return True
            return None

        await self.waiters.until(self.waiting, found, BOUNDARY_POLL_S)

    @property
    def delivers(self) -> bool:
        """Whether a program in a box may take a letter now."""
        return self._may()

    @contextmanager
    def taking(self) -> Iterator[bool]:
        """Lets a program in a box take a letter, and no seal come between that. Says whether it may."""
        with self._guard:
            may = self._may()
            self._takings += may
        try:
            yield may
        finally:
            if may:
                with self._guard:
                    self._takings -= 1
                self.waiters.ring()

    def _quiet(self, mine: Handling | None) -> bool:
        with self._guard:
            return not self._takings and all(each is mine or each.overdue for each in self._handlings)

    @property
    def now(self) -> Mailroom:
        """What delivers the same letters now: of a branch that was committed, its parent's."""
        room = self
        while room._successor is not None:
            room = room._successor
        return room

    def give_up_to(self, other: Mailroom) -> None:
        """Delivers nothing any more: the branch has become another, and what is under way goes on there."""
        with self._guard:
            self._successor = other
            left = set(self._handlings)
        with other._guard:
            other._handlings |= left
        self.close()

    def close(self) -> None:
        """Delivers nothing any more."""
        self._closed = True
        self.waiters.ring()

    @property
    def closed(self) -> bool:
        """Whether nothing is delivered any more."""
        return self._closed

    # -- what

    def _work(self, address: Address) -> Callable[[], None] | None:
        """Returns what delivers at an address; None where nobody does."""
        name, handler = address
        if handler.startswith(WAITER):
            return None
        member = self._members().get(name)
        if member is None:
            return partial(self.post.bury, address, ENDED)
        if lost(member):
            return None
        if gone(member):
            return partial(self._bury, member, address)
        found = self._method(member, handler)
        if found is not None:
            return partial(self._to_box, member, found, address)
        if function := self.functions.get(address):
            return partial(self._to_function, function, address)
        if handler and not handler.startswith(FUNCTION):
            return partial(self.post.bury, address, f"its recipient has no handler {handler}")
        return None

    def _method(self, member: Correspondent, name: str) -> Handler | None:
        for handler in member.talk.plan.handlers:
            if (handler.name if handler.event else "") == name:
                return handler
        return None

    def _carry(self, address: Address) -> None:
        try:
            while True:
                with self._guard:
                    work = self._work(address) if self._may() else None
                    # Under the lock: what comes from now on finds that nobody is at it.
                    if work is None or not self.post.ready(address):
                        self._active.discard(address)
                        return
                work()
        except (BranchClosed, BranchTaken, BranchUnknown, RuntimeLost):
            self.close()
        except Exception as error:  # noqa: BLE001 - a carrier has nobody to raise it to
            if not self._closed:
                _log.warning("the mail of %s waits: %s", address[0], error)
                carriers.alarms.after(_AGAIN_S, self.look)
        finally:
            with self._guard:
                self._active.discard(address)

    def _bury(self, member: Correspondent, address: Address) -> None:
        """Gives up the mail of an instance that has ended, unless it is all that have, with their runtime.

        That mail waits for whoever goes on with the branch.
        """
        talk = member.talk
        if not talk.ended and not was_destroyed(member.face):
            try:
                look = partial(talk.session.ask, timeout_s=UNWIND_S)
                self.outside(partial(look, self.waiting, "list", {"id": talk.instance}))
            except (RuntimeLost, TimeoutError):
                talk.ended = RUNTIME_ENDED
                return
        self.post.bury(address, ENDED)

    # -- to methods in boxes

    def _to_box(self, member: Correspondent, handler: Handler, address: Address) -> None:
        self.outside(partial(self._in_turn, member, handler, address))

    async def _in_turn(self, member: Correspondent, handler: Handler, address: Address) -> None:
        face, talk = member.face, member.talk  # held: an instance that nobody refers to ends
        async with talk.having_turn():
            if not self._may() or talk.ended:
                return
            await self._batch(talk, handler, address)
        del face

    async def _batch(self, talk: Conversation, handler: Handler, address: Address) -> None:
        aside = self.waiting.aside
        taken = await aside(lambda: self.post.take(address))
        if not taken:
            return
        left = [letter for letter, _ in taken]
        done: list[Letter] = []
        failed: Letter | None = None
        why, final = "", False
        try:
            count, answer, error = await talk.hand(handler, [message.as_dict() for _, message in taken])
            done, left = left[:count], left[count:]
            if count and taken[count - 1][1].asks:
                failed = done.pop()
                await aside(partial(self.now.post.reply, failed, answer, inside=True))
                failed = None
            if error is not None:
                failed, why = left.pop(0), error.message
        except InstanceEnded:
            pass  # none was handled; the next look finds out why
        except RuntimeLost:
            self.now.post.let_go(left)  # each has had its attempt: nobody knows what came of it
            left = []
        except ActionExited as ended:
            if len(left) == 1:  # of several, nobody knows which; they have no recipient any more
                failed, why, final, left = left[0], ended.message, True, []
        except KiboError as raised:
            failed = failed or left.pop(0)
            why, final = raised.message, isinstance(raised, MessageInvalid)
        finally:
            with self.waiting.unbroken():
                await aside(
                    lambda: self.now.post.settle(done, failed, why, unseen=left, final=final, inside=True)
                )

    # -- to functions

    def _to_function(self, function: Function, address: Address) -> None:
        handling = Handling(self, function)
        with self._guard:
            if not self._may():
                return
            self._handlings.add(handling)
        try:
            self._handle(handling, self.post.take(address))
        finally:
            for room in (self, self.now):
                with room._guard:
                    room._handlings.discard(handling)
                room.waiters.ring()

    def _handle(self, handling: Handling, taken: list[tuple[Letter, Message]]) -> None:
        begun_s = time.monotonic()
        left = [letter for letter, _ in taken]
        failed: Letter | None = None
        why, final = "", False
        try:
            for letter, message in taken:
                if handling.done and (self._pauses or self._closed or time.monotonic() - begun_s > BATCH_S):
                    break
                left.remove(letter)
                handling.current, handling.since_s, handling.overdue = letter, time.monotonic(), False
                if not handling.function.bounded:
                    self._watch(handling.function.timeout_s)
                try:
                    answer = self._call(handling, message)
                    if message.asks and handling.current is letter:
                        self.now.post.reply(letter, answer)
                    elif handling.current is letter:
                        handling.done.append(letter)
                except Exception as error:  # noqa: BLE001 - whatever a handler raises is its message's to tell
                    if handling.current is not letter or handling.overdue:
                        _log.warning(
                            "a handler of %s raised after its message was settled: %r",
                            letter.address[0],
                            error,
                        )
                        continue
                    failed, why = letter, _told(error)
                    final = isinstance(error, MessageInvalid)
                    break
                finally:
                    handling.current = None
        finally:
            self.now.post.settle(handling.done, failed, why, unseen=left, final=final)

    def _call(self, handling: Handling, message: Message) -> Any:
        call = handling.function.call
        if handling.function.bounded:
            return self.outside(partial(_awaited, handling, message))
        token = _handling.set(handling)
        try:
            return call_handler(call, message)
        finally:
            _handling.reset(token)

    def _watch(self, limit_s: float) -> None:
        """Sees to it that a letter is settled although its function never returns."""
        when = time.monotonic() + limit_s
        if self._watch_s <= time.monotonic() or when < self._watch_s:
            self._watch_s = when
            carriers.alarms.after(limit_s, self._look_after)

    def _look_after(self) -> None:
        """Settles what functions have had for too long, and looks again when the next of them has."""
        late: list[tuple[Handling, Letter]] = []
        with self._guard:
            self._watch_s = 0.0
            for handling in self._handlings:
                letter, limit_s = handling.current, handling.function.timeout_s
                if letter is None or handling.overdue or handling.function.bounded:
                    continue
                left_s = handling.since_s + limit_s - time.monotonic()
                if left_s > 0:
                    self._watch(left_s)
                else:
                    handling.overdue = True
                    late.append((handling, letter))
        for handling, letter in late:
            with suppress(KiboError):  # the branch has ended: so has the letter
                why = f"its handler did not return within {handling.function.timeout_s:g} s"
                self.post.settle(failed=letter, why=why, final=True)


async def _awaited(handling: Handling, message: Message) -> Any:
    token = _handling.set(handling)
    try:
        return await call_handler(handling.function.call, message)
    finally:
        _handling.reset(token)


def lost(member: Correspondent) -> bool:
    """Tells whether an instance has ended with its runtime, as far as that is known without asking it."""
    return member.talk.ended == RUNTIME_ENDED or not member.talk.session.alive


def gone(member: Correspondent) -> bool:
    """Tells whether an instance has ended, as far as that is known without asking it."""
    talk, now_s = member.talk, time.monotonic()
    if talk.ended or was_destroyed(member.face):
        return True
    if now_s - talk.seen_s < SEEN_S:
        return False
    # While it is forked its channel is another; whoever forks it has its turn.
    if talk.session.alive and (talk.parked or talk.channel.is_open() or talk.turn.held or talk.parked):
        talk.seen_s = now_s
        return False
    return not (talk.session.alive and talk.channel.is_open())


def _told(error: Exception) -> str:
    return error.message if isinstance(error, KiboError) else f"{type(error).__name__}: {error}"
