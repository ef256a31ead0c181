"""The servers' side of HTTP/1.1: one connection, on which requests are sent and answered one after the other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

import h11

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, ClientGoneError, Fields, Interim, Request, Whole
from kibo.effects.http_head import HOP_BY_HOP, WEBSOCKET
from kibo.effects.wires import Wire

IDLE_S: Final = 300.0  # Longer than anybody waits for a page, so that what a box forgot is not kept for ever.
MAX_ANSWER_HEAD_BYTES: Final = 64 * 1024
BAD_GATEWAY: Final = "502 Bad Gateway"


class NoAnswerError(Exception):
    """The connection ended before anything of an answer."""


class Link:
    """One connection to a server, and where its conversation stands."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.kept_until = 0.0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER_HEAD_BYTES)
        self._heard = False

    async def ask(self, request: Request, interim: Interim, done: Callable[[], None]) -> Answer:
        """Sends a request, and returns once the head of the answer is there.

        Args:
            request: The request.
            interim: As for `Sender.send`.
            done: Called once the answer has been closed, or the connection has become another.

        Raises:
            NoAnswerError: The connection ended before anything of an answer.
            Refused: What came is none.
            ClientGoneError: The request's body broke off.
        """
        pump: asyncio.Task[None] | None = None
        try:
            try:
                self._heard = False
                # What `te` offers is for one connection; without it, no trailers are lost that anybody needs.
                fields = [field for field in request.fields if field[0] != b"te"]
                await self._send(h11.Request(method=request.method, target=request.target, headers=fields))
                if request.has_body:
                    pump = asyncio.create_task(self._pump(request))
                else:
                    await self._send(h11.EndOfMessage())
                event = await self.next()
                while isinstance(event, h11.InformationalResponse) and event.status_code != 101:
                    await interim(event.status_code, passed_on(list(event.headers)))
                    event = await self.next()
            except (OSError, TimeoutError, h11.ProtocolError):
                if pump is not None and pump.done() and not pump.cancelled() and (cause := pump.exception()):
                    raise cause from None
                if not self._heard:
                    raise NoAnswerError from None
                raise Refused(BAD_GATEWAY, "the server gave no answer that can be read.") from None
            if isinstance(event, h11.InformationalResponse):
                return self._upgraded(event)
            if not isinstance(event, h11.Response):
                raise NoAnswerError if not self._heard else Refused(BAD_GATEWAY, "the answer ended early.")
            return self._answer(event, pump, done)
        except BaseException:
            if pump is not None:
                pump.cancel()
            self.wire.reset()
            raise

    def abandon(self) -> None:
        """Ends it unused."""
        self.wire.reset()

    async def next(self) -> h11.Event | type[h11.PAUSED]:
        """Waits for the next event."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            data = await self.wire.receive(IDLE_S)
            self._heard = self._heard or bool(data)
            self._http.receive_data(data)
        return event  # type: ignore[return-value]

    def renew(self) -> bool:
        """Makes ready for another request. False when the connection cannot take one."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def _answer(
        self, event: h11.Response, pump: asyncio.Task[None] | None, done: Callable[[], None]
    ) -> Answer:
        names = [name for name, _ in event.headers]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise Refused(BAD_GATEWAY, "the length of the server's answer is ambiguous.")

        async def close() -> None:
            try:
                if pump is not None:
                    pump.cancel()  # The answer may come before the body has been wanted.
                    await asyncio.gather(pump, return_exceptions=True)
            finally:
                done()

        fields = passed_on(list(event.headers))
        return Answer(event.status_code, bytes(event.reason), fields, AnswerBody(self), close)

    def _upgraded(self, event: h11.InformationalResponse) -> Answer:
        first, _ = self._http.trailing_data

        async def close() -> None:
            self.wire.close()

        fields = [*passed_on(list(event.headers)), (b"connection", b"upgrade"), (b"upgrade", WEBSOCKET)]
        return Answer(101, bytes(event.reason), fields, Whole(), close, Leftover(self.wire, first))

    async def _pump(self, request: Request) -> None:
        try:
            async for chunk in request.body.chunks():
                await self._send(h11.Data(data=chunk))
            await self._send(h11.EndOfMessage(headers=request.body.trailers))
        except (ClientGoneError, Refused):
            self.wire.reset()  # Before whoever waits for the answer hears of it: half a request is none.
            raise
        except (OSError, TimeoutError, h11.LocalProtocolError):
            pass  # The server takes no more of it; its answer, which may say why, is still to come.

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self.wire.send(data, IDLE_S)


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

    async def receive(self, patience_s: float | None = None) -> bytes:
        """Gives that first."""
        if self._first:
            first, self._first = self._first, b""
            return first
        return await self._wire.receive(patience_s)

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return bool(self._first) or self._wire.stale


def passed_on(fields: Fields) -> Fields:
    """Lists the fields of an answer that concern more than one connection."""
    named = {
        word.strip().lower() for name, value in fields if name == b"connection" for word in value.split(b",")
    }
    dropped = HOP_BY_HOP | named | {b"transfer-encoding"}
    return [(bytes(name), bytes(value)) for name, value in fields if name not in dropped]
