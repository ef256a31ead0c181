"""What tests of the way out share: servers on loopback, and the box's end of a door."""

import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from kibo.box.forwards import forwards
from kibo.box.policy import Rule, Secret
from kibo.effects.forwarder import Forwarder
from kibo.model.asker import NOBODY, Asker

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
#: Of a server that ends the connection then, and is asked again: what has a body is not sent twice on a kept one.
LAST_ANSWER = ANSWER.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
Handler = Callable[[socket.socket], None]


def read_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while chunk := connection.recv(1 << 20):
        data += chunk
    return bytes(data)


def read_until(connection: socket.socket, end: bytes) -> bytes:
    data = b""
    while end not in data:
        chunk = connection.recv(65536)
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


class Server:
    """A server that hands each connection to `handle`, in a thread, and keeps what it received."""

    def __init__(self, handle: Handler | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._handle = handle or self.answer
        self._tls = tls
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.received: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(10)
            threading.Thread(target=self._run, args=(connection,), daemon=True).start()

    def _run(self, connection: socket.socket) -> None:
        with connection:
            try:
                if self._tls is not None:
                    with self._tls.wrap_socket(
                        connection, server_side=True, suppress_ragged_eofs=False
                    ) as secure:
                        self._handle(secure)
                        secure.unwrap()
                else:
                    self._handle(connection)
            except OSError:
                pass  # the other side ended first, as some tests want

    def answer(self, connection: socket.socket) -> None:
        head = read_until(connection, b"\r\n\r\n")
        self.received.append(head)
        connection.sendall(ANSWER)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class Proxy:
    """The box's end: a listening socket that the forwarder serves."""

    def __init__(
        self,
        forwarder: Forwarder,
        box: str,
        rules: list[Rule],
        secrets: list[Secret],
        asker: Asker = NOBODY,
    ) -> None:
        self.name = box
        # In the box, forwards have addresses and ports of their own.
        self.forwards: list[int] = []
        self._log = os.memfd_create("log")
        weakref.finalize(self, os.close, self._log)
        with ExitStack() as stack:
            listener, *others = (
                stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                for _ in range(1 + len(forwards(rules)))
            )
            self.port: int = listener.getsockname()[1]
            self.forwards = [other.getsockname()[1] for other in others]
            forwarder.serve(
                listener.fileno(),
                rules,
                box,
                secrets,
                asker=asker,
                log=self._log,
                forwards=[other.fileno() for other in others],
            )

    def log(self) -> str:
        """What the box's log says of refusals."""
        return os.pread(self._log, 1 << 22, 0).decode()

    def await_log(self, text: str) -> str:
        """Waits until the log says something, which it does a moment before or after the program is told."""
        deadline = time.monotonic() + 10
        while text not in (said := self.log()):
            assert time.monotonic() < deadline, said
            time.sleep(0.01)
        return said

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def send(self, request: bytes) -> bytes:
        with self.connect() as connection:
            connection.sendall(request)
            connection.shutdown(
                socket.SHUT_WR
            )  # no other request follows, so the proxy ends after the answer
            return read_all(connection)

    def get(self, host: str, path: str = "/") -> bytes:
        return self.send(f"GET http://{host}{path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    def tunnel(self, target: str) -> socket.socket:
        connection = self.connect()
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # and no further: what follows is what the server says
            head += receive_exactly(connection, 1)
        assert head.startswith(b"HTTP/1.1 200 ")
        return connection


Serve = Callable[..., Proxy]

GREETING = b"\5\1\0"


def socks_request(host: str | bytes, port: int, command: int = 1) -> bytes:
    """Writes a request of SOCKS: for a name, or for an address where `host` is packed."""
    if isinstance(host, str):
        place = b"\3" + bytes([len(host)]) + host.encode("latin-1")
    else:
        place = (b"\1" if len(host) == 4 else b"\4") + host
    return bytes([5, command, 0]) + place + port.to_bytes(2, "big")


def receive_exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        assert chunk, f"ended after {data!r}"
        data += chunk
    return data


def socks(proxy: Proxy, host: str | bytes, port: int, command: int = 1) -> tuple[int, socket.socket]:
    """Asks for a connection through SOCKS. Returns the answer's code, and the connection."""
    connection = proxy.connect()
    connection.sendall(GREETING)
    assert receive_exactly(connection, 2) == b"\5\0"
    connection.sendall(socks_request(host, port, command))
    answer = receive_exactly(connection, 10)
    assert answer[:1] + answer[2:] == b"\5\0\1" + bytes(6)
    return answer[1], connection


@contextmanager
def serving(forwarder: Forwarder) -> Iterator[Serve]:
    """Gives a way to open doors of boxes, which are closed at the end."""
    boxes: list[str] = []

    def serve_box(*rules: Rule, secrets: list[Secret] | None = None) -> Proxy:
        boxes.append(f"box{len(boxes)}")
        return Proxy(forwarder, boxes[-1], list(rules), secrets or [])

    yield serve_box
    for box in boxes:
        forwarder.stop(box)
