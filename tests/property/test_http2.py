"""The gateway's reading of HTTP/2, against whatever a box or a server may send."""

from __future__ import annotations

import asyncio
import itertools

import hpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kibo.box.policy import Allow
from kibo.effects import http2_client
from kibo.effects.destinations import Refused
from kibo.effects.exchange import Answer, Fields, Request, Whole
from kibo.effects.http2 import TABLE_BYTES, Connection
from kibo.effects.http2_client import StreamClient
from kibo.effects.http2_fields import read_answer, read_head
from kibo.effects.http2_frames import HEAD_BYTES, MAX_FRAME_BYTES, PREFACE, Frames, FramesError
from kibo.effects.http2_link import SharedLink
from kibo.effects.http_head import Head, HeadError
from kibo.effects.link import NoAnswerError

pytestmark = pytest.mark.property


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


frames = st.builds(
    frame,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25, 0xFF]),
    st.sampled_from([0, 1, 1, 1, 3, 2, 5, 0x7FFFFFFF]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [bytes(4), bytes(8), b"\0\0\0\1", b"\0\4\0\0\0\0", b"\0\1\xff\xff\xff\xff", bytes(600)]
        ),
        st.builds(
            lambda more: hpack.Encoder().encode(
                [
                    (":method", "POST"),
                    (":scheme", "https"),
                    (":authority", "a.example"),
                    (":path", "/"),
                    *more,
                ]
            ),
            st.lists(
                st.tuples(
                    st.sampled_from(["x-a", "content-length", "te", "host", ":path"]), st.sampled_from("015")
                ),
                max_size=2,
            ),
        ),
    ),
)
streams_of_frames = st.lists(st.one_of(frames, frames, st.binary(max_size=12)), max_size=12).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks) if a < b]


def counted(pieces: list[bytes]) -> tuple[bytes, object, object]:
    """What is handed on of pieces, how that ended, and what was said of the end."""
    counting, handed = Frames(0.0, preface=True), b""
    try:
        for piece in pieces:
            for each in counting.feed(piece, 0.0):
                handed += each
            assert len(counting._held) < HEAD_BYTES + MAX_FRAME_BYTES
    except FramesError as error:
        return b"", error.code, None
    return handed, None, counting.goaway


@given(streams_of_frames, st.lists(st.integers(0, 4000), max_size=6))
def test_frames_are_counted_alike_however_they_are_cut(data: bytes, places: list[int]) -> None:
    data = PREFACE + data
    whole, error, goaway = counted([data])
    handed, error_in_pieces, goaway_in_pieces = counted(cut(data, places))
    assert (error, goaway) == (error_in_pieces, goaway_in_pieces)
    # Of the last frame's head, more may have come than is handed on.
    assert handed == whole


class Fed:
    """A wire that gives what a box sends, in pieces."""

    stale = False

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.sent = b""
        self.finished = False

    async def receive(self, patience_s: float | None = None) -> bytes:
        await asyncio.sleep(0)
        return self._pieces.pop(0) if self._pieces else b""

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        self.sent += data

    async def finish(self) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


async def _nothing() -> None: ...


async def answer(client: StreamClient) -> None:
    """Answers as the door does, for a server that repeats what it is told."""
    try:
        head = client.head()
        if head.body_length() == 0:
            await client.skip_body()
        body = b"".join([chunk async for chunk in client.chunks()])
        said = Answer(200, b"", [(b"x-is", head.target.encode())], Whole(body, client.trailers), _nothing)
        await client.answer(said)
    except Refused as refusal:
        await client.refuse(refusal)


@example(frame(5, 4, 1, bytes(3) + b"\2"), [])  # a push, from a client
@given(streams_of_frames, st.lists(st.integers(0, 4000), max_size=6))
def test_whatever_comes_on_a_connection_ends_it_at_most(data: bytes, places: list[int]) -> None:
    async def serve() -> None:
        async with asyncio.timeout(5):
            await http2_client.serve(Fed(cut(PREFACE + data, places)), answer)

    asyncio.run(serve())


