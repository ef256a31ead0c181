"""The servers' side: connects to where a rule leads, checks who is there, sends requests and reads answers."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import h11

from kibo.box.policy import Allow
from kibo.effects.destinations import Destination, Refused, find_destination, show
from kibo.effects.exchange import Answer, ClientGoneError, Fields, Interim, Request, Whole
from kibo.effects.http_head import HOP_BY_HOP, WEBSOCKET
from kibo.effects.wires import Plain, Tls, Wire

CONNECT_S: Final = 10.0
IDLE_S: Final = 300.0  # Longer than anybody waits for a page, so that what a box forgot is not kept for ever.
#: Connections of one box that wait for another request, all hosts together, and for how long.
MAX_IDLE: Final = 32
KEPT_S: Final = 30.0
MAX_ANSWER_HEAD_BYTES: Final = 64 * 1024
#: Requests that may be sent a second time where a connection turned out to have ended (RFC 9110, section 9.2.1).
SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
BAD_GATEWAY: Final = "502 Bad Gateway"


def trusting(extra: Path | None = None) -> ssl.SSLContext:
    """Makes what servers are checked with: the host's trust store, and one file more where tests have their own.

    Raises:
        OSError: The file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # An end that TLS does not vouch for is an error: somebody between may have cut the rest off.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if extra is not None:
        context.load_verify_locations(extra)
    return context


class NoAnswerError(Exception):
    """The connection ended before anything of an answer."""


class Link:
    """One connection to a server, and where its conversation stands."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_HEAD_BYTES)
        self.kept_until = 0.0
        self.heard = False

    async def send(self, event: h11.Event) -> None:
        """Sends one event."""
        data = self.http.send(event)
        if data:
            async with asyncio.timeout(IDLE_S):
                await self.wire.send(data)

    async def next(self) -> h11.Event | type[h11.PAUSED]:
        """Waits for the next event."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(IDLE_S):
                data = await self.wire.receive()
            self.heard = self.heard or bool(data)
            self.http.receive_data(data)
        return event  # type: ignore[return-value]


class AnswerBody:
    """The body of an answer, as it comes."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.trailers: Fields = []

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces.

        Raises:
            OSError: It broke off.
        """
        while True:
            try:
                event = await self._link.next()
            except (h11.RemoteProtocolError, TimeoutError) as error:
                raise ConnectionResetError(str(error)) from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = passed_on(list(event.headers))
                return
            else:
                raise ConnectionResetError("the answer ended early")


class Leftover:
    """A wire of which something has been received already."""

    def __init__(self, wire: Wire, first: bytes) -> None:
        self._wire = wire
        self._first = first
        self.send, self.finish = wire.send, wire.finish
        self.reset, self.close = wire.reset, wire.close

    async def receive(self) -> bytes:
        """Gives that first."""
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._wire.receive()

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return bool(self._first) or self._wire.stale


