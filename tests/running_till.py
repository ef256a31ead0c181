"""A shop that counts what it is paid: a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer


class Till:
    """The shop.

    Attributes:
        paid: The paths of payments, in order.
        address: Where it is.
    """

    def __init__(self) -> None:
        self.paid: list[str] = []
        till = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.give(b"looked")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                till.paid.append(self.path)
                self.give(f"receipt {len(till.paid)} for {self.path}".encode())

            def give(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Has a server serve, in a thread of this process."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def running_till() -> Iterator[Till]:
    """Runs a shop."""
    till = Till()
    with serving(till.server):
        yield till
