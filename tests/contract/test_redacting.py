"""Servers that repeat a secret, and boxes that would have them do so: what reaches the box has the placeholder."""

from __future__ import annotations

import base64
import gzip
import html
import json
import random
import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
import zstandard

from doors import Handler, Proxy, Server, read_until
from kibo.box.policy import Allow, Secret
from kibo.effects.forwarder import Forwarder
from kibo.effects.http_head import SecretValue
from kibo.effects.ledger import Ledger
from kibo.effects.websocket import FilledFrames, Frames, FramesError
from kibo.model.limits import MAX_EFFECT_BODY_BYTES
from kibo.store.database import Store
from web_socket_frames import frame, unframed

pytestmark = pytest.mark.contract

VALUE = 's3cret/v4lue+of "it"'
TOKEN = Secret("TOKEN", hosts=["shop.example"])
PLACE = b"kibo-secret-TOKEN"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redacting")


@pytest.fixture(scope="module")
def gateway(home: Path) -> Iterator[Forwarder]:
    with Forwarder.start(
        home / "authority", {"TOKEN": VALUE}, store=f"sqlite:///{home}/history.db"
    ) as running:
        yield running


@pytest.fixture
def box(gateway: Forwarder) -> Iterator[Callable[[Handler], Proxy]]:
    """Gives boxes that may reach a server as shop.example, whose secret they have, and as other.example."""
    with ExitStack() as stack:

        def serve(handle: Handler) -> Proxy:
            server = Server(handle)
            stack.callback(server.close)
            stack.callback(gateway.stop, "inst_box")
            rules = [Allow(f"{name}.example", to=server.address) for name in ("shop", "other")]
            return Proxy(gateway, "inst_box", list(rules), [TOKEN])

        yield serve


