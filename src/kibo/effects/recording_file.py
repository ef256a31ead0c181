"""A recording as one file, which is verified byte by byte before anything of it is believed.

Magic; the bodies, each once, named by the BLAKE2b-256 of what they are; the index, in MessagePack; and at the end where
the index lies, its digest, and magic again. Whatever is cut short has no end, and so is none.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass
from typing import IO, Annotated, Final

import msgspec

from kibo.box.policy import EFFECTS
from kibo.effects.exchange import Fields
from kibo.effects.http_head import HOP_BY_HOP, TOKEN
from kibo.effects.records import write_url
from kibo.model.errors import RecordingInvalid
from kibo.model.limits import MAX_RECORDING_BYTES, MAX_RECORDING_INDEX_BYTES
from kibo.store import crash

BEGIN: Final = b"KIBO-RECORDING-1\n"
END: Final = b"\nKIBO-RECORDING-END\n"
DIGEST_BYTES: Final = 32
_TAIL: Final = struct.Struct(f">QQ{DIGEST_BYTES}s{len(END)}s")
_PIECE_BYTES: Final = 1 << 20
_VALUE: Final = re.compile(rb"[^\x00\r\n]*")
_Size = Annotated[int, msgspec.Meta(ge=0)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]


class Question(msgspec.Struct, frozen=True, array_like=True):
    """What a box asked for, with placeholders where values of secrets were.

    Attributes:
        secure: Whether over TLS.
        host: In lower case.
        port: Of that host.
        method: As sent.
        target: A path with its query.
        fields: Names in lower case; Host first.
        trailers: Fields that came after the body.
        effect: Its class; see `kibo.box.policy.EFFECTS`.
        body: The digest of its body, also of an empty one; None where there was none.
    """

    secure: bool
    host: str
    port: int
    method: bytes
    target: bytes
    fields: Fields
    trailers: Fields
    effect: str
    body: _Digest | None

    @property
    def url(self) -> str:
        """Where it went, as people write it."""
        return write_url(self.secure, self.host, self.port, self.target)


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What was answered.

    Attributes:
        status: The status code.
        reason: The words after it.
        fields: Names in lower case.
        trailers: Fields that came after the body.
        body: The digest of its body; None where there was none.
        whole: Whether that is all of it: else one side went away in the middle.
    """

    status: Annotated[int, msgspec.Meta(ge=200, le=999)]
    reason: bytes
    fields: Fields
    trailers: Fields
    body: _Digest | None
    whole: bool


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A page of the gateway's own that a box got instead: the server could not be reached, say."""

    status: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{2} [ -~]{1,100}$")]
    text: str


class Recorded(msgspec.Struct, frozen=True, array_like=True):
    """One request, and what came of it: a reply, a refusal, or the reason why that was not kept.

    Attributes:
        number: Its place in the order in which requests were made, from 1.
        question: The request.
        reply: What was answered.
        refusal: What the gateway said instead.
        left_out: Why neither was kept; empty where one was.
    """

    number: Annotated[int, msgspec.Meta(ge=1)]
    question: Question
    reply: Reply | None = None
    refusal: Refusal | None = None
    left_out: str = ""


class Index(msgspec.Struct, frozen=True, array_like=True):
    """What a recording has.

    Attributes:
        name: What it was called where it was made.
        created_s: When it was begun, in seconds since 1970.
        bodies: Digest and bytes of each, in the order in which they lie.
        exchanges: In the order in which requests were made.
    """

    name: str
    created_s: float
    bodies: list[tuple[_Digest, _Size]]
    exchanges: list[Recorded]


_INDEX: Final = msgspec.msgpack.Decoder(Index)


