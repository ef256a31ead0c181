"""The gateway's reading of requests, against whatever a box may send."""

import asyncio
import itertools
import ssl

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kibo.effects.admission import host_field
from kibo.effects.client import Client
from kibo.effects.destinations import Refused
from kibo.effects.exchange import ClientGoneError
from kibo.effects.hello import HelloError, server_name, whole
from kibo.effects.http_head import Head, HeadError, SecretValue

pytestmark = pytest.mark.property

PIECES = [
    *(
        b"GET POST CONNECT http:// https:// shop.example :80 :443 : / // ? # @ \\ [::1] [ ] %00 %0d%0a".split()
    ),
    *(
        b"HTTP/1.1 HTTP/1.0 HTTP/2 Host: Host Content-Length: Transfer-Encoding: chunked Connection: close".split()
    ),
    *(b"kibo-secret-A Content-Type: application/json 1 -1 1e3".split()),
    *(b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"\x85", "é".encode(), b"\r\n\r\n"),
]
SECRETS = [SecretValue("kibo-secret-A", "one\r\nX: two", ("shop.example",))]
heads = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)), max_size=25).map(b"".join)
likely = st.builds(
    lambda middle: b"GET http://shop.example/" + middle + b"\r\n\r\n",
    st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join),
)


@given(st.one_of(heads, likely))
def test_whatever_is_sent_is_refused_or_leaves_as_one_request_for_the_host_that_was_checked(
    data: bytes,
) -> None:
    try:
        head = Head.parse(data)
        host, port = head.destination()
        head.body_length()
    except HeadError:
        return
    if head.tunnel:
        return
    filled, _ = head.fill(SECRETS, b"")
    fields = filled.outgoing(host_field(filled, host, port, secure=False))
    try:
        request = h11.Request(method=filled.method, target=filled.path(), headers=fields)
    except h11.LocalProtocolError:
        return  # what h11 will not send is refused
    sent = h11.Connection(h11.CLIENT).send(request)
    assert sent is not None
    lines = sent.split(b"\r\n")
    assert sent.endswith(b"\r\n\r\n")
    assert lines[-2:] == [b"", b""]
    assert b"" not in lines[:-2]
    assert not any(c in line for line in lines for c in (b"\r", b"\n", b"\0"))
    hosts = [line for line in lines[1:] if line.lower().startswith(b"host:")]
    assert len(hosts) == 1
    assert hosts[0].lower().rstrip(b".").startswith(f"host: {host}".encode()) or host.startswith("::")
    assert 0 < port < 65536
    assert len(lines[0].split(b" ")) == 3


class Fed:
    """A wire that gives what a box sends, in pieces."""

    stale = False

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""

    async def receive(self, patience_s: float | None = None) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def send(self, data: bytes, patience_s: float | None = None) -> None:
        self.sent += data

    async def finish(self) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...


async def read(pieces: list[bytes]) -> list[object]:
    """Reads all requests and bodies that the pieces hold, and how that ended."""
    found: list[object] = []
    client = Client(Fed(pieces))
    try:
        while (head := await client.head()) is not None:
            found.append(head)
            if head.tunnel:
                return found
            found.append(b"".join([chunk async for chunk in client.chunks()]))
            found.append(client.trailers)
            client._http.send(h11.Response(status_code=200, headers=[(b"content-length", b"0")]))
            client._http.send(h11.EndOfMessage())
            if not client.next():
                return found
    except (Refused, ClientGoneError, OSError) as error:
        found.append(type(error))
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks)]


requests = st.builds(
    lambda method, framing, rest: (
        method + b" / HTTP/1.1\r\nHost: shop.example\r\n" + framing + b"\r\n" + b"".join(rest)
    ),
    st.sampled_from([b"GET", b"POST"]),
    st.sampled_from(
        [
            b"",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            b"Content-Length: 3, 3\r\n",
            b"Transfer-Encoding : chunked\r\n",
            b"Transfer-Encoding: xchunked\r\n",
        ]
    ),
    st.lists(
        st.sampled_from(
            [
                b"3\r\nabc\r\n",
                b"0\r\n\r\n",
                b"0\r\nX: 1\r\n\r\n",
                b"3;x=1\r\nabc\r\n",
                b"-3\r\n",
                b"abc",
                b"\r\n",
                b"GET /two HTTP/1.1\r\nHost: shop.example\r\n\r\n",
                b"ffffffffffffffffffffffff\r\n",
                b"3\nabc\n",
            ]
        ),
        max_size=5,
    ),
)


@given(
    st.lists(st.one_of(requests, heads), max_size=3).map(b"".join),
    st.lists(st.integers(min_value=0, max_value=2000), max_size=6),
)
def test_how_the_bytes_are_cut_into_pieces_changes_nothing(data: bytes, places: list[int]) -> None:
    assert asyncio.run(read(cut(data, places))) == asyncio.run(read([data]))


@given(requests)
def test_a_body_is_never_taken_for_a_request_nor_a_request_for_a_body(data: bytes) -> None:
    found = asyncio.run(read([data]))
    if not found or not isinstance(found[0], Head):
        return
    length = found[0].body_length()
    if len(found) > 2:
        assert length is None or found[1] == data.partition(b"\r\n\r\n")[2][:length]


def hello(name: str | None) -> bytes:
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname = False
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@given(st.integers(min_value=0), st.binary(max_size=4), st.integers(min_value=0))
def test_a_first_message_of_tls_is_read_or_refused_whatever_was_done_to_it(
    place: int, put: bytes, end: int
) -> None:
    data = hello("shop.example")
    place %= len(data)
    changed = (data[:place] + put + data[place + len(put) :])[: end % (len(data) + 1) or None]
    try:
        message = whole(changed)
        if message is not None:
            server_name(message)
    except HelloError:
        pass
    assert server_name(whole(data) or b"") == "shop.example"
    assert server_name(whole(hello(None)) or b"") is None


@given(st.lists(st.integers(min_value=1, max_value=600), max_size=5))
def test_a_first_message_of_tls_may_come_in_several_records(sizes: list[int]) -> None:
    message, records = hello("shop.example")[5:], b""
    for size in [*sizes, len(message)]:
        part, message = message[:size], message[size:]
        records += b"\x16\x03\x01" + len(part).to_bytes(2) + part if part else b""
    joined = whole(records)
    assert joined is not None
    assert server_name(joined) == "shop.example"
    assert whole(records[:-1]) is None
