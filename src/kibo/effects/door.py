"""One box's way out: an HTTP proxy on a socket of the box's own network."""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Final

from kibo.box.policy import Rule
from kibo.effects.destinations import Destination, Refused, find_destination
from kibo.effects.http_head import Head, HeadError, SecretValue, close_after, secrets_for

MAX_HEAD_BYTES: Final = 64 * 1024  # Twice what browsers and servers agree on, cookies and all.
MAX_CONNECTIONS: Final = (
    256  # A box. Browsers open at most 32 to a proxy; a box may run a few, and a few tools.
)
CHUNK_BYTES: Final = 64 * 1024
HEAD_S: Final = 30.0
CONNECT_S: Final = 10.0
IDLE_S: Final = 300.0  # Longer than anybody waits for a page, so that what a box forgot is not kept for ever.


class Door:
    """One box's way out.

    Args:
        listener: A listening socket of the box's network namespace, which it keeps in being: so close it in time.
        rules: What the box may reach.
        secrets: What to put in for placeholders, for which hosts.
    """

    def __init__(
        self, listener: socket.socket, rules: Sequence[Rule], secrets: Sequence[SecretValue]
    ) -> None:
        self._listener = listener
        self._rules = rules
        self._secrets = secrets
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Starts to accept connections."""
        self._server = await asyncio.start_server(self._accept, sock=self._listener, limit=MAX_HEAD_BYTES)

    async def close(self) -> None:
        """Stops accepting, and cuts every connection of the box."""
        if self._server is not None:
            self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if len(self._connections) > MAX_CONNECTIONS:
                raise Refused("503 Service Unavailable", f"this box has {MAX_CONNECTIONS} connections open.")
            await self._serve(reader, writer)
        except Refused as refusal:
            with contextlib.suppress(OSError):
                writer.write(refusal.page())
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            _reset(writer)  # One side went away or quiet.
        except asyncio.CancelledError:
            _reset(writer)  # The box ended. Nobody awaits this task but close(), which asked for it.
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                head = Head.parse(await reader.readuntil(b"\r\n\r\n"))
                host, port = head.destination()
                destination = await find_destination(self._rules, host, port)
                request, length = b"", 0 if head.tunnel else head.body_length()
                if not head.tunnel:
                    secrets = secrets_for(self._secrets, host, port)
                    body = b""
                    if secrets and head.may_hold_secrets():
                        body, length = await reader.readexactly(length or 0), 0
                    head, body = head.fill(secrets, body) if secrets else (head, body)
                    request = head.as_request() + body
        except HeadError as error:
            raise Refused("400 Bad Request", str(error)) from None
        except asyncio.LimitOverrunError:
            raise Refused(
                "431 Request Header Fields Too Large", f"more than {MAX_HEAD_BYTES} bytes."
            ) from None
        out_reader, out_writer = await _connect(destination, host)
        try:
            if head.tunnel:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _tunnel(reader, writer, out_reader, out_writer)
            else:
                out_writer.write(request)
                await _exchange(reader, writer, out_reader, out_writer, length)
        finally:
            out_writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes with a reset, which no client takes for the end of an answer that has no length."""
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _connect(destination: Destination, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    cause = "no answer"
    for address in destination.addresses:
        try:
            async with asyncio.timeout(CONNECT_S):
                return await asyncio.open_connection(address, destination.port, limit=MAX_HEAD_BYTES)
        except (OSError, TimeoutError) as error:
            cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no answer"
    raise Refused("502 Bad Gateway", f"{host} cannot be reached: {cause}.")


async def _tunnel(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    out_reader: asyncio.StreamReader,
    out_writer: asyncio.StreamWriter,
) -> None:
    """Carries bytes both ways until both have ended, or neither has moved for too long."""
    async with _both_ways() as (idle, tasks):
        tasks.create_task(_pump(reader, out_writer, idle))
        tasks.create_task(_pump(out_reader, writer, idle))


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    out_reader: asyncio.StreamReader,
    out_writer: asyncio.StreamWriter,
    length: int | None,
) -> None:
    """Carries one request's body out and its answer back, and nothing that the box may send after that."""
    async with _both_ways() as (idle, tasks):
        sending = tasks.create_task(_send_body(reader, out_writer, idle, length))
        await _send_answer(out_reader, writer, idle)
        sending.cancel()  # The answer may come before the body has been wanted.


@contextlib.asynccontextmanager
async def _both_ways() -> AsyncIterator[tuple[asyncio.Timeout, asyncio.TaskGroup]]:
    """A scope for two directions that share one idle time; the first thing to go wrong comes out of it bare."""
    try:
        async with asyncio.timeout(IDLE_S) as idle, asyncio.TaskGroup() as tasks:
            yield idle, tasks
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout) -> None:
    """Carries bytes until their end, and passes the end on; reads no more than the other side takes."""
    while chunk := await reader.read(CHUNK_BYTES):
        await _send(writer, chunk, idle)
    if writer.can_write_eof():
        writer.write_eof()


async def _send(writer: asyncio.StreamWriter, chunk: bytes, idle: asyncio.Timeout) -> None:
    writer.write(chunk)
    await writer.drain()
    idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)


async def _send_body(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout, length: int | None
) -> None:
    try:
        if length is None:
            await _send_chunks(reader, writer, idle)
        else:
            await _send_exactly(reader, writer, idle, length)
    except OSError:
        pass  # The server takes no more of it; its answer, which may say why, is still to come.


async def _send_chunks(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout
) -> None:
    size = -1
    while size != 0:
        line = await reader.readuntil(b"\r\n")
        digits = line.partition(b";")[0].strip()
        if not digits or len(digits) > 8 or digits.strip(b"0123456789abcdefABCDEF"):
            raise EOFError("a malformed chunk")
        size = int(digits, 16)
        await _send(writer, line, idle)
        await _send_exactly(reader, writer, idle, size + 2 if size else 0)
    while line != b"\r\n":  # the trailer, to its empty line
        line = await reader.readuntil(b"\r\n")
        await _send(writer, line, idle)


async def _send_exactly(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout, length: int
) -> None:
    while length:
        chunk = await reader.read(min(length, CHUNK_BYTES))
        if not chunk:
            raise EOFError("the body ended early")
        length -= len(chunk)
        await _send(writer, chunk, idle)


async def _send_answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: asyncio.Timeout
) -> None:
    interim = True
    while interim:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, EOFError, asyncio.LimitOverrunError):
            raise Refused("502 Bad Gateway", "the server gave no answer that can be read.") from None
        interim = head[9:10] == b"1" and head[9:12] != b"101"
        await _send(writer, head if interim else close_after(head), idle)
    await _pump(reader, writer, idle)
