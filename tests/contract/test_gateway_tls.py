"""TLS through the gateway: opened with the authority's certificates, checked towards servers, request by request."""

import contextlib
import datetime
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from doors import ANSWER, LAST_ANSWER, Handler, Proxy, Serve, Server, read_all, read_until, serving
from kibo.box.policy import Allow, Deny, Secret
from kibo.effects.forwarder import Forwarder

pytestmark = pytest.mark.contract

NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def servers_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def forwarder(home: Path, servers_authority: trustme.CA) -> Iterator[Forwarder]:
    servers_authority.cert_pem.write_to_path(home / "servers.pem")
    values = {"PASSWORD": 'b&"ns'}
    with Forwarder.start(home / "authority", values, extra_trust=home / "servers.pem") as running:
        yield running


Start = Callable[..., Server]


@pytest.fixture
def serve(forwarder: Forwarder) -> Iterator[Serve]:
    with serving(forwarder) as serve_box:
        yield serve_box


@pytest.fixture
def start(servers_authority: trustme.CA) -> Iterator[Start]:
    with ExitStack() as stack:

        def start_server(
            handle: Handler | None = None,
            *names: str,
            authority: trustme.CA = servers_authority,
            until: datetime.datetime | None = None,
        ) -> Server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # so that the server tells an end from a break
            authority.issue_cert(
                *(names or ("shop.example",)), not_after=until, not_before=NOW - datetime.timedelta(days=9)
            ).configure_cert(context)
            server = Server(handle, context)
            stack.callback(server.close)
            return server

        yield start_server


def trusting(forwarder: Forwarder) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=forwarder.certificate().decode())


