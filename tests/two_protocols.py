"""What tests of HTTP/2 share: a server that speaks what its client asks for, and a client that says what tests want."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h11

from doors import Proxy, Server
from kibo.effects.forwarder import Forwarder

Fields = list[tuple[bytes, bytes]]
HOST = "shop.example"


@dataclass
class Heard:
    """A request as a server had it, whichever way it came; pseudo-header fields as HTTP/1.1 has them."""

    protocol: str
    method: bytes
    path: bytes
    fields: Fields
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.fields if each == name]


@dataclass
class Said:
    """What a server answers."""

    status: int = 200
    fields: Fields = field(default_factory=list)
    body: bytes = b"ok"
    trailers: Fields = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    #: Of HTTP/2: resets in place of an answer, or once so much of the body has been sent.
    reset: int | None = None
    #: Whether the body goes without saying how long it is.
    unmeasured: bool = False

    def head(self) -> Fields:
        if self.unmeasured:
            return self.fields
        return [(b"content-length", b"%d" % len(self.body)), *self.fields]


class Shop(Server):
    """Answers requests of both protocols, and keeps what it was asked."""

    def __init__(self, tls: ssl.SSLContext, *protocols: str) -> None:
        self.speaks = protocols or ("h2", "http/1.1")
        tls.set_alpn_protocols(list(self.speaks))
        self.heard: list[Heard] = []
        self.answers: Callable[[Heard], Said] = lambda _: Said()
        #: Settings of HTTP/2, and how many requests a connection takes before it says GOAWAY.
        self.settings: dict[int, int] = {}
        self.goes_away_after = 0
        super().__init__(self._talk, tls)

    def _talk(self, connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        if connection.selected_alpn_protocol() == "h2":
            ServerTalk(self, connection).run()
        else:
            self._talk_plainly(connection)

    def _talk_plainly(self, connection: ssl.SSLSocket) -> None:
        talk = h11.Connection(h11.SERVER)
        while True:
            heard: Heard | None = None
            while True:
                event = talk.next_event()
                if event is h11.NEED_DATA:
                    talk.receive_data(connection.recv(65536))
                elif isinstance(event, h11.Request):
                    heard = Heard("http/1.1", event.method, event.target, list(event.headers))
                elif isinstance(event, h11.Data):
                    assert heard is not None
                    heard.body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert heard is not None
                    heard.trailers = list(event.headers)
                    break
                else:
                    return
            self.heard.append(heard)
            said = self.answers(heard)
            for status in said.interim:
                connection.sendall(
                    talk.send(h11.InformationalResponse(status_code=status, headers=[])) or b""
                )
            connection.sendall(
                talk.send(h11.Response(status_code=said.status, headers=said.head(), reason=b"OK")) or b""
            )
            connection.sendall(talk.send(h11.Data(data=said.body)) or b"")
            connection.sendall(talk.send(h11.EndOfMessage(headers=said.trailers)) or b"")
            if talk.our_state is h11.MUST_CLOSE:
                return
            talk.start_next_cycle()


class Talk:
    """One side of an HTTP/2 connection, over a blocking socket; one thread reads."""

    def __init__(self, connection: ssl.SSLSocket, *, client: bool) -> None:
        self.connection = connection
        self.lock = threading.RLock()
        self.opened = threading.Condition(self.lock)
        self.http = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=client,
            )
        )
        self.over = False

    def begin(self, settings: dict[int, int]) -> None:
        values = dict(self.http.local_settings) | settings
        client = self.http.config.client_side
        self.http.local_settings = h2.settings.Settings(client=client, initial_values=values)
        self.http.initiate_connection()
        self.push()

    def push(self) -> None:
        with self.lock:
            if data := self.http.data_to_send():
                self.connection.sendall(data)

    def receive(self) -> bytes:
        """Waits for something to come. TLS is for one thread at a time, which is why nobody waits within the lock."""
        if not self.connection.pending() and not select.select([self.connection], [], [], 10)[0]:
            raise TimeoutError("nothing came")
        with self.lock:
            return self.connection.recv(65536)

    def send_some(self, number: int, rest: memoryview) -> int:
        """Sends a piece of a body, as far as windows let it."""
        with self.lock:
            room = min(self.http.local_flow_control_window(number), self.http.max_outbound_frame_size)
            if room > 0:
                self.http.send_data(number, bytes(rest[:room]))
                self.push()
            return max(room, 0)


class ServerTalk(Talk):
    """A server's side."""

    def __init__(self, shop: Shop, connection: ssl.SSLSocket) -> None:
        super().__init__(connection, client=False)
        self._shop = shop
        self._asked: dict[int, Heard] = {}

    def run(self) -> None:
        self.begin(self._shop.settings)
        try:
            while data := self.receive():
                with self.lock:
                    for event in self.http.receive_data(data):
                        self._on(event)
                    self.push()
                    self.opened.notify_all()
        finally:
            with self.lock:
                self.over = True
                self.opened.notify_all()

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            named = dict(event.headers)
            fields = [(n, v) for n, v in event.headers if not n.startswith(b":")]
            fields.insert(0, (b"host", named[b":authority"]))
            self._asked[event.stream_id] = Heard("h2", named[b":method"], named[b":path"], fields)
        elif isinstance(event, h2.events.DataReceived):
            self._asked[event.stream_id].body += event.data
            self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self._asked[event.stream_id].trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            heard = self._asked[event.stream_id]
            self._shop.heard.append(heard)
            threading.Thread(target=self._answer, args=(event.stream_id, heard), daemon=True).start()

    def _answer(self, number: int, heard: Heard) -> None:
        said = self._shop.answers(heard)
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError), self.lock:
            for status in said.interim:
                self.http.send_headers(number, [(b":status", b"%d" % status)])
            if said.reset is not None and not said.body:
                self.http.reset_stream(number, said.reset)
                self.push()
                return
            if 0 < self._shop.goes_away_after <= len(self._asked):
                # By hand: `h2` would send nothing more of what is under way.
                last = sorted(self._asked)[self._shop.goes_away_after - 1]
                payload = last.to_bytes(4) + bytes(4)
                self.connection.sendall(len(payload).to_bytes(3) + b"\7\0" + bytes(4) + payload)
            self.http.send_headers(number, [(b":status", b"%d" % said.status), *said.head()])
        with contextlib.suppress(OSError, TimeoutError, h2.exceptions.ProtocolError):
            rest = memoryview(bytes(said.body))
            while rest:
                with self.lock:
                    if not (sent := self.send_some(number, rest)) and (self.over or not self.opened.wait(10)):
                        return
                rest = rest[sent:]
            with self.lock:
                if said.reset is not None:
                    self.http.reset_stream(number, said.reset)
                elif said.trailers:
                    self.http.send_headers(number, said.trailers, end_stream=True)
                else:
                    self.http.end_stream(number)
                self.push()


