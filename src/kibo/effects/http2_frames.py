"""Frames of HTTP/2 as they come, counted before anything is read of them (RFC 9113, section 10.5). Pure.

What is cheap to send and dear to hear of has an allowance that grows with time and with what is sent back: resets,
pings, settings, priorities, windows that open by a byte. Header blocks and frames have a size at most, which is told by
their first bytes. `h2`, which reads frames afterwards, bounds their contents.

GOAWAY is read here: `h2` takes it for the end of everything, while requests that it names as heard are still answered.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
#: What `SETTINGS_MAX_FRAME_SIZE` is where nobody has said anything else, and we do not.
MAX_FRAME_BYTES: Final = 16 * 1024
#: One header block, compressed: it becomes at most as much as HTTP/1.1 may have, and never shrinks by much.
MAX_BLOCK_BYTES: Final = 64 * 1024
#: Frames that are handed on in one piece: some milliseconds of work, after which others have their turn.
FRAMES_A_PIECE: Final = 50

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FRAME_SIZE_ERROR: Final = 0x6
CANCEL: Final = 0x8
ENHANCE_YOUR_CALM: Final = 0xB

#: What frames cost that carry nothing of a message. A page that is left cancels a hundred requests at once.
COSTS: Final = {
    RST_STREAM: 5.0,
    SETTINGS: 20.0,
    GOAWAY: 20.0,
    PING: 1.0,
    PRIORITY: 1.0,
    WINDOW_UPDATE: 1.0,
    CONTINUATION: 1.0,
}
#: Of kinds that nobody here knows: they are ignored.
UNKNOWN_COST: Final = 1.0
#: How much may be spent at once, and what comes back in a second.
ALLOWANCE: Final = 1000.0
A_SECOND: Final = 500.0
#: Bytes that were sent, for which a window may be opened once more: clients do so for every 4 KiB, twice.
BYTES_A_WINDOW: Final = 1024


class FramesError(Exception):
    """The other side does what nobody does who wants an answer.

    Attributes:
        code: What HTTP/2 calls that.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class GoAway(NamedTuple):
    """The other side opens no more streams, and hears of no more.

    Attributes:
        last: The last stream that it has heard of, and may have acted on.
        code: Why.
    """

    last: int
    code: int


class Frames:
    """What comes on one connection.

    Args:
        now: The time, in seconds by any clock.
        preface: Whether what comes begins with a client's preface.
    """

    def __init__(self, now: float, *, preface: bool) -> None:
        #: What the other side has said of its end.
        self.goaway: GoAway | None = None
        self._now = now
        self._left = len(PREFACE) if preface else 0
        self._kind = -1
        self._held = b""
        self._block: int | None = None
        self._allowance = ALLOWANCE
        #: When something began that takes no time to say, and has not ended.
        self.since: float | None = now if preface else None

    def feed(self, data: bytes, now: float) -> Iterator[bytes]:
        """Takes what has come, and gives what is to be read of it, a piece at a time.

        Raises:
            FramesError: It is too much.
        """
        self._earn((now - self._now) * A_SECOND)
        self._now = now
        data, self._held = self._held + data, b""
        at = begin = count = begun = 0
        while at < len(data):
            if self._left:
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            head = data[at : at + HEAD_BYTES]
            if len(head) < HEAD_BYTES:
                break
            length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            self._check(length, kind, flags)
            if kind == GOAWAY:
                frame = data[at : at + HEAD_BYTES + length]
                if len(frame) < HEAD_BYTES + length:
                    break
                if begin < at:
                    yield data[begin:at]
                self._end(frame[HEAD_BYTES:])
                at = begin = at + len(frame)
                continue
            at += HEAD_BYTES
            self._left, self._kind = length, kind
            count, begun = count + 1, begun + 1
            if count == FRAMES_A_PIECE:
                yield data[begin:at]
                begin, count = at, 0
        if begin < at:
            yield data[begin:at]
        self._held = data[at:]
        if self._block is None and not self._held and (not self._left or self._kind == DATA):
            self.since = None
        elif self.since is None or (self._block is None and begun):
            self.since = now

    def sent(self, count: int) -> None:
        """Told of bytes that were sent."""
        self._earn(count / BYTES_A_WINDOW)

    def _earn(self, amount: float) -> None:
        self._allowance = min(ALLOWANCE, self._allowance + amount)

    def _check(self, length: int, kind: int, flags: int) -> None:
        if length > MAX_FRAME_BYTES:
            raise FramesError(FRAME_SIZE_ERROR, f"a frame of {length} bytes is more than {MAX_FRAME_BYTES}")
        if (kind == CONTINUATION) != (self._block is not None):
            raise FramesError(PROTOCOL_ERROR, "a header block is interrupted, or goes on without a beginning")
        if kind in (HEADERS, PUSH_PROMISE, CONTINUATION):
            self._block = (self._block or 0) + length
            if self._block > MAX_BLOCK_BYTES:
                text = f"a header block has more than {MAX_BLOCK_BYTES} bytes"
                raise FramesError(ENHANCE_YOUR_CALM, text)
            if flags & END_HEADERS:
                self._block = None
        empty = kind == DATA and not length and not flags & END_STREAM
        known = kind <= CONTINUATION
        self._allowance -= 1.0 if empty else COSTS.get(kind, 0.0) if known else UNKNOWN_COST
        if self._allowance < 0:
            text = "too many frames that carry nothing of a message: resets, pings, settings, windows"
            raise FramesError(ENHANCE_YOUR_CALM, text)

    def _end(self, payload: bytes) -> None:
        if len(payload) < 8:
            raise FramesError(FRAME_SIZE_ERROR, "a GOAWAY is cut off")
        last = int.from_bytes(payload[:4]) & 0x7FFFFFFF
        if self.goaway is not None:
            last = min(last, self.goaway.last)  # it may be said twice, and then with fewer
        self.goaway = GoAway(last, int.from_bytes(payload[4:8]))
