"""One box's way out: a proxy on a socket of the box's own network, which opens TLS and looks at every request."""

import asyncio
import re
import socket
import ssl
from collections.abc import Sequence
from typing import Final, NamedTuple

from kibo.box.policy import Allow, Rule, find_effect
from kibo.effects.authority import Authority
from kibo.effects.boundary import Boundary
from kibo.effects.client import HEAD_S, Client
from kibo.effects.destinations import Refused, decide, find_destination, show, write
from kibo.effects.exchange import Answer, ClientGoneError, Request
from kibo.effects.hello import HANDSHAKE, HelloError, server_name, whole
from kibo.effects.http_head import ElsewhereError, Head, HeadError, SecretValue, secrets_for
from kibo.effects.outbox import Outbox
from kibo.effects.upstream import Leftover, Upstream, connect, relay
from kibo.effects.wires import Plain, Tls, Wire
from kibo.model.asker import Asker

MAX_CONNECTIONS: Final = (
    256  # A box. Browsers open at most 32 to a proxy; a box may run a few, and a few tools.
)
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
BAD_REQUEST: Final = "400 Bad Request"
MISDIRECTED: Final = "421 Misdirected Request"
#: Names that certificates are made for. What else a client may ask for is no host's name.
NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?|[0-9a-f:.]{2,45}")


class Origin(NamedTuple):
    """What a tunnel was opened to: every request in it is for that.

    Attributes:
        host: As CONNECT named it, in lower case.
        port: Of that host.
        secure: Whether the box speaks TLS in it.
        asked: The host that TLS asked for, if it did.
    """

    host: str
    port: int
    secure: bool
    asked: str | None


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
    """

    def __init__(
        self,
        listener: socket.socket,
        rules: Sequence[Rule],
        secrets: Sequence[SecretValue],
        services: Services,
        instance: str,
        asker: Asker,
    ) -> None:
        self._listener = listener
        self._rules = rules
        #: Those that say what a request does, which most leave to its method.
        self._telling = [rule for rule in rules if isinstance(rule, Allow) and rule.effect]
        self._secrets = secrets
        self._services = services
        self._upstream = Upstream(services.trust)
        self._boundary = Boundary(instance, asker, self._upstream, services.outbox)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def asker(self) -> Asker:
        """On whose behalf the box asks."""
        return self._boundary.asker

    @asker.setter
    def asker(self, asker: Asker) -> None:
        self._boundary.asker = asker

    async def open(self) -> None:
        """Starts to accept connections."""
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    async def close(self) -> None:
        """Stops accepting, and cuts every connection of the box."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        self._upstream.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        plain = Plain(reader, writer)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                page = Refused(
                    "503 Service Unavailable", f"this box has {MAX_CONNECTIONS} connections open."
                ).page()
                await plain.send(page)
            else:
                await self._serve(plain)
        except (OSError, TimeoutError, ClientGoneError):
            plain.reset()  # One side went away or quiet.
        except asyncio.CancelledError:
            plain.reset()  # The box ended. Nobody awaits this task but close(), which asked for it.
        finally:
            self._connections.discard(task)
            plain.close()

    async def _serve(self, plain: Plain) -> None:
        client = Client(plain)
        try:
            while (head := await client.head()) is not None:
                if head.tunnel:
                    await self._tunnel(plain, client, head)
                    return
                if not await self._answer(client, head, *_destination(head), secure=False):
                    return
        except Refused as refusal:
            await client.refuse(refusal)

    async def _tunnel(self, plain: Plain, client: Client, head: Head) -> None:
        """Opens a tunnel: to the server where a rule wants it unopened, else to ourselves."""
        host, port = _destination(head)
        rule = decide(self._rules, host, port)
        if NAME.fullmatch(host) is None:
            raise Refused(BAD_REQUEST, "The host of the request is malformed.")
        plain.unread(client.pending)
        if rule.passthrough:
            self._check_unopened(rule, host, port)
            server = await connect(await find_destination(rule, host, port), host)
            await plain.send(ESTABLISHED)
            try:
                await relay(Vetted(plain, host), server)
            finally:
                server.close()
            return
        await plain.send(ESTABLISHED)
        async with asyncio.timeout(HEAD_S):
            data = await plain.receive()
            plain.unread(data)
            if not data:
                return
            asked = await _asked_host(plain) if data[0] == HANDSHAKE else None
        if data[0] != HANDSHAKE:
            await self._serve_origin(plain, Origin(host, port, False, None))
            return
        if asked is not None and NAME.fullmatch(asked) is None:
            raise ConnectionResetError("no certificate has such a name")
        # For the name that was asked for, even where it is the wrong one: so that the client can read why.
        tls = Tls(plain, self._services.authority.context(asked or host), server=True)
        await tls.handshake()
        await self._serve_origin(tls, Origin(host, port, True, asked))
        await tls.finish()

    def _check_unopened(self, rule: Allow, host: str, port: int) -> None:
        """Sees that nothing is changed unseen by what may still be undone."""
        if self.asker.holds and rule.effect != "read":
            raise Refused(
                "403 Forbidden",
                f"{write(rule)} leaves TLS to {show(host, port)} closed, so that nobody can tell whether a request "
                "changes something, and this branch may change nothing outside before it is committed. Ask from the "
                f'root of the tree; or, if nothing is changed there, say so: Allow("{rule.target}", passthrough=True, '
                'effect="read").',
            )

    async def _serve_origin(self, wire: Wire, origin: Origin) -> None:
        client = Client(wire)
        try:
            while (head := await client.head()) is not None:
                self._check(head, origin)
                if not await self._answer(client, head, origin.host, origin.port, secure=origin.secure):
                    return
        except Refused as refusal:
            await client.refuse(refusal)

    def _check(self, head: Head, origin: Origin) -> None:
        """Sees that TLS, the request and the tunnel name one host."""
        shown = show(origin.host, origin.port)
        allows = decide(self._rules, origin.host, origin.port)
        if origin.asked is not None and origin.asked != origin.host:
            raise Refused(
                MISDIRECTED,
                f'Allow("{allows.target}") lets this connection lead to {shown}, but TLS asked for {origin.asked}. '
                "A connection is for one host: open another.",
            )
        if head.tunnel:
            raise Refused(BAD_REQUEST, "There is no proxy within a tunnel.")
        try:
            head.check_origin(origin.host, origin.port, secure=origin.secure)
        except ElsewhereError as elsewhere:
            raise Refused(
                MISDIRECTED,
                f'Allow("{allows.target}") lets this connection lead to {shown}, but the request on it is for '
                f"{elsewhere}. A connection is for one host: open another.",
            ) from None
        except HeadError as error:
            raise Refused(BAD_REQUEST, str(error)) from None

    async def _answer(self, client: Client, head: Head, host: str, port: int, *, secure: bool) -> bool:
        """Has one request answered. Returns whether another may follow."""
        path = head.path().partition(b"?")[0].decode("ascii")
        methods = head.methods()
        rule = decide(self._rules, host, port, methods, path)
        effect = find_effect(self._telling, host, port, methods, path, upgrade=head.upgrade)
        request = await self._request(client, head, rule, effect, host, port, secure=secure)
        answer = await self._boundary.send(request, client.interim)
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

    async def _request(
        self, client: Client, head: Head, rule: Allow, effect: str, host: str, port: int, *, secure: bool
    ) -> Request:
        has_body = head.body_length() != 0
        if not has_body:
            await client.skip_body()
        return Request(
            rule,
            secure,
            host,
            port,
            head.method,
            head.path(),
            head.outgoing(host_field(head, host, port, secure=secure)),
            client,
            has_body,
            head.upgrade,
            effect,
            secrets_for(self._secrets, host, port),
            has_body and head.may_hold_secrets(),
            client.gone,
        )


