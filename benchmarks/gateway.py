"""What the gateway costs: an allowed HTTPS request on a kept connection, many of them, a large body, and memory;
the same request in HTTP/2, and through mitmdump; and what it costs to hold a thousand requests until a branch is
committed, and to send each once then.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.bare_relay import relaying
from benchmarks.figures import Figure, distribution, middle
from benchmarks.mitmproxy import VERSION, UnavailableError, mitmdump
from benchmarks.scale import Scale
from kibo.box.policy import Allow
from kibo.branch.history import History
from kibo.effects.authority import Authority
from kibo.effects.forwarder import Forwarder
from kibo.effects.http2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)
from kibo.effects.ledger import Ledger
from kibo.model.asker import NOBODY, Asker
from kibo.store.database import Store

TITLE = "the gateway, HTTPS on both sides"
HOST = "shop.example"
REQUEST = f"GET /%s HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
Address = tuple[str, int]
#: The heads of the same in HTTP/2, written without anything that would have to be remembered (RFC 7541, appendix A).
QUESTION = b"\x82\x87\x84\x01" + bytes([len(HOST)]) + HOST.encode()
ANSWERED = b"\x88\x0f\x0d\x012"
BODY_BYTES = 500_000_000
CONNECTIONS = 8
PAYMENT = f"POST /pay/%d HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\n\r\ncard=1"
#: A box has no more connections than 256.
HELD_A_BOX = 250
#: Of the server's process.
PAID: list[bytes] = []


def run(scale: Scale) -> Iterator[Figure]:
    """Yields requests to a server directly and through the gateway, on connections that are kept."""
    with (
        tempfile.TemporaryDirectory() as place,
        serving(Path(place) / "server") as ((address, shared), trust),
    ):
        direct_to = socket.create_connection(address)
        with trusting(trust).wrap_socket(direct_to, server_hostname=HOST) as connection:
            direct = requests(connection, scale.of(2000))
            yield distribution("a request, directly", direct)
            yield Figure("one large body, directly", "MB/s", megabytes(connection))
            yield Figure("one large body to the server, directly", "MB/s", megabytes_up(connection))
        (Path(place) / "trust.pem").write_bytes(trust)
        yield floor(Path(place), address, trust)
        with Forwarder.start(Path(place) / "authority", extra_trust=Path(place) / "trust.pem") as gateway:
            door = open_door(gateway, address)
            ours = gateway.certificate()
            with through(door, ours) as connection:
                found = requests(connection, scale.of(2000))
                yield distribution("a request, through the gateway", found)
                added = (middle(found) - middle(direct)) * 1e3
                yield Figure("what the gateway adds to a request, p50", "ms", added, target=2.0)
                before = peak_bytes(gateway.pid)
                rate = megabytes(connection)
                yield Figure(
                    "one large body, through the gateway", "MB/s", rate, target=200.0, higher_is_better=True
                )
                rate = megabytes_up(connection)
                yield Figure(
                    "one large body to the server, through the gateway",
                    "MB/s",
                    rate,
                    target=200.0,
                    higher_is_better=True,
                )
                grown = (peak_bytes(gateway.pid) - before) / 2**20
                yield Figure("memory that two bodies of 500 MB add to the gateway", "MiB", grown, target=8.0)
            unopened = open_door(gateway, address, "unopened", tcp=True)
            with through(unopened, trust) as connection:
                yield distribution("a request, unopened (tcp=True)", requests(connection, scale.of(2000)))
                rate = megabytes(connection)
                yield Figure("one large body, unopened (tcp=True)", "MB/s", rate, higher_is_better=True)
            rate = many(door, ours, scale.of(500))
            name = f"requests on {CONNECTIONS} connections"
            yield Figure(name, "/s", rate, target=1000.0, higher_is_better=True)
            door = open_door(gateway, shared, "streams")
            yield from streams(door, ours, shared, trust, scale.of(2000))
        yield from beside(Path(place) / "trust.pem", address, scale)
        yield from holding(Path(place), address, scale.of(1000))


def floor(place: Path, address: Address, trust: bytes) -> Figure:
    """Measures what one thread can carry that opens TLS, closes it again, and does nothing else."""
    with (
        relaying(place / "server", place / "trust.pem", address[1], HOST) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        trusting(trust).wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        name = "one large body, through TLS twice in one thread and nothing else"
        return Figure(name, "MB/s", megabytes(connection), higher_is_better=True)


def beside(trust: Path, address: Address, scale: Scale) -> Iterator[Figure]:
    """Yields the same through mitmdump."""
    name = f"a request, through mitmdump {VERSION}"
    try:
        with mitmdump(trust) as (port, theirs):
            target = f"{address[0]}:{address[1]}"
            with through(port, theirs, target=target) as connection:
                yield distribution(name, requests(connection, scale.of(2000)))
                rate = megabytes(connection)
                yield Figure("one large body, through mitmdump", "MB/s", rate, higher_is_better=True)
            rate = many(port, theirs, scale.of(500), target)
            yield Figure(
                f"requests on {CONNECTIONS} connections, through mitmdump", "/s", rate, higher_is_better=True
            )
    except UnavailableError as error:
        yield Figure(name, "ms", None, note=str(error))


def streams(door: int, ours: bytes, address: tuple[str, int], trust: bytes, count: int) -> Iterator[Figure]:
    """Yields requests in HTTP/2 on both sides, directly and through the gateway."""
    direct_to = socket.create_connection(address)
    with trusting(trust, "h2").wrap_socket(direct_to, server_hostname=HOST) as connection:
        direct = Streams(connection).requests(count)
    yield distribution("a request in HTTP/2, directly", direct)
    with through(door, ours, "h2") as connection:
        talk = Streams(connection)
        found = talk.requests(count)
        yield distribution("a request in HTTP/2, through the gateway", found)
        added = (middle(found) - middle(direct)) * 1e3
        yield Figure("what the gateway adds to a request in HTTP/2, p50", "ms", added, target=2.0)
        rate = talk.side_by_side(count)
        name = f"requests in HTTP/2, {CONNECTIONS} at a time on one connection"
        yield Figure(name, "/s", rate, target=1000.0, higher_is_better=True)


class Streams:
    """Requests in HTTP/2, written and told apart as cheaply as can be: it is the gateway that is measured."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._next = 1
        self._buffer = b""
        connection.sendall(PREFACE + frame(SETTINGS) + frame(WINDOW_UPDATE, (1 << 30).to_bytes(4)))

    def requests(self, count: int) -> list[float]:
        """Sends small requests one after the other. Returns how long each took, in seconds."""
        taken = []
        for _ in range(count):
            start = time.perf_counter()
            self._ask()
            self._await(1)
            taken.append(time.perf_counter() - start)
        return taken

    def side_by_side(self, count: int) -> float:
        """Sends requests, some at a time. Returns how many a second were answered."""
        start = time.perf_counter()
        for _ in range(CONNECTIONS):
            self._ask()
        for _ in range(count - CONNECTIONS):
            self._await(1)
            self._ask()
        self._await(CONNECTIONS)
        return count / (time.perf_counter() - start)

    def _ask(self) -> None:
        self._connection.sendall(frame(HEADERS, QUESTION, END_STREAM | END_HEADERS, self._next))
        self._next += 2

    def _await(self, count: int) -> None:
        """Reads until so many streams more have ended."""
        while count:
            while len(self._buffer) < 9 or len(self._buffer) < 9 + int.from_bytes(self._buffer[:3]):
                self._buffer += self._connection.recv(65536)
            length, kind, flags = int.from_bytes(self._buffer[:3]), self._buffer[3], self._buffer[4]
            self._buffer = self._buffer[9 + length :]
            if kind in (RST_STREAM, GOAWAY):
                raise ConnectionResetError("a request was not answered")
            count -= kind in (DATA, HEADERS) and bool(flags & END_STREAM)


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """Writes a frame of HTTP/2."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def holding(place: Path, address: tuple[str, int], count: int) -> Iterator[Figure]:
    """Holds requests of one branch, commits it, and counts what the server was asked and what the clients heard."""
    url = f"sqlite:///{place}/history.db"
    with Store.open(url) as store, contextlib.ExitStack() as stack:
        history = History(store)
        main = history.create()
        (fork,) = history.fork(main.id)
        gateway = stack.enter_context(
            Forwarder.start(place / "authority", extra_trust=place / "trust.pem", store=url)
        )
        ours = gateway.certificate()
        clients: list[ssl.SSLSocket] = []
        for first in range(0, count, HELD_A_BOX):
            asker = Asker(fork.id, main.id, holds=True)
            door = open_door(gateway, address, f"box{first}", asker)
            for _ in range(min(HELD_A_BOX, count - first)):
                clients.append(stack.enter_context(through(door, ours)))
        start = time.perf_counter()
        for number, client in enumerate(clients):
            client.sendall((PAYMENT % number).encode())
        ledger = Ledger(store)
        while len(ledger.listed(fork.id)) < count:
            time.sleep(0.01)
        held = time.perf_counter() - start
        start = time.perf_counter()
        history.commit(fork.id)
        with gateway.settle(fork.id, Asker(main.id, main.id)) as told:
            told.recv(1)
        released = time.perf_counter() - start
        heard = sum(body(client) == b"ok" for client in clients)
        done = sum(effect.state == "done" for effect in ledger.listed(main.id))
        counter = stack.enter_context(through(open_door(gateway, address, "counter"), ours))
        counter.sendall((REQUEST % "count").encode())
        sent = int(body(counter))
        yield Figure("requests held, each on the disk", "/s", count / held, higher_is_better=True)
        yield Figure("held requests sent, in order", "/s", count / released, higher_is_better=True)
        lost = max(count - heard, count - done, abs(count - sent))
        yield Figure("held requests lost or repeated, of 1,000", "", float(lost), target=0.0)


def requests(connection: ssl.SSLSocket, count: int) -> list[float]:
    """Sends small requests one after the other. Returns how long each took, in seconds."""
    taken = []
    for _ in range(count):
        start = time.perf_counter()
        connection.sendall((REQUEST % "").encode())
        answer = b""
        while not answer.endswith(b"\r\n\r\nok"):
            answer += connection.recv(65536)
        taken.append(time.perf_counter() - start)
    return taken


def megabytes(connection: ssl.SSLSocket) -> float:
    """Receives one large body. Returns how many megabytes a second came."""
    start = time.perf_counter()
    connection.sendall((REQUEST % "large").encode())
    head, buffer, got = b"", bytearray(1 << 18), 0
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    got = len(head.partition(b"\r\n\r\n")[2])
    while got < BODY_BYTES:
        got += connection.recv_into(buffer)
    return BODY_BYTES / 1e6 / (time.perf_counter() - start)


def megabytes_up(connection: ssl.SSLSocket) -> float:
    """Sends one large body. Returns how many megabytes a second the server took."""
    piece = bytes(1_000_000)
    start = time.perf_counter()
    head = f"PUT /large HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
    connection.sendall(head.encode())
    for _ in range(BODY_BYTES // len(piece)):
        connection.sendall(piece)
    if body(connection) != b"ok":
        raise ConnectionResetError("the body was not taken")
    return BODY_BYTES / 1e6 / (time.perf_counter() - start)


def many(door: int, certificate: bytes, count: int, target: str = f"{HOST}:443") -> float:
    """Sends requests on several connections at once. Returns how many a second were answered."""
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(through(door, certificate, target=target)) for _ in range(CONNECTIONS)
        ]
        threads = [threading.Thread(target=requests, args=(each, count)) for each in connections]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return CONNECTIONS * count / (time.perf_counter() - start)


def body(connection: ssl.SSLSocket) -> bytes:
    """Receives one short answer. Returns its body."""
    found = b""
    while not found.partition(b"\r\n\r\n")[2]:
        piece = connection.recv(65536)
        if not piece:
            return b""
        found += piece
    return found.partition(b"\r\n\r\n")[2]


def open_door(
    gateway: Forwarder,
    address: tuple[str, int],
    box: str = "bench",
    asker: Asker = NOBODY,
    *,
    tcp: bool = False,
) -> int:
    """Opens a door as a box has one. Returns its port."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=HELD_A_BOX) as listener,
        socket.create_server(("127.0.0.1", 0)) as forward,
    ):
        rules = [Allow(f"{HOST}:443" if tcp else HOST, to=f"{address[0]}:{address[1]}", tcp=tcp)]
        forwards = [forward.fileno()] if tcp else []
        gateway.serve(listener.fileno(), rules, box, asker=asker, forwards=forwards)
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def through(
    door: int, certificate: bytes, protocol: str = "http/1.1", *, target: str = f"{HOST}:443"
) -> Iterator[ssl.SSLSocket]:
    """Connects to the host through a door, or another proxy, which may have to be told where that is."""
    tunnel = socket.create_connection(("127.0.0.1", door))
    tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += tunnel.recv(65536)
    with trusting(certificate, protocol).wrap_socket(tunnel, server_hostname=HOST) as secure:
        yield secure


