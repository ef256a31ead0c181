"""Effects as values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from kibo.effects.lifecycle import State
from kibo.model.ids import BranchId, EffectId, InstanceId

Fields = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Effect:
    """One interaction with the outside world, as the ledger had it when it was read: a request, or an action's call.

    Attributes:
        id: Its name for ever; servers get it as `Idempotency-Key` where the request brings none.
        state: How it stands; see `kibo.effects.lifecycle`.
        reason: Why it was dropped, failed or is in doubt; empty where there is nothing to say.
        branch: Where it stands: the parent's once its branch is committed. Empty outside of branches.
        origin: The branch in which it was asked for.
        instance: Who asked.
        effect: Its class: bufferable, reversible or irreversible.
        method: Of the request; ``CALL`` for a call.
        url: Of the request, with placeholders where secrets go; of a call, the action's class and name.
        digest: Of the exact payload.
        created_s: When it was asked for, in seconds since 1970; so the others.
        released_s: When it was allowed to happen, or None.
        sent_s: When it was about to be sent, or None.
        ended_s: When it came to its end, or None.
        status: That of the answer, or None.
        approve_within_s: How long it may wait for a person who approves it, and how long an approval holds, in seconds;
            None where nobody is asked.
        due_s: Until when it waits for its person or, once approved, until when that holds; None while neither.
        approved_s: When it was approved, or None.
        approver: Who approved it; empty as long as nobody has.
        action: Of a call, the action's class and name; None for a request.
        undo: Of a call that can be undone, the action that does it.
        within: Of a request, the recorded call that it was part of.
    """

    id: EffectId
    state: State
    reason: str
    branch: BranchId
    origin: BranchId
    instance: InstanceId
    effect: str
    method: str
    url: str
    digest: str
    created_s: float
    released_s: float | None
    sent_s: float | None
    ended_s: float | None
    status: int | None
    approve_within_s: float | None = None
    due_s: float | None = None
    approved_s: float | None = None
    approver: str = ""
    action: str | None = None
    undo: str | None = None
    within: str | None = None

    @property
    def waits_for_person(self) -> bool:
        """Whether somebody may approve it now who has not: it asks, or it is held and will."""
        return self.state == "asking" or (
            self.state == "held" and self.approve_within_s is not None and self.approved_s is None
        )


class Called(msgspec.Struct, frozen=True, array_like=True):
    """Which action was called; its arguments, by name, are the body.

    Attributes:
        box: The digest of the definition.
        part: The index of the part that it is an action of.
        action: Its class and its name.
    """

    box: str
    part: int
    action: str

    @property
    def method(self) -> bytes:
        """Stands where a request has its own."""
        return b"CALL"

    @property
    def url(self) -> str:
        """The action."""
        return self.action


class Payload(msgspec.Struct, frozen=True, array_like=True):
    """What is sent, exactly, but for the values of secrets, in whose places their placeholders stand.

    Attributes:
        secure: Whether over TLS.
        host: In lower case.
        port: Of that host.
        method: As sent.
        target: A path with its query.
        fields: Names in lower case; Host first.
        trailers: Fields that came after the body.
        has_body: Whether there is one, be it empty.
        upgrade: Whether the connection is to become a WebSocket.
        fillable: Whether secrets may be put into the body.
    """

    secure: bool
    host: str
    port: int
    method: bytes
    target: bytes
    fields: Fields
    trailers: Fields
    has_body: bool
    upgrade: bool
    fillable: bool

    @property
    def url(self) -> str:
        """Where it goes, as people write it."""
        return write_url(self.secure, self.host, self.port, self.target)


class Outcome(NamedTuple):
    """What the server answered, or the action returned.

    Attributes:
        status: The status code; 0 for a call.
        fields: Names in lower case.
        body: As far as it was kept.
        whole: Whether that is all of it.
    """

    status: int
    fields: Fields
    body: bytes
    whole: bool


@dataclass(frozen=True, slots=True)
class Exact:
    """An effect with all that is kept of it."""

    effect: Effect
    payload: Payload | Called
    body: bytes
    whole: bool
    outcome: Outcome | None

    @property
    def request(self) -> Payload:
        """What is sent, of a request."""
        return _request(self.payload)

    @property
    def digest(self) -> str:
        """Names the payload as it is recorded now."""
        return payload_digest(PACK.encode(self.payload), self.body)


class Draft(NamedTuple):
    """What is to be recorded of a request, or of a call.

    Attributes:
        id: What the effect is to be called.
        effect: Its class.
        branch: Where it is asked for, or empty.
        instance: Who asks.
        scope: Within which a client's key names one intent.
        key: The digest of the client's own, or None.
        rule: What allows it, packed.
        secrets: Those that may go into it, packed: placeholders and hosts, never values.
        payload: What is to be sent.
        body: Its body, or as much of that as is kept.
        whole: Whether that is all of it.
        approve_within_s: How long it may wait for a person who approves it; None where nobody is asked.
        undo: Of a call that can be undone, the action that does it.
        within: Of a request, the recorded call that it is part of.
        replayed: Whether a recording answers it, and nothing is sent.
    """

    id: EffectId
    effect: str
    branch: str
    instance: str
    scope: str
    key: str | None
    rule: bytes
    secrets: bytes
    payload: Payload | Called
    body: bytes
    whole: bool
    approve_within_s: float | None = None
    undo: str | None = None
    within: str | None = None
    replayed: bool = False

    @property
    def request(self) -> Payload:
        """What is sent, of a request."""
        return _request(self.payload)

    @property
    def digest(self) -> str:
        """Names the payload by what it is."""
        # A call made again of a definition that was mended meanwhile is the same call.
        called = isinstance(self.payload, Called)
        return payload_digest(PACK.encode(self.payload.url if called else self.payload), self.body)


class Unsent(NamedTuple):
    """An effect that its gateway has still to do something about."""

    id: EffectId
    state: State
    branch: str
    origin: str
    scope: str
    key: str | None
    rule: bytes
    secrets: bytes
    replayed: bool


def write_url(secure: bool, host: str, port: int, target: bytes) -> str:
    """Writes where a request goes, as people do."""
    shown = f"[{host}]" if ":" in host else host
    named = "" if port == (443 if secure else 80) else f":{port}"
    return f"http{'s' if secure else ''}://{shown}{named}{target.decode('latin-1')}"


def line_of(effect: Effect | Unsent) -> str:
    """Names what an effect is sent in order with: what a commit brought to its branch, else itself alone.

    Requests of a root never waited for each other, and one that waits for a person is no reason to begin.
    """
    return effect.id if effect.origin == effect.branch else effect.branch


def payload_digest(head: bytes, body: bytes) -> str:
    """Names a payload, placeholders in place of secrets: of its packed head and its body."""
    return hashlib.blake2b(b"%d:%b%b" % (len(head), head, body), digest_size=32).hexdigest()


def _request(payload: Payload | Called) -> Payload:
    assert isinstance(payload, Payload), "a call is not sent"
    return payload


def key_digest(key: bytes) -> str:
    """Names a client's key, which may be of any length and any bytes."""
    return hashlib.blake2b(key, digest_size=32).hexdigest()


PACK: Final = msgspec.msgpack.Encoder()
UNPACK_PAYLOAD: Final = msgspec.msgpack.Decoder(Payload)
UNPACK_CALLED: Final = msgspec.msgpack.Decoder(Called)
UNPACK_FIELDS: Final = msgspec.msgpack.Decoder(Fields)
