"""The box's side of HTTP/2: each stream is a request, answered beside the others of its connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from kibo.effects.client import KEPT_S
from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, ClientGoneError, Fields
from kibo.effects.http2 import Connection
from kibo.effects.http2_fields import read_head
from kibo.effects.http2_frames import INTERNAL_ERROR, NO_ERROR
from kibo.effects.http2_stream import Stream
from kibo.effects.http_head import Head, HeadError
from kibo.effects.wires import Wire

#: What a box may send ahead of each request's server: some round trips on the machine's own loopback.
WINDOW_BYTES: Final = 128 * 1024


class StreamClient:
    """One request of a box's. See `Caller`."""

    def __init__(self, stream: Stream, fields: Fields) -> None:
        self._stream = stream
        self._fields = fields
        #: Whether its head was all; later, its body may have come as well.
        self._bare = stream.ended
        self._answering = False

    def head(self) -> Head:
        """Reads its head.

        Raises:
            Refused: It is none.
        """
        try:
            return read_head(self._fields, ended=self._bare)
        except HeadError as error:
            raise Refused("400 Bad Request", str(error)) from None

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return self._stream.trailers

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives the request's body.

        Raises:
            ClientGoneError: It broke off.
        """
        try:
            async for chunk in self._stream.chunks():
                yield chunk
        except (OSError, TimeoutError) as error:
            raise ClientGoneError(str(error)) from None

    async def skip_body(self) -> None:
        """Reads the end of a request that has no body."""
        async for _ in self.chunks():
            raise ClientGoneError("a body where none was announced")

    async def gone(self) -> None:
        """Never returns: who resets a stream, or leaves, has whoever is busy with it cancelled."""
        await asyncio.get_running_loop().create_future()

    async def interim(self, status: int, fields: Fields) -> None:
        """Passes an interim answer on."""
        if not self._answering:
            await self._stream.send_head([(b":status", b"%d" % status), *fields])

    async def answer(self, answer: Answer) -> None:
        """Passes an answer on, as it comes.

        Raises:
            OSError: One of the sides broke.
        """
        self._answering = True
        await self._stream.send_head([(b":status", b"%d" % answer.status), *answer.fields])
        async for chunk in answer.body.chunks():
            await self._stream.send(chunk)
        await self._stream.finish(answer.body.trailers)

    async def refuse(self, refusal: Refused) -> None:
        """Answers with a page of our own."""
        if self._answering:
            raise ConnectionResetError(str(refusal))
        page = refusal.text()
        fields = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(page))]
        self._answering = True
        await self._stream.send_head([(b":status", refusal.status[:3].encode()), *fields])
        if (b":method", b"HEAD") not in self._fields:
            await self._stream.send(page)
        await self._stream.finish([])


async def serve(wire: Wire, answer: Callable[[StreamClient], Awaitable[None]]) -> str:
    """Serves a connection until it ends.

    Args:
        wire: The connection, of which nothing has been read.
        answer: Answers one request. Cancelled when nobody waits for the answer any more.

    Returns:
        What its client did that no client does; else nothing.
    """
    connection = Connection(wire, client=False, window_bytes=WINDOW_BYTES, idle_s=KEPT_S)

    async def attend(stream: Stream, client: StreamClient) -> None:
        code = INTERNAL_ERROR
        try:
            await answer(client)
            code = NO_ERROR
        except (OSError, TimeoutError, ClientGoneError):
            pass  # One side went away or quiet, which the other learns by a reset.
        finally:
            await stream.close(code)

    async with asyncio.TaskGroup() as tasks:

        def opened(stream: Stream, fields: Fields) -> None:
            task = tasks.create_task(attend(stream, StreamClient(stream, fields)))
            stream.broken = task.cancel
            # One that is reset at once never begins.
            task.add_done_callback(lambda _: connection.forget(stream))

        connection.opened = opened
        await connection.run()
    return connection.offence
