"""What boxes may ask for of the mail of their own branch: verbs for `answering`.

The sender is always the caller, and what is received, read or ended is the caller's own: events are the branch's, and
messages those of who sent them and who gets them. What is written counts against the box's quota, since the log keeps
it; what is read comes in bounded parts, since it is in the memory of the user's process meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import islice
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from kibo.box.rights import MayDelegate, MayPost
from kibo.branch.mail import Mail
from kibo.hub.board import Board
from kibo.hub.mailboxes import INBOX
from kibo.model.errors import InvalidInput, MessageUnknown, WrongState
from kibo.model.limits import (
    DEFAULT_HOLD_S,
    MAX_BOARD_OF_ONE,
    MAX_BOX_SUBSCRIPTIONS,
    MAX_NAME,
    MAX_RECEIVE_S,
    MAX_REPLY_S,
    MAX_TAKE_BYTES,
    MAX_TAKE_ENTRIES,
    MAX_TAKE_LOOKS,
    MESSAGE_ROW_BYTES,
)
from kibo.runtime.answering import Verb
from kibo.runtime.callers import Caller
from kibo.runtime.callouts import Asked, Name, asks_of
from kibo.runtime.instance import conversation_of, spawned_of
from kibo.runtime.mailing import mail_of

_Event = Annotated[str, Meta(max_length=MAX_NAME)]
_Cursor = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Limit = Annotated[int, Meta(ge=1, le=MAX_TAKE_ENTRIES)]
#: Entries of the board that are read at once: each may have a megabyte.
_FEW: Final = 8


class Sending(Asked):
    to: Name
    body: Any
    key: Name | None = None
    reply_to: Name | None = None


class Publishing(Asked):
    event: _Event
    data: Any = None
    key: Name | None = None


class Requesting(Asked):
    to: Name
    body: Any
    timeout_s: Annotated[float, Meta(gt=0, le=MAX_REPLY_S)] = 60.0


class Receiving(Asked):
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_RECEIVE_S)] = 0.0
    hold_s: Annotated[float, Meta(gt=0, le=MAX_REPLY_S)] = DEFAULT_HOLD_S


class Settling(Asked):
    message: Name
    why: Annotated[str, Meta(max_length=10_000)] | None = None


class Subscribing(Asked):
    pattern: _Event
    group: Name = ""


class Unsubscribing(Asked):
    subscription: Annotated[str, Meta(max_length=MAX_NAME + 1)]


class OfMessage(Asked):
    message: Name


class Waiting(Asked):
    message: Name
    stage: Literal["accepted", "delivered", "consumed"] = "consumed"
    timeout_s: Annotated[float, Meta(ge=0, le=MAX_RECEIVE_S)] = MAX_RECEIVE_S


class Reading(Asked):
    after: _Cursor = 0
    limit: _Limit = MAX_TAKE_ENTRIES


class Posting(Asked):
    body: Any


class Delegating(Asked):
    to: Name
    action: Name
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


# -- sending


def send(caller: Caller, asked: Sending) -> str:
    """Sends a message to another instance of the box's branch. Returns its id."""
    with caller.writing(_size(asked.body)):
        return str(
            _do(
                caller,
                lambda mail, me: mail.send(
                    me, asked.to, asked.body, key=asked.key, reply_to=asked.reply_to, inside=True
                ),
            )
        )


def publish(caller: Caller, asked: Publishing) -> str:
    """Publishes an event to all in the box's branch that listen to it. Returns its id."""
    with caller.writing(_size(asked.data)):
        return str(
            _do(
                caller,
                lambda mail, me: mail.publish(me, asked.event, asked.data, key=asked.key, inside=True),
            )
        )


def request(caller: Caller, asked: Requesting) -> Any:
    """Sends a message and waits for what its handler returns."""
    with caller.writing(_size(asked.body)):
        return _do(
            caller,
            lambda mail, me: mail.request(me, asked.to, asked.body, timeout_s=asked.timeout_s, inside=True),
        )


