"""Both sides' connections as the gateway uses them: bytes in, bytes out with back-pressure. See `tls` for TLS on them.

What comes is read into memory that all connections of a thread share: a connection on which nothing is said has none,
and a large body is not carried through memory that the kernel first has to find and clear.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final, Protocol

#: What is read at a time. A turn of everything above costs some 60 us, whatever its size; larger pieces are no faster,
#: and a connection that was busy once keeps as much until it ends (decision 0041).
CHUNK_BYTES: Final = 128 * 1024
#: What both sides of a handshake can agree on (RFC 7301), the better first; and what is spoken where they do not.
HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
PROTOCOLS: Final = (HTTP2, HTTP1)
#: Probes of a connection on which nothing is said: after a minute, and how many without an answer are the end (tcp(7)).
PROBES: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 20, socket.TCP_KEEPCNT: 4}


class Wire(Protocol):
    """One connection."""

    async def receive(self, patience_s: float | None = None) -> bytes:
        """Returns what has come, at most twice CHUNK_BYTES; waits for something; empty at the end.

        Args:
            patience_s: How long it waits; for ever by default.

        Raises:
            OSError: It broke, or ended in a way that may have cut something off.
            TimeoutError: Nothing came.
        """

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        """Sends all of it; returns when the other side has taken enough of what was sent.

        Args:
            data: What to send.
            patience_s: How long it waits for the other side; for ever by default.

        Raises:
            OSError: It broke.
            TimeoutError: The other side took nothing.
        """

    async def finish(self) -> None:
        """Says that nothing more will be sent. What comes can still be received."""

    def reset(self) -> None:
        """Closes with a reset, which nobody takes for the end of something that has no length."""

    def close(self) -> None:
        """Closes when what was sent has left."""

    @property
    def stale(self) -> bool:
        """Whether an idle connection has ended, or has something to say that nobody asked for."""


class Scratch(threading.local):
    """Memory for what is done in one go. A thread has its own: an event loop never shares one with another."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK_BYTES))


_READ: Final = Scratch()


class Plain(asyncio.BufferedProtocol):
    """A TCP connection, as the event loop's protocol of it.

    Args:
        connected: Called once there is a connection.
    """

    _transport: asyncio.Transport

    def __init__(self, connected: "Callable[[Plain], None] | None" = None) -> None:
        self._connected = connected
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self._paused = False
        self._ended = False
        self._broken: Exception | None = None
        #: Set once there is something to receive; and once the other side has taken what was sent, while it has not.
        self._coming: asyncio.Future[None] | None = None
        self._leaving: asyncio.Future[None] | None = None
        #: Until when whoever receives waits, and the timer that sees to it: left running from one wait to the next.
        self._until = 0.0
        self._alarm: asyncio.TimerHandle | None = None

    async def receive(self, patience_s: float | None = None) -> bytes:
        while not self._heard:
            if self._broken is not None:
                raise self._broken
            if self._ended:
                return b""
            await self._wait(patience_s)
        return self.received()

    def received(self) -> bytes:
        """Returns what has come already, which may be nothing."""
        data, self._heard = self._heard, b""
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Puts back what was only looked at."""
        self._heard = data + self._heard

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        self.write(data)
        if self._leaving is not None:
            async with asyncio.timeout(patience_s):
                await asyncio.shield(self._leaving)

    def write(self, data: bytes) -> None:
        """Sends without waiting for anything: for what is no more than a few bytes.

        Raises:
            OSError: The connection broke, or was closed.
        """
        if self._broken is not None:
            raise self._broken
        if self._transport.is_closing():
            raise ConnectionResetError("the connection has ended")
        self._transport.write(data)

    async def finish(self) -> None:
        if not self._transport.is_closing():
            with contextlib.suppress(OSError):  # It has gone already.
                self._transport.write_eof()

    def probe(self) -> None:
        """Has the kernel ask now and then whether the other side is there still, and break the connection if not."""
        connection = self._socket
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in PROBES.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close(self) -> None:
        self._transport.close()

    @property
    def stale(self) -> bool:
        # Whatever an idle connection has received is an end, or an answer to nothing.
        return bool(self._heard) or self._ended or self._transport.is_closing()

    @property
    def _socket(self) -> socket.socket:
        connection: socket.socket = self._transport.get_extra_info("socket")
        return connection

    async def _wait(self, patience_s: float | None) -> None:
        """Waits for something to come, or for the end.

        A timer of each wait would cost a tenth of what it costs to carry a body: the one that is there goes on, and
        looks whether it is time.

        Raises:
            TimeoutError: Nothing came.
        """
        assert self._coming is None, "two wait for what comes of one connection"
        self._coming = self._loop.create_future()
        self._until = float("inf") if patience_s is None else self._loop.time() + patience_s
        if patience_s is not None and (self._alarm is None or self._alarm.when() > self._until):
            self._set_alarm()
        try:
            await self._coming
        finally:
            self._coming = None

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._until, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        if self._coming is None or self._coming.done() or self._until == float("inf"):
            return
        if self._loop.time() >= self._until:
            self._coming.set_exception(TimeoutError("nothing came"))
        else:
            self._set_alarm()

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        # A whole chunk waits in the kernel and one here, and no more.
        transport.set_write_buffer_limits(high=CHUNK_BYTES)
        if self._connected is not None:
            self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _READ.view

    def buffer_updated(self, nbytes: int) -> None:
        self._heard += _READ.view[:nbytes]
        if len(self._heard) >= CHUNK_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        _wake(self._coming)

    def eof_received(self) -> bool:
        self._ended = True
        _wake(self._coming)
        return True  # There may be something to say still.

    def pause_writing(self) -> None:
        self._leaving = self._loop.create_future()

    def resume_writing(self) -> None:
        _wake(self._leaving)
        self._leaving = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended, self._broken = True, exc
        _wake(self._coming)
        if self._leaving is not None:
            self._leaving.set_exception(exc or ConnectionResetError("the connection has ended"))
            self._leaving.exception()  # There may be nobody who waits.
            self._leaving = None
        if self._alarm is not None:
            self._alarm.cancel()


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)
