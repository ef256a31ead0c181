"""The seam between what a box asks for and what is sent: a request that its rules allow, and whoever answers it.

The door reads requests, and `Admission` checks each and gives it to an `Exchange`: `Boundary`, which looks at what it
does first, and has a `Sender` send what may be. `Upstream` is the one that reaches servers.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kibo.box.policy import Allow
from kibo.effects.http_head import Head, SecretValue
from kibo.effects.wires import Plain, Wire

Fields = list[tuple[bytes, bytes]]
#: Told of each interim answer (RFC 9110, section 15.2): its status and its fields.
Interim = Callable[[int, Fields], Awaitable[None]]


class ClientGoneError(Exception):
    """The box's side ended, or broke its own request off: nobody is there for an answer."""


class Body(Protocol):
    """What follows a head: read once, and no faster than it is asked for."""

    @property
    def trailers(self) -> Fields:
        """Fields that came after the end; complete when the chunks are."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces of at most 256 KiB."""


class Caller(Body, Protocol):
    """The box's side of one request, whose body this is."""

    async def skip_body(self) -> None:
        """Reads the end of a request that has no body.

        Raises:
            ClientGoneError: There is one.
        """

    async def interim(self, status: int, fields: Fields) -> None:
        """Passes an interim answer on; see `Interim`."""

    async def gone(self) -> None:
        """Waits until the box's side has ended."""


@dataclass(slots=True)
class Whole:
    """A body that is here already."""

    data: bytes = b""
    trailers: Fields = field(default_factory=list)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it, if there is any."""
        if self.data:
            yield self.data


@dataclass(slots=True)
class Request:
    """A request that the rules of its box allow, with placeholders where secrets go.

    Attributes:
        rule: What allows it.
        secure: Whether the box spoke TLS, and so whether the server must.
        host: In lower case.
        port: Of that host.
        method: As sent.
        target: A path with its query, or ``*``.
        fields: Names in lower case; Host first.
        body: What follows.
        has_body: Whether anything does.
        upgrade: Whether the connection is to become a WebSocket.
        effect: What it does to the world: one of `kibo.box.policy.EFFECTS`.
        approve_within_s: How long it may wait for a person who approves it; None where nobody is asked.
        secrets: Those that its host may receive.
        fillable: Whether they go into the body, too.
        gone: Returns when the box's side has ended.
        always_held: Whether a fork holds it even within an action that can be undone.
        idempotent: Whether its server acts once on all that have its key.
    """

    rule: Allow
    secure: bool
    host: str
    port: int
    method: bytes
    target: bytes
    fields: Fields
    body: Body
    has_body: bool
    upgrade: bool = False
    effect: str = "read"
    approve_within_s: float | None = None
    secrets: Sequence[SecretValue] = ()
    fillable: bool = False
    gone: Callable[[], Awaitable[None]] | None = None
    always_held: bool = False
    idempotent: bool = False


async def gather(request: Request, interim: Interim, most: int) -> tuple[bytes, AsyncIterator[bytes] | None]:
    """Reads a body. Returns it, and what follows where it has more than `most` bytes.

    Raises:
        ClientGoneError: It broke off.
        Refused: It is malformed.
    """
    if any(name == b"expect" for name, _ in request.fields):
        await interim(100, [])
        request.fields = [field for field in request.fields if field[0] != b"expect"]
    chunks = request.body.chunks()
    data = bytearray()
    async for chunk in chunks:
        data += chunk
        if len(data) > most:
            return bytes(data), chunks
    return bytes(data), None


def filled(request: Request, body: bytes | None) -> tuple[Request, bytes]:
    """Puts the values of secrets into a request, and into its body where that is given."""
    head = Head(request.method, request.target.decode("latin-1"), request.fields)
    head, full = head.fill(request.secrets, body)
    return replace(request, target=head.target.encode("latin-1"), fields=head.fields), full


@dataclass(slots=True)
class Answer:
    """The answer to a request.

    Attributes:
        status: The status code; 101 when `upgraded` is set.
        reason: The words after it.
        fields: Names in lower case, without those that concern one connection only.
        body: What follows.
        close: Ends the exchange, whether or not the body has been read. Call it once.
        upgraded: The server's end of what the connection has become.
    """

    status: int
    reason: bytes
    fields: Fields
    body: Body
    close: Callable[[], Awaitable[None]]
    upgraded: Wire | None = None


class Exchange(Protocol):
    """Answers requests."""

    async def send(self, request: Request, interim: Interim) -> Answer:
        """Answers a request; returns as soon as the head of the answer is there.

        Raises:
            Refused: There is no answer, for a reason that its text gives; the request may be what is wrong.
            ClientGoneError: The request's body broke off.
        """


class Sender(Exchange, Protocol):
    """Has requests of one box answered at once."""

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """Answers a request that must not happen twice.

        Args:
            request: The request.
            interim: As for `send`.
            leaving: Awaited before the first byte leaves, if any does.

        Raises:
            Refused: Before `leaving` was awaited: nothing was sent. After it: whether it has happened is not known.
        """

    async def tunnel(self, rule: Allow, host: str, port: int) -> Plain:
        """Opens a connection that nobody looks into.

        Raises:
            Refused: There is none.
        """

    def close(self) -> None:
        """Ends what nobody uses at the moment."""
