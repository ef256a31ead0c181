"""One stream of HTTP/2, as whoever is busy with it has it: its heads and its body, with back-pressure both ways."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final

from kibo.effects.exchange import Fields
from kibo.effects.http2_frames import NO_ERROR

if TYPE_CHECKING:
    from kibo.effects.http2 import Connection

#: Interim answers that wait to be passed on.
MAX_HEADS: Final = 16
IDLE_S: Final = 300.0  # As for HTTP/1.1: until 64 KiB have been taken, or anything has come.


class ResetError(ConnectionResetError):
    """The other side, or the end of the connection, ended a stream.

    Attributes:
        heard: Whether the other side may have acted on what was sent.
    """

    def __init__(self, text: str, *, heard: bool = True) -> None:
        super().__init__(text)
        self.heard = heard


class Stream:
    """One request and its answer, on a connection.

    Attributes:
        number: As the connection counts.
        trailers: Fields that came at the end; complete when the chunks are.
        ended: Whether the other side has said all that it says.
        broken: Called once when the stream ends otherwise.
    """

    def __init__(self, connection: Connection, number: int) -> None:
        self.number = number
        self.trailers: Fields = []
        self.ended = False
        self.broken: Callable[[], object] | None = None
        self._connection = connection
        self._heads: deque[Fields] = deque()
        self._came: deque[bytes] = deque()
        #: What counts against the window, padding too, and has not been taken.
        self._owed = 0
        self._error: ResetError | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    # -- what comes

    async def head(self) -> Fields:
        """Waits for the next head.

        Raises:
            ResetError: There is none.
            TimeoutError: It did not come in time.
        """
        while not self._heads:
            if self.ended:
                raise ResetError("the answer has no beginning")
            await self._wait(self._news)
        return self._heads.popleft()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Gives the body in pieces, and lets the other side send as much again.

        Raises:
            ResetError: It broke off.
            TimeoutError: It did not go on in time.
        """
        while True:
            if self._owed:
                data = self._came[0] if len(self._came) == 1 else b"".join(self._came)
                self._came.clear()
                owed, self._owed = self._owed, 0
                await self._connection.taken(self, owed)
                if data:
                    yield data
            elif self.ended:
                return
            else:
                await self._wait(self._news)

    async def _wait(self, event: asyncio.Event) -> None:
        if self._error is not None:
            raise self._error
        event.clear()
        async with asyncio.timeout(IDLE_S):
            await event.wait()
        if self._error is not None:
            raise self._error

    # -- what is sent

    async def send_head(self, fields: Fields, *, end: bool = False) -> None:
        """Sends a head, or trailers.

        Raises:
            ResetError: It cannot be sent.
        """
        self._connection.put_head(self, fields, end=end)
        await self._connection.pass_on()

    async def send(self, data: bytes) -> None:
        """Sends a piece of the body, as far as there is room for it, and then the rest.

        Raises:
            ResetError: Nobody takes it any more.
            TimeoutError: It was not taken in time.
        """
        rest = memoryview(data)
        async with asyncio.timeout(IDLE_S):
            while rest:
                count = self._connection.put(self, rest)
                rest = rest[count:]
                if count:
                    await self._connection.pass_on()
                else:
                    await self._wait(self._room)

    async def finish(self, trailers: Fields) -> None:
        """Says that this was all.

        Raises:
            ResetError: Nobody is there to hear it.
        """
        self._connection.put_end(self, trailers)
        await self._connection.pass_on()

    async def close(self, code: int = NO_ERROR) -> None:
        """Ends it: if either side has not said all, with a reset. Safe to repeat."""
        await self._connection.leave(self, code)

    # -- told by the connection

    def heard_head(self, fields: Fields) -> None:
        """Told of a head."""
        self._heads.append(fields)
        self._news.set()

    def heard(self, data: bytes, size: int) -> None:
        """Told of a piece of the body, and what it takes of the window."""
        self._owed += size
        if data:
            self._came.append(data)
        self._news.set()

    def heard_end(self) -> None:
        """Told of the end."""
        self.ended = True
        self._news.set()

    def has_room(self) -> None:
        """Told that a window is larger."""
        self._room.set()

    @property
    def crowded(self) -> bool:
        """Whether more heads wait than anybody needs."""
        return len(self._heads) >= MAX_HEADS

    @property
    def empty(self) -> bool:
        """Whether the other side has said all, and there was no body."""
        return self.ended and not self._came

    @property
    def owed(self) -> int:
        """What counts against the window and has not been taken."""
        return self._owed

    def break_off(self, error: ResetError) -> None:
        """Told that nothing more comes, and nothing is taken."""
        if self._error is None:
            self._error = error
            self._news.set()
            self._room.set()
            if self.broken is not None:
                self.broken()
