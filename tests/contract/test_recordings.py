"""Traffic that is recorded and replayed by the gateway as its own process."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme

import databases
from doors import ANSWER, Proxy, Server, read_all, read_until
from effect_drafts import draft
from kibo.box.policy import Allow, Secret
from kibo.branch.history import History
from kibo.effects.forwarder import Forwarder
from kibo.effects.ledger import Ledger
from kibo.effects.recording_file import Recorded, Stored
from kibo.effects.recordings import Recordings
from kibo.effects.taping import RecordingTape, ReplayTape
from kibo.model.asker import Asker
from kibo.model.errors import RecordingLost, RequestUnknown
from kibo.runtime.egress import Tape
from kibo.store.database import Store
from patience import until

pytestmark = pytest.mark.contract

VALUE = 's3cret/v4lue+of "it"'


class Site(Server):
    """Answers each request with what it is told to, and keeps connections."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(self.talk, tls)
        self.requests: list[bytes] = []
        self.answers: Callable[[bytes, bytes], bytes] = lambda head, body: ANSWER

    def talk(self, connection: socket.socket) -> None:
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                chunk = connection.recv(65536)
                if not chunk:
                    return
                data += chunk
            head, _, data = data.partition(b"\r\n\r\n")
            length = next(
                (int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0
            )
            while len(data) < length:
                data += connection.recv(65536)
            body, data = data[:length], data[length:]
            self.requests.append(head + b"\r\n\r\n" + body)
            connection.sendall(self.answers(head, body))


class Place:
    """A state directory and a gateway of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.recordings = Recordings(home)
        self.values = {"TOKEN": VALUE}
        self.authority = trustme.CA()
        self.authority.cert_pem.write_to_path(home / "servers.pem")
        self.gateway = Forwarder.start(
            home / "authority",
            self.values,
            extra_trust=home / "servers.pem",
            store=databases.new_history(home),
        )
        self.site = Site()
        self.rules = [Allow("shop.example", to=self.site.address)]
        self.boxes = 0

    def box(self, tape: Tape | None = None, *rules: Allow, secrets: list[Secret] | None = None) -> Proxy:
        self.boxes += 1
        asker = Asker(tape="" if tape is None else tape.id)
        return Proxy(self.gateway, f"inst_{self.boxes}", list(rules) or self.rules, secrets or [], asker)

    def record(self, name: str = "it") -> RecordingTape:
        return RecordingTape(self.gateway, self.recordings, name)

    def replay(self, name: str | os.PathLike[str] = "it") -> ReplayTape:
        return ReplayTape(self.gateway, self.recordings, name)

    def exchanges(self, name: str = "it") -> list[Recorded]:
        with self.recordings.opened(name) as stored:
            return stored.index.exchanges

    def bodies(self, name: str = "it") -> list[bytes]:
        """The body of each answer."""
        with self.recordings.opened(name) as stored:
            return [self.body(stored, each) for each in stored.index.exchanges]

    @staticmethod
    def body(stored: Stored, each: Recorded) -> bytes:
        assert each.reply is not None, each.left_out
        assert each.reply.body is not None
        return stored.piece(each.reply.body, 0, 1 << 30)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("home"))
    yield place
    place.gateway.close()
    place.site.close()


@pytest.fixture
def place(started: Place) -> Place:
    started.site.requests.clear()
    started.site.answers = lambda head, body: ANSWER
    return started


def ok(body: bytes, *fields: bytes, length: bool = True) -> bytes:
    lines = [b"HTTP/1.1 200 OK", *fields]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + framed + b"0\r\n" + trailers + b"\r\n"


def ask(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    lines = [f"{method} http://shop.example{path} HTTP/1.1", "Host: shop.example", *fields]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def page(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def test_what_was_recorded_is_replayed_and_nothing_is_sent(place: Place) -> None:
    place.site.answers = lambda head, body: ok(b"hello " + head.split(b" ")[1] + body, b"x-of: it")
    tape = place.record()
    box = place.box(tape)
    requests = [ask("GET", "/a"), ask("GET", "/b?c=d"), ask("POST", "/e", b"f=1", "Content-Type: text/plain")]
    first = [box.send(request) for request in requests]
    tape.close()
    asked, connected = len(place.site.requests), place.site.connections
    assert asked == 3
    replay = place.replay()
    box = place.box(replay)
    assert [box.send(request) for request in requests] == first
    replay.close()
    assert (len(place.site.requests), place.site.connections) == (asked, connected)


def test_a_replay_resolves_no_name_and_needs_no_server_and_no_value_of_a_secret(place: Place) -> None:
    tape = place.record()
    place.box(tape).send(ask("GET", "/"))
    tape.close()
    replay = place.replay()
    # A name that leads nowhere, and a secret that is nowhere.
    box = place.box(replay, Allow("shop.example"), secrets=[Secret("NOWHERE", hosts=["shop.example"])])
    assert page(box.send(ask("GET", "/"))) == b"ok"
    replay.close()


def test_an_unknown_request_gets_a_page_that_names_the_closest_and_is_told_at_the_end(place: Place) -> None:
    tape = place.record()
    place.box(tape).send(ask("POST", "/pay", b"card=1"))
    tape.close()
    replay = place.replay()
    answer = place.box(replay).send(ask("POST", "/pay", b"card=2"))
    assert answer.startswith(b"HTTP/1.1 599 Not Recorded\r\n")
    assert b"the closest that it has is POST http://shop.example/pay: the body is b2:" in page(answer)
    assert b"Nothing was sent." in page(answer)
    (told,) = replay.unrecorded()
    assert (told.method, told.url) == ("POST", "http://shop.example/pay")
    with pytest.raises(RequestUnknown, match=r"POST http://shop\.example/pay") as raised:
        replay.close()
    assert raised.value.details["count"] == 1
    assert replay.unrecorded() == [told]
    assert len(place.site.requests) == 1


def test_equal_requests_get_their_answers_in_order_and_only_reads_get_the_last_again(place: Place) -> None:
    place.site.answers = lambda head, body: ok(b"%d" % len(place.site.requests))
    tape = place.record()
    box = place.box(tape)
    for request in (ask("GET", "/n"), ask("GET", "/n"), ask("POST", "/n"), ask("POST", "/n")):
        box.send(request)
    tape.close()
    replay = place.replay()
    box = place.box(replay)
    assert [page(box.send(ask("GET", "/n"))) for _ in range(4)] == [b"1", b"2", b"2", b"2"]
    assert [page(box.send(ask("POST", "/n"))) for _ in range(2)] == [b"3", b"4"]
    assert b"it was recorded 2 times, and each answer was given once" in box.send(ask("POST", "/n"))
    with pytest.raises(RequestUnknown):
        replay.close()


def test_what_an_answer_varies_by_must_be_equal_too(place: Place) -> None:
    def answers(head: bytes, body: bytes) -> bytes:
        return ok(b"hallo" if b": de" in head else b"hello", b"Vary: Accept-Language")

    place.site.answers = answers
    tape = place.record()
    for language in ("de", "en"):
        place.box(tape).send(ask("GET", "/", b"", f"Accept-Language: {language}", "X-Id: 1"))
    tape.close()
    replay = place.replay()
    box = place.box(replay)
    said = [
        page(box.send(ask("GET", "/", b"", f"Accept-Language: {each}", "X-Id: 2"))) for each in ("en", "de")
    ]
    assert said == [b"hello", b"hallo"]
    assert b"accept-language is 'fr' here and 'de' there" in box.send(
        ask("GET", "/", b"", "Accept-Language: fr")
    )
    replay.drop()


def test_a_multipart_body_is_the_same_whatever_its_boundary_is(place: Place) -> None:
    tape = place.record()

    def form(boundary: str) -> bytes:
        body = f'--{boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--{boundary}--\r\n'.encode()
        return ask("POST", "/up", body, f"Content-Type: multipart/form-data; boundary={boundary}")

    place.box(tape).send(form("1234567890abcdef"))
    tape.close()
    replay = place.replay()
    assert page(place.box(replay).send(form("fedcba0987654321"))) == b"ok"
    replay.close()


def test_chunks_trailers_and_answers_without_a_length_are_replayed_as_streams(place: Place) -> None:
    events = [b"data: %d\n\n" % number for number in range(50)]
    place.site.answers = lambda head, body: chunked(*events, trailers=b"x-sum: 50\r\n")
    tape = place.record()
    live = place.box(tape).send(ask("GET", "/events"))
    tape.close()
    replay = place.replay()
    again = place.box(replay).send(ask("GET", "/events"))
    replay.close()
    for answer in (live, again):
        assert b"transfer-encoding: chunked" in answer.lower()
        assert b"\r\n0\r\nx-sum: 50\r\n\r\n" in answer
    assert place.bodies() == [b"".join(events)]


def test_an_answer_that_broke_off_breaks_off_again(place: Place) -> None:
    def broken(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart")

    server = Server(broken)
    rule = Allow("shop.example", to=server.address)

    def cut(tape: Tape) -> bytes:
        with place.box(tape, rule).connect() as connection:
            connection.sendall(ask("GET", "/"))
            data = read_until(connection, b"part")
            with pytest.raises(ConnectionResetError):
                while connection.recv(100):
                    pass
            return data

    tape = place.record()
    cut(tape)
    tape.close()
    (found,) = place.exchanges()
    assert found.reply is not None
    assert not found.reply.whole
    replay = place.replay()
    cut(replay)
    replay.close()
    server.close()


def test_a_stream_that_its_client_leaves_is_recorded_as_far_as_it_came(place: Place) -> None:
    stop = threading.Event()

    def endless(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        stop.wait(10)

    server = Server(endless)
    rule = Allow("shop.example", to=server.address)
    tape = place.record()
    connection = place.box(tape, rule).connect()
    connection.sendall(ask("GET", "/"))
    read_until(connection, b"data: 1\n\n")
    tape.close()  # while it is open
    stop.set()
    connection.close()
    replay = place.replay()
    with place.box(replay, rule).connect() as connection:
        connection.sendall(ask("GET", "/"))
        read_until(connection, b"data: 1\n\n")
    replay.close()
    server.close()


def test_a_server_that_cannot_be_reached_is_replayed_as_it_was_told(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    rule = Allow("shop.example", to=f"127.0.0.1:{port}")
    tape = place.record()
    live = place.box(tape, rule).send(ask("GET", "/"))
    place.box(tape, rule).send(ask("POST", "/"))
    tape.close()
    assert live.startswith(b"HTTP/1.1 502 ")
    replay = place.replay()
    assert place.box(replay, rule).send(ask("GET", "/")) == live
    assert b" 599 " in place.box(replay, rule).send(ask("POST", "/"))
    replay.drop()


def test_bodies_are_kept_once(place: Place) -> None:
    body = os.urandom(300_000)
    place.site.answers = lambda head, asked: ok(body)
    tape = place.record()
    box = place.box(tape)
    for number in range(5):
        assert page(box.send(ask("GET", f"/{number}"))) == body
    tape.close()
    assert place.recordings.path("it").stat().st_size < 310_000
    assert place.bodies() == [body] * 5


def test_two_boxes_record_at_once_into_one_recording(place: Place) -> None:
    place.site.answers = lambda head, body: ok(head.split(b" ")[1] * 1000)
    tape = place.record()
    boxes = [place.box(tape) for _ in range(2)]

    def work(box: Proxy, number: int) -> None:
        for each in range(20):
            box.send(ask("GET", f"/{number}/{each}"))

    threads = [threading.Thread(target=work, args=(box, number)) for number, box in enumerate(boxes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tape.close()
    found = place.exchanges()
    assert [each.number for each in found] == list(range(1, 41))
    assert {each.question.target for each in found} == {
        b"/%d/%d" % (a, b) for a in range(2) for b in range(20)
    }


def test_a_recording_replaces_one_of_its_name_only_once_it_is_whole(place: Place) -> None:
    for path in ("/old", "/new"):
        tape = place.record()
        place.box(tape).send(ask("GET", path))
        if path == "/new":
            assert [each.question.target for each in place.exchanges()] == [b"/old"]
            other = place.record()
            other.drop()
        tape.close()
    assert [each.question.target for each in place.exchanges()] == [b"/new"]
    assert [each.name for each in place.recordings.listed()] == ["it"]
    assert os.listdir(place.recordings.folder) == ["it.recording"]


def test_what_goes_over_tls_is_recorded_and_replayed_on_a_kept_connection(place: Place) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    place.authority.issue_cert("shop.example").configure_cert(context)
    site = Site(context)
    site.answers = lambda head, body: ok(b"%d" % len(site.requests))
    rule = Allow("shop.example", to=site.address)
    trust = ssl.create_default_context(cadata=place.gateway.certificate().decode())

    def play(tape: Tape) -> list[bytes]:
        tunnel = place.box(tape, rule).tunnel("shop.example:443")
        with trust.wrap_socket(tunnel, server_hostname="shop.example") as connection:
            said = []
            for path in (b"/1", b"/2"):
                connection.sendall(b"GET %b HTTP/1.1\r\nHost: shop.example\r\n\r\n" % path)
                head = connection.recv(65536)
                said.append(page(head) or connection.recv(65536))
            return said

    tape = place.record()
    assert play(tape) == [b"1", b"2"]
    tape.close()
    assert [each.question.url for each in place.exchanges()] == [
        "https://shop.example/1",
        "https://shop.example/2",
    ]
    replay = place.replay()
    assert play(replay) == [b"1", b"2"]
    replay.close()
    assert len(site.requests) == 2
    site.close()


# -- secrets


def spellings(value: str) -> dict[str, bytes]:
    import html
    import json
    import urllib.parse

    encoded = base64.b64encode(f"ada:{value}".encode())
    return {
        "plain": value.encode(),
        "percent": urllib.parse.quote(value, safe="").encode(),
        "lower": urllib.parse.quote(value, safe="").replace("%2F", "%2f").replace("%2B", "%2b").encode(),
        "path": urllib.parse.quote(value).encode(),
        "form": urllib.parse.quote_plus(value).encode(),
        "json": json.dumps({"a": value})[7:-2].encode(),
        "slashes": json.dumps(value)[1:-1].replace("/", "\\/").encode(),
        "html": html.escape(value).encode(),
        "base64": encoded,
        "urlsafe": base64.urlsafe_b64encode(value.encode()),
    }


def assert_unknown(place: Place, name: str = "it") -> bytes:
    data = place.recordings.path(name).read_bytes()
    for how, text in spellings(VALUE).items():
        inner = text[6:-4] if how in ("base64", "urlsafe") else text
        assert inner not in data, how
    return data


TOKEN = Secret("TOKEN", hosts=["shop.example"])


@pytest.mark.parametrize("how", [*spellings(VALUE)])
@pytest.mark.parametrize("packing", ["identity", "gzip", "deflate", "zstd"])
def test_the_value_of_a_secret_is_in_no_recording_whatever_repeats_it(
    place: Place, how: str, packing: str
) -> None:
    import zstandard

    text = b"<p>" + spellings(VALUE)[how] + b"</p>"
    pack = {
        "identity": lambda data: data,
        "gzip": partial(gzip.compress, mtime=0),  # else it holds the second in which it was made
        "deflate": zlib.compress,
        "zstd": zstandard.compress,
    }[packing]

    def answers(head: bytes, body: bytes) -> bytes:
        assert VALUE.encode() in head, head
        coding = [b"content-encoding: " + packing.encode()] if packing != "identity" else []
        echo = b"x-echo: " + text
        return ok(pack(text), echo, *coding)

    place.site.answers = answers
    tape = place.record()
    box = place.box(tape, secrets=[TOKEN])
    live = box.send(ask("GET", "/?t=kibo-secret-TOKEN", b"", "Authorization: kibo-secret-TOKEN"))
    assert VALUE.encode() not in live
    assert b"kibo-secret-TOKEN" in page(live)
    tape.close()
    assert_unknown(place)
    replay = place.replay()
    box = place.box(replay, secrets=[TOKEN])
    again = page(box.send(ask("GET", "/?t=kibo-secret-TOKEN", b"", "Authorization: kibo-secret-TOKEN")))
    assert again.startswith(b"<p>")
    assert again.endswith(b"</p>")
    assert b"kibo-secret-TOKEN" in again
    replay.close()


def test_a_secret_that_is_cut_in_pieces_is_found(place: Place) -> None:
    value = VALUE.encode()
    pieces = [b"x" * 100, *(value[at : at + 1] for at in range(len(value))), b"y" * 100]
    place.site.answers = lambda head, body: chunked(*pieces)
    tape = place.record()
    place.box(tape, secrets=[TOKEN]).send(ask("GET", "/"))
    tape.close()
    assert_unknown(place)
    assert place.bodies() == [b"x" * 100 + b"kibo-secret-TOKEN" + b"y" * 100]


def test_what_a_box_has_learned_of_a_secret_and_says_to_another_host_is_not_recorded(place: Place) -> None:
    tape = place.record()
    other = Allow("other.example", to=place.site.address)
    box = place.box(tape, *place.rules, other, secrets=[TOKEN])
    body = spellings(VALUE)["base64"]
    request = (
        b"POST http://other.example/ HTTP/1.1\r\nHost: other.example\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    box.send(request + body)
    tape.close()
    assert body in place.site.requests[-1]
    assert_unknown(place)


@pytest.mark.parametrize(
    ("coding", "body", "why"),
    [
        (b"br", b"whatever", "not unpacked here"),
        (b"gzip, gzip", b"whatever", "not unpacked here"),
        (b"gzip", b"no gzip", "incorrect header check"),
        (b"gzip", gzip.compress(bytes(80 << 20), 9, mtime=0), "unpacked, it has more than"),
        (b"zstd", __import__("zstandard").compress(bytes(80 << 20)), "unpacked, it has more than"),
    ],
)
def test_a_packed_answer_that_cannot_be_looked_into_is_not_recorded(
    place: Place, coding: bytes, body: bytes, why: str
) -> None:
    place.site.answers = lambda head, asked: ok(body, b"content-encoding: " + coding)
    tape = place.record()
    place.box(tape, secrets=[TOKEN]).send(ask("GET", "/"))
    tape.close()
    (found,) = place.exchanges()
    assert found.reply is None
    assert why in found.left_out
    replay = place.replay()
    answer = place.box(replay, secrets=[TOKEN]).send(ask("GET", "/"))
    assert b"it was recorded without its answer" in answer
    replay.drop()


def test_a_host_that_may_know_a_secret_is_asked_for_no_coding_that_cannot_be_unpacked(place: Place) -> None:
    place.site.answers = lambda head, body: ok(
        gzip.compress(b"gzip, say", mtime=0), b"content-encoding: gzip\r\nvary: accept-encoding"
    )
    asked = (
        ask("GET", "/", b"", "Accept-Encoding: gzip;q=0.5, br, ZSTD,*"),
        ask("GET", "/", b"", "Accept-Encoding: br"),
    )
    tape = place.record()
    for each in asked:
        place.box(tape, secrets=[TOKEN]).send(each)
    place.box(tape).send(asked[0])
    tape.close()
    accepted = [head.partition(b"accept-encoding: ")[2].partition(b"\r\n")[0] for head in place.site.requests]
    assert accepted == [b"gzip;q=0.5, ZSTD", b"identity", b"gzip;q=0.5, br, ZSTD,*"]
    replay = place.replay()
    for each in asked:
        assert page(place.box(replay, secrets=[TOKEN]).send(each)) == b"gzip, say"
    replay.close()


def test_parts_of_what_a_host_with_a_secret_says_are_not_recorded(place: Place) -> None:
    value, page_of = VALUE.encode(), "/?from={}"

    def part(head: bytes, body: bytes) -> bytes:
        if b"from=" not in head:
            return ok(value)
        at = int(head.partition(b"from=")[2].partition(b" ")[0])
        half = value[at : at + len(value) // 2]
        return ok(half, b"content-range: bytes %d-%d/%d" % (at, at + len(half) - 1, len(value)))

    place.site.answers = part
    tape = place.record()
    box = place.box(tape, secrets=[TOKEN])
    for at in (0, len(value) // 2):
        box.send(ask("GET", page_of.format(at)))
    box.send(ask("GET", "/", b"", "Range: bytes=0-9"))
    tape.close()
    *parts, whole = place.exchanges()
    assert [each.reply for each in parts] == [None, None]
    assert all("it is a part of something" in each.left_out for each in parts)
    assert whole.reply is not None
    replay = place.replay()
    again = place.box(replay, secrets=[TOKEN]).send(ask("GET", "/", b"", "Range: bytes=0-9"))
    assert page(again) == b"kibo-secret-TOKEN", "a range is left out of account there, too"
    replay.close()


def test_packed_answers_to_a_box_without_secrets_stay_as_they_are(place: Place) -> None:
    place.site.answers = lambda head, body: ok(b"brotli, say", b"content-encoding: br")
    tape = place.record()
    place.box(tape).send(ask("GET", "/"))
    tape.close()
    assert place.bodies() == [b"brotli, say"]


# -- what is not recorded


def test_websockets_and_closed_tunnels_are_refused_by_a_replay(place: Place) -> None:
    def switch(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi"
        )
        read_all(connection)

    server = Server(switch)
    rules = [
        Allow("shop.example", to=server.address),
        Allow("closed.example:443", to=server.address, passthrough=True),
    ]
    wanted = ask("GET", "/ws", b"", "Connection: Upgrade", "Upgrade: websocket")
    tape = place.record()
    with place.box(tape, *rules).connect() as connection:
        connection.sendall(wanted)
        read_until(connection, b"hi")
    tape.close()
    (found,) = place.exchanges()
    assert found.left_out == "WebSockets are not recorded"
    replay = place.replay()
    box = place.box(replay, *rules)
    assert b"WebSockets are not recorded" in box.send(wanted)
    connections = server.connections
    closed = box.send(b"CONNECT closed.example:443 HTTP/1.1\r\nHost: closed.example:443\r\n\r\n")
    assert closed.startswith(b"HTTP/1.1 599 ")
    assert b"is left closed is not recorded" in closed
    assert server.connections == connections
    with pytest.raises(RequestUnknown):
        replay.close()
    server.close()


def test_rules_hold_in_a_replay(place: Place) -> None:
    tape = place.record()
    place.box(tape).send(ask("GET", "/"))
    tape.close()
    replay = place.replay()
    box = place.box(replay, Allow("shop.example", to=place.site.address, methods=("POST",)))
    assert box.send(ask("GET", "/")).startswith(b"HTTP/1.1 403 ")
    replay.close()


# -- ends


def test_a_recording_whose_gateway_dies_is_not_there_and_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    tape = place.record()
    place.box(tape).send(ask("GET", "/"))
    place.gateway._process.kill()
    place.gateway._process.wait()
    with pytest.raises(RecordingLost):
        tape.close()
    assert os.listdir(place.recordings.folder) == []
    place.gateway.close()
    place.site.close()


def test_a_box_of_a_recording_that_has_ended_goes_on_unrecorded(place: Place) -> None:
    tape = place.record()
    box = place.box(tape)
    box.send(ask("GET", "/1"))
    tape.close()
    assert page(box.send(ask("GET", "/2"))) == b"ok"
    assert [each.question.target for each in place.exchanges()] == [b"/1"]


# -- effects


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    with Store.open(f"sqlite:///{place.home}/history.db") as store:
        yield store


def test_nobody_is_asked_to_approve_what_a_recording_answers(place: Place, store: Store) -> None:
    tape = place.record()
    place.box(tape).send(ask("POST", "/pay", b"1"))
    tape.close()
    main = History(store).create()
    replay = place.replay()
    place.boxes += 1
    asker = Asker(str(main.id), str(main.id), tape=replay.id)
    asks = Allow("shop.example", to=place.site.address, approve=True)
    box = Proxy(place.gateway, f"inst_{place.boxes}", [asks], [], asker)
    assert page(box.send(ask("POST", "/pay", b"1"))) == b"ok"
    (found,) = Ledger(store).listed(main.id)
    assert (found.state, found.approve_within_s, found.sent_s) == ("replayed", None, None)
    assert len(place.site.requests) == 1
    replay.close()


@pytest.mark.parametrize("approve", [False, True])
def test_a_held_request_is_replayed_by_its_commit_and_one_whose_client_has_gone_by_nobody(
    place: Place, store: Store, approve: bool
) -> None:
    tape = place.record()
    place.box(tape).send(ask("POST", "/pay", b"1"))
    tape.close()
    history, ledger = History(store), Ledger(store)
    main = history.create()
    forks = history.fork(main.id, 2)
    rules = [Allow("shop.example", to=place.site.address, approve=approve)]
    replay = place.replay()
    for fork, stays in zip(forks, (True, False), strict=True):
        place.boxes += 1
        asker = Asker(str(fork.id), str(main.id), holds=True, tape=replay.id)
        box = Proxy(place.gateway, f"inst_{place.boxes}", rules, [], asker)
        client = box.connect()
        client.sendall(ask("POST", "/pay", b"1"))
        until(lambda fork=fork: ledger.waiting(fork.id) != set())  # type: ignore[misc]
        history.commit(fork.id, overwrite=True)
        if stays:
            with place.gateway.settle(fork.id, Asker(str(main.id), str(main.id), tape=replay.id)) as told:
                assert told.recv(1) == b""
            assert read_until(client, b"ok").startswith(b"HTTP/1.1 200 ")
        client.close()
    until(lambda: [each.state for each in ledger.listed(main.id)] == ["replayed", "failed"])
    assert len(place.site.requests) == 1
    replay.close()


def test_what_was_to_be_replayed_is_sent_by_no_heir(store: Store) -> None:
    history, ledger = History(store), Ledger(store)
    main = history.create()
    (fork,) = history.fork(main.id)
    held = ledger.hold(draft(fork.id)._replace(replayed=True), "gw_dead")
    history.commit(fork.id)
    assert [each.replayed for each in ledger.unsent("gw_dead")] == [True]
    ledger.bury("gw_dead", "gw_heir")
    assert ledger.unsent("gw_heir") == ledger.unsent("gw_dead") == []
    (found,) = ledger.named(held.id)
    assert (found.state, found.sent_s) == ("failed", None)


def test_a_key_that_was_replayed_stands_for_its_answer(place: Place) -> None:
    place.site.answers = lambda head, body: ok(b"%d" % len(place.site.requests))
    keyed = [ask("POST", "/pay", b"1", f"Idempotency-Key: {key}") for key in ("a", "a", "b")]

    def play(tape: Tape) -> list[bytes]:
        box = place.box(tape)
        return [page(box.send(request)) for request in keyed]

    tape = place.record()
    assert play(tape) == [b"1", b"1", b"2"]
    tape.close()
    replay = place.replay()
    assert play(replay) == [b"1", b"1", b"2"]
    replay.close()
    assert len(place.exchanges()) == len(place.site.requests) == 2
