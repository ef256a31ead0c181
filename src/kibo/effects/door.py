"""One box's way out: a proxy on a socket of the box's own network, which opens TLS and reads every request.

It speaks HTTP and SOCKS on one port, and the same rules hold for both. Ports of the box that stand for one host each
lead there without either.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from kibo.box.forwards import Forward, forwards
from kibo.box.policy import Allow, Rule
from kibo.effects import http2_client, socks
from kibo.effects.admission import BAD_REQUEST, Admission, Origin
from kibo.effects.authority import Authority
from kibo.effects.boundary import Boundary
from kibo.effects.client import HEAD_S, KEPT_S, Client
from kibo.effects.destinations import CutError, Refused, check_seen, decide, only_http, show
from kibo.effects.exchange import Answer, ClientGoneError, Sender
from kibo.effects.hello import HANDSHAKE
from kibo.effects.http2_client import StreamClient
from kibo.effects.http_head import Head, HeadError, SecretValue
from kibo.effects.link import Leftover
from kibo.effects.notices import Notices
from kibo.effects.outbox import Outbox
from kibo.effects.tls import Tls
from kibo.effects.unopened import asked_host, carry, check_unopened
from kibo.effects.upstream import relay
from kibo.effects.window import Window
from kibo.effects.wires import HTTP2, Plain, Wire
from kibo.model.asker import Asker

MAX_CONNECTIONS: Final = (
    256  # A box. Browsers open at most 32 to a proxy; a box may run a few, and a few tools.
)
#: Requests of a box that come by HTTP/2, all connections together: each may wait with its body.
MAX_STREAMS: Final = 512
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
#: How a request begins, and what may become that.
REQUEST: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32} ")
MAYBE_REQUEST: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
#: Names that certificates are made for. What else a client may ask for is no host's name.
NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")


class Services(NamedTuple):
    """What doors share.

    Attributes:
        authority: Gives certificates that boxes trust.
        trust: What servers' certificates are checked with.
        outbox: Records requests that change something; None where nothing is recorded, and nothing held.
    """

    authority: Authority
    trust: ssl.SSLContext
    outbox: Outbox | None = None


class Door:
    """One box's way out.

    Args:
        listener: A listening socket of the box's network namespace, which it keeps in being: so close it in time.
        rules: What the box may reach.
        secrets: What to put in for placeholders, for which hosts.
        services: What doors share.
        instance: The box.
        asker: On whose behalf it asks.
        upstream: What its requests are sent by.
        notices: Where refusals are told besides.
        others: Sockets that listen where `kibo.box.forwards.forwards(rules)` says, in its order.
    """

    def __init__(
        self,
        listener: socket.socket,
        rules: Sequence[Rule],
        secrets: Sequence[SecretValue],
        services: Services,
        instance: str,
        asker: Asker,
        upstream: Sender,
        notices: Notices,
        others: Sequence[socket.socket] = (),
    ) -> None:
        self._listener = listener
        self._forwards = others
        self._services = services
        self._upstream = upstream
        self._boundary = Boundary(instance, asker, upstream, services.outbox)
        self._admission = Admission(rules, secrets, self._boundary)
        self._notices = notices
        self._connections: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []
        self._streams = 0

    @property
    def asker(self) -> Asker:
        """On whose behalf the box asks."""
        return self._boundary.asker

    @asker.setter
    def asker(self, asker: Asker) -> None:
        self._boundary.asker = asker

    def enter(self, window: Window) -> None:
        """Notes that what the box asks for is part of a call, for as long as a window is open."""
        self._boundary.enter(window)

    async def open(self) -> None:
        """Starts to accept connections."""
        listeners = {self._listener: self._serve}
        for listener, forward in zip(self._forwards, forwards(self._admission.rules), strict=True):
            listeners[listener] = partial(self._serve_forward, forward)
        loop = asyncio.get_running_loop()
        for listener, serve in listeners.items():
            made = partial(Plain, partial(self._meet, serve))
            self._servers.append(await loop.create_server(made, sock=listener))

    async def close(self) -> None:
        """Stops accepting, and cuts every connection of the box."""
        for server in self._servers:
            server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        self._upstream.close()
        self._notices.close()
        self._boundary.close()

    def _meet(self, serve: Callable[[Plain], Awaitable[None]], plain: Plain) -> None:
        connection = asyncio.create_task(self._attend(serve, plain))
        self._connections.add(connection)
        connection.add_done_callback(partial(self._part, plain))

    def _part(self, plain: Plain, connection: asyncio.Task[None]) -> None:
        self._connections.discard(connection)
        plain.close()

    async def _attend(self, serve: Callable[[Plain], Awaitable[None]], plain: Plain) -> None:
        try:
            await serve(plain)
        except CutError as cut:
            self._notices.tell(str(cut))
            plain.reset()
        except (OSError, TimeoutError, ClientGoneError):
            plain.reset()  # One side went away or quiet.
        except asyncio.CancelledError:
            plain.reset()  # The box ended. Nobody awaits this task but close(), which asked for it.

    def _check_room(self) -> None:
        if len(self._connections) > MAX_CONNECTIONS:
            raise Refused("503 Service Unavailable", f"this box has {MAX_CONNECTIONS} connections open.")

    async def _serve(self, plain: Plain) -> None:
        """Serves a connection to the proxy: the first byte says which language it speaks."""
        try:
            self._check_room()
        except Refused as refusal:
            self._notices.tell(str(refusal))
            await plain.send(refusal.page())
            return
        async with asyncio.timeout(KEPT_S):
            first = await plain.receive()
        plain.unread(first)
        if first[:1] == bytes([socks.VERSION]):
            await self._serve_socks(plain)
        elif first[:1] == bytes([socks.OLD_VERSION]):
            await plain.send(socks.OLD_NO)
            raise CutError(
                "a program speaks version 4 of SOCKS. Tell it of version 5: socks5h://, where it takes a URL."
            )
        elif first:
            await self._serve_proxy(plain)

    async def _serve_proxy(self, plain: Plain) -> None:
        client = Client(plain)
        try:
            while (head := await client.head()) is not None:
                if head.tunnel:
                    host, port = _destination(head)
                    plain.unread(client.pending)
                    await self._lead(plain, host, port, partial(plain.send, ESTABLISHED))
                    return
                if not await self._answer(client, head, *_destination(head), secure=False):
                    return
        except Refused as refusal:
            await self._refuse(client, refusal)

    async def _serve_socks(self, plain: Plain) -> None:
        try:
            host, port = await socks.asked(plain, HEAD_S)
            await self._lead(plain, host, port, partial(socks.answer, plain, socks.GRANTED), http=False)
        except Refused as refusal:
            self._notices.tell(str(refusal))
            if (code := socks.code_of(refusal)) != socks.NO_METHOD:
                await socks.answer(plain, code)
            await Client(plain).end()

    async def _serve_forward(self, forward: Forward, plain: Plain) -> None:
        """Serves a port of the box's own that leads to one host."""
        try:
            self._check_room()
            await self._lead(plain, forward.host, forward.port, _say_nothing)
        except Refused as refusal:
            raise CutError(str(refusal)) from None

    async def _lead(
        self,
        plain: Plain,
        host: str,
        port: int,
        established: Callable[[], Awaitable[None]],
        *,
        http: bool = True,
    ) -> None:
        """Leads a connection where it asks to: to the server where a rule wants it unopened, else to ourselves.

        Raises:
            Refused: Before `established` was awaited, which tells the box's side.
            CutError: After it.
        """
        rule = decide(self._admission.rules, host, port, http=http)
        if NAME.fullmatch(host) is None:
            raise Refused(BAD_REQUEST, "The host of the request is malformed.")
        if rule.unopened:
            check_seen(self._admission.telling, rule, host, port)
            check_unopened(rule, host, port, holds=self.asker.holds)
            await carry(plain, self._upstream, rule, host, port, established)
            return
        await established()
        opening = await self._opening(plain, rule, host, port)
        if not opening:
            return
        if opening[0] != HANDSHAKE:
            await self._serve_origin(plain, Origin(host, port, False, None))
            return
        asked = await asked_host(plain)
        if asked is not None and NAME.fullmatch(asked) is None:
            raise CutError(
                f"TLS asks for a name on a connection to {show(host, port)} that no certificate has."
            )
        # For the name that was asked for, even where it is the wrong one: so that the client can read why.
        tls = Tls(plain, self._services.authority.context(asked or host), server=True)
        try:
            await tls.handshake()
        except ssl.SSLError as error:
            reason = (error.reason or "no reason given").replace("_", " ").lower()
            raise CutError(
                f"a program did not accept the gateway's certificate for {show(host, port)} ({reason}). Have it trust "
                f'the box\'s own certificates; or leave its TLS closed: Allow("{rule.target}", passthrough=True).'
            ) from None
        origin = Origin(host, port, True, asked)
        if tls.protocol == HTTP2:
            await self._serve_streams(tls, origin)
        else:
            await self._serve_origin(tls, origin)
        await tls.finish()

    async def _opening(self, plain: Plain, rule: Allow, host: str, port: int) -> bytes:
        """Waits for the first bytes of a tunnel, and leaves them there. Empty where it ends instead.

        Raises:
            CutError: They are of neither TLS nor HTTP.
        """
        data = b""
        try:
            async with asyncio.timeout(HEAD_S):
                while True:
                    more = await plain.receive()
                    data += more
                    if not more or data[0] == HANDSHAKE or REQUEST.match(data):
                        return data
                    if MAYBE_REQUEST.fullmatch(data) is None:
                        break
        except TimeoutError:
            pass  # Where the server speaks first, a client says nothing.
        finally:
            plain.unread(data)
        raise CutError(only_http(rule, host, port))

    async def _refuse(self, client: Client, refusal: Refused) -> None:
        self._notices.tell(str(refusal))
        await client.refuse(refusal)

    async def _serve_origin(self, wire: Wire, origin: Origin) -> None:
        client = Client(wire)
        try:
            while (head := await client.head()) is not None:
                self._admission.check(head, origin)
                if not await self._answer(client, head, origin.host, origin.port, secure=origin.secure):
                    return
        except Refused as refusal:
            await self._refuse(client, refusal)

    async def _serve_streams(self, tls: Tls, origin: Origin) -> None:
        if offence := await http2_client.serve(tls, partial(self._answer_stream, origin)):
            self._notices.tell(
                f"a program's connection to {show(origin.host, origin.port)} was ended: {offence}."
            )
            await Client(tls).end()

    async def _answer_stream(self, origin: Origin, client: StreamClient) -> None:
        self._streams += 1
        try:
            if self._streams > MAX_STREAMS:
                raise Refused(
                    "503 Service Unavailable", f"this box has {MAX_STREAMS} requests of HTTP/2 open."
                )
            head = client.head()
            self._admission.check(head, origin)
            answer = await self._admission.send(client, head, origin.host, origin.port, secure=True)
            try:
                await client.answer(answer)
            finally:
                await answer.close()
        except Refused as refusal:
            self._notices.tell(str(refusal))
            await client.refuse(refusal)
        finally:
            self._streams -= 1

    async def _answer(self, client: Client, head: Head, host: str, port: int, *, secure: bool) -> bool:
        """Has one request answered. Returns whether another may follow."""
        answer = await self._admission.send(client, head, host, port, secure=secure)
        try:
            if answer.upgraded is not None:
                await _become(client, answer, answer.upgraded)
                return False
            await client.answer(answer)
        finally:
            await answer.close()
        if client.next():
            return True
        await client.end()
        return False


async def _say_nothing() -> None:
    """Tells a program that knows no proxy of its connection: it has that already."""


async def _become(client: Client, answer: Answer, server: Wire) -> None:
    sent = await client.switch(answer)
    await relay(Leftover(client.wire, sent), server)


def _destination(head: Head) -> tuple[str, int]:
    try:
        return head.destination()
    except HeadError as error:
        raise Refused(BAD_REQUEST, str(error)) from None