def answering(*parts: bytes) -> Handler:
    """A server that answers a request with these parts, each a packet if the system wants it so."""

    def handle(connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        read_until(connection, b"\r\n\r\n")
        for part in parts:
            connection.sendall(part)

    return handle


def answer(body: bytes, *fields: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"".join(b"%s\r\n" % each for each in fields)
    return b"HTTP/1.1 %s\r\n%scontent-length: %d\r\n\r\n" % (status, head, len(body)) + body


def body_of(said: bytes) -> bytes:
    """The body of an answer, out of its chunks if it has any."""
    head, _, body = said.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole += body[: int(size, 16)]
        body = body[int(size, 16) + 2 :]
    return whole


def spelled(value: str) -> dict[str, bytes]:
    return {
        "plain": value.encode(),
        "percent": quote(value, safe="").encode(),
        "form": quote_plus(value).encode(),
        "json": json.dumps(value)[1:-1].encode(),
        "html": html.escape(value).encode(),
        "basic": base64.b64encode(f"ada:{value}".encode()),
    }


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "identity": lambda data: data,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": zstandard.compress,
}


@pytest.mark.parametrize("how", [*spelled(VALUE)])
@pytest.mark.parametrize("packing", [*PACKINGS])
def test_a_server_that_repeats_a_secret_does_not_give_it_to_the_box(
    box: Callable[[Handler], Proxy], how: str, packing: str
) -> None:
    said = spelled(VALUE)[how]
    packed = PACKINGS[packing](b"<p>" + said + b"</p>")
    fields = [b"x-said: " + said, b"set-cookie: id=" + said, b"location: http://other.example/?t=" + said]
    if packing != "identity":
        fields.append(b"content-encoding: " + packing.encode())
    got = box(answering(answer(packed, *fields))).get("shop.example")
    # Of Base64 what comes before and after the value has a part in the first characters and the last.
    hidden = said[6:-4] if how == "basic" else said
    assert hidden not in got
    assert got.count(PLACE) == 4
    assert body_of(got).startswith(b"<p>")
    assert body_of(got).endswith(b"</p>")
    length = int(got.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    assert length == len(body_of(got))


def test_a_value_in_a_status_an_interim_answer_or_a_trailer_is_taken_out_too(
    box: Callable[[Handler], Proxy],
) -> None:
    value = VALUE.encode()
    got = box(
        answering(
            b"HTTP/1.1 103 Early Hints\r\nlink: <" + value + b">\r\n\r\n"
            b"HTTP/1.1 403 no " + value + b"\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\nno\r\n0\r\nx-why: " + value + b"\r\n\r\n"
        )
    ).get("shop.example")
    assert value not in got
    assert got.count(PLACE) == 3


def test_a_value_is_found_wherever_packets_and_chunks_cut_it(box: Callable[[Handler], Proxy]) -> None:
    value = VALUE.encode()
    pieces = [b"x" * 100, *(value[at : at + 1] for at in range(len(value))), b"y" * 100_000]
    chunks = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    got = box(answering(head, *chunks, b"0\r\n\r\n")).get("shop.example")
    assert body_of(got) == b"x" * 100 + PLACE + b"y" * 100_000


def test_what_a_server_says_bit_by_bit_waits_for_nothing_that_cannot_be_of_a_value(
    box: Callable[[Handler], Proxy],
) -> None:
    heard = threading.Event()

    def slowly(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: one\n\n")
        assert heard.wait(10)
        connection.sendall(b"data: two\n\n")

    with box(slowly).connect() as connection:
        connection.sendall(b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        read_until(connection, b"data: one\n\n")
        heard.set()
        read_until(connection, b"data: two\n\n")


@pytest.mark.parametrize(
    ("coding", "body", "why"),
    [
        (b"br", b"whatever", b"which is not unpacked here"),
        (b"gzip, gzip", b"whatever", b"which is not unpacked here"),
        (b"gzip", b"no gzip", b"incorrect header check"),
        (b"gzip", gzip.compress(b"cut off", mtime=0)[:-9], b"it ends before what is packed in it does"),
        (b"zstd", zstandard.compress(b"cut off")[:-2], b"it ends before what is packed in it does"),
    ],
)
def test_an_answer_that_cannot_be_looked_into_does_not_pass_and_says_why(
    box: Callable[[Handler], Proxy], coding: bytes, body: bytes, why: bytes
) -> None:
    proxy = box(answering(answer(body, b"content-encoding: " + coding)))
    got = proxy.get("shop.example")
    assert got.startswith(b"HTTP/1.1 502 ")
    assert why in got
    assert b"Declare the secret for the hosts alone that need it" in got
    proxy.await_log(why.decode())


def test_the_head_of_an_effects_answer_that_cannot_be_looked_into_tells_what_has_happened(
    box: Callable[[Handler], Proxy], home: Path
) -> None:
    proxy = box(answering(answer(VALUE.encode(), b"content-encoding: br", b"x-said: " + VALUE.encode())))
    with proxy.connect() as connection:
        connection.sendall(
            b"POST http://shop.example/pay HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"
        )
        got = b""
        with pytest.raises(ConnectionResetError):
            while chunk := connection.recv(65536):
                got += chunk
    assert VALUE.encode() not in got
    with closing(Store.open(f"sqlite:///{home}/history.db")) as store:
        (made,) = [each for each in Ledger(store).listed() if each.url.endswith("/pay")]
    assert (made.state, made.status) == ("done", 200)


def test_a_bomb_is_unpacked_as_it_is_read_and_not_ahead(
    box: Callable[[Handler], Proxy], gateway: Forwarder
) -> None:
    def resident_kib() -> int:
        lines = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))

    bomb = gzip.compress(bytes(256 << 20), 9)
    with box(answering(answer(bomb, b"content-encoding: gzip"))).connect() as connection:
        before = resident_kib()
        connection.sendall(b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        taken = 0
        while taken < 32 << 20:
            taken += len(connection.recv(1 << 20))
        assert resident_kib() - before < 32 << 10


def test_parts_of_a_page_are_asked_for_where_no_secret_is_and_the_whole_of_it_elsewhere(
    box: Callable[[Handler], Proxy],
) -> None:
    heads: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        heads.append(read_until(connection, b"\r\n\r\n"))
        connection.sendall(answer(b"whole", b"connection: close"))

    proxy = box(handle)
    ranges = b"range: bytes=0-9\r\nif-range: x\r\nrequest-range: bytes=0-9\r\nx-ms-range: bytes=0-9\r\n"
    for host in (b"shop.example", b"other.example"):
        proxy.send(b"GET http://%b/ HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, host, ranges))
    assert b"range: " not in heads[0]
    assert ranges in heads[1]


class Parts:
    """A server whose page is a value, and that gives parts of it to whoever asks, in whatever way."""

    page = b"<p>" + VALUE.encode() + b"</p>"

    def __init__(self, status: bytes, *fields: bytes) -> None:
        self._status = status
        self._fields = fields

    def __call__(self, connection: socket.socket) -> None:
        head = read_until(connection, b"\r\n\r\n")
        asked = re.search(rb"(?:range: bytes|part)=(\d+)-(\d+)", head)
        first, last = (0, len(self.page) - 1) if asked is None else (int(asked[1]), int(asked[2]))
        part = self.page[first : last + 1]
        whole = asked is None
        place = b"content-range: bytes %d-%d/%d" % (first, last, len(self.page))
        fields = [b"connection: close", *([] if whole else [*self._fields, place])]
        connection.sendall(answer(part, *fields, status=b"200 OK" if whole else self._status))


HALF = 3 + len(VALUE) // 2
HALVES = [(0, HALF), (HALF + 1, len(Parts.page) - 1)]


def has_half(said: bytes) -> bool:
    """Whether so much of a value is in it that two such make one."""
    value = VALUE.encode()
    return any(value[at : at + 6] in said for at in range(len(value) - 6))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("field", ["Range", "range", "Request-Range", "request_range", "X-MS-Range"])
def test_a_value_is_not_had_in_two_halves_by_any_field_that_asks_for_a_part(
    box: Callable[[Handler], Proxy], method: str, field: str
) -> None:
    proxy = box(Parts(b"206 Partial Content"))
    for first, last in HALVES:
        got = proxy.send(
            f"{method} http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n"
            f"{field}: bytes={first}-{last}\r\n\r\n".encode()
        )
        assert b"<p>" + PLACE + b"</p>" in got, "the whole of it, without the value"
        assert not has_half(got)


@pytest.mark.parametrize("field", [b"x-part: 1", b"content-type: multipart/byteranges; boundary=x"])
@pytest.mark.parametrize("status", [b"206 Partial Content", b"200 OK"])
def test_a_part_that_a_server_gives_without_a_range_does_not_pass(
    box: Callable[[Handler], Proxy], status: bytes, field: bytes
) -> None:
    proxy = box(Parts(status, field))
    for first, last in HALVES:
        got = proxy.get("shop.example", f"/?part={first}-{last}")
        assert got.startswith(b"HTTP/1.1 502 ")
        assert b"it is a part of something" in got
        assert not has_half(got)
        with proxy.connect() as connection:
            connection.sendall(
                f"POST http://shop.example/?part={first}-{last} HTTP/1.1\r\nHost: shop.example\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )
            got = b""
            with pytest.raises(ConnectionResetError):
                while chunk := connection.recv(65536):
                    got += chunk
        assert b"kibo-withheld: " in got, "the head of an effect tells what has happened"
        assert not has_half(got)
    for first, last in HALVES:
        assert has_half(proxy.get("other.example", f"/?part={first}-{last}")), "who was never told a secret"


def test_answers_of_hosts_that_know_no_secret_pass_as_they_are(box: Callable[[Handler], Proxy]) -> None:
    packed = gzip.compress(b"a page")
    got = box(answering(answer(packed, b"content-encoding: gzip"))).get("other.example")
    assert b"content-encoding: gzip" in got
    assert got.endswith(packed)


# -- WebSockets


def test_a_websocket_says_no_value_and_has_none_of_its_frames_compressed(
    box: Callable[[Handler], Proxy],
) -> None:
    value = VALUE.encode()
    asked: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        asked.append(read_until(connection, b"\r\n\r\n"))
        connection.sendall(
            b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\nx-said: "
            + value
            + b"\r\n\r\n"
        )
        for part in (
            frame(0x81, b"you are " + value),
            frame(0x02, b"in " + value[:5]) + frame(0x89, value) + frame(0x80, value[5:] + b" parts"),
            frame(0x88, b"\x03\xe8" + value),
        ):
            connection.sendall(part)
        connection.recv(1)

    with box(talk).connect() as connection:
        connection.sendall(
            b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
        )
        got = read_until(connection, b"\x03\xe8" + PLACE)
    assert b"extensions" not in asked[0]
    assert value not in got
    assert unframed(got.partition(b"\r\n\r\n")[2]) == [
        (1, b"you are " + PLACE),
        (9, PLACE),
        (2, b"in " + PLACE + b" parts"),
        (8, b"\x03\xe8" + PLACE),
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (frame(0xC1, b"packed"), "an extension"),
        (b"\x81\x85mask-----", "is masked"),
        (frame(0x89, b"x" * 126), "a control frame is too long"),
        (frame(0x09, b"x"), "a control frame is too long, or in parts"),
        (frame(0x83, b"x"), "of no kind"),
        (frame(0x80, b"x"), "before it has begun"),
        (frame(0x01, b"x") + frame(0x81, b"x"), "begins within another"),
        (b"\x82\xff" + b"\xff" * 8, "is masked"),
        (b"\x82\x7f" + b"\xff" * 8, "longer than any"),
    ],
)
def test_frames_that_no_server_may_send_do_not_pass(said: bytes, why: str) -> None:
    frames = Frames({VALUE.encode(): PLACE})
    with pytest.raises(FramesError, match=why):
        list(frames.feed(said))


@pytest.mark.parametrize(
    ("said", "why"), [(frame(0x81, b"x"), "is not masked"), (frame(0xC1, b"x", b"mask"), "an extension")]
)
def test_frames_that_no_client_may_send_do_not_pass(said: bytes, why: str) -> None:
    frames = FilledFrames([SecretValue("kibo-secret-TOKEN", VALUE, ("shop.example",))])
    with pytest.raises(FramesError, match=why):
        list(frames.feed(said))


# -- what has a length, and what is large


def test_a_download_keeps_its_length_and_a_value_in_it_is_overwritten(
    box: Callable[[Handler], Proxy],
) -> None:
    value = VALUE.encode()
    file = random.Random(1).randbytes(200_000)
    said = file[:65_530] + value + file[65_530:] + value
    got = box(answering(answer(said))).get("shop.example")
    assert b"content-length: %d\r\n" % len(said) in got.lower()
    stars = b"*" * len(value)
    assert body_of(got) == file[:65_530] + stars + file[65_530:] + stars


def test_a_download_that_breaks_off_is_seen_to(box: Callable[[Handler], Proxy]) -> None:
    with box(answering(answer(b"x" * 200_000)[:-1])).connect() as connection:
        connection.sendall(b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


class Taking:
    """A server that keeps the bodies that it is sent."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []

    def __call__(self, connection: socket.socket) -> None:
        head, _, body = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        self.heads.append(head)
        chunked = b"transfer-encoding: chunked" in head
        length = 0 if chunked else int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = bytearray(body)
        while not body.endswith(b"0\r\n\r\n") if chunked else len(body) < length:
            data = connection.recv(1 << 20)
            if not data:
                return  # half a request is none
            body += data
        self.bodies.append(
            body_of(b"\r\ntransfer-encoding: chunked\r\n\r\n" + body) if chunked else bytes(body)
        )
        connection.sendall(answer(b"ok", b"connection: close"))


def post(kind: str, body: bytes, *, chunked: bool = False) -> bytes:
    head = f"POST http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nContent-Type: {kind}\r\n"
    if not chunked:
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    parts = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    return (
        b"".join(
            [
                f"{head}Transfer-Encoding: chunked\r\n\r\n".encode(),
                *(b"%x\r\n%b\r\n" % (len(p), p) for p in parts),
            ]
        )
        + b"0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("application/json", "json"),
        ("application/ld+json; charset=utf-8", "json"),
        ("application/x-www-form-urlencoded", "form"),
        ("application/soap+xml", "html"),
        ("multipart/form-data; boundary=x", "plain"),
        ("text/plain", "plain"),
    ],
)
def test_a_value_is_put_into_text_of_any_length_in_its_notation(
    box: Callable[[Handler], Proxy], kind: str, how: str
) -> None:
    taking = Taking()
    proxy = box(taking)
    body = b"." * 49_990 + PLACE + b"." * 100_000 + PLACE  # across two chunks, too
    wanted = body.replace(PLACE, spelled(VALUE)[how])
    assert b"200 OK" in proxy.send(post(kind, body))
    assert b"200 OK" in proxy.send(post(kind, body, chunked=True))
    assert taking.bodies == [wanted, wanted]


def test_what_is_too_long_to_be_kept_is_filled_as_it_passes_where_its_length_was_not_said(
    box: Callable[[Handler], Proxy],
) -> None:
    taking = Taking()
    proxy = box(taking)
    long = b"." * MAX_EFFECT_BODY_BYTES
    assert b"200 OK" in proxy.send(post("text/plain", long + PLACE + b"." + PLACE, chunked=True))
    assert taking.bodies == [long + VALUE.encode() + b"." + VALUE.encode()]
    # Where it was said, it passes with it, or is refused: a server never gets a placeholder for a value.
    assert b"200 OK" in proxy.send(post("text/plain", long + b"kibo-secret-OTHER"))
    refused = proxy.send(post("text/plain", long + PLACE + b"." * 100_000))
    assert b"Send it in chunks" in refused
    assert len(taking.bodies) == 2


@pytest.mark.parametrize("kind", ["application/octet-stream", "image/png"])
def test_what_is_no_text_passes_as_it_is(box: Callable[[Handler], Proxy], kind: str) -> None:
    taking = Taking()
    box(taking).send(post(kind, b"\0" + PLACE))
    assert taking.bodies == [b"\0" + PLACE]
