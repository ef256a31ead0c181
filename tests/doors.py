"""What tests of the way out share: servers on loopback, and the box's end of a door."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kibo.box.policy import Rule, Secret
from kibo.effects.forwarder import Forwarder
from kibo.model.asker import NOBODY, Asker

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
#: Of a server that ends the connection then, and is asked again: what has a body is not sent twice on a kept one.
LAST_ANSWER = ANSWER.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
Handler = Callable[[socket.socket], None]


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


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
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
            forwarder.serve(listener.fileno(), rules, box, secrets, asker=asker)

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
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        return connection


Serve = Callable[..., Proxy]


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