class Upstream:
    """One box's connections to servers. Those that servers keep open are used again.

    Args:
        trust: What servers' certificates are checked with.
    """

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        self._idle: dict[tuple[object, ...], list[Link]] = {}

    async def send(self, request: Request, interim: Interim) -> Answer:
        """Sends a request at once; see `Sender`."""
        if (link := self._take(request)) is not None:
            try:
                return await self._try(link, request, interim)
            except NoAnswerError:
                if request.has_body or request.method not in SAFE:
                    raise Refused(
                        BAD_GATEWAY,
                        f"the connection to {request.host} ended before an answer. Whether the server has acted on the "
                        f"request is not known, and {request.method.decode()} is not sent twice.",
                    ) from None
        wire = await self.open(request)
        try:
            return await self._try(Link(wire), request, interim)
        except NoAnswerError:
            raise Refused(BAD_GATEWAY, "the server gave no answer that can be read.") from None

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """Sends a request that must not happen twice, on a connection of its own; see `Sender`.

        A kept connection may end just as it is used again, and nobody could say whether the request was heard.
        """
        wire = await self.open(request)
        try:
            await leaving()
        except BaseException:
            wire.reset()
            raise
        try:
            return await self._try(Link(wire), request, interim)
        except NoAnswerError:
            raise Refused(BAD_GATEWAY, "the server gave no answer that can be read.") from None

    async def open(self, request: Request) -> Wire:
        """Connects to where a request's rule leads, and makes sure of who is there.

        Raises:
            Refused: Nobody is, or somebody else.
        """
        host = request.host
        plain = await connect(await find_destination(request.rule, host, request.port), host)
        if not request.secure:
            return plain
        tls = Tls(plain, self._trust, server=False, host=host)
        try:
            await tls.handshake()
        except ssl.SSLCertVerificationError as error:
            plain.reset()
            raise Refused(
                BAD_GATEWAY,
                f"{show(host, request.port)} has a certificate that this machine does not accept: "
                f"{error.verify_message.rstrip('.')}.",
            ) from None
        except ssl.SSLError as error:
            plain.reset()
            reason = (error.reason or "no reason given").replace("_", " ").lower()
            raise Refused(BAD_GATEWAY, f"TLS with {show(host, request.port)} failed: {reason}.") from None
        except (OSError, TimeoutError):
            plain.reset()
            raise Refused(BAD_GATEWAY, f"{host} ended the connection during TLS's handshake.") from None
        except BaseException:
            plain.reset()
            raise
        return tls

    async def tunnel(self, rule: Allow, host: str, port: int) -> Plain:
        """Connects to where a rule leads; see `Sender`."""
        return await connect(await find_destination(rule, host, port), host)

    def close(self) -> None:
        """Ends the connections that nobody uses at the moment."""
        for links in self._idle.values():
            for link in links:
                link.wire.close()
        self._idle.clear()

    async def _try(self, link: Link, request: Request, interim: Interim) -> Answer:
        pump: asyncio.Task[None] | None = None
        try:
            try:
                link.heard = False
                await link.send(
                    h11.Request(method=request.method, target=request.target, headers=request.fields)
                )
                if request.has_body:
                    pump = asyncio.create_task(self._pump(link, request))
                else:
                    await link.send(h11.EndOfMessage())
                event = await link.next()
                while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                    await interim(event.status_code, passed_on(list(event.headers)))
                    event = await link.next()
            except (OSError, TimeoutError, h11.ProtocolError):
                if pump is not None and pump.done() and not pump.cancelled() and (cause := pump.exception()):
                    raise cause from None
                if not link.heard:
                    raise NoAnswerError from None
                raise Refused(BAD_GATEWAY, "the server gave no answer that can be read.") from None
            if isinstance(event, h11.InformationalResponse):
                return self._upgraded(link, event)
            if not isinstance(event, h11.Response):
                raise NoAnswerError if not link.heard else Refused(BAD_GATEWAY, "the answer ended early.")
            return self._answer(link, request, event, pump)
        except BaseException:
            if pump is not None:
                pump.cancel()
            link.wire.reset()
            raise

    def _answer(
        self, link: Link, request: Request, event: h11.Response, pump: asyncio.Task[None] | None
    ) -> Answer:
        names = [name for name, _ in event.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise Refused(BAD_GATEWAY, "the length of the server's answer is ambiguous.")

        async def close() -> None:
            if pump is not None:
                pump.cancel()  # The answer may come before the body has been wanted.
                await asyncio.gather(pump, return_exceptions=True)
            self._give_back(link, request)

        fields = passed_on(list(event.headers))
        return Answer(event.status_code, bytes(event.reason), fields, AnswerBody(link), close)

    def _upgraded(self, link: Link, event: h11.InformationalResponse) -> Answer:
        first, _ = link.http.trailing_data

        async def close() -> None:
            link.wire.close()

        fields = [*passed_on(list(event.headers)), (b"connection", b"upgrade"), (b"upgrade", WEBSOCKET)]
        return Answer(101, bytes(event.reason), fields, Whole(), close, Leftover(link.wire, first))

    async def _pump(self, link: Link, request: Request) -> None:
        try:
            async for chunk in request.body.chunks():
                await link.send(h11.Data(data=chunk))
            await link.send(h11.EndOfMessage(headers=request.body.trailers))
        except (ClientGoneError, Refused):
            link.wire.reset()  # Before whoever waits for the answer hears of it: half a request is none.
            raise
        except (OSError, TimeoutError, h11.LocalProtocolError):
            pass  # The server takes no more of it; its answer, which may say why, is still to come.

    def _take(self, request: Request) -> Link | None:
        links = self._idle.get(_key(request), [])
        now = asyncio.get_running_loop().time()
        while links:
            link = links.pop()
            if now < link.kept_until and not link.wire.stale:
                return link
            link.wire.close()
        return None

    def _give_back(self, link: Link, request: Request) -> None:
        if link.http.our_state is not h11.DONE or link.http.their_state is not h11.DONE:
            link.wire.close()
            return
        link.http.start_next_cycle()
        link.kept_until = asyncio.get_running_loop().time() + KEPT_S
        links = self._idle.setdefault(_key(request), [])
        links.append(link)
        while sum(map(len, self._idle.values())) > MAX_IDLE:
            key = next(iter(self._idle))
            if self._idle[key]:
                self._idle[key].pop(0).wire.close()
            if not self._idle[key]:
                del self._idle[key]


def _key(request: Request) -> tuple[object, ...]:
    return request.secure, request.host, request.port, request.rule.to


def passed_on(fields: Fields) -> Fields:
    """Lists the fields of an answer that concern more than one connection."""
    named = {
        word.strip().lower() for name, value in fields if name == b"connection" for word in value.split(b",")
    }
    dropped = HOP_BY_HOP | named | {b"transfer-encoding"}
    return [(bytes(name), bytes(value)) for name, value in fields if name not in dropped]


async def connect(destination: Destination, host: str) -> Plain:
    """Connects to the first address that answers.

    Raises:
        Refused: None does.
    """
    cause, number = "no answer", 0
    for address in destination.addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                return Plain(*await asyncio.open_connection(address, destination.port))
        except (OSError, TimeoutError) as error:
            number = error.errno or 0
            cause = os.strerror(number) if number else "no answer"
    raise Refused(BAD_GATEWAY, f"{host} cannot be reached: {cause}.", number)


async def relay(one: Wire, other: Wire, quiet_s: float = IDLE_S) -> None:
    """Carries bytes both ways until both have ended, or neither has moved for too long.

    Args:
        one: One side.
        other: The other side.
        quiet_s: How long is too long.

    Raises:
        OSError: One side broke.
        TimeoutError: Nothing moved.
    """
    try:
        async with asyncio.timeout(quiet_s) as idle, asyncio.TaskGroup() as tasks:
            tasks.create_task(_carry(one, other, idle, quiet_s))
            tasks.create_task(_carry(other, one, idle, quiet_s))
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _carry(source: Wire, target: Wire, idle: asyncio.Timeout, quiet_s: float) -> None:
    while data := await source.receive():
        await target.send(data)
        idle.reschedule(asyncio.get_running_loop().time() + quiet_s)
    with contextlib.suppress(OSError):
        await target.finish()