@contextlib.contextmanager
def opened(
    forwarder: Forwarder, proxy: Proxy, host: str = "shop.example", asked: str | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection through a tunnel to a host, which may ask for another."""
    with (
        proxy.tunnel(f"{host}:443") as tunnel,
        trusting(forwarder).wrap_socket(
            tunnel, server_hostname=asked or host, suppress_ragged_eofs=False
        ) as secure,
    ):
        yield secure


def ask(
    forwarder: Forwarder, proxy: Proxy, request: bytes, host: str = "shop.example", asked: str | None = None
) -> bytes:
    with opened(forwarder, proxy, host, asked) as secure:
        secure.sendall(request)
        return read_answer(secure)


def read_answer(connection: socket.socket) -> bytes:
    """Reads one answer that has a length."""
    data = read_until(connection, b"\r\n\r\n")
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        chunk = connection.recv(65536)
        assert chunk, "the answer broke off"
        body += chunk
    return head + b"\r\n\r\n" + body


GET = b"GET /menu HTTP/1.1\r\nHost: shop.example\r\n\r\n"


# -- opened, and checked on both sides


def test_a_request_in_tls_is_seen_and_reaches_the_server_in_tls(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address))
    assert ask(forwarder, proxy, GET).endswith(b"\r\n\r\nok")
    assert server.received == [b"GET /menu HTTP/1.1\r\nhost: shop.example\r\n\r\n"]


def test_the_gateway_says_who_it_is_to_those_alone_who_were_told_of_it(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    proxy = serve(Allow("shop.example", to=start().address))
    with opened(forwarder, proxy) as secure:
        shown = secure.getpeercert()
        assert shown is not None
        assert shown["subjectAltName"] == (("DNS", "shop.example"),)
        assert secure.version() == "TLSv1.3"
    with (
        proxy.tunnel("shop.example:443") as tunnel,
        pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"),
    ):
        ssl.create_default_context().wrap_socket(tunnel, server_hostname="shop.example")


def test_an_address_gets_a_certificate_for_the_address(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start(None, "127.0.0.1")
    proxy = serve(Allow("192.0.2.7", to=server.address))
    request = b"GET / HTTP/1.1\r\nHost: 192.0.2.7\r\n\r\n"
    answer = ask(forwarder, proxy, request, host="192.0.2.7")
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"IP address mismatch" in answer


@pytest.mark.parametrize(
    ("how", "why"),
    [("expired", b"certificate has expired"), ("unknown", b"unable to get local issuer certificate"),
     ("another", b"Hostname mismatch")],
)  # fmt: skip
def test_a_server_that_cannot_prove_who_it_is_is_refused_with_the_reason(
    forwarder: Forwarder, serve: Serve, start: Start, how: str, why: bytes
) -> None:
    server = {
        "expired": lambda: start(until=NOW - datetime.timedelta(days=2)),
        "unknown": lambda: start(authority=trustme.CA()),
        "another": lambda: start(None, "other.example"),
    }[how]()
    answer = ask(forwarder, serve(Allow("shop.example", to=server.address)), GET)
    assert answer.startswith(b"HTTP/1.1 502")
    assert why in answer
    assert not server.received


def test_a_server_that_speaks_no_tls_is_refused_with_the_reason(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    with ExitStack() as stack:
        server = Server(lambda connection: connection.sendall(b"HTTP/1.1 400 no\r\n\r\n"))
        stack.callback(server.close)
        answer = ask(forwarder, serve(Allow("shop.example", to=server.address)), GET)
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"TLS with shop.example:443 failed: wrong version number" in answer


# -- one host a connection


def test_tls_that_asks_for_another_host_than_its_tunnel_is_refused(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address))
    answer = ask(forwarder, proxy, GET, asked="bank.example")
    assert answer.startswith(b"HTTP/1.1 421")
    assert (
        b'Allow("shop.example") lets this connection lead to shop.example:443, but TLS asked for bank.example'
        in answer
    )
    assert not server.received


@pytest.mark.parametrize(
    "named", [b"bank.example", b"shop.example:444", b"shop.example:80", b"shop.example.evil"]
)
def test_a_request_for_another_host_than_its_tunnel_is_refused(
    forwarder: Forwarder, serve: Serve, start: Start, named: bytes
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address), Allow("bank.example", to=server.address))
    answer = ask(forwarder, proxy, b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % named)
    assert answer.startswith(b"HTTP/1.1 421")
    assert b"the request on it is for " + named in answer
    assert not server.received


@pytest.mark.parametrize(
    "request_",
    [
        b"GET https://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"GET http://bank.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nHost: bank.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\n folded: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\nHost: shop.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: shop.example\r\n" + b"X: 1\r\n" * 300 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_request_in_tls_that_two_programs_might_read_differently_is_refused(
    forwarder: Forwarder, serve: Serve, start: Start, request_: bytes
) -> None:
    server = start()
    answer = ask(forwarder, serve(Allow("shop.example", to=server.address)), request_)
    assert answer.startswith(b"HTTP/1.1 400")
    assert not server.received


def test_a_malformed_chunk_ends_both_connections_and_the_server_sees_no_whole_request(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    ended: list[bytes] = []
    done = threading.Event()

    def handle(connection: socket.socket) -> None:
        try:
            ended.append(read_all(connection))
        except OSError:
            ended.append(b"reset")
        done.set()

    proxy = serve(Allow("shop.example", to=start(handle).address))
    head = b"POST / HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n"
    with opened(forwarder, proxy) as secure:
        secure.sendall(head + b"3\r\nabc\r\n-1\r\nGET /hidden HTTP/1.1\r\n\r\n")
        assert read_answer(secure).startswith(b"HTTP/1.1 400")
    assert done.wait(10)
    assert ended == [b"reset"]


def test_what_was_sent_before_the_handshake_is_not_taken_for_what_is_under_its_protection(
    serve: Serve, start: Start
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address))
    with proxy.connect() as connection:
        connection.sendall(b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example\r\n\r\n" + GET)
        answer = read_until(connection, b"\r\n\r\n") + connection.recv(65536)
    # It is a request in the clear, for the port of TLS: the Host field does not name that.
    assert b"HTTP/1.1 421" in answer
    assert not server.received


# -- left closed where a rule says so


# Python's ssl leaves a server's socket open whose client has reset it before it is wrapped.
@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
def test_passthrough_leaves_tls_closed_and_still_looks_at_the_host_that_it_asks_for(
    forwarder: Forwarder, serve: Serve, start: Start, servers_authority: trustme.CA
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address, passthrough=True))
    client = ssl.create_default_context()
    servers_authority.configure_trust(client)
    with (
        proxy.tunnel("shop.example:443") as tunnel,
        client.wrap_socket(tunnel, server_hostname="shop.example") as secure,
    ):
        secure.sendall(GET)
        assert read_answer(secure) == ANSWER
    with proxy.tunnel("shop.example:443") as tunnel, pytest.raises(OSError):
        client.wrap_socket(tunnel, server_hostname="bank.example")
    assert len(server.received) == 1


# -- as it was sent


def test_connections_are_kept_on_both_sides(forwarder: Forwarder, serve: Serve, start: Start) -> None:
    def handle(connection: socket.socket) -> None:
        for _ in range(10):
            server.received.append(read_until(connection, b"\r\n\r\n"))
            connection.sendall(ANSWER)

    server = start(handle)
    proxy = serve(Allow("shop.example", to=server.address))
    for _ in range(2):
        with opened(forwarder, proxy) as secure:
            for _ in range(5):
                secure.sendall(GET)
                assert read_answer(secure).endswith(b"ok")
    assert len(server.received) == 10
    assert server.connections == 1


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body_leave_the_connection_usable(
    forwarder: Forwarder, serve: Serve, start: Start, status: bytes
) -> None:
    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n")
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        read_until(connection, b"\r\n\r\n")
        connection.sendall(ANSWER)

    proxy = serve(Allow("shop.example", to=start(handle).address))
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        assert read_until(secure, b"\r\n\r\n").startswith(b"HTTP/1.1 " + status)
        secure.sendall(b"HEAD / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert b"content-length: 9" in read_until(secure, b"\r\n\r\n").lower()
        secure.sendall(GET)
        assert read_answer(secure).endswith(b"ok")


def test_a_body_that_waits_for_its_permission_is_sent_when_the_server_gives_it(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    received: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        head = read_until(connection, b"\r\n\r\n")
        assert b"expect: 100-continue" in head
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        received.append(read_until(connection, b"last"))
        connection.sendall(ANSWER)

    proxy = serve(Allow("shop.example", to=start(handle).address))
    with opened(forwarder, proxy) as secure:
        secure.sendall(
            b"PUT / HTTP/1.1\r\nHost: shop.example\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n"
        )
        assert read_until(secure, b"\r\n\r\n").startswith(b"HTTP/1.1 100")
        secure.sendall(b"first last")
        assert read_answer(secure).endswith(b"ok")
    assert received == [b"first last"]


def test_chunks_and_trailers_come_as_they_are_sent(forwarder: Forwarder, serve: Serve, start: Start) -> None:
    seen = threading.Event()

    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        assert seen.wait(10)
        connection.sendall(b"3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n")

    proxy = serve(Allow("shop.example", to=start(handle).address))
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        assert read_until(secure, b"one\r\n")
        seen.set()
        assert b"two" in read_until(secure, b"x-sum: 6\r\n\r\n")


def test_an_answer_that_is_cut_off_is_a_reset_and_not_an_end(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\npart")
        assert isinstance(connection, ssl.SSLSocket)
        socket.socket(fileno=connection.detach()).close()  # without TLS's own end

    proxy = serve(Allow("shop.example", to=start(handle).address))
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        with pytest.raises(OSError):
            read_all(secure)


def test_a_websocket_is_carried_both_ways_and_no_other_protocol_is_changed_to(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    def handle(connection: socket.socket) -> None:
        head = read_until(connection, b"\r\n\r\n")
        if b"upgrade: websocket" not in head:
            assert b"upgrade" not in head
            connection.sendall(ANSWER)
            return
        connection.sendall(b"HTTP/1.1 101 Changed\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello ")
        connection.sendall(read_until(connection, b"!"))

    proxy = serve(Allow("shop.example", to=start(handle).address))
    request = b"GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n"
    with opened(forwarder, proxy) as secure:
        secure.sendall(request % b"websocket" + b"you")
        secure.sendall(b"!")
        assert read_until(secure, b"!").endswith(b"\r\n\r\nhello you!")
    assert ask(forwarder, proxy, request % b"h2c").endswith(b"ok")


def test_a_request_that_may_have_been_acted_on_is_not_sent_twice(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    def handle(connection: socket.socket) -> None:
        server.received.append(read_until(connection, b"\r\n\r\n"))
        connection.sendall(ANSWER)
        server.received.append(read_until(connection, b"\r\n\r\n"))

    server = start(handle)
    proxy = serve(Allow("shop.example", to=server.address))
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        read_answer(secure)
        secure.sendall(b"POST /pay HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n")
        answer = read_answer(secure)
    assert b"POST is not sent twice" in answer
    assert sum(b"/pay" in head for head in server.received) == 1


# -- refused inside as outside


def test_a_tunnel_to_a_host_that_is_denied_is_not_opened(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    proxy = serve(Allow("shop.example", to=start().address), Deny("bank.example"))
    answer = proxy.send(b"CONNECT bank.example:443 HTTP/1.1\r\nHost: bank.example:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b'Deny("bank.example")' in answer


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001"])
def test_a_tunnel_to_a_private_address_in_any_spelling_is_refused(
    forwarder: Forwarder, serve: Serve, start: Start, host: str
) -> None:
    server = start(None, "localhost")
    proxy = serve(Allow(f"{host}:{server.port}"))
    with (
        proxy.tunnel(f"{host}:{server.port}") as tunnel,
        trusting(forwarder).wrap_socket(tunnel, server_hostname=host) as secure,
    ):
        secure.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{server.port}\r\n\r\n".encode())
        answer = read_answer(secure)
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"private, loopback or link-local" in answer
    assert not server.connections


def test_a_tunnel_to_the_gateway_itself_leads_nowhere(serve: Serve) -> None:
    proxy = serve(Allow("shop.example"))
    answer = proxy.send(f"CONNECT 127.0.0.1:{proxy.port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 403")


def test_a_secret_is_put_in_within_tls_for_its_hosts_only(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start(None, "shop.example", "other.example")
    hosts = [Allow(name, to=server.address) for name in ("shop.example", "other.example")]
    proxy = serve(*hosts, secrets=[Secret("PASSWORD", hosts=["shop.example"])])
    for host in ("shop.example", "other.example"):
        request = (
            f"GET /?q=kibo-secret-PASSWORD HTTP/1.1\r\nHost: {host}\r\nX-Key: kibo-secret-PASSWORD\r\n\r\n"
        )
        ask(forwarder, proxy, request.encode(), host=host)
    shop, other = server.received
    assert b"?q=b%26%22ns" in shop
    assert b'x-key: b&"ns\r\n' in shop
    assert other.count(b"kibo-secret-PASSWORD") == 2


def test_a_secret_is_put_into_a_body_that_comes_in_pieces_however_long_it_turns_out_to_be(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    def handle(connection: socket.socket) -> None:
        server.received.append(read_until(connection, b"0\r\n\r\n"))
        connection.sendall(LAST_ANSWER)

    server = start(handle)
    secret = Secret("PASSWORD", hosts=["shop.example"])
    read = Allow("shop.example", to=server.address, effect="read")
    head = "POST / HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/json\r\n"
    head += "Transfer-Encoding: chunked\r\n\r\n"
    for rule in (read, Allow("shop.example", to=server.address)):
        proxy = serve(rule, secrets=[secret])
        for more in (0, 100_000):
            body = f'["{secret.placeholder}"]{" " * more}'
            asked = f"{head}7\r\n{body[:7]}\r\n{len(body) - 7:x}\r\n{body[7:]}\r\n0\r\n\r\n"
            assert ask(forwarder, proxy, asked.encode()).endswith(b"ok")
            sent = server.received[-1]
            assert b'b&\\"ns' in sent
            assert secret.placeholder.encode() not in sent


# -- how much it takes


def test_memory_stays_flat_with_the_size_of_a_body(forwarder: Forwarder, serve: Serve, start: Start) -> None:
    size = 300_000_000

    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        piece = bytes(1_000_000)
        for _ in range(size // len(piece)):
            connection.sendall(piece)

    proxy = serve(Allow("shop.example", to=start(handle).address))
    ask(forwarder, serve(Allow("shop.example", to=start().address)), GET)
    before = peak(forwarder.pid)
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        read_until(secure, b"\r\n\r\n")
        got = len(secure.recv(65536))
        time.sleep(0.3)  # for a server that runs ahead of whoever reads
        while got < size - 65536 and (chunk := secure.recv(1 << 20)):
            got += len(chunk)
    assert got >= size - 65536
    assert peak(forwarder.pid) - before < 16_000_000


def peak(pid: int) -> int:
    """The most memory that a process has held, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_client_that_dawdles_in_its_handshake_holds_up_nobody_else(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    proxy = serve(Allow("shop.example", to=start().address))
    with ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(proxy.tunnel("shop.example:443"))
            slow.sendall(b"\x16\x03\x01")
        assert ask(forwarder, proxy, GET).endswith(b"ok")


# -- the authority


def test_the_authority_is_made_once_and_its_key_is_for_its_owner_alone(
    home: Path, forwarder: Forwarder
) -> None:
    path = home / "authority" / "authority.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    certificate = forwarder.certificate()
    assert b"PRIVATE KEY" not in certificate
    with ExitStack() as stack:
        others = [stack.enter_context(Forwarder.start(home / "authority")) for _ in range(2)]
        fresh = [stack.enter_context(Forwarder.start(home / "fresh")) for _ in range(4)]
        assert {other.certificate() for other in others} == {certificate}
        assert len({each.certificate() for each in fresh}) == 1


# -- what may be done where


def test_a_rule_for_methods_and_paths_holds_within_tls_request_by_request(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start()
    proxy = serve(Allow("shop.example", to=server.address, methods=("GET",), paths=("/menu", "/menu/*")))
    assert ask(forwarder, proxy, GET).endswith(b"ok")
    for request in (b"POST /menu", b"GET /admin", b"GET /menu/../admin", b"GET /menu/%2e%2e/admin"):
        answer = ask(
            forwarder, proxy, request + b" HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 0\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 403"), request
        assert b'Allow("shop.example", methods=("GET",), paths=("/menu", "/menu/*"))' in answer
    overridden = b"GET /menu HTTP/1.1\r\nHost: shop.example\r\nX-HTTP-Method-Override: delete\r\n\r\n"
    assert b"does not cover GET/DELETE /menu" in ask(forwarder, proxy, overridden)
    with opened(forwarder, proxy) as secure:  # a second request on a connection that was allowed once
        secure.sendall(GET)
        read_answer(secure)
        secure.sendall(b"GET /admin HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert read_answer(secure).startswith(b"HTTP/1.1 403")
    assert len(server.received) == 2


def test_a_redirect_within_the_host_is_checked_as_its_first_request_was(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    def handle(connection: socket.socket) -> None:
        server.received.append(read_until(connection, b"\r\n\r\n"))
        connection.sendall(b"HTTP/1.1 302 Found\r\nlocation: /admin\r\ncontent-length: 0\r\n\r\n")

    server = start(handle)
    proxy = serve(Allow("shop.example", to=server.address, paths=("/menu",)))
    with opened(forwarder, proxy) as secure:
        secure.sendall(GET)
        assert b"location: /admin" in read_answer(secure).lower()
        secure.sendall(b"GET /admin HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        assert read_answer(secure).startswith(b"HTTP/1.1 403")
    assert len(server.received) == 1


def test_a_flood_of_connections_in_every_stage_leaves_the_gateway_as_it_was(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    server = start()
    proxy, other = (serve(Allow("shop.example", to=server.address)) for _ in range(2))
    before = len(list(Path(f"/proc/{forwarder.pid}/fd").iterdir()))
    stages = [
        b"",
        b"GET http",
        b"CONNECT shop.example:443 HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
        b"\0" * 500,
    ]
    stages.append(stages[2] + b"\x16\x03\x01\x02\x00\x01\x00")
    with ExitStack() as stack:
        for number in range(3000):
            connection = proxy.connect()
            if number < 1000:
                stack.callback(connection.close)
            with contextlib.suppress(OSError):  # one too many is answered at once, and closed
                connection.sendall(stages[number % len(stages)])
            if number >= 1000:
                connection.close()
        assert ask(forwarder, other, GET).endswith(b"ok")  # another box does not notice
        assert len(list(Path(f"/proc/{forwarder.pid}/fd").iterdir())) < before + 2 * 256 + 64
    deadline = time.monotonic() + 10
    while len(list(Path(f"/proc/{forwarder.pid}/fd").iterdir())) > before + 8:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ask(forwarder, proxy, GET).endswith(b"ok")
