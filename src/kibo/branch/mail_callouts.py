"""What boxes may ask for of the mail of their own branch: verbs for `answering`. The sender is always the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from msgspec import Meta

from kibo.model.limits import MAX_NAME, MAX_REPLY_S
from kibo.runtime.answering import Verb
from kibo.runtime.callers import Caller
from kibo.runtime.callouts import Asked, Name, asks_of
from kibo.runtime.instance import conversation_of
from kibo.runtime.mailing import mail_of

_Event = Annotated[str, Meta(max_length=MAX_NAME)]


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


def send(caller: Caller, asked: Sending) -> str:
    """Sends a message to another instance of the box's branch. Returns its id."""
    return str(
        _do(
            caller,
            lambda mail, me: mail.send(me, asked.to, asked.body, key=asked.key, reply_to=asked.reply_to),
        )
    )


def publish(caller: Caller, asked: Publishing) -> str:
    """Publishes an event to all in the box's branch that listen to it. Returns its id."""
    return str(_do(caller, lambda mail, me: mail.publish(me, asked.event, asked.data, key=asked.key)))


def request(caller: Caller, asked: Requesting) -> Any:
    """Sends a message and waits for what its handler returns."""
    return _do(caller, lambda mail, me: mail.request(me, asked.to, asked.body, timeout_s=asked.timeout_s))


def _do(caller: Caller, work: Callable[[Any, str], Any]) -> Any:
    """Does something with the mail of the caller's branch, under the caller's name there."""
    face = caller.instance
    mail = mail_of(face)  # first: it may be what gives one that is in no branch its name
    return asks_of(caller, conversation_of(face).waiting)(lambda: work(mail, face._member))


VERBS: Final = {
    "send": Verb(Sending, None, send),
    "publish": Verb(Publishing, None, publish),
    "request": Verb(Requesting, None, request),
}
