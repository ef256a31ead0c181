"""What the gateway costs: an allowed HTTPS request on a kept connection, many of them, a large body, and memory;
and what it costs to hold a thousand requests until a branch is committed, and to send each once then.
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

from benchmarks.figures import Figure, distribution, middle
from benchmarks.scale import Scale
from kibo.box.policy import Allow
from kibo.branch.history import History
from kibo.effects.authority import Authority
from kibo.effects.forwarder import Forwarder
from kibo.effects.ledger import Ledger
from kibo.model.asker import NOBODY, Asker
from kibo.store.database import Store

TITLE = "the gateway, HTTPS on both sides"
HOST = "shop.example"
REQUEST = f"GET /%s HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BODY_BYTES = 500_000_000
CONNECTIONS = 8
PAYMENT = f"POST /pay/%d HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 6\r\n\r\ncard=1"
#: A box has no more connections than 256.
HELD_A_BOX = 250
#: Of the server's process.
PAID: list[bytes] = []


def run(scale: Scale) -> Iterator[Figure]:
    """Yields requests to a server directly and through the gateway, on connections that are kept."""
    with tempfile.TemporaryDirectory() as place, serving(Path(place) / "server") as (address, trust):
        direct_to = socket.create_connection(address)
        with trusting(trust).wrap_socket(direct_to, server_hostname=HOST) as connection:
            direct = requests(connection, scale.of(2000))
            yield distribution("a request, directly", direct)
            yield Figure("one large body, directly", "MB/s", megabytes(connection))
        (Path(place) / "trust.pem").write_bytes(trust)
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
                grown = (peak_bytes(gateway.pid) - before) / 2**20
                yield Figure("memory that a body of 500 MB adds to the gateway", "MiB", grown, target=8.0)
            unopened = open_door(gateway, address, "unopened", tcp=True)
            with through(unopened, trust) as connection:
                yield distribution("a request, unopened (tcp=True)", requests(connection, scale.of(2000)))
                rate = megabytes(connection)
                yield Figure("one large body, unopened (tcp=True)", "MB/s", rate, higher_is_better=True)
            rate = many(door, ours, scale.of(500))
            name = f"requests on {CONNECTIONS} connections"
            yield Figure(name, "/s", rate, target=1000.0, higher_is_better=True)
        yield from holding(Path(place), address, scale.of(1000))


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


def many(door: int, certificate: bytes, count: int) -> float:
    """Sends requests on several connections at once. Returns how many a second were answered."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(through(door, certificate)) for _ in range(CONNECTIONS)]
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
def through(door: int, certificate: bytes) -> Iterator[ssl.SSLSocket]:
    """Connects to the host through a door."""
    tunnel = socket.create_connection(("127.0.0.1", door))
    tunnel.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += tunnel.recv(65536)
    with trusting(certificate).wrap_socket(tunnel, server_hostname=HOST) as secure:
        yield secure


def trusting(certificate: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=certificate.decode())


def peak_bytes(pid: int) -> int:
    """The most memory that a process has held."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[tuple[tuple[str, int], bytes]]:
    """Starts a server in a process of its own. Yields its address, and the certificate by which to trust it."""
    command = [sys.executable, "-m", "benchmarks.gateway", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield ("127.0.0.1", port), Authority.open(directory).certificate_pem
        finally:
            process.kill()


def serve(directory: Path) -> None:
    """Serves until it is killed."""
    context = Authority.open(directory).context(HOST)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_answer, args=(connection, context), daemon=True).start()


def _answer(connection: socket.socket, context: ssl.SSLContext) -> None:
    piece = bytes(1_000_000)
    with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
        while head := secure.recv(65536):
            if head.startswith(b"POST "):
                PAID.append(head)
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


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
