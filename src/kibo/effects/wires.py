"""Both sides' connections as the gateway uses them: bytes in, bytes out with back-pressure, with TLS or without.

TLS is done over memory (`ssl.MemoryBIO`), so that the first bytes of a client can be looked at before anything answers
them, and so that what came before a handshake can never be taken for what came under its protection.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Final, Protocol

CHUNK_BYTES: Final = 64 * 1024
#: What both sides of a handshake can agree on (RFC 7301), the better first; and what is spoken where they do not.
HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
PROTOCOLS: Final = (HTTP2, HTTP1)
#: What a wire may have written and not sent yet, beyond which `send` waits.
HANDSHAKE_S: Final = 15.0
#: Probes of a connection on which nothing is said: after a minute, and how many without an answer are the end (tcp(7)).
PROBES: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 20, socket.TCP_KEEPCNT: 4}


class Wire(Protocol):
    """One connection."""

    async def receive(self) -> bytes:
        """Returns what has come, at most some CHUNK_BYTES; waits for something; empty at the end.

        Raises:
            OSError: It broke, or ended in a way that may have cut something off.
        """

    async def send(self, data: bytes) -> None:
        """Sends all of it; returns when the other side has taken enough of what was sent."""

    async def finish(self) -> None:
        """Says that nothing more will be sent. What comes can still be received."""

    def reset(self) -> None:
        """Closes with a reset, which nobody takes for the end of something that has no length."""

    def close(self) -> None:
        """Closes when what was sent has left."""

    @property
    def stale(self) -> bool:
        """Whether an idle connection has ended, or has something to say that nobody asked for."""


class Plain:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pushed = b""
        # A whole chunk waits in the kernel and one here, and no more.
        writer.transport.set_write_buffer_limits(high=CHUNK_BYTES)

    async def receive(self) -> bytes:
        if self._pushed:
            data, self._pushed = self._pushed, b""
            return data
        return await self._reader.read(CHUNK_BYTES)

    def unread(self, data: bytes) -> None:
        """Puts back what was only looked at."""
        self._pushed = data + self._pushed

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        if self._writer.can_write_eof():
            with contextlib.suppress(OSError):  # It has gone already.
                self._writer.write_eof()

    def probe(self) -> None:
        """Has the kernel ask now and then whether the other side is there still, and break the connection if not."""
        connection: socket.socket = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def reset(self) -> None:
        connection: socket.socket = self._writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    @property
    def stale(self) -> bool:
        # Whatever an idle connection has received is an end, or an answer to nothing.
        buffered = self._reader._buffer  # type: ignore[attr-defined]
        return bool(buffered) or self._reader.at_eof() or self._writer.is_closing()


class Tls:
    """TLS over a plain connection, whichever side of it we are."""

    def __init__(
        self, plain: Plain, context: ssl.SSLContext, *, server: bool, host: str | None = None
    ) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server, server_hostname=host)
        self._over = False

    async def handshake(self) -> None:
        """Agrees on keys, and checks the other side's certificate where this is the client's end.

        Raises:
            ssl.SSLError: The other side was not what it should be.
            OSError: It went away.
            TimeoutError: It took too long.
        """
        async with asyncio.timeout(HANDSHAKE_S):
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._feed()
                    continue
                except ssl.SSLError:
                    with contextlib.suppress(OSError):
                        await self._flush()  # The alert, by which the other side learns why.
                    raise
                await self._flush()
                return

    @property
    def protocol(self) -> str:
        """What both sides have agreed to speak."""
        return self._tls.selected_alpn_protocol() or HTTP1

    async def receive(self) -> bytes:
        got = bytearray()
        while not self._over:
            try:
                # A record has 16 KiB at most: take all that are here, for fewer turns of everything above.
                while len(got) < CHUNK_BYTES:
                    data = self._tls.read(CHUNK_BYTES)
                    if not data:
                        self._over = True
                        break
                    got += data
                break
            except ssl.SSLWantReadError:
                if got:
                    break
                await self._flush()
                await self._feed()
            except ssl.SSLZeroReturnError:
                self._over = True
            except ssl.SSLEOFError:
                # Without TLS's own end somebody between may have cut the rest off.
                raise ConnectionResetError("the connection ended without saying so") from None
        return bytes(got)

    async def send(self, data: bytes) -> None:
        if data:
            self._tls.write(data)
        await self._flush()

    async def finish(self) -> None:
        with contextlib.suppress(ssl.SSLError, OSError):
            try:
                self._tls.unwrap()
            except ssl.SSLWantReadError:
                pass  # Ours is written; theirs may come later.
            await self._flush()

    def reset(self) -> None:
        self._plain.reset()

    def close(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        if rest := self._outgoing.read():
            self._plain._writer.write(rest)
        self._plain.close()

    @property
    def stale(self) -> bool:
        # Session tickets come after the handshake, without being asked for: they are read before anything is judged.
        reader = self._plain._reader
        if reader._buffer:  # type: ignore[attr-defined]
            self._incoming.write(bytes(reader._buffer))  # type: ignore[attr-defined]
            reader._buffer.clear()  # type: ignore[attr-defined]
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return self._over or self._plain.stale
        except ssl.SSLError:
            return True
        return True

    async def _feed(self) -> None:
        data = await self._plain.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._plain.send(self._outgoing.read())
