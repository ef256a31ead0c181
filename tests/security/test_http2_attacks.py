"""What a box or a server may do with HTTP/2 to the gateway, to who is behind it, or to a server: each attack named."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hpack
import pytest
import trustme
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from doors import Proxy, Server, read_until, receive_exactly
from kibo.box.policy import Allow
from kibo.effects.door import MAX_STREAMS as MAX_STREAMS_A_BOX
from kibo.effects.forwarder import Forwarder
from kibo.effects.http2 import MAX_STREAMS
from kibo.effects.http2_frames import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from patience import until
from two_protocols import HOST, Answered, Heard, Program, Said, Shop, program, speaking

pytestmark = pytest.mark.security

ENDED, WHOLE = 0x1, 0x4


class Behind:
    """A gateway, and a shop that two boxes may ask."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self.trust = trustme.CA()
        self.trust.cert_pem.write_to_path(place / "servers.pem")
        self.stack = stack
        self.gateway = stack.enter_context(
            Forwarder.start(place / "authority", extra_trust=place / "servers.pem")
        )
        self.shop = self.serve("http/1.1")
        self.box, self.other = (self.open(self.shop.address) for _ in range(2))

    def tls(self) -> ssl.SSLContext:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.trust.issue_cert(HOST).configure_cert(tls)
        return tls

    def serve(self, *protocols: str) -> Shop:
        shop = Shop(self.tls(), *protocols)
        self.stack.callback(shop.close)
        return shop

    def open(self, address: str) -> Proxy:
        name = f"box{time.monotonic_ns()}"
        return Proxy(self.gateway, name, [Allow(HOST, to=address, effect="read")], [])

    def serves_others(self) -> None:
        with program(self.gateway, self.other) as talk:
            assert talk.ask("/other").status == 200


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with ExitStack() as stack:
        yield Behind(tmp_path_factory.mktemp("gateway"), stack)


@pytest.fixture(autouse=True)
def _clean(behind: Behind) -> None:
    behind.shop.heard.clear()


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def fields(*more: tuple[bytes, bytes], **changed: bytes) -> list[tuple[bytes, bytes]]:
    pseudo = {"method": b"GET", "scheme": b"https", "authority": HOST.encode(), "path": b"/"} | changed
    return [*((b":" + name.encode(), value) for name, value in pseudo.items() if value), *more]