PAGE = Request(
    Allow("a.example"),
    True,
    "a.example",
    443,
    b"GET",
    b"/",
    [(b"host", b"a.example")],
    Whole(),
    has_body=False,
)
answers = st.builds(
    frame,
    st.sampled_from([0, 1, 1, 3, 4, 5, 6, 7, 8, 9]),
    st.sampled_from([0, 1, 4, 5, 5, 8, 0x20]),
    st.sampled_from([0, 1, 1, 1, 2, 3]),
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from([bytes(4), bytes(8), b"\0\0\0\1", b"\x88", b"\x88\x0f\x0d\x015"]),
        st.sampled_from([b"\x08\x03103", b"\x08\x03101"]),
    ),
)


@given(st.lists(answers, max_size=8).map(b"".join), st.lists(st.integers(0, 400), max_size=4))
def test_whatever_a_server_says_is_an_answer_or_is_none(data: bytes, places: list[int]) -> None:
    async def ask() -> None:
        link = SharedLink(Fed(cut(frame(4, 0, 0, b"") + data, places)), 1.0)

        async def heard(status: int, _: Fields) -> None:
            assert 100 <= status < 200

        async with asyncio.timeout(5):
            try:
                answer = await link.ask(PAGE, heard, lambda: None)
                assert 200 <= answer.status < 1000
                async for _ in answer.body.chunks():
                    pass
                await answer.close()
            except (NoAnswerError, Refused, ConnectionError):
                pass  # it said nothing that can be read
            await link._reading

    asyncio.run(ask())


def test_a_peer_cannot_have_the_gateway_remember_more_of_it_than_it_likes() -> None:
    unknown = b"".join(number.to_bytes(2) + bytes(4) for number in range(100, 2600))

    async def serve() -> None:
        wire = Fed([PREFACE + frame(4, 0, 0, b"\0\1\xff\xff\xff\xff") + frame(4, 0, 0, unknown)])
        connection = Connection(wire, client=False, window_bytes=1 << 16, idle_s=1.0)
        await connection.run()
        assert connection._http.remote_settings.header_table_size == 0xFFFFFFFF
        assert connection._http.encoder.header_table_size == TABLE_BYTES
        assert len(connection._http.remote_settings) < 10

    asyncio.run(serve())


NAMES = [
    b":method",
    b":path",
    b":scheme",
    b":authority",
    b":protocol",
    b"host",
    b"content-length",
    b"x-a",
    b"cookie",
]
NAMES += [b"X-A", b"x a", b"", b"transfer-encoding", b"connection", b"te", b"x-original-url", b":x"]
VALUES = [
    b"GET",
    b"CONNECT",
    b"/",
    b"/a?b",
    b"*",
    b"https",
    b"http",
    b"a.example",
    b"a.example:444",
    b"0",
    b"5",
    b"",
]
VALUES += [
    b"a b",
    b"a\r\nb: c",
    b"\0",
    b"\xff",
    b" a ",
    b"https://b.example/",
    b"trailers",
    b"u@a.example",
    b"[::1",
]
usual = st.just(
    [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"a.example"), (b":path", b"/")]
)
some = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)), max_size=5)


@given(st.one_of(some, st.builds(lambda a, b: a + b, usual, some)), st.booleans())
def test_a_head_is_refused_or_is_what_the_same_request_is_in_http_1_1(
    fields: list[tuple[bytes, bytes]], ended: bool
) -> None:
    try:
        head = read_head(fields, ended=ended)
        head.check_origin("a.example", 443, secure=True)
        head.body_length()
    except HeadError:
        return
    written = b"%b %b HTTP/1.1\r\n" % (head.method, head.target.encode())
    written += b"".join(b"%b: %b\r\n" % field for field in head.fields) + b"\r\n"
    assert Head.parse(written) == head
    assert len(head.values(b"host")) == 1
    assert (head.body_length() == 0) or not ended


@given(some)
def test_an_answer_has_a_status_or_is_none(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="its status is none"):
        read_answer(fields)
    status, kept = read_answer([(b":status", b"204"), *fields])
    assert status == 204
    assert not any(name.startswith(b":") for name, _ in kept)
