"""The servers' side: connects to where a rule leads, checks who is there, and keeps connections for other requests."""

import asyncio
import contextlib
import os
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from kibo.box.policy import Allow
from kibo.effects.destinations import Destination, Refused, find_destination, show
from kibo.effects.exchange import Answer, Interim, Request
from kibo.effects.http2_link import SharedLink, UnheardError
from kibo.effects.link import BAD_GATEWAY, IDLE_S, Link, NoAnswerError
from kibo.effects.tls import Tls
from kibo.effects.wires import HTTP1, HTTP2, PROTOCOLS, Plain, Wire

CONNECT_S: Final = 10.0
#: Connections of one box that wait for another request, all hosts together, and for how long.
MAX_IDLE: Final = 32
KEPT_S: Final = 30.0
#: Servers of which is remembered what they speak.
MAX_KNOWN: Final = 1000
#: Requests that may be sent a second time where a connection turned out to have ended (RFC 9110, section 9.2.1).
SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
#: What to do where a server has said that it has not acted.
AGAIN: Final = "It has not acted on this one, which can be sent again."
#: By what servers are told apart: TLS, host, port, and where a rule leads.
Key = tuple[bool, str, int, str | None]


def trusting(extra: Path | None = None) -> ssl.SSLContext:
    """Makes what servers are checked with: the host's trust store, and one file more where tests have their own.

    Raises:
        OSError: The file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An end that TLS does not vouch for is an error: somebody between may have cut the rest off.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if extra is not None:
        context.load_verify_locations(extra)
    return context


class Upstream:
    """One box's connections to servers. Those that servers keep open are used again.

    Args:
        trust: What servers' certificates are checked with.
    """

    def __init__(self, trust: ssl.SSLContext) -> None:
        self._trust = trust
        self._idle: dict[Key, list[Link]] = {}
        self._shared: dict[Key, list[SharedLink]] = {}
        #: Held while it is found out what a server speaks, so that requests that come at once share a connection.
        self._finding: WeakValueDictionary[Key, asyncio.Lock] = WeakValueDictionary()
        #: Those that do not speak HTTP/2, as far as is known.
        self._unshared: set[Key] = set()

    async def send(self, request: Request, interim: Interim) -> Answer:
        """Sends a request at once; see `Sender`."""
        if (kept := self._take(request)) is not None:
            try:
                return await self._ask(kept, request, interim)
            except UnheardError:
                if request.has_body:  # some of which has been read
                    raise Refused(
                        BAD_GATEWAY, f"{request.host} takes no more requests now. {AGAIN}"
                    ) from None
            except NoAnswerError:
                if request.has_body or request.method not in SAFE:
                    raise Refused(
                        BAD_GATEWAY,
                        f"the connection to {request.host} ended before an answer. Whether the server has acted on the "
                        f"request is not known, and {request.method.decode()} is not sent twice.",
                    ) from None
        return await self._ask_first(await self._find(request), request, interim)

    async def send_once(
        self, request: Request, interim: Interim, leaving: Callable[[], Awaitable[None]]
    ) -> Answer:
        """Sends a request that must not happen twice, on a connection of its own; see `Sender`.

        A kept connection may end just as it is used again, and nobody could say whether the request was heard.
        """
        link = await self._connect(request, shared=False)
        try:
            await leaving()
        except BaseException:
            link.abandon()
            raise
        return await self._ask_first(link, request, interim)

    async def _ask_first(self, link: Link | SharedLink, request: Request, interim: Interim) -> Answer:
        try:
            return await self._ask(link, request, interim)
        except UnheardError:
            raise Refused(BAD_GATEWAY, f"{request.host} takes no requests at the moment. {AGAIN}") from None
        except NoAnswerError:
            raise Refused(BAD_GATEWAY, "the server gave no answer that can be read.") from None

    async def _find(self, request: Request) -> Link | SharedLink:
        """Gives a connection. Of requests that come at once, one finds out whether the server has them share it."""
        key = _key(request)
        if request.secure and not request.upgrade and key not in self._unshared:
            async with self._finding.setdefault(key, asyncio.Lock()):
                if (link := self._take_shared(request)) is not None:
                    return link
                if key not in self._unshared:
                    try:
                        return await self._connect(request)
                    except Refused:
                        self._note_unshared(key)  # whoever waits need not wait for each other
                        raise
        return await self._connect(request)

    async def _connect(self, request: Request, *, shared: bool = True) -> Link | SharedLink:
        wire = await self.open(request)
        if not isinstance(wire, Tls) or wire.protocol != HTTP2:
            if not request.upgrade:
                self._note_unshared(_key(request))
            return Link(wire)
        self._unshared.discard(_key(request))
        link = SharedLink(wire, KEPT_S)
        if shared:
            self._share(link, request)
        return link

    async def open(self, request: Request) -> Wire:
        """Connects to where a request's rule leads, and makes sure of who is there.

        Raises:
            Refused: Nobody is, or somebody else.
        """
        host = request.host
        plain = await connect(await find_destination(request.rule, host, request.port), host)
        if not request.secure:
            return plain
        # What is offered is taken from the context as the connection is made. HTTP/2 becomes no WebSocket.
        self._trust.set_alpn_protocols([HTTP1] if request.upgrade else [*PROTOCOLS])
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
        for shared in self._shared.values():
            for each in shared:
                each.retire()
        self._shared.clear()

    async def _ask(self, link: Link | SharedLink, request: Request, interim: Interim) -> Answer:
        return await link.ask(request, interim, partial(self._give_back, link, request))

    def _note_unshared(self, key: Key) -> None:
        if len(self._unshared) >= MAX_KNOWN:
            self._unshared.clear()
        self._unshared.add(key)

    def _take(self, request: Request) -> Link | SharedLink | None:
        if (shared := self._take_shared(request)) is not None:
            return shared
        links = self._idle.get(_key(request), [])
        now = asyncio.get_running_loop().time()
        while links:
            link = links.pop()
            if now < link.kept_until and not link.wire.stale:
                return link
            link.wire.close()
        return None

    def _take_shared(self, request: Request) -> SharedLink | None:
        links = self._shared.get(_key(request), [])
        links[:] = [link for link in links if link.alive]
        return None if request.upgrade else next((link for link in links if link.usable), None)

    def _give_back(self, link: Link | SharedLink, request: Request) -> None:
        if isinstance(link, SharedLink):
            self._share(link, request)
            return
        if not link.renew():
            link.wire.close()
            return
        link.kept_until = asyncio.get_running_loop().time() + KEPT_S
        links = self._idle.setdefault(_key(request), [])
        links.append(link)
        while sum(map(len, self._idle.values())) > MAX_IDLE:
            key = next(iter(self._idle))
            if self._idle[key]:
                self._idle[key].pop(0).wire.close()
            if not self._idle[key]:
                del self._idle[key]

    def _share(self, link: SharedLink, request: Request) -> None:
        """Keeps a connection for others, where none is kept that takes them."""
        links = self._shared.setdefault(_key(request), [])
        if link in links:
            return
        if any(each.usable for each in links):
            link.retire()
            return
        links.append(link)
        while sum(map(len, self._shared.values())) > MAX_IDLE:
            key = next(iter(self._shared))
            for oldest in self._shared.pop(key):
                oldest.retire()


def _key(request: Request) -> Key:
    return request.secure, request.host, request.port, request.rule.to


async def connect(destination: Destination, host: str) -> Plain:
    """Connects to the first address that answers.

    Raises:
        Refused: None does.
    """
    cause, number, loop = "no answer", 0, asyncio.get_running_loop()
    for address in destination.addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                _, plain = await loop.create_connection(Plain, address, destination.port)
                return plain
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