def head(*more: tuple[bytes, bytes], **changed: bytes) -> bytes:
    """Writes the fields of a request, without anything that remembers others."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields(*more, **changed))


def _text(data: bytes) -> bytes:
    return hpack.hpack.encode_integer(len(data), 7) + data


def answer_to(behind: Behind, data: bytes) -> Program:
    """Sends frames, and reads until the gateway has ended the connection."""
    with speaking(behind.gateway, behind.box) as secure:
        talk = Program(secure)
        talk.answers = {}
        try:
            secure.sendall(data)
        except OSError:
            pass  # it was enough before it was all
        talk.await_end()
        return talk


def code(talk: Program) -> int | None:
    return None if talk.goaway is None else talk.goaway.error_code


# -- floods


def rapid_resets() -> bytes:
    return b"".join(
        frame(HEADERS, head(), ENDED | WHOLE, number)
        + frame(RST_STREAM, int(ErrorCodes.CANCEL).to_bytes(4), stream=number)
        for number in range(1, 4000, 2)
    )


FLOODS = {
    "resets": rapid_resets(),
    "settings": frame(SETTINGS, b"\0\4\0\0\1\0") * 3000,
    "settings that change the table": frame(SETTINGS, b"\0\1\xff\xff\xff\xff") * 3000,
    "pings": frame(PING, bytes(8)) * 5000,
    "priorities": frame(PRIORITY, bytes(4) + b"\x10", stream=3) * 5000,
    "windows": frame(WINDOW_UPDATE, b"\0\0\0\1") * 5000,
    "empty data": frame(HEADERS, head(method=b"POST"), WHOLE, 1) + frame(DATA, stream=1) * 5000,
    "frames of no kind": frame(0x77, b"?") * 5000,
    "resets of nothing": frame(HEADERS, head(), ENDED | WHOLE, 1)
    + frame(RST_STREAM, bytes(4), stream=1) * 5000,
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_what_is_cheap_to_send_ends_its_connection_and_no_other(
    behind: Behind, flood: str
) -> None:
    talk = answer_to(behind, FLOODS[flood])
    assert code(talk) == ErrorCodes.ENHANCE_YOUR_CALM
    assert len(behind.shop.heard) < 250
    behind.box.await_log("too many frames that carry nothing of a message")
    behind.serves_others()


def test_a_header_block_without_an_end_is_ended(behind: Behind) -> None:
    block = frame(HEADERS, head(), stream=1) + frame(CONTINUATION, bytes(10_000), stream=1) * 100
    assert code(answer_to(behind, block)) == ErrorCodes.ENHANCE_YOUR_CALM
    nothing = frame(HEADERS, head(), stream=1) + frame(CONTINUATION, b"", stream=1) * 5000
    assert code(answer_to(behind, nothing)) in (ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR)
    behind.serves_others()


def test_fields_that_become_large_when_they_are_unpacked_are_not_unpacked(behind: Behind) -> None:
    large = b"\x40" + _text(b"x-bomb") + _text(b"A" * 3900)  # remembered, and then named by one byte
    bomb = frame(HEADERS, head() + large + b"\xbe" * 10_000, ENDED | WHOLE, 1)
    assert code(answer_to(behind, bomb)) == ErrorCodes.ENHANCE_YOUR_CALM
    assert behind.shop.heard == []


def test_a_frame_is_refused_by_its_first_bytes_where_it_is_too_large(behind: Behind) -> None:
    announced = (1 << 24 - 1).to_bytes(3) + bytes([DATA, 0]) + (1).to_bytes(4)
    assert code(answer_to(behind, announced)) == ErrorCodes.FRAME_SIZE_ERROR


def test_no_more_streams_are_open_than_were_offered(behind: Behind) -> None:
    asked = b"".join(
        frame(HEADERS, head(method=b"POST"), WHOLE, number) for number in range(1, 2 * MAX_STREAMS + 2, 2)
    )
    assert code(answer_to(behind, asked)) is not None
    behind.serves_others()


def test_a_box_has_so_many_requests_open_and_no_more_however_many_connections_it_has(behind: Behind) -> None:
    shop, enough = behind.serve("h2"), threading.Event()

    def answer(_: Heard) -> Said:
        enough.wait(30)
        return Said()

    shop.answers = answer
    proxy = behind.open(shop.address)
    with ExitStack() as stack:
        for _ in range(MAX_STREAMS_A_BOX // MAX_STREAMS):
            talk = stack.enter_context(program(behind.gateway, proxy))
            for _ in range(MAX_STREAMS):
                talk.open()
            talk.connection.settimeout(10)
        last = stack.enter_context(program(behind.gateway, proxy))
        numbers = [last.open() for _ in range(MAX_STREAMS)]
        while not any(last.answers[each].status for each in numbers):
            assert last.hear()
        refused = [last.answers[each] for each in numbers if last.answers[each].status]
        assert {each.status for each in refused} == {503}
        enough.set()
    behind.serves_others()


# -- windows


def test_a_client_that_opens_its_window_by_single_bytes_is_ended_and_gets_no_frame_for_each(
    behind: Behind,
) -> None:
    behind.shop.answers = lambda heard: Said(body=bytes(200_000) if heard.path == b"/large" else b"ok")
    with program(behind.gateway, behind.box, {SettingCodes.INITIAL_WINDOW_SIZE: 1}) as talk:
        talk.reads = False
        number = talk.open("/large")
        while not talk.answers[number].body:
            assert talk.hear()
        try:
            for _ in range(50):
                for _ in range(100):
                    talk.http.increment_flow_control_window(1, number)
                talk.push()
        except OSError:
            pass  # it was enough
        talk.await_end()
        assert code(talk) == ErrorCodes.ENHANCE_YOUR_CALM
    behind.shop.answers = lambda _: Said()
    behind.serves_others()


def test_a_client_that_opens_its_windows_wide_and_reads_nothing_has_little_kept_for_it(
    behind: Behind,
) -> None:
    """Also of what comes in pieces that are too small to wait for each."""
    sent = [0]

    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        connection.settimeout(0.5)
        piece = b"1000\r\n" + bytes(0x1000) + b"\r\n"
        while True:
            connection.sendall(piece)
            sent[0] += len(piece)
            time.sleep(0)

    server = Server(handle, behind.tls())
    with program(
        behind.gateway, behind.open(server.address), {SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30}
    ) as talk:
        talk.http.increment_flow_control_window(1 << 30)
        talk.open("/endless")
        until(lambda: sent[0])
        before = -1
        while before < sent[0]:
            before = sent[0]
            time.sleep(0.6)  # longer than the server waits for anybody to take more
        assert sent[0] < 32_000_000
    server.close()
    behind.serves_others()


def test_windows_that_become_too_large_or_negative_harm_their_own_connection_only(behind: Behind) -> None:
    grown = frame(WINDOW_UPDATE, b"\x7f\xff\xff\xff")
    assert code(answer_to(behind, grown * 2)) == ErrorCodes.FLOW_CONTROL_ERROR
    shrunk = frame(HEADERS, head(path=b"/large"), ENDED | WHOLE, 1)
    shrunk += frame(SETTINGS, b"\0\4\0\0\0\0") + frame(SETTINGS, b"\0\4\x7f\xff\xff\xff") + grown
    assert code(answer_to(behind, shrunk)) is not None
    behind.serves_others()


def test_more_than_a_window_allows_is_not_taken(behind: Behind) -> None:
    shop = behind.serve("h2")
    proxy = behind.open(shop.address)
    shop.settings = {SettingCodes.INITIAL_WINDOW_SIZE: 0}  # so that nothing leaves the gateway
    data = frame(HEADERS, head(method=b"POST"), WHOLE, 1) + frame(DATA, bytes(16_000), stream=1) * 30
    with speaking(behind.gateway, proxy) as secure:
        talk = Program(secure)
        secure.sendall(data)
        talk.await_end()
        assert code(talk) == ErrorCodes.FLOW_CONTROL_ERROR


# -- requests that two might read differently


SMUGGLED: dict[str, bytes] = {
    "a length without a body": head((b"content-length", b"5")),
    "two lengths": head((b"content-length", b"0"), (b"content-length", b"5")),
    "a length that is none": head((b"content-length", b"+0")),
    "chunks": head((b"transfer-encoding", b"chunked")),
    "a connection": head((b"connection", b"upgrade"), (b"upgrade", b"websocket")),
    "a second line in a value": head((b"x-a", b"1\r\nhost: bank.example")),
    "a second line in a name": head((b"x-a: 1\r\nx-b", b"1")),
    "a zero in a value": head((b"x-a", b"1\0")),
    "a second line in the path": head(path=b"/ HTTP/1.1\r\nx: y"),
    "a space in the path": head(path=b"/a b"),
    "a path that is an address": head(path=b"https://bank.example/"),
    "a path that is a host": head(path=b"@bank.example/"),
    "no path": head(path=b""),
    "a method of two words": head(method=b"GET /x"),
    "another scheme": head(scheme=b"http"),
    "two hosts": head((b"host", b"bank.example")),
    "no host": head(authority=b""),
    "a host with a user": head(authority=b"shop.example@bank.example"),
    "a name in capitals": head((b"X-A", b"1")),
    "a tunnel": head(method=b"CONNECT", scheme=b"", path=b""),
    "a tunnel for a protocol": head((b":protocol", b"websocket"), method=b"CONNECT"),
    "a field that only answers have": head((b":status", b"200")),
    "a pseudo-field at the end": head((b"x-a", b"1"), (b":path", b"/two")),
    "another path besides": head((b"x-original-url", b"/admin")),
    "another path, spelt otherwise": head((b"x_rewrite_url", b"/admin")),
    "more than trailers": head((b"te", b"gzip")),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_what_two_might_read_differently_reaches_no_server(behind: Behind, how: str) -> None:
    with speaking(behind.gateway, behind.box) as secure:
        talk = Program(secure)
        # What it knows of its stream is one thing, and what is sent another.
        talk.http.send_headers(1, fields(), end_stream=True)
        talk.http.clear_outbound_data_buffer()
        answer = talk.answers[1] = Answered()
        secure.sendall(frame(HEADERS, SMUGGLED[how], ENDED | WHOLE, 1))
        while not answer.ended and talk.goaway is None:
            if not talk.hear():
                break
        assert answer.status in (0, 400, 403, 421)
        assert answer.status or talk.goaway is not None
    assert behind.shop.heard == []
    behind.serves_others()


def test_a_body_of_another_length_than_was_announced_reaches_no_server_as_a_request(behind: Behind) -> None:
    for sent in (b"abc", b"abcdefg"):
        asked = frame(HEADERS, head((b"content-length", b"5"), method=b"POST"), WHOLE, 1)
        talk = answer_to(behind, asked + frame(DATA, sent, ENDED, 1))
        assert code(talk) == ErrorCodes.PROTOCOL_ERROR
    assert behind.shop.heard == []


def test_changing_to_other_protocols_is_not_offered(behind: Behind) -> None:
    with program(behind.gateway, behind.box) as talk:
        talk.ask()
        offered = talk.http.remote_settings
        assert offered.enable_connect_protocol == 0
        assert offered.max_concurrent_streams == MAX_STREAMS
        assert offered.max_header_list_size == 64 * 1024


# -- servers


def await_request(connection: socket.socket) -> None:
    """Reads up to the head of a request."""
    receive_exactly(connection, len(PREFACE))
    kind = -1
    while kind != HEADERS:
        start = receive_exactly(connection, 9)
        kind = start[3]
        receive_exactly(connection, int.from_bytes(start[:3]))


def test_a_server_that_floods_or_breaks_the_rules_is_cut_off_and_told_of(behind: Behind) -> None:
    said = {
        "pings": frame(PING, bytes(8)) * 5000,
        "pushes": frame(PUSH_PROMISE, (2).to_bytes(4) + head(), WHOLE, 1),
        "a frame too large": b"\xff\xff\xff" + bytes([DATA, 0]) + (1).to_bytes(4),
        "hints without an end": frame(HEADERS, b"\x08\x03103", WHOLE, 1) * 5000,
        "an answer of no status": frame(HEADERS, b"\x08\x03abc", ENDED | WHOLE, 1),
        "a change of protocol": frame(HEADERS, b"\x08\x03101", WHOLE, 1),
        "a stream that nobody opened": frame(HEADERS, b"\x88", ENDED | WHOLE, 7),
        "a goodbye that is cut off": frame(GOAWAY, b"\0"),
        "an end without an answer": frame(DATA, b"", ENDED, 1),
        "nothing of the kind": b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    }
    for how, data in said.items():

        def handle(connection: socket.socket, data: bytes = data) -> None:
            await_request(connection)
            connection.sendall(frame(SETTINGS) + data)
            while connection.recv(65536):
                pass

        tls = behind.tls()
        tls.set_alpn_protocols(["h2"])
        server = Server(handle, tls)
        with program(behind.gateway, behind.open(server.address)) as talk:
            assert talk.ask().status == 502, how
        server.close()
    behind.serves_others()


def test_a_length_that_an_answer_does_not_keep_is_no_answer(behind: Behind) -> None:
    def handle(connection: socket.socket) -> None:
        await_request(connection)
        length = b"\x0f\x0d\x015"  # content-length: 5
        connection.sendall(frame(SETTINGS) + frame(HEADERS, b"\x88" + length, ENDED | WHOLE, 1))
        while connection.recv(65536):
            pass

    tls = behind.tls()
    tls.set_alpn_protocols(["h2"])
    server = Server(handle, tls)
    with program(behind.gateway, behind.open(server.address)) as talk:
        assert talk.ask().status == 502
    server.close()
