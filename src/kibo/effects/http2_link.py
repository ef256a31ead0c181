"""The servers' side of HTTP/2: one connection, on which requests are sent and answered side by side."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, ClientGoneError, Fields, Interim, Request
from kibo.effects.http2 import Connection
from kibo.effects.http2_fields import read_answer, write_head
from kibo.effects.http2_frames import CANCEL
from kibo.effects.http2_stream import ResetError, Stream
from kibo.effects.link import BAD_GATEWAY, NoAnswerError, passed_on
from kibo.effects.wires import Wire

#: What a server may send ahead of each request's client: at 20 ms, 12 MB/s.
WINDOW_BYTES: Final = 256 * 1024


class UnheardError(NoAnswerError):
    """The server says that it has not acted on a request, and will not."""


class SharedLink:
    """One connection to a server.

    Args:
        wire: The connection, of which nothing has been read.
        idle_s: How long it is kept without a request.
    """

    def __init__(self, wire: Wire, idle_s: float) -> None:
        self._wire = wire
        self._connection = Connection(wire, client=True, window_bytes=WINDOW_BYTES, idle_s=idle_s)
        self._reading = asyncio.ensure_future(self._read())

    @property
    def usable(self) -> bool:
        """Whether it takes another request."""
        return self._connection.usable

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._reading.done()

    def retire(self) -> None:
        """Has it end with its last request."""
        self._connection.retire()

    def abandon(self) -> None:
        """Ends it unused."""
        self._connection.retire()

    async def ask(self, request: Request, interim: Interim, done: Callable[[], None]) -> Answer:
        """Sends a request, and returns once the head of the answer is there; see `Link.ask`.

        Raises:
            UnheardError: Nothing has happened of it.
            NoAnswerError: The connection ended before anything of an answer.
            Refused: What came is none.
            ClientGoneError: The request's body broke off.
        """
        try:
            stream = self._connection.open(write_head(request), end=not request.has_body)
        except ResetError:
            raise UnheardError from None
        pump: asyncio.Task[None] | None = None

        async def close() -> None:
            try:
                if pump is not None:
                    pump.cancel()  # The answer may come before the body has been wanted.
                    await asyncio.gather(pump, return_exceptions=True)
            finally:
                try:
                    await stream.close(CANCEL)
                finally:
                    done()

        try:
            await self._connection.flush()
            if request.has_body:
                pump = asyncio.create_task(self._pump(stream, request))
            status, fields = read_answer(await stream.head())
            while status < 200:
                await interim(status, passed_on(fields))
                status, fields = read_answer(await stream.head())
            if stream.empty and _announces(request, status, fields):
                raise ResetError("the answer ended early")
        except (OSError, TimeoutError, ValueError) as error:
            if isinstance(error, TimeoutError):
                self._connection.retire()  # nobody may be there any more
            cause = pump.exception() if pump is not None and pump.done() and not pump.cancelled() else None
            await close()
            if cause is not None:
                raise cause from None
            raise _unanswered(error, self._connection.usable) from None
        except BaseException:
            await close()
            raise
        return Answer(status, b"", passed_on(fields), _AnswerBody(stream), close)

    async def _pump(self, stream: Stream, request: Request) -> None:
        try:
            async for chunk in request.body.chunks():
                await stream.send(chunk)
            await stream.finish(request.body.trailers)
        except (ClientGoneError, Refused):
            await stream.close(CANCEL)  # Before whoever waits for the answer hears of it.
            raise
        except (OSError, TimeoutError):
            pass  # The server takes no more of it; its answer, which may say why, is still to come.

    async def _read(self) -> None:
        try:
            await self._connection.run()
        finally:
            self._wire.close()


class _AnswerBody:
    """The body of an answer, as it comes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def trailers(self) -> Fields:
        """As they came."""
        return passed_on(self._stream.trailers)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives it in pieces.

        Raises:
            OSError: It broke off.
        """
        try:
            async for chunk in self._stream.chunks():
                yield chunk
        except TimeoutError as error:
            raise ConnectionResetError(str(error)) from None


def _announces(request: Request, status: int, fields: Fields) -> bool:
    """Whether the head of an answer says that a body follows."""
    lengths = [value for name, value in fields if name == b"content-length"]
    return request.method != b"HEAD" and status not in (204, 304) and any(int(each) for each in lengths)


def _unanswered(error: Exception, alive: bool) -> Exception:
    if isinstance(error, ResetError) and not error.heard:
        return UnheardError()
    if alive:
        return Refused(BAD_GATEWAY, f"the server gave no answer that can be read: {error}.")
    return NoAnswerError()
