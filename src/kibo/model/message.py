"""A message or an event, as whoever handles it sees it, and what becomes of it, as its sender does."""

from typing import Any

from kibo.model.record import Record


class Message(Record):
    """One message, or one event, on its way to one recipient.

    Attributes:
        id: Its name for ever, the same each time that it is delivered.
        sender: The instance that sent it, by its name in the branch.
        to: The instance that it is for.
        body: What was sent: a value of JSON, or bytes.
        event: What the event is called; empty for a message to this instance alone.
        key: What its sender gave, by which it was sent once; None for none.
        reply_to: The message that it answers, or None.
        asks: Whether its sender waits for an answer: what the handler returns.
        attempt: 1 the first time that it is delivered, 2 the second.
        seq: Its number in the branch's log: a cursor.
        at_s: When it was sent, in seconds since 1970.
        origin: The branch that it was sent in, where a merge brought it here; else None.
    """

    id: str
    sender: str
    to: str
    body: Any
    event: str = ""
    key: str | None = None
    reply_to: str | None = None
    asks: bool = False
    attempt: int = 1
    seq: int = 0
    at_s: float = 0.0
    origin: str | None = None


class Delivery(Record):
    """What has become of a message at one recipient.

    Attributes:
        to: The instance.
        handler: Its handler of events, or of whoever subscribed on its behalf; empty for messages to it alone.
        state: ``"accepted"``: on the disk; ``"delivered"``: given to a handler; ``"consumed"``: the handler has
            returned; ``"retry"``: it has raised, and gets it again; ``"dead"``: it will not.
        attempts: How often it was given to a handler.
        why: Why it was given back, or is dead; empty for neither.
    """

    to: str
    handler: str
    state: str
    attempts: int = 0
    why: str = ""


class DeadLetter(Record):
    """A message that could not be delivered.

    Attributes:
        message: It, as it would have been delivered.
        handler: See `Delivery`.
        why: What the handler raised last, or what else was in the way.
    """

    message: Message
    handler: str
    why: str


class Progress(Record):
    """One event of a delegation.

    Attributes:
        number: From 1.
        kind: ``"begun"``, ``"progress"``, ``"done"``, ``"failed"`` or ``"cancelled"``.
        value: What the action yielded, or returned, or why it failed; None for nothing.
    """

    number: int
    kind: str
    value: Any = None


class DelegationRecord(Record):
    """What has become of a delegation, as whoever asks finds it.

    Attributes:
        id: Its name.
        sender: The instance that has it done.
        to: The instance that does it.
        action: What.
        state: ``"begun"``; ``"done"``, ``"failed"`` or ``"cancelled"``; ``"lost"`` where nobody is at it any more who
            could say how it ended: what it has done is there, as far as it came.
        why: What it failed of, or how it was lost; empty for neither.
        branch: The branch that it was begun in.
        seq: Its number in the branch's log: a cursor.
        at_s: When it was begun, in seconds since 1970.
    """

    id: str
    sender: str
    to: str
    action: str
    state: str
    why: str
    branch: str
    seq: int
    at_s: float


class Posting(Record):
    """One entry of the board of a tree of branches.

    Attributes:
        position: Its place on the board, a cursor; grows, with gaps.
        origin: The branch that it was posted from.
        author: Who it is from: an instance of that branch, or empty.
        body: A value of JSON, or bytes.
        at_s: When, in seconds since 1970.
    """

    position: int
    origin: str
    author: str
    body: Any
    at_s: float


def call_handler(handler: Any, message: Message) -> Any:
    """Calls a function or a method that takes the message, or nothing."""
    code = getattr(getattr(handler, "__func__", handler), "__code__", None)
    if code is None:
        return handler(message)
    bound = hasattr(handler, "__self__")
    takes = code.co_argcount - bound > 0 or code.co_flags & 0x04  # inspect.CO_VARARGS
    return handler(message) if takes else handler()
