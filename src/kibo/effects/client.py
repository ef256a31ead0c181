"""The box's side: reads requests one after the other from a connection, and writes answers to them.

Heads are read strictly by `http_head` before h11, which knows where bodies end, sees them: h11 forgives what two
programs might read differently. What is passed on is written anew from what was understood.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

import h11

from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, ClientGoneError, Fields
from kibo.effects.http2_frames import PREFACE
from kibo.effects.http_head import Head, HeadError
from kibo.effects.wires import Wire

MAX_HEAD_BYTES: Final = 64 * 1024  # Twice what browsers and servers agree on, cookies and all.
HEAD_S: Final = 30.0  # From a head's first byte to its last.
KEPT_S: Final = 120.0  # Between two requests.
IDLE_S: Final = 300.0
#: What is read of a body that nobody wants, so that the page that says so arrives before the connection is reset.
LINGER_BYTES: Final = 1024 * 1024
LINGER_S: Final = 2.0


class Client:
    """One connection from a box, in the clear or within TLS."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._buffer = b""
        self._ahead = b""
        self._http = _conversation()
        self.trailers: Fields = []

    async def head(self) -> Head | None:
        """Waits for the next request. None when the connection ends instead.

        Raises:
            Refused: What came is no request that can be trusted.
            TimeoutError: It came too slowly.
            OSError: The connection broke.
        """
        end, checked = -1, 0
        async with asyncio.timeout(HEAD_S if self._buffer else KEPT_S) as patience:
            while (end := self._buffer.find(b"\r\n\r\n", checked)) < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise _too_large()
                checked = max(0, len(self._buffer) - 3)
                data = await self.wire.receive()
                if not data:
                    if self._buffer:
                        raise ConnectionResetError("the request broke off")
                    return None
                if not self._buffer:
                    patience.reschedule(asyncio.get_running_loop().time() + HEAD_S)
                self._buffer += data
        if end > MAX_HEAD_BYTES:
            raise _too_large()
        return self._begin(end + 4)

    def _begin(self, end: int) -> Head:
        self._http, self.trailers = _conversation(), []
        if self._buffer.startswith(PREFACE[:end]):
            raise Refused(
                "505 HTTP Version Not Supported",
                "HTTP/2 is spoken within TLS alone, where a client offers it there (ALPN). Ask by https://, or speak "
                "HTTP/1.1.",
            )
        try:
            head = Head.parse(self._buffer[:end])
            if head.tunnel:
                self._buffer = self._buffer[end:]
                return head
            head.body_length()
            self._http.receive_data(self._buffer)
            self._buffer = b""
            self._http.next_event()
        except (HeadError, h11.RemoteProtocolError) as error:
            raise Refused("400 Bad Request", str(error)) from None
        return head

    @property
    def pending(self) -> bytes:
        """What came after a head that asks for a tunnel."""
        return self._buffer

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives the request's body.

        Raises:
            ClientGoneError: It broke off.
            Refused: It is malformed.
        """
        ended = False
        while True:
            try:
                while (event := self._http.next_event()) is h11.NEED_DATA:
                    data = await self.wire.receive(IDLE_S)
                    ended = ended or not data
                    self._http.receive_data(data)
            except (OSError, TimeoutError) as error:
                raise ClientGoneError(str(error)) from None
            except h11.RemoteProtocolError as error:
                if ended:
                    raise ClientGoneError(str(error)) from None
                raise Refused("400 Bad Request", f"The body is malformed: {error}.") from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.trailers = [(bytes(name), bytes(value)) for name, value in event.headers]
                return
            else:
                raise ClientGoneError("the request broke off")

    async def skip_body(self) -> None:
        """Reads the end of a request that has no body, so that the next one can follow."""
        async for _ in self.chunks():
            raise ClientGoneError("a body where none was announced")

    async def gone(self) -> None:
        """Waits until the box's side has ended. One that sends no more is taken for gone, as other proxies do: whether
        it still listens cannot be seen. Another request that it sends ahead is kept for its turn.
        """
        with contextlib.suppress(OSError):
            while len(self._ahead) <= MAX_HEAD_BYTES:
                data = await self.wire.receive()
                if not data:
                    return
                self._ahead += data
            await asyncio.get_running_loop().create_future()  # that much is enough, and it is there

    async def interim(self, status: int, fields: Fields) -> None:
        """Passes an interim answer on."""
        if self._http.our_state is h11.SEND_RESPONSE:
            await self._send(h11.InformationalResponse(status_code=status, headers=fields))

    async def answer(self, answer: Answer) -> None:
        """Passes an answer on, as it comes.

        Raises:
            OSError: One of the sides broke. The box's must be reset, so that half an answer is not taken for one.
        """
        head = h11.Response(status_code=answer.status, reason=answer.reason, headers=answer.fields)
        await self._send(head)
        async for chunk in answer.body.chunks():
            await self._send(h11.Data(data=chunk))
        await self._send(h11.EndOfMessage(headers=answer.body.trailers))

    async def switch(self, answer: Answer) -> bytes:
        """Passes on that the connection becomes another; returns what the box has sent of that already."""
        await self._send(
            h11.InformationalResponse(status_code=101, reason=answer.reason, headers=answer.fields)
        )
        return bytes(self._http.trailing_data[0]) + self._ahead

    def next(self) -> bool:
        """Makes ready for another request. False when the connection has to end."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        ahead, ended = self._http.trailing_data
        self._buffer, self._ahead = bytes(ahead) + self._ahead, b""
        return bool(self._buffer) or not ended

    async def refuse(self, refusal: Refused) -> None:
        """Answers with a page of our own, and ends the connection."""
        page = refusal.page()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.wire.send(page)
                await self.end()

    async def end(self) -> None:
        """Says that nothing more comes, and hears the other side out for a moment."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.wire.finish()
                read = 0
                while read < LINGER_BYTES and (data := await self.wire.receive()):
                    read += len(data)

    async def _send(self, event: h11.Event) -> None:
        try:
            data = self._http.send(event)
        except h11.LocalProtocolError as error:
            # The server's answer is one that cannot be written: longer than it says, say.
            raise ConnectionResetError(str(error)) from None
        if data:
            await self.wire.send(data, IDLE_S)


def _conversation() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES + 4)


def _too_large() -> Refused:
    return Refused("431 Request Header Fields Too Large", f"more than {MAX_HEAD_BYTES} bytes.")