def trusting(certificate: bytes, protocol: str = "http/1.1") -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=certificate.decode())
    context.set_alpn_protocols([protocol])
    return context


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[tuple[tuple[Address, Address], bytes]]:
    """Starts a server in a process of its own. Yields its addresses, that of HTTP/1.1 and that of both protocols, and
    the certificate by which to trust it.
    """
    command = [sys.executable, "-m", "benchmarks.gateway", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            plain, shared = map(int, process.stdout.readline().split())
            places = ("127.0.0.1", plain), ("127.0.0.1", shared)
            yield places, Authority.open(directory).certificate_pem
        finally:
            process.kill()


def serve(directory: Path) -> None:
    """Serves until it is killed."""
    authority = Authority.open(directory)
    plain, shared = authority.context(HOST), Authority.open(directory).context(HOST)
    plain.set_alpn_protocols(["http/1.1"])
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        print(listener.getsockname()[1], other.getsockname()[1], flush=True)
        threading.Thread(target=_accept, args=(other, shared), daemon=True).start()
        _accept(listener, plain)


def _accept(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_answer, args=(connection, context), daemon=True).start()


def _answer(connection: socket.socket, context: ssl.SSLContext) -> None:
    piece, buffer = bytes(1_000_000), bytearray(1 << 18)
    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
        if secure.selected_alpn_protocol() == "h2":
            _answer_streams(secure)
            return
        while head := secure.recv(65536):
            if head.startswith(b"POST "):
                PAID.append(head)
            if head.startswith(b"PUT /large"):
                left = BODY_BYTES - len(head.partition(b"\r\n\r\n")[2])
                while left and (count := secure.recv_into(buffer)):
                    left -= count
            if head.startswith(b"GET /count"):
                number = b"%d" % len(PAID)
                secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(number), number))
                continue
            if not head.startswith(b"GET /large"):
                secure.sendall(ANSWER)
                continue
            secure.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BODY_BYTES)
            for _ in range(BODY_BYTES // len(piece)):
                secure.sendall(piece)


def _answer_streams(connection: ssl.SSLSocket) -> None:
    connection.sendall(frame(SETTINGS))
    data = b""
    while len(data) < len(PREFACE):
        data += connection.recv(65536)
    data = data[len(PREFACE) :]
    while True:
        while len(data) >= 9 and len(data) >= 9 + (length := int.from_bytes(data[:3])):
            kind, stream = data[3], int.from_bytes(data[5:9])
            data = data[9 + length :]
            if kind == HEADERS:
                answer = frame(HEADERS, ANSWERED, END_HEADERS, stream)
                connection.sendall(answer + frame(DATA, b"ok", END_STREAM, stream))
        more = connection.recv(65536)
        if not more:
            return
        data += more


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
