"""A small HTTP server for what others scrape: bounded in what it does at once, and in how long it waits.

It has no authentication, so it is for this machine: where its address is a loopback one, requests that name another
host are refused, as those of a web page are whose own name was made to lead here.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kibo.model.errors import InvalidInput, KiboError
from kibo.model.limits import MAX_SCRAPE_S, MAX_SCRAPES, SCRAPE_IDLE_S

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

_LOOPBACK: Final = "127.0.0.1"
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


class Scrapes:
    """The server, which serves from when it is made until it is closed.

    Args:
        host: The address of an interface.
        port: 0 for any that is free.
        application: What answers.

    Raises:
        InvalidInput: It cannot listen there.
    """

    def __init__(self, host: str, port: int, application: WSGIApplication) -> None:
        address = ipaddress.ip_address(host)
        self._only_here: Final = address.is_loopback
        kind = _Server6 if address.version == 6 else _Server
        try:
            self._server: Final = kind((host, port), _Handler)
        except OSError as error:
            raise InvalidInput(
                f"metrics cannot be served at {host}, port {port}: {error.strerror}",
                hint="Give another port, or 0 for any that is free.",
            ) from error
        self._application: Final = application
        self._server.set_app(self._answer)
        self._thread: Final = threading.Thread(
            target=self._server.serve_forever, name="kibo-metrics", daemon=True
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._server.server_address[:2]
        return f"http://[{host!s}]:{port}" if ":" in str(host) else f"http://{host!s}:{port}"

    def close(self) -> None:
        """Ends it. Whoever is being answered gets the rest."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        if self._only_here and not _is_here(environ.get("HTTP_HOST", "")):
            start("403 Forbidden", [_TEXT])
            return [b"this server answers to addresses and localhost, and to no other name\n"]
        try:
            return self._application(environ, start)
        except KiboError as error:
            start("503 Service Unavailable", [_TEXT])
            return [f"{error.message}\n".encode()]


def address(text: str) -> tuple[str, int]:
    """Reads where to listen: a port of the loopback interface, or an address and a port.

    Raises:
        InvalidInput: It is neither.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else _LOOPBACK
    try:
        host = str(ipaddress.ip_address(_LOOPBACK if host == "localhost" else host))
        number = int(port) if port.isascii() and port.isdigit() else -1
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 16:
        raise InvalidInput(
            f"{text!r} is no address to listen at", hint="Write a port, 127.0.0.1:9464 or [::1]:9464."
        )
    return host, number


def _is_here(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = SCRAPE_IDLE_S

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""

    def address_string(self) -> str:
        """Returns the address, of which no name is looked up."""
        return str(self.client_address[0])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_SCRAPES

    def __init__(self, *arguments: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_SCRAPES)
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Binds, and looks up no name of the host."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers on a thread, unless as many as may are being answered: one more is hung up on."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers one, and hangs up where it takes too long: a client that says a byte now and then is never idle."""
        late = threading.Timer(MAX_SCRAPE_S, _hang_up, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up or are too slow."""


class _Server6(_Server):
    address_family = socket.AF_INET6
