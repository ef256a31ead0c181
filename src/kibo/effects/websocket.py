"""The frames of a WebSocket (RFC 6455, section 5.2): what a server sends without values of secrets, and what a box
sends with them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from kibo.effects.http_head import SecretValue, as_json
from kibo.effects.notations import Replacing, Table, replaced
from kibo.effects.wires import CHUNK_BYTES, Wire

_LAST: Final = 0x80
_RESERVED: Final = 0x70  # of extensions, such as compression, which nobody has agreed on
_MASKED: Final = 0x80  # what a client always does, and a server never
_KIND: Final = 0x0F
_CONTINUED: Final = 0x0
_TEXT: Final = 0x1
_MESSAGES: Final = (0x1, 0x2)
_CONTROLS: Final = (0x8, 0x9, 0xA)
MAX_CONTROL_BYTES: Final = 125


class FramesError(Exception):
    """They are not what this side may send; the text says why."""


class Frames:
    """Reads frames of one side as they come, and writes them with something else in place of what a table names.

    What comes in a frame of up to `CHUNK_BYTES` leaves in one. A longer one leaves in several, so that it need not be
    kept. What is replaced is found wherever frames cut it, and what it may have begun with waits for the next frame.

    Args:
        table: What to put in the place of what.
        masked: Whether the side is a client's, which masks what it sends.
    """

    def __init__(self, table: Table, *, masked: bool = False) -> None:
        self._table = table
        self._masked = masked
        self._buffer = b""
        #: Of the message that has begun, and what its next frame is to be called.
        self._open = False
        self._replacing: Replacing | None = None
        self._kind = _CONTINUED
        #: Of the frame that has begun: what is still to come of it, and its first byte.
        self._left: int | None = None
        self._first = 0
        self._mask = b""

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
            if self._masked:
                piece = _masked(piece, self._mask)  # the rest of a frame begins where the mask does, too
            self._left -= length
            ended = self._left == 0
            if ended:
                self._left = None
            if self._first & _KIND in _CONTROLS:
                clean = piece if self._masked else replaced(piece, self._table)[:MAX_CONTROL_BYTES]
                yield self._frame(self._first, clean)
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
        masks = 4 if self._masked else 0
        if len(self._buffer) < 2 + more + masks:
            return False
        if first & _KIND in _MESSAGES:
            self._open, self._kind = True, first & _KIND
        self._mask = self._buffer[2 + more :][:masks]
        self._buffer = self._buffer[2 + more + masks :]
        self._left, self._first = length, first
        return True

    def _check(self, first: int, second: int, length: int) -> None:
        kind = first & _KIND
        if first & _RESERVED:
            raise FramesError("a frame has an extension that nobody has agreed on")
        if bool(second & _MASKED) != self._masked:
            raise FramesError(
                f"a {'client' if self._masked else 'server'}'s frame is {'not ' * self._masked}masked"
            )
        if kind in _CONTROLS:
            if length > MAX_CONTROL_BYTES or not first & _LAST:
                raise FramesError("a control frame is too long, or in parts")
        elif kind not in (_CONTINUED, *_MESSAGES) or length >> 63:
            raise FramesError("a frame is of no kind, or longer than any")
        elif (kind == _CONTINUED) != self._open:
            raise FramesError("a message begins within another, or goes on before it has begun")

    def _pass(self, piece: bytes, *, last: bool) -> Iterator[bytes]:
        if (replacing := self._replacing) is None:
            self._replacing = replacing = Replacing(self._table_of(piece))
        clean = replacing.feed(piece)
        if last:
            clean += replacing.end()
            self._open, self._replacing = False, None
        if clean or last:
            yield self._frame((_LAST if last else 0) | self._kind, clean)
            self._kind = _CONTINUED

    def _table_of(self, piece: bytes) -> Table:
        """Returns what is replaced in a message that begins so."""
        return self._table

    def _frame(self, first: int, data: bytes) -> bytes:
        length, masked = len(data), _MASKED if self._masked else 0
        if length < 126:
            head = bytes([first, masked | length])
        elif length < 1 << 16:
            head = bytes([first, masked | 126]) + length.to_bytes(2)
        else:
            head = bytes([first, masked | 127]) + length.to_bytes(8)
        if not self._masked:
            return head + data
        mask = os.urandom(4)
        return head + mask + _masked(data, mask)


class FilledFrames(Frames):
    """Reads what a box sends, and puts values of secrets into its text, in JSON's notation where it is that.

    Args:
        secrets: Those that its server may have.
    """

    def __init__(self, secrets: Sequence[SecretValue]) -> None:
        super().__init__({s.placeholder.encode(): s.value.encode() for s in secrets}, masked=True)
        self._in_json = {s.placeholder.encode(): as_json(s.value).encode() for s in secrets}

    def _table_of(self, piece: bytes) -> Table:
        if self._kind != _TEXT:
            return {}
        return self._in_json if piece.lstrip()[:1] in (b"{", b"[", b'"') else self._table


def _masked(data: bytes, mask: bytes) -> bytes:
    """Masks, or takes the mask off."""
    key = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(len(data))


class RedactedWire:
    """A server's end of a WebSocket, of which nobody receives a value, and which has values where it is sent their
    placeholders.

    Args:
        wire: That end.
        table: What to take out of what it says.
        secrets: What to put into what it is told.
    """

    def __init__(self, wire: Wire, table: Table, secrets: Sequence[SecretValue]) -> None:
        self._wire = wire
        self._frames = Frames(table)
        self._sent = FilledFrames(secrets)
        self.finish, self.reset, self.close = wire.finish, wire.reset, wire.close

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        """Sends the frames that are complete with it, and parts of long ones.

        Raises:
            OSError: The connection broke, or what is sent are no frames.
        """
        try:
            frames = b"".join(self._sent.feed(data))
        except FramesError as error:
            raise ConnectionResetError(str(error)) from None
        if frames:
            await self._wire.send(frames, patience_s)

    async def receive(self, patience_s: float | None = None) -> bytes:
        """Receives whole frames, or a part of a long one.

        Raises:
            OSError: The connection broke, or cannot be looked into.
        """
        try:
            while data := await self._wire.receive(patience_s):
                if frames := b"".join(self._frames.feed(data)):
                    return frames
        except FramesError as error:
            raise ConnectionResetError(str(error)) from None
        return b""

    @property
    def stale(self) -> bool:
        """As the wire itself."""
        return self._wire.stale
