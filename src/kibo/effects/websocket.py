"""The frames of a WebSocket (RFC 6455, section 5.2) as a server sends them, without values of secrets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from kibo.effects.notations import Replacing, Table, replaced
from kibo.effects.wires import CHUNK_BYTES, Wire

_LAST: Final = 0x80
_RESERVED: Final = 0x70  # of extensions, such as compression, which nobody has agreed on
_MASKED: Final = 0x80  # what a server never does
_KIND: Final = 0x0F
_CONTINUED: Final = 0x0
_MESSAGES: Final = (0x1, 0x2)
_CONTROLS: Final = (0x8, 0x9, 0xA)
MAX_CONTROL_BYTES: Final = 125


class FramesError(Exception):
    """They are not what a server may send; the text says why."""


class Frames:
    """Reads frames as they come, and writes them without values.

    What comes in a frame of up to `CHUNK_BYTES` leaves in one. A longer one leaves in several, so that it need not be
    kept. A value is found wherever frames cut it, and what it may have begun with waits for the next frame.

    Args:
        table: What to take out.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._buffer = b""
        #: Of the message that has begun, and what its next frame is to be called.
        self._replacing: Replacing | None = None
        self._kind = _CONTINUED
        #: Of the frame that has begun: what is still to come of it, and its first byte.
        self._left: int | None = None
        self._first = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Takes a piece; gives frames.

        Raises:
            FramesError: It is malformed, or cannot be looked into.
        """
        self._buffer += data
        while self._left is not None or self._begin():
            assert self._left is not None
            length = min(self._left, CHUNK_BYTES)
            if len(self._buffer) < length:
                return
            piece, self._buffer = self._buffer[:length], self._buffer[length:]
            self._left -= length
            ended = self._left == 0
            if ended:
                self._left = None
            if self._first & _KIND in _CONTROLS:
                yield _frame(self._first, replaced(piece, self._table)[:MAX_CONTROL_BYTES])
            else:
                yield from self._pass(piece, last=ended and bool(self._first & _LAST))

    def _begin(self) -> bool:
        """Reads how a frame begins. False where it is not all there."""
        if len(self._buffer) < 2:
            return False
        first, second = self._buffer[:2]
        more = {126: 2, 127: 8}.get(second & ~_MASKED, 0)
        if len(self._buffer) < 2 + more:
            return False
        length = int.from_bytes(self._buffer[2 : 2 + more]) if more else second & ~_MASKED
        self._check(first, second, length)
        if first & _KIND in _MESSAGES:
            self._replacing, self._kind = Replacing(self._table), first & _KIND
        self._buffer = self._buffer[2 + more :]
        self._left, self._first = length, first
        return True

    def _check(self, first: int, second: int, length: int) -> None:
        kind = first & _KIND
        if first & _RESERVED:
            raise FramesError("a frame has an extension that nobody has agreed on")
        if second & _MASKED:
            raise FramesError("a server's frame is masked")
        if kind in _CONTROLS:
            if length > MAX_CONTROL_BYTES or not first & _LAST:
                raise FramesError("a control frame is too long, or in parts")
        elif kind not in (_CONTINUED, *_MESSAGES) or length >> 63:
            raise FramesError("a frame is of no kind, or longer than any")
        elif (kind == _CONTINUED) != (self._replacing is not None):
            raise FramesError("a message begins within another, or goes on before it has begun")

    def _pass(self, piece: bytes, *, last: bool) -> Iterator[bytes]:
        replacing = self._replacing
        assert replacing is not None
        clean = replacing.feed(piece)
        if last:
            clean += replacing.end()
            self._replacing = None
        if clean or last:
            yield _frame((_LAST if last else 0) | self._kind, clean)
            self._kind = _CONTINUED


def _frame(first: int, data: bytes) -> bytes:
    length = len(data)
    if length < 126:
        head = bytes([first, length])
    elif length < 1 << 16:
        head = bytes([first, 126]) + length.to_bytes(2)
    else:
        head = bytes([first, 127]) + length.to_bytes(8)
    return head + data


class RedactedWire:
    """A server's end of a WebSocket, of which nobody receives a value."""

    def __init__(self, wire: Wire, table: Table) -> None:
        self._wire = wire
        self._frames = Frames(table)
        self.send, self.finish = wire.send, wire.finish
        self.reset, self.close = wire.reset, wire.close

    async def receive(self) -> bytes:
        """Receives whole frames, or a part of a long one.

        Raises:
            OSError: The connection broke, or cannot be looked into.
        """
        try:
            while data := await self._wire.receive():
                if frames := b"".join(self._frames.feed(data)):
                    return frames
        except FramesError as error:
            raise ConnectionResetError(str(error)) from None
        return b""

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return self._wire.stale
