"""Connections of which the gateway sees bytes and nothing else: TLS that a rule leaves closed, and any protocol."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from kibo.box.policy import Allow
from kibo.effects.client import HEAD_S
from kibo.effects.destinations import CutError, Refused, show, write
from kibo.effects.exchange import Sender
from kibo.effects.hello import HANDSHAKE, HelloError, server_name, whole
from kibo.effects.upstream import relay
from kibo.effects.wires import Plain

#: How long neither side need say anything: pools of connections to databases rest for long. As for those who translate
#: addresses (RFC 5382, REQ-5); servers that are gone are found earlier, by probes.
QUIET_S: Final = 2 * 3600 + 4 * 60.0


async def carry(
    plain: Plain,
    upstream: Sender,
    rule: Allow,
    host: str,
    port: int,
    established: Callable[[], Awaitable[None]],
) -> None:
    """Connects to where a rule leads, and carries bytes both ways until both sides have ended.

    Args:
        plain: The box's side.
        upstream: What connects.
        rule: What allows it.
        host: As it was asked for.
        port: Of that host.
        established: Awaited once the server has answered: tells the box's side.

    Raises:
        Refused: Before `established`: there is no connection.
        OSError: One side broke, and the server's has been reset. The box's is to be.
        TimeoutError: Nothing moved for `QUIET_S`; likewise.
    """
    server = await upstream.tunnel(rule, host, port)
    try:
        server.probe()
        await established()
        await relay(Vetted(plain, host) if rule.passthrough else plain, server, QUIET_S)
    except BaseException:
        server.reset()
        raise
    server.close()


def check_unopened(rule: Allow, host: str, port: int, *, holds: bool) -> None:
    """Sees that nothing is changed unseen by what may still be undone.

    Args:
        rule: What allows the connection.
        host: Where to.
        port: Of that host.
        holds: Whether whoever asks may change nothing before a commit.

    Raises:
        Refused: It may be that something is.
    """
    if holds and rule.effect != "read":
        how = "tcp" if rule.tcp else "passthrough"
        what = (
            f"lets anything be said to {show(host, port)}"
            if rule.tcp
            else f"leaves TLS to {show(host, port)} closed"
        )
        raise Refused(
            "403 Forbidden",
            f"{write(rule)} {what}, so that nobody can tell whether a request changes something, and this branch may "
            "change nothing outside before it is committed. Ask from the root of the tree; or, if nothing is changed "
            f'there, say so: Allow("{rule.target}", {how}=True, effect="read").',
        )


class Vetted:
    """A box's end of a tunnel that is not opened, whose TLS may ask for the tunnel's host only."""

    def __init__(self, plain: Plain, host: str) -> None:
        self._plain = plain
        self._host = host
        self._vetted = False
        self.send, self.finish = plain.send, plain.finish
        self.reset, self.close = plain.reset, plain.close

    async def receive(self, patience_s: float | None = None) -> bytes:
        """Receives; of TLS, nothing before it has said which host it is for.

        Raises:
            CutError: It is for another.
            OSError: The connection broke.
        """
        data = await self._plain.receive(patience_s)
        if self._vetted or not data:
            return data
        self._vetted = True
        if data[0] != HANDSHAKE:
            return data
        self._plain.unread(data)
        async with asyncio.timeout(HEAD_S):
            wanted = await asked_host(self._plain)
        if wanted is not None and wanted != self._host:
            raise CutError(
                f"TLS asks for {wanted} on a connection to {self._host}. A connection is for one host."
            )
        return await self._plain.receive(patience_s)

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return self._plain.stale


async def asked_host(plain: Plain) -> str | None:
    """Looks at a ClientHello, and leaves it where it was.

    Raises:
        CutError: It is none.
        OSError: The connection broke.
    """
    data = b""
    try:
        while (message := whole(data)) is None:
            more = await plain.receive()
            if not more:
                raise ConnectionResetError("the handshake broke off")
            data += more
        return server_name(message)
    except HelloError as error:
        raise CutError(str(error)) from None
    finally:
        plain.unread(data)