@dataclass
class Answered:
    """What became of a stream."""

    status: int = 0
    fields: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    ended: bool = False
    reset: int | None = None


class Program(Talk):
    """A client in a box."""

    def __init__(self, connection: ssl.SSLSocket, settings: dict[int, int] | None = None) -> None:
        super().__init__(connection, client=True)
        self.answers: dict[int, Answered] = {}
        self.goaway: h2.events.ConnectionTerminated | None = None
        #: Whether the server may send more as what it has sent is read.
        self.reads = True
        self.begin(settings or {})

    def open(
        self,
        path: str = "/menu",
        *fields: tuple[bytes, bytes],
        method: str = "GET",
        authority: str = HOST,
        body: bytes | None = None,
        more: bool = False,
    ) -> int:
        """Sends a request; returns its stream. With `more`, its body goes on."""
        with self.lock:
            number = self.http.get_next_available_stream_id()
            self.answers[number] = Answered()
            head = [
                (b":method", method.encode()),
                (b":scheme", b"https"),
                (b":authority", authority.encode()),
                (b":path", path.encode()),
                *fields,
            ]
            self.http.send_headers(number, head, end_stream=body is None and not more)
            if body is not None:
                self.http.send_data(number, body, end_stream=not more)
            self.push()
        return number

    def upload(self, number: int, body: bytes, *, end: bool = True) -> None:
        """Sends a body, and reads where there is no room for more; stops where there is an answer already."""
        rest, answer = memoryview(body), self.answers[number]
        while rest and answer.reset is None and not answer.ended:
            if sent := self.send_some(number, rest):
                rest = rest[sent:]
            else:
                assert self.hear(), "the connection ended"
        if end and answer.reset is None and not answer.ended:
            self.http.end_stream(number)
            self.push()

    def hear(self) -> bool:
        """Reads once. False at the end."""
        data = self.receive()
        if not data:
            return False
        with self.lock:
            for event in self.http.receive_data(data):
                self._on(event)
            with contextlib.suppress(OSError):
                self.push()
        return True

    def wait(self, number: int) -> Answered:
        """Reads until a stream has ended."""
        answer = self.answers[number]
        while not answer.ended and answer.reset is None:
            assert self.goaway is None, self.goaway
            assert self.hear(), "the connection ended"
        return answer

    def ask(self, *args: object, **kwargs: object) -> Answered:
        return self.wait(self.open(*args, **kwargs))  # type: ignore[arg-type]

    def await_end(self) -> h2.events.ConnectionTerminated | None:
        """Reads until the connection ends; returns what was said of that."""
        with contextlib.suppress(OSError):
            while self.goaway is None and self.hear():
                pass
        return self.goaway

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = event
            return
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            answer.interim.append(int(dict(event.headers)[b":status"]))
        elif isinstance(event, h2.events.ResponseReceived):
            answer.status = int(dict(event.headers)[b":status"])
            answer.fields = [(bytes(n), bytes(v)) for n, v in event.headers if not n.startswith(b":")]
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data
            if self.reads:
                self.http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = [(bytes(n), bytes(v)) for n, v in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code or 0)


@contextlib.contextmanager
def speaking(
    forwarder: Forwarder,
    proxy: Proxy,
    *protocols: str,
    host: str = HOST,
    asked: str | None = None,
) -> Iterator[ssl.SSLSocket]:
    """TLS through a tunnel, which offers protocols."""
    context = ssl.create_default_context(cadata=forwarder.certificate().decode())
    context.set_alpn_protocols(list(protocols) or ["h2"])
    with (
        proxy.tunnel(f"{host}:443") as tunnel,
        context.wrap_socket(tunnel, server_hostname=asked or host) as secure,
    ):
        yield secure


@contextlib.contextmanager
def program(
    forwarder: Forwarder, proxy: Proxy, settings: dict[int, int] | None = None, **where: str
) -> Iterator[Program]:
    """A client in a box that speaks HTTP/2."""
    with speaking(forwarder, proxy, **where) as secure:
        assert secure.selected_alpn_protocol() == "h2"
        yield Program(secure, settings)