class Vetted:
    """A box's end of a tunnel that is not opened, whose TLS may ask for the tunnel's host only."""

    def __init__(self, plain: Plain, host: str) -> None:
        self._plain = plain
        self._host = host
        self._vetted = False
        self.send, self.finish = plain.send, plain.finish
        self.reset, self.close = plain.reset, plain.close

    async def receive(self) -> bytes:
        """Receives; of TLS, nothing before it has said which host it is for.

        Raises:
            OSError: It is for another.
        """
        data = await self._plain.receive()
        if self._vetted or not data:
            return data
        self._vetted = True
        if data[0] != HANDSHAKE:
            return data
        self._plain.unread(data)
        async with asyncio.timeout(HEAD_S):
            asked = await _asked_host(self._plain)
        if asked is not None and asked != self._host:
            raise ConnectionResetError(f"TLS asks for {asked} on a connection to {self._host}")
        return await self._plain.receive()

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return self._plain.stale


async def _become(client: Client, answer: Answer, server: Wire) -> None:
    sent = await client.switch(answer)
    await relay(Leftover(client.wire, sent), server)


async def _asked_host(plain: Plain) -> str | None:
    """Looks at a ClientHello, and leaves it where it was."""
    data = b""
    try:
        while (message := whole(data)) is None:
            more = await plain.receive()
            if not more:
                raise ConnectionResetError("the handshake broke off")
            data += more
        return server_name(message)
    except HelloError as error:
        raise ConnectionResetError(str(error)) from None
    finally:
        plain.unread(data)


def _destination(head: Head) -> tuple[str, int]:
    try:
        return head.destination()
    except HeadError as error:
        raise Refused(BAD_REQUEST, str(error)) from None


def host_field(head: Head, host: str, port: int, *, secure: bool) -> bytes:
    """Writes the Host field: as it came where it did, which some servers compare letter by letter."""
    named = head.values(b"host")
    shown = f"[{host}]" if ":" in host else host
    return named[0] if named else (shown if port == (443 if secure else 80) else show(host, port)).encode()
