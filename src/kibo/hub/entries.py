"""What the hub writes into the log of a branch, and reads there.

An entry may come from another machine, with an imported snapshot: each is checked against its form when it is read.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from kibo.model.errors import StoreDamaged
from kibo.store.log import Entry

#: The kind that all of them are below.
HUB: Final = "hub"

#: A recipient: the instance's name in the branch, and which of its handlers; see `kibo.hub.mailboxes.Address`.
Address = tuple[str, str]
#: One message at one recipient: the message's id, and the recipient's place in its list.
Letters = list[tuple[str, int]]


class Sent(msgspec.Struct, omit_defaults=True, frozen=True):
    """A message, or an event with those who get it.

    Attributes:
        id: The message's.
        sender: The instance.
        to: Who gets it, in order.
        event: What it is called; empty for a message.
        body: What was sent, where that is no bytes.
        raw: The bytes.
        key: By which it is sent once.
        reply_to: The message that it answers.
        until: When its sender stops to wait for the answer, in seconds since 1970; 0 where nobody waits.
        inside: Whether code in a box sent it: it is undone with what that code did.
    """

    id: str
    sender: str
    to: list[Address]
    event: str = ""
    body: Any = None
    raw: bytes | None = None
    key: str | None = None
    reply_to: str | None = None
    until: float = 0.0
    inside: bool = False


class Marked(msgspec.Struct, omit_defaults=True, frozen=True):
    """What has become of letters: they were taken, consumed, given back, or given up.

    Attributes:
        of: Which.
        why: What stood in the way.
        inside: Whether code in a box has done so.
    """

    of: Letters
    why: str = ""
    inside: bool = False


class Subscribed(msgspec.Struct, omit_defaults=True, frozen=True):
    """That a function wants to hear of events on behalf of an instance; or, unsubscribed, no more.

    Attributes:
        member: The instance.
        handler: The function's name, by which another process goes on with what it has not handled.
        pattern: Of what it wants to hear.
        group: Of all that have one, each event goes to one; empty for those that get all.
    """

    member: str
    handler: str
    pattern: str = ""
    group: str = ""


class Delegated(msgspec.Struct, omit_defaults=True, frozen=True):
    """That an instance has another do something.

    Attributes:
        id: The delegation's.
        sender: Who has it done.
        to: Who does it.
        action: What.
        branch: In which branch: what is forked from that has the entry, and nobody who does it.
        process: Which process sees to it; see `kibo.branch.owning.Owner.name`.
    """

    id: str
    sender: str
    to: str
    action: str
    branch: str
    process: str


class Ended(msgspec.Struct, omit_defaults=True, frozen=True):
    """How a delegation has ended.

    Attributes:
        id: The delegation's.
        state: ``"done"``, ``"failed"`` or ``"cancelled"``.
        why: What it failed of.
    """

    id: str
    state: Literal["done", "failed", "cancelled"]
    why: str = ""


FORMS: Final[dict[str, type[msgspec.Struct]]] = {
    "hub.sent": Sent,
    "hub.taken": Marked,
    "hub.returned": Marked,
    "hub.consumed": Marked,
    "hub.failed": Marked,
    "hub.dead": Marked,
    "hub.revived": Marked,
    "hub.subscribed": Subscribed,
    "hub.unsubscribed": Subscribed,
    "hub.delegated": Delegated,
    "hub.ended": Ended,
}
_DECODERS: Final = {kind: msgspec.json.Decoder(form) for kind, form in FORMS.items()}
_ENCODER: Final = msgspec.json.Encoder()


def encoded(form: msgspec.Struct) -> bytes:
    """Returns what an entry holds, as bytes."""
    return _ENCODER.encode(form)


def decoded(entry: Entry) -> Any:
    """Returns what an entry holds; None for a kind that this Kibo does not know.

    Raises:
        StoreDamaged: It does not have the form of its kind.
    """
    decoder = _DECODERS.get(entry.kind)
    if decoder is None:
        return None
    try:
        return decoder.decode(entry.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StoreDamaged(
            f"entry {entry.seq} at position {entry.position} is no {entry.kind}: {error}",
            details={"table": "entries", "column": "body", "row": {"position": entry.position}},
        ) from error