@dataclass(frozen=True, slots=True)
class Stored:
    """A recording that is opened for reading. Its bodies stay in its file.

    Attributes:
        index: What it has.
        digest: Names the recording by what it is, as hex.
        total_bytes: Of its file.
        fd: The file.
        places: Where each body lies: its offset and its bytes.
    """

    index: Index
    digest: str
    total_bytes: int
    fd: int
    places: dict[bytes, tuple[int, int]]

    @classmethod
    def read(cls, fd: int, path: str) -> Stored:
        """Reads the index. What it says of bodies is not verified.

        Args:
            fd: The file; stays the caller's.
            path: What to call it in errors.

        Raises:
            RecordingInvalid: It is cut short, damaged, or no recording.
        """
        try:
            return cls._read(fd)
        except _Damage as damage:
            raise RecordingInvalid(f"{path} is no recording: {damage}", details={"path": path}) from None
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RecordingInvalid(f"{path} cannot be read: {why}", details={"path": path}) from None

    @classmethod
    def _read(cls, fd: int) -> Stored:
        size = os.fstat(fd).st_size
        if size < len(BEGIN) + _TAIL.size or os.pread(fd, len(BEGIN), 0) != BEGIN:
            raise _Damage("it does not begin as one")
        at, length, digest, end = _TAIL.unpack(_exactly(fd, _TAIL.size, size - _TAIL.size))
        if end != END or at + length + _TAIL.size != size or at < len(BEGIN):
            raise _Damage("it is cut short, or has grown")
        if length > MAX_RECORDING_INDEX_BYTES:
            raise _Damage(f"its index claims {length} bytes")
        packed = _exactly(fd, length, at)
        if hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest() != digest:
            raise _Damage("its index is damaged")
        try:
            index = _INDEX.decode(packed)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise _Damage(f"its index is malformed: {error}") from None
        return cls(index, digest.hex(), size, fd, _places(index, at))

    def verify(self, path: str) -> None:
        """Sees that every body is what its name says. Reads all of them: a second for a gigabyte.

        Raises:
            RecordingInvalid: One is not.
        """
        try:
            for digest, (at, size) in self.places.items():
                hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
                for done in range(0, size, _PIECE_BYTES):
                    hasher.update(_exactly(self.fd, min(_PIECE_BYTES, size - done), at + done))
                if hasher.digest() != digest:
                    raise _Damage(f"the body {digest.hex()[:12]} in it is damaged")
        except _Damage as damage:
            raise RecordingInvalid(f"{path} is damaged: {damage}", details={"path": path}) from None
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RecordingInvalid(f"{path} cannot be read: {why}", details={"path": path}) from None

    def piece(self, digest: bytes, offset: int, most: int) -> bytes:
        """Reads a piece of a body; empty at its end.

        Raises:
            OSError: It cannot be read, or is there no more.
        """
        at, size = self.places[digest]
        wanted = min(most, size - offset)
        data = os.pread(self.fd, wanted, at + offset) if wanted else b""
        if wanted and not data:
            raise ConnectionResetError("the recording was cut short while it was replayed")
        return data


class _Damage(Exception):
    pass


def _exactly(fd: int, count: int, at: int) -> bytes:
    pieces = []
    while count:
        piece = os.pread(fd, count, at)
        if not piece:
            raise _Damage("it is cut short")
        pieces.append(piece)
        count, at = count - len(piece), at + len(piece)
    return b"".join(pieces)


def _places(index: Index, end: int) -> dict[bytes, tuple[int, int]]:
    """Checks what an index says, and finds where bodies lie."""
    places, at = {}, len(BEGIN)
    for digest, size in index.bodies:
        places[digest] = (at, size)
        at += size
    if at != end or len(places) != len(index.bodies) or at > MAX_RECORDING_BYTES:
        raise _Damage("its bodies are not where its index says")
    if not index.name.isprintable() or len(index.name) > 200:
        raise _Damage("its name is none")
    last = 0
    for each in index.exchanges:
        if each.number <= last:
            raise _Damage("its requests are not in order")
        last = each.number
        _check(each, places)
    return places


def _check(each: Recorded, places: dict[bytes, tuple[int, int]]) -> None:
    """Checks that a request and its answer can be compared and sent as they are."""
    asked, reply = each.question, each.reply
    if asked.effect not in EFFECTS or not TOKEN.fullmatch(asked.method) or not 0 < asked.port < 65536:
        raise _Damage(f"its request {each.number} is none")
    if [reply is not None, each.refusal is not None, bool(each.left_out)].count(True) != 1:
        raise _Damage(f"its request {each.number} has no one answer")
    if asked.body is not None and asked.body not in places:
        raise _Damage(f"the body of its request {each.number} is missing")
    if reply is None:
        return
    names = [name for name, _ in (*reply.fields, *reply.trailers)]
    valid = all(TOKEN.fullmatch(name) and name == name.lower() for name in names)
    valid = valid and HOP_BY_HOP.isdisjoint(names) and b"transfer-encoding" not in names
    valid = valid and all(_VALUE.fullmatch(value) for _, value in (*reply.fields, *reply.trailers))
    if not valid or not _VALUE.fullmatch(reply.reason):
        raise _Damage(f"the answer to its request {each.number} is malformed")
    if reply.body is not None and reply.body not in places:
        raise _Damage(f"the body of the answer to its request {each.number} is missing")
    lengths = [value for name, value in reply.fields if name == b"content-length"]
    if not lengths or is_bodiless(asked.method, reply.status):
        return
    size = 0 if reply.body is None else places[reply.body][1]
    if not reply.whole or lengths != [b"%d" % size]:
        raise _Damage(f"the answer to its request {each.number} is not as long as it says")


def is_bodiless(method: bytes, status: int) -> bool:
    """Whether an answer has no body, whatever it says (RFC 9112, section 6.3)."""
    return method == b"HEAD" or status in (204, 304)


def write_end(out: IO[bytes], at: int, index: bytes) -> None:
    """Writes what makes a recording of bodies: the index, and then the end, by which it is whole.

    Args:
        out: The file, behind the last body.
        at: Where that is, in bytes.
        index: The index, packed.
    """
    crash.point("recording.before_index")
    out.write(index)
    out.flush()
    crash.point("recording.before_end")
    out.write(_TAIL.pack(at, len(index), hashlib.blake2b(index, digest_size=DIGEST_BYTES).digest(), END))
    out.flush()
    crash.point("recording.before_flush")
    os.fsync(out.fileno())
    crash.point("recording.flushed")