def delegate(caller: Caller, asked: Delegating) -> Generator[Any, None, Any]:
    """Has another instance of the box's branch do an action; yields its progress, and returns what it does.

    It is cancelled where whoever asked for it goes away.
    """
    mail, me = _mail(caller)
    if asked.to == me:
        raise InvalidInput(f"{me} cannot delegate to itself", hint="Call the method.")
    ask = asks_of(caller, conversation_of(caller.instance).waiting)
    with mail.room.asks(me):
        with caller.writing(2 * MESSAGE_ROW_BYTES):  # that it began, and how it ended
            made = ask(lambda: mail.delegate(me, asked.to, asked.action, tuple(asked.args), asked.kwargs))
        last = 0
        try:
            while (event := ask(partial(made.next_event, last))) is not None:
                last = event.number
                if event.kind == "progress":
                    yield event.value
            return ask(lambda: made.result(None))
        except GeneratorExit:
            ask(made.cancel)
            raise


# -- receiving


def receive(caller: Caller, asked: Receiving) -> Generator[dict[str, Any], None, None]:
    """Takes the next message to the box, if there is one in time. One that cannot be told counts as not taken."""
    message = _do(caller, lambda mail, me: mail.receive(me, timeout_s=asked.timeout_s, hold_s=asked.hold_s))
    if message is None:
        return
    try:
        yield message.as_dict()
    except GeneratorExit:
        with caller.writing(MESSAGE_ROW_BYTES):
            _do(caller, lambda mail, me: mail.unseen(me, message.id))
        raise


def settle(caller: Caller, asked: Settling) -> None:
    """Says that a received message has been handled, or why it could not be."""
    _do(caller, lambda mail, me: mail.settle(me, asked.message, asked.why, inside=True))


def subscribe(caller: Caller, asked: Subscribing) -> str:
    """Has events of a pattern come to the box as messages do. Returns what `unsubscribe` takes."""
    most = MAX_BOX_SUBSCRIPTIONS
    with caller.writing(MESSAGE_ROW_BYTES):
        return str(
            _do(caller, lambda mail, me: mail.subscribe(me, asked.pattern, group=asked.group, most=most))
        )


def unsubscribe(caller: Caller, asked: Unsubscribing) -> None:
    """Ends what `subscribe` began: what a program outside has subscribed on the box's behalf is not the box's."""
    if not asked.subscription.startswith(INBOX):
        raise InvalidInput(
            f"this box has made no subscription {asked.subscription[:80]!r}",
            hint="Give what subscribe returned.",
        )
    with caller.writing(MESSAGE_ROW_BYTES):
        _do(caller, lambda mail, me: mail.unlisten(me, asked.subscription))


# -- looking


def receipt(caller: Caller, asked: OfMessage) -> list[Any]:
    """Tells what has become of a message that the box has sent."""
    return [each.as_dict() for each in _do(caller, lambda mail, me: _own_receipt(mail, me, asked.message))]


def wait(caller: Caller, asked: Waiting) -> list[Any]:
    """Waits until a message that the box has sent has come so far at each recipient."""

    async def settled(mail: Mail, me: str) -> list[Any]:
        await _own_receipt(mail, me, asked.message)
        with mail.room.asks(me):
            return list(await mail.settled(asked.message, asked.stage, asked.timeout_s))

    return [each.as_dict() for each in _do(caller, settled)]


async def _own_receipt(mail: Mail, me: str, message: str) -> list[Any]:
    if await mail.waiting.aside(lambda: mail.post.sender_of(message)) != me:
        raise MessageUnknown(f"{me} has sent no message {message}", details={"message": message})
    return list(await mail.receipt(message))


def dead(caller: Caller, asked: Reading) -> list[dict[str, Any]]:
    """Lists what could not be delivered to the box, oldest first."""
    mail, me = _mail(caller)
    found = (
        each.as_dict() | {"message": each.message.as_dict()} for each in mail.post.dead_after(me, asked.after)
    )
    return _few(islice(found, asked.limit))


def redeliver(caller: Caller, asked: OfMessage) -> int:
    """Has a dead letter of the box delivered after all."""
    with caller.writing(MESSAGE_ROW_BYTES):
        return int(_do(caller, lambda mail, me: mail.redeliver(asked.message, me)))


def presence(caller: Caller, asked: Asked) -> dict[str, str]:
    """Tells what each instance of the box's branch is at."""
    mail, _ = _mail(caller)
    return dict(mail.presence())


