"""What the instances of one branch say to each other: the verbs, for both faces and for programs inside boxes.

Every verb takes the instance that it is done by, or for, by its name in the branch: the right to send is that of an
instance's own branch, and no other's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction, unwrap
from typing import Any, Final, Literal

from kibo.branch.async_mail_faces import AsyncDelegated
from kibo.branch.delegation import Delegation
from kibo.branch.delegations import told
from kibo.branch.mail_faces import Delegated
from kibo.branch.mailroom import Correspondent, Function, Mailroom, gone
from kibo.branch.owning import Owner
from kibo.branch.records import BranchRecord
from kibo.hub import carriers
from kibo.hub.entries import Address, Subscribed
from kibo.hub.letters import Letter
from kibo.hub.mailboxes import FUNCTION, INBOX, WAITER
from kibo.hub.post import Post
from kibo.model.errors import (
    ActionFailed,
    BranchClosed,
    BranchUnknown,
    Exhausted,
    InstanceEnded,
    InstanceUnknown,
    InvalidInput,
    KiboError,
    MailboxFull,
    MessageUnknown,
    ReplyTimedOut,
)
from kibo.model.ids import MessageId
from kibo.model.limits import DEFAULT_ACTION_S, MAX_REPLY_S, MAX_SUBSCRIPTIONS
from kibo.model.message import DeadLetter, DelegationRecord, Delivery, Message
from kibo.model.topics import checked_event, checked_pattern, matches
from kibo.runtime.waiting import Waiting

#: What an instance is at: of its mail, nothing is said.
Presence = Literal["idle", "busy", "asleep", "ended"]
#: How far a message has come; each includes those before it.
Stage = Literal["accepted", "delivered", "consumed"]

_STAGES: Final[dict[str, int]] = {"accepted": 0, "retry": 0, "delivered": 1, "consumed": 2, "dead": 3}


class Mail:
    """The mail of one branch that runs here.

    Args:
        branch: What people call it.
        room: Delivers it.
        members: Its instances by name, as they are now.
        knows: Tells whether an instance that somebody holds is one whose name means something here.
        record: Returns it as history has it.
        owner: This process, as others see it.
    """

    def __init__(
        self,
        branch: str,
        room: Mailroom,
        members: Callable[[], Mapping[str, Correspondent]],
        knows: Callable[[Any], bool],
        record: Callable[[], BranchRecord],
        owner: Owner,
    ) -> None:
        self._branch = branch
        self._record, self._owner = record, owner
        self._knows = knows
        self.room: Final = room
        self._members = members
        #: What was received and is not settled yet.
        self._received: dict[tuple[str, str], Letter] = {}

    @property
    def post(self) -> Post:
        """What is known of it."""
        return self.room.post

    @property
    def waiting(self) -> Waiting:
        """How to wait for what the branch does."""
        return self.room.waiting

    # -- sending

    async def send(
        self,
        sender: str,
        other: Any,
        body: Any,
        *,
        key: str | None = None,
        reply_to: str | None = None,
        wait_s: float = 0.0,
        inside: bool = False,
    ) -> MessageId:
        """Sends a message; see `Instance.send_message`. `inside` tells, here and below, that code in a box does so."""
        self._living(sender)
        to = self._living(other)
        if reply_to is not None:
            asked = self._received.get((reply_to, sender))
            if asked is not None and await self.waiting.aside(lambda: self.post.asker(asked)) == to:
                await self.waiting.aside(lambda: self.post.reply(asked, body, inside=inside))
                self._received.pop((reply_to, sender), None)
                return MessageId(reply_to)
        return await self._sent(
            lambda: self.post.send(sender, [(to, "")], body, key=key, reply_to=reply_to, inside=inside),
            [(to, "")],
            wait_s,
        )

    async def publish(
        self,
        sender: str,
        event: str,
        body: Any = None,
        *,
        key: str | None = None,
        wait_s: float = 0.0,
        inside: bool = False,
    ) -> MessageId:
        """Publishes an event; see `Instance.publish_event`."""
        self._living(sender)
        checked_event(event)
        to = await self.waiting.aside(lambda: self._listeners(event))
        return await self._sent(
            lambda: self.post.send(sender, to, body, event=event, key=key, inside=inside), to, wait_s
        )

    async def request(
        self, sender: str, other: Any, body: Any, *, timeout_s: float, inside: bool = False
    ) -> Any:
        """Sends a message and waits for the answer; see `Instance.request`."""
        if not 0 < timeout_s <= MAX_REPLY_S:
            raise InvalidInput(
                f"timeout_s={timeout_s!r}", hint=f"Give seconds above 0, at most {MAX_REPLY_S:g}."
            )
        self._living(sender)
        to = self._living(other)
        until = time.time() + timeout_s
        with self.room.asks(sender):
            asked = await self.waiting.aside(
                lambda: self.post.send(sender, [(to, "")], body, until=until, inside=inside)
            )
            address = (sender, f"{WAITER}{asked}")
            answered = await self.room.waiters.until(
                self.waiting, lambda: self.post.ready(address) or self._refused(asked), timeout_s
            )
            answer = None if answered is None else await self.waiting.aside(lambda: self._answer(address))
        if answered is None or (answered is True and answer is None):
            raise ReplyTimedOut(
                f"{to} has not answered within {timeout_s:g} s",
                hint="See that it has a handler of messages, or receives them; its receipt tells how far it came.",
                details={"message": asked, "instance": to, "timeout_s": timeout_s},
            )
        if isinstance(answered, Delivery):
            raise ActionFailed(
                f"{to} could not handle the message: {answered.why}",
                hint="Its dead letters, box.mail.dead(), have it: redeliver it once the cause is gone.",
                details={"message": asked, "instance": to, "attempts": answered.attempts},
            )
        assert answer is not None
        return answer.body

    def _answer(self, address: Address) -> Message | None:
        """Takes the answer that has come; None where it came too late."""
        for letter, message in self.post.take(address, 1):
            self.post.settle([letter])
            return message
        return None

    def _refused(self, asked: str) -> Delivery | None:
        return next((each for each in self.post.receipt(asked) if each.state == "dead"), None)

    async def _sent(self, send: Callable[[], MessageId], to: Sequence[Address], wait_s: float) -> MessageId:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                return await self.waiting.aside(send)
            except MailboxFull:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise
                await self.room.waiters.until(self.waiting, lambda: self.post.room(to) or None, left)

    def _listeners(self, event: str) -> list[Address]:
        """Returns who hears of an event now: methods in boxes, then functions, in order of instances."""
        found: list[Address] = []
        groups: dict[str, list[Address]] = {}

        def add(address: Address, group: str) -> None:
            (groups.setdefault(group, []) if group else found).append(address)

        living = {name: each for name, each in sorted(self._members().items()) if not gone(each)}
        for name, member in living.items():
            for handler in member.talk.plan.handlers:
                if handler.event and matches(handler.event, event):
                    add((name, handler.name), handler.group)
        for address, subscribed in self.post.boxes().subscriptions.items():
            if address[0] in living and matches(subscribed.pattern, event):
                add((address[0], "") if address[1].startswith(INBOX) else address, subscribed.group)
        chosen = [self.post.one_of(list(dict.fromkeys(group))) for _, group in sorted(groups.items())]
        return list(dict.fromkeys(found + chosen))  # a mailbox that two patterns lead to gets it once

    # -- handling

    async def listen(
        self,
        member: str,
        pattern: str,
        call: Callable[..., Any],
        *,
        name: str = "",
        group: str = "",
        timeout_s: float = DEFAULT_ACTION_S,
    ) -> str:
        """Has a function handle events on behalf of an instance; see `Instance.on_event`."""
        self._living(member)
        checked_pattern(pattern)
        handler = FUNCTION + (name or f"{_name_of(call)}({pattern})")
        self._register((member, handler), Function(self._callable(call), timeout_s))
        subscribed = Subscribed(member, handler, pattern, group)
        await self.waiting.aside(lambda: self._subscribe(subscribed, MAX_SUBSCRIPTIONS))
        self.room.look()
        return handler

    async def unlisten(self, member: str, handler: str) -> None:
        """Ends what `listen` began, by what that returned."""
        self.room.functions.pop((member, handler), None)
        await self.waiting.aside(lambda: self.post.unsubscribe((member, handler)))

    async def answer_with(
        self, member: str, call: Callable[..., Any], *, timeout_s: float = DEFAULT_ACTION_S
    ) -> None:
        """Has a function handle messages to an instance; see `Instance.on_message`."""
        self._living(member)
        self._refuse_handled(
            member, "Subscribe to an event with on_event(), or leave @on_message out of the box."
        )
        self._register((member, ""), Function(self._callable(call), timeout_s))
        # What waits already is known to nobody but the log.
        await self.waiting.aside(self.post.boxes)
        self.room.look()

    def _refuse_handled(self, member: str, hint: str) -> None:
        if any(not handler.event for handler in self._members()[member].talk.plan.handlers):
            raise InvalidInput(
                f"the box of {member} handles messages itself", hint=hint, details={"instance": member}
            )

    def _register(self, address: Address, function: Function) -> None:
        known = self.room.functions.get(address)
        if known is not None and unwrap(known.call) is not unwrap(function.call):
            raise InvalidInput(
                f"{address[0]} has a handler {address[1][1:] or 'of messages'} already",
                hint="Give on_event(subscription=...) another name, or end that one with off_event().",
                details={"instance": address[0]},
            )
        self.room.functions[address] = function

    def _callable(self, call: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(call):
            raise InvalidInput(
                f"{call!r} cannot be called", hint="Give a function that takes the message, or nothing."
            )
        if iscoroutinefunction(call) and not self.room.on_loop:
            raise InvalidInput(
                f"{_name_of(call)}() is a coroutine function", hint="Use kibo.aio, or a plain function."
            )
        return call

    async def receive(
        self, member: str, *, timeout_s: float | None = 0.0, hold_s: float | None = None
    ) -> Message | None:
        """Takes the next message of an instance; see `Mailbox.receive`.

        Args:
            member: The instance.
            timeout_s: How long to wait for one.
            hold_s: For a program in its box, which nobody sees end: how long it may have the message. While the branch
                rests, such a program gets nothing. None for a program outside, which has it for as long as it lives.
        """
        self._living(member)
        self._refuse_handled(
            member, "Leave @on_message out of the box; what its method has handled is not received."
        )
        await self.waiting.aside(self.post.boxes)
        address, inside = (member, ""), hold_s is not None

        def ready() -> bool | None:
            return ((not inside or self.room.delivers) and self.post.ready(address)) or None

        def take() -> list[tuple[Letter, Message]]:
            if not inside:
                return self.post.take(address, 1)
            with self.room.taking() as may:
                return self.post.take(address, 1) if may else []

        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if await self.room.waiters.until(self.waiting, ready, left) is None:
                return None
            for letter, message in await self.waiting.aside(take):
                self._received[message.id, member] = letter
                if hold_s is not None:
                    carriers.alarms.after(
                        hold_s, partial(self._give_back, (message.id, member), letter, hold_s)
                    )
                return message

    def _give_back(self, received: tuple[str, str], letter: Letter, hold_s: float) -> None:
        """Has a message delivered again whose receiver has had it for too long."""
        if self._received.get(received) is letter and self._received.pop(received, None) is not None:
            with suppress(KiboError):  # the branch has ended: so has the letter
                self.room.now.post.settle(
                    failed=letter, why=f"whoever received it did not say that it is done within {hold_s:g} s"
                )

    async def unseen(self, member: str, message: str) -> None:
        """Says that whoever was to receive a message has not seen it: it counts as not taken."""
        letter = self._received.pop((message, member), None)
        if letter is not None:
            await self.waiting.aside(lambda: self.room.now.post.settle(unseen=[letter]))

    async def settle(
        self, member: str, message: str, why: str | None = None, *, inside: bool = False
    ) -> None:
        """Says that a received message has been handled, or why it could not be; see `Mailbox.done`."""
        letter = self._received.pop((message, member), None)
        if letter is None:
            raise MessageUnknown(
                f"{member} has not received {message}, or it is settled",
                details={"message": message, "instance": member},
            )
        if why is None:
            await self.waiting.aside(lambda: self.post.settle([letter], inside=inside))
        else:
            await self.waiting.aside(lambda: self.post.settle(failed=letter, why=why))

    async def subscribe(
        self, member: str, pattern: str, *, group: str = "", most: int = MAX_SUBSCRIPTIONS
    ) -> str:
        """Has events of a pattern come to an instance as messages do. Returns what `unlisten` ends it by.

        Args:
            member: The instance.
            pattern: Of their names.
            group: Of all that have one, each event goes to one; empty for those that get all.
            most: How many subscriptions the instance may have.

        Raises:
            InvalidInput: The pattern is none.
            Exhausted: It has so many.
        """
        self._living(member)
        subscribed = Subscribed(member, INBOX + checked_pattern(pattern), pattern, group)
        await self.waiting.aside(lambda: self._subscribe(subscribed, most))
        return subscribed.handler

    def _subscribe(self, subscribed: Subscribed, most: int) -> None:
        known = self.post.boxes().subscriptions
        if len(known) >= MAX_SUBSCRIPTIONS:
            members = self._members()
            for address in [each for each in known if each[0] not in members or gone(members[each[0]])]:
                self.post.unsubscribe(address)
        mine = [handler for member, handler in known if member == subscribed.member]
        if len(mine) >= most and subscribed.handler not in mine:
            raise Exhausted(
                f"{subscribed.member} has {len(mine)} subscriptions",
                hint="Subscribe to fewer patterns, with * and > in them, or end some.",
                details={"instance": subscribed.member, "allowed": most},
            )
        self.post.subscribe(subscribed)

    # -- looking

    async def receipt(self, message: str) -> list[Delivery]:
        """Tells what has become of a message, by recipient."""
        return await self.waiting.aside(lambda: self.post.receipt(message))

    async def settled(self, message: str, stage: Stage, timeout_s: float | None) -> list[Delivery]:
        """Waits until a message has come so far at each recipient, or is dead there."""
        wanted = _STAGES[stage]

        def there() -> list[Delivery] | None:
            found = self.post.receipt(message)
            return found if all(_STAGES[each.state] >= wanted for each in found) else None

        await self.receipt(message)  # an error where it is not known
        found = await self.room.waiters.until(self.waiting, there, timeout_s)
        if found is None:
            raise ReplyTimedOut(
                f"message {message} was not {stage} within {timeout_s:g} s",
                hint="Its receipt tells how far it has come, and where.",
                details={"message": message},
            )
        return found

    async def dead(self, member: str | None = None) -> list[DeadLetter]:
        """Lists letters that will not be delivered."""
        return await self.waiting.aside(lambda: self.post.dead(member))

    async def redeliver(self, message: str, member: str | None = None) -> int:
        """Has the dead letters of a message delivered after all."""
        return await self.waiting.aside(lambda: self.post.revive(message, member))

    async def sent(self, after: int, limit: int) -> list[Message]:
        """Returns what was sent in the branch, from a cursor on."""
        return await self.waiting.aside(lambda: self.post.history(after, limit))

    def presence(self) -> dict[str, Presence]:
        """Tells what each instance is at."""
        return {name: _presence(member) for name, member in sorted(self._members().items())}

    # -- who

    def _living(self, instance: Any) -> str:
        """Returns the name of an instance of the branch.

        Raises:
            InstanceUnknown: It is not in the branch.
            InstanceEnded: It has ended.
        """
        name = instance if isinstance(instance, str) else None
        if hasattr(instance, "_member") and self._knows(instance):
            name = instance._member
        members = self._members()
        member = members.get(name) if isinstance(name, str) else None
        if name is None or member is None:
            known = ", ".join(sorted(members)) or "none"
            raise InstanceUnknown(
                f"branch {self._branch} has no instance {name or instance!r}",
                hint=f"It has: {known}. Messages stay in their branch.",
                details={"instance": str(name or "")},
            )
        if gone(member):
            raise InstanceEnded(
                f"{name} of branch {self._branch} has ended: {member.talk.ended or 'its process is gone'}",
                hint="Spawn another, and send to that. A message revives nobody.",
                details={"instance": name},
            )
        return str(name)

    # -- delegating

    async def delegate(
        self, sender: str, other: Any, action: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Delegation:
        """Has another instance do an action; see `Instance.delegate`."""
        self._living(sender)
        to = self._living(other)
        member = self._members()[to]
        spec = member.talk.spec(action)
        made = Delegation(self.room, self._owner.name, sender, (to, member), spec, args, kwargs)
        await made.begin()
        return made

    async def delegations(self) -> list[DelegationRecord]:
        """Tells what has become of the newest delegations that the branch sees, oldest first."""

        def look() -> list[DelegationRecord]:
            known, record = self.post.delegations(), self._record()
            return [told(each, record, self._owner.lives) for each in known]

        return await self.waiting.aside(look)

    def delegated(self, delegation: Delegation) -> Delegated | AsyncDelegated:
        """Returns what a user of this branch's face holds of a delegation."""
        return AsyncDelegated(delegation) if self.room.on_loop else Delegated(delegation)

    # -- becoming another

    def look_again(self) -> None:
        """Delivers what there is to deliver, by what the log has now: soon, and without waiting for it."""
        if not self.room.closed:
            carriers.carriers.submit(self._look_again)

    def _look_again(self) -> None:
        with suppress(BranchClosed, BranchUnknown):
            self.post.boxes()
            self.room.changed()

    def take_over(self, winner: Mail, *, joined: bool) -> None:
        """Goes on as the mail of a fork that was committed.

        Args:
            winner: That of the fork, which gives it up.
            joined: Whether both sides' entries are in the log, ours first.
        """
        winner.room.give_up_to(self.room)
        if not joined:
            self.post.replace(winner.post.share())
        self.post.hold(winner.post.held)
        self.room.functions.update(winner.room.functions)
        self._received.update(winner._received)
        winner._received = self._received  # what it gives back is given back here


def _presence(member: Correspondent) -> Presence:
    if gone(member):
        return "ended"
    if member.talk.parked:
        return "asleep"
    return "busy" if member.talk.turn.held else "idle"


def _name_of(call: Any) -> str:
    return f"{getattr(call, '__module__', '')}.{getattr(call, '__qualname__', type(call).__qualname__)}"