def delegations(caller: Caller, asked: Reading) -> list[dict[str, Any]]:
    """Tells what has become of what the box has delegated, oldest first, from a cursor on."""
    found = _do(caller, lambda mail, _: mail.delegations())
    _, me = _mail(caller)
    mine = (each.as_dict() for each in found if each.sender == me and each.seq > asked.after)
    return _few(islice(mine, asked.limit))


def sent(caller: Caller, asked: Reading) -> dict[str, Any]:
    """Reads on, from a cursor, what was sent in the branch, as far as it is the box's to read."""
    mail, me = _mail(caller)
    found: list[dict[str, Any]] = []
    after, size = asked.after, 0
    for looked, (seq, message) in enumerate(mail.post.overheard(me, asked.after), 1):
        after = seq
        if message is not None:
            found.append(message.as_dict())
            size += _size(message.body)
        if looked == MAX_TAKE_LOOKS or len(found) == asked.limit or size > MAX_TAKE_BYTES:
            return {"messages": found, "after": after, "more": True}
    return {"messages": found, "after": after, "more": False}


# -- the board


def post(caller: Caller, asked: Posting) -> None:
    """Writes on the board of the box's tree, in the box's name."""
    board = _board(caller)
    with caller.writing(_size(asked.body)):
        board.post(asked.body, caller.instance._member, most=MAX_BOARD_OF_ONE)


def read(caller: Caller, asked: Reading) -> list[dict[str, Any]]:
    """Reads on, from a cursor, what is on the board of the box's tree."""
    board = _board(caller)

    def entries() -> Iterator[dict[str, Any]]:
        after = asked.after
        while found := board.read(after, _FEW):
            yield from (each.as_dict() for each in found)
            after = found[-1].position

    return _few(islice(entries(), asked.limit))


def _board(caller: Caller) -> Board:
    branch = caller.instance.branch
    if isinstance(branch, str):
        raise WrongState("this box is in no branch, and has no board", hint="Spawn it in one, from outside.")
    found: Board = branch._running.board
    return found


# -- whose mail


def _mail(caller: Caller) -> tuple[Mail, str]:
    """Returns the mail of the caller's branch, and its name there.

    Raises:
        WrongState: It acts on behalf of a branch that it is not in: what it sent would be outside of that.
    """
    face = caller.instance
    if isinstance(face.branch, str) and (branch := spawned_of(face).asker.branch):
        raise WrongState(
            "a box that another has spawned from within a branch has no mail: it would be outside of that branch",
            hint="Return what is to be said; or have it spawned in the branch, or in one of me.branch().",
            details={"branch": branch},
        )
    mail = mail_of(face)  # first: it may be what gives one that is in no branch its name
    return mail, face._member


def _do(caller: Caller, work: Callable[[Mail, str], Any]) -> Any:
    """Does something with the mail of the caller's branch, under the caller's name there."""
    mail, me = _mail(caller)
    return asks_of(caller, conversation_of(caller.instance).waiting)(lambda: work(mail, me))


def _size(body: Any) -> int:
    return len(msgspec.msgpack.encode(body, enc_hook=str)) + MESSAGE_ROW_BYTES


def _few(entries: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Takes entries until they are as much as one answer may be."""
    found: list[dict[str, Any]] = []
    size = 0
    for entry in entries:
        found.append(entry)
        size += _size(entry)
        if size > MAX_TAKE_BYTES:
            break
    return found


VERBS: Final = {
    "send": Verb(Sending, None, send),
    "publish": Verb(Publishing, None, publish),
    "request": Verb(Requesting, None, request),
    "delegate": Verb(Delegating, MayDelegate, delegate),
    "receive": Verb(Receiving, None, receive),
    "settle": Verb(Settling, None, settle),
    "subscribe": Verb(Subscribing, None, subscribe),
    "unsubscribe": Verb(Unsubscribing, None, unsubscribe),
    "receipt": Verb(OfMessage, None, receipt),
    "wait": Verb(Waiting, None, wait),
    "dead": Verb(Reading, None, dead),
    "redeliver": Verb(OfMessage, None, redeliver),
    "delegations": Verb(Reading, MayDelegate, delegations),
    "presence": Verb(Asked, None, presence),
    "sent": Verb(Reading, None, sent),
    "post": Verb(Posting, MayPost, post),
    "read": Verb(Reading, None, read),
}
