"""SOCKS and ports that stand for a host, at the forwarder as its own process: what they reach, and what they do not."""

import contextlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import trustme

from doors import (
    GREETING,
    Handler,
    Serve,
    Server,
    read_all,
    read_until,
    receive_exactly,
    serving,
    socks,
    socks_request,
)
from kibo.box.policy import Allow, Deny
from kibo.effects.door import MAX_CONNECTIONS
from kibo.effects.forwarder import Forwarder
from kibo.effects.notices import BURST, MAX_CHARACTERS

pytestmark = pytest.mark.contract

HOST, PORT = "db.example", 5432
NOT_ALLOWED, NO_HOST, NO_SERVER, NO_COMMAND, NO_ADDRESS_TYPE = 2, 4, 5, 7, 8


@pytest.fixture(scope="module")
def servers_authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def forwarder(tmp_path_factory: pytest.TempPathFactory, servers_authority: trustme.CA) -> Iterator[Forwarder]:
    place = tmp_path_factory.mktemp("gateway")
    servers_authority.cert_pem.write_to_path(place / "servers.pem")
    with Forwarder.start(place / "authority", extra_trust=place / "servers.pem") as running:
        yield running


@pytest.fixture
def serve(forwarder: Forwarder) -> Iterator[Serve]:
    with serving(forwarder) as serve_box:
        yield serve_box


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start_server(handle: Handler | None = None, tls: ssl.SSLContext | None = None) -> Server:
            server = Server(handle, tls)
            stack.callback(server.close)
            return server

        yield start_server


Start = Callable[..., Server]


def shout(connection: socket.socket) -> None:
    """Says hello first, as many protocols do, then gives back what it is sent, in capitals, until that ends."""
    connection.sendall(b"\0hello\n")
    while data := connection.recv(65536):
        connection.sendall(data.upper())
    connection.sendall(b"bye\n")


# -- any protocol


@pytest.mark.parametrize("way", ["SOCKS", "CONNECT", "a port of the box"])
def test_any_protocol_is_spoken_where_a_rule_says_so_and_each_side_may_end_first(
    serve: Serve, start: Start, way: str
) -> None:
    server = start(shout)
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address, tcp=True))
    if way == "SOCKS":
        code, connection = socks(proxy, "DB.example", PORT)
        assert code == 0
    elif way == "CONNECT":
        connection = proxy.tunnel(f"{HOST}:{PORT}")
    else:
        connection = socket.create_connection(("127.0.0.1", proxy.forwards[0]), timeout=10)
    with connection:
        assert read_until(connection, b"\n") == b"\0hello\n"
        connection.sendall(b"\x16\x03\x01 any bytes")
        assert read_until(connection, b"BYTES") == b"\x16\x03\x01 ANY BYTES"
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"bye\n"
    assert proxy.log() == ""


def test_all_of_a_handshake_may_come_in_one_piece_and_each_byte_alone(serve: Serve, start: Start) -> None:
    server = start(shout)
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address, tcp=True))
    said = GREETING + socks_request(HOST, PORT) + b"abc"
    for size in (len(said), 1):
        with proxy.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(said), size):
                connection.sendall(said[at : at + size])
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection)[12:] == b"\0hello\nABCbye\n"


def test_addresses_that_a_rule_spells_out_are_reached_in_both_versions(serve: Serve, start: Start) -> None:
    server = start(shout)
    proxy = serve(Allow(server.address, tcp=True), Allow("[::1]:9", tcp=True))
    code, connection = socks(proxy, ipaddress.ip_address("127.0.0.1").packed, server.port)
    assert code == 0
    connection.close()
    code, connection = socks(proxy, ipaddress.ip_address("::1").packed, 9)
    assert code == NO_SERVER  # allowed, and nobody is there
    connection.close()
    assert proxy.forwards == []


def test_a_reset_on_one_side_is_a_reset_on_the_other(serve: Serve, start: Start) -> None:
    heard: list[str] = []

    def handle(connection: socket.socket) -> None:
        assert receive_exactly(connection, 1)
        try:
            connection.recv(1)
        except ConnectionResetError:
            heard.append("reset")

    linger = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4))
    server = start(handle)
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address, tcp=True))
    _, connection = socks(proxy, HOST, PORT)
    connection.sendall(b"x")
    connection.setsockopt(*linger)
    connection.close()
    deadline = time.monotonic() + 10
    while not heard:
        assert time.monotonic() < deadline
        time.sleep(0.01)

    def cut(connection: socket.socket) -> None:
        receive_exactly(connection, 1)
        connection.setsockopt(*linger)

    proxy = serve(Allow(f"{HOST}:{PORT}", to=start(cut).address, tcp=True))
    _, connection = socks(proxy, HOST, PORT)
    with connection, pytest.raises(ConnectionResetError):
        connection.sendall(b"x")
        connection.recv(1)


def test_who_does_not_read_holds_up_the_other_side_and_not_the_memory(serve: Serve, start: Start) -> None:
    sent = 0
    stuck = threading.Event()

    def handle(connection: socket.socket) -> None:
        nonlocal sent
        connection.settimeout(0.5)
        try:
            while True:
                sent += connection.send(bytes(65536))
        except TimeoutError:
            stuck.set()

    proxy = serve(Allow(f"{HOST}:{PORT}", to=start(handle).address, tcp=True))
    _, connection = socks(proxy, HOST, PORT)
    with connection:
        assert stuck.wait(20)
        assert sent < 32 * 1024 * 1024


# -- what is for HTTP


def test_socks_to_a_host_of_http_is_no_way_around_its_rule(
    forwarder: Forwarder, serve: Serve, start: Start, servers_authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers_authority.issue_cert("shop.example").configure_cert(context)
    client = ssl.create_default_context(cadata=forwarder.certificate().decode())
    for port, server in ((443, start(tls=context)), (80, start())):
        proxy = serve(Allow("shop.example", to=server.address, methods=("GET",)))
        for method, status in (("GET", b"200"), ("POST", b"403")):
            code, connection = socks(proxy, "shop.example", port)
            assert code == 0
            if port == 443:
                connection = client.wrap_socket(connection, server_hostname="shop.example")
            with connection:
                connection.sendall(f"{method} /x HTTP/1.1\r\nHost: shop.example\r\n\r\n".encode())
                assert read_until(connection, b"\r\n\r\n")[9:12] == status
        assert 'Allow("shop.example", methods=("GET",)) lets this box reach' in proxy.log()
        assert len(server.received) == 1


@pytest.mark.parametrize(
    "first", [b"\0\0\0\x08\x04\xd2\x16\x2f", b"SSH-2.0-OpenSSH_9.2\r\n", b"*1\r\n$4\r\nPING\r\n", b"x" * 40]
)
def test_what_is_neither_tls_nor_http_is_cut_off_where_a_rule_is_for_http(
    serve: Serve, start: Start, first: bytes
) -> None:
    server = start()
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address))
    _, connection = socks(proxy, HOST, PORT)
    with connection, pytest.raises(ConnectionResetError):
        connection.sendall(first)
        connection.recv(1)
    assert server.connections == 0
    assert f'write Allow("{HOST}:{PORT}", tcp=True)' in proxy.await_log("\n")


def test_where_any_protocol_is_allowed_http_through_the_proxy_is_too(serve: Serve, start: Start) -> None:
    server = start()
    proxy = serve(Allow("db.example:8123", to=server.address, tcp=True))
    assert proxy.get("db.example:8123").endswith(b"ok")


# -- what is refused


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("elsewhere.example", 'Allow("elsewhere.example:5432", tcp=True)'),
        (b"\x01\x01\x01\x01", 'Allow("1.1.1.1:5432", tcp=True)'),
        (ipaddress.ip_address("2606:4700::1111").packed, 'Allow("[2606:4700::1111]:5432", tcp=True)'),
    ],
)
def test_without_a_rule_the_answer_is_no_and_the_log_names_the_rule_to_ask_for(
    serve: Serve, host: str | bytes, remedy: str
) -> None:
    proxy = serve(Allow(f"{HOST}:{PORT}", tcp=True))
    code, connection = socks(proxy, host, PORT)
    with connection:
        assert code == NOT_ALLOWED
        assert connection.recv(1) == b""
    assert remedy in proxy.log()


def test_deny_wins_also_one_of_which_nobody_could_tell_whether_it_is_meant(
    serve: Serve, start: Start
) -> None:
    server = start(shout)
    allow = Allow(f"*.example:{PORT}", to=server.address, tcp=True)
    for denial in (Deny(HOST), Deny(f"{HOST}:{PORT}"), Deny(HOST, methods=("POST",)), Deny("*.example")):
        proxy = serve(allow, denial)
        code, connection = socks(proxy, HOST, PORT)
        connection.close()
        assert code == NOT_ALLOWED
        assert "Deny(" in proxy.log()
    assert server.connections == 0


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost.", "127.1", "2130706433", "0x7f000001", "017700000001"],
)
def test_a_name_that_leads_to_a_private_address_is_refused_unless_the_rule_says_where_it_leads(
    serve: Serve, start: Start, host: str
) -> None:
    server = start(shout)
    proxy = serve(Allow(f"{host}:{server.port}", tcp=True))
    code, connection = socks(proxy, host, server.port)
    connection.close()
    assert code == NOT_ALLOWED
    # It may be reset before the program has heard that it is connected.
    forwarded = ("127.0.0.1", proxy.forwards[0])
    with pytest.raises(ConnectionResetError), socket.create_connection(forwarded, timeout=10) as forward:
        forward.recv(1)
    assert server.connections == 0
    assert proxy.log().count('to="<address>:<port>"') == 2


@pytest.mark.parametrize("address", ["::ffff:127.0.0.1", "64:ff9b::7f00:1", "::127.0.0.1", "2002:7f00:1::"])
def test_no_wrapping_of_a_private_address_gets_by_a_wildcard_or_a_rule_for_another_spelling(
    serve: Serve, start: Start, address: str
) -> None:
    server = start(shout)
    proxy = serve(Allow(f"*.0.0.1:{server.port}", tcp=True), Allow(server.address, tcp=True))
    code, connection = socks(proxy, ipaddress.ip_address(address).packed, server.port)
    connection.close()
    assert code == NOT_ALLOWED
    code, connection = socks(proxy, address, server.port)
    connection.close()
    assert code == NOT_ALLOWED
    assert server.connections == 0


def test_a_wildcard_names_neither_the_machine_nor_an_address(serve: Serve, start: Start) -> None:
    server = start(shout)
    proxy = serve(
        Allow(f"*.kibo:{server.port}", tcp=True),
        Allow(f"*.0.0.1:{server.port}", tcp=True),
        Allow(f"host.kibo:{PORT}", tcp=True),
    )
    for host in ("host.kibo", "127.0.0.1", b"\x7f\0\0\1"):
        code, connection = socks(proxy, host, server.port)
        connection.close()
        assert code == NOT_ALLOWED
    assert server.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "db.example\0.evil.example",
        "db.example\n",
        "db.example:5432",
        "a@db.example",
        "db.example/x",
        " db.example",
        "[::1]",
        "",
        ".",
        "d\xf6.example",
        "*.example",
    ],
)
def test_what_is_no_name_is_refused_as_it_stands(serve: Serve, start: Start, host: str) -> None:
    server = start(shout)
    proxy = serve(Allow(f"*.example:{PORT}", to=server.address, tcp=True))
    code, connection = socks(proxy, host, PORT)
    connection.close()
    assert code in (1, NOT_ALLOWED)
    assert server.connections == 0


@pytest.mark.parametrize(("command", "name"), [(2, "BIND"), (3, "UDP ASSOCIATE"), (0, "command 0")])
def test_socks_connects_and_does_nothing_else(serve: Serve, start: Start, command: int, name: str) -> None:
    server = start(shout)
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address, tcp=True))
    code, connection = socks(proxy, HOST, PORT, command)
    connection.close()
    assert code == NO_COMMAND
    assert name in proxy.log()
    assert server.connections == 0


def test_handshakes_that_are_none_are_answered_and_ended(serve: Serve) -> None:
    proxy = serve(Allow(f"{HOST}:{PORT}", tcp=True))
    for said, answer in [
        (b"\5\1\2", b"\5\xff"),  # a password
        (b"\5\0", b"\5\xff"),
        (GREETING + b"\4\1\0\1" + bytes(6), b"\5\0\5\1\0\1" + bytes(6)),
        (GREETING + b"\5\1\1\1" + bytes(6), b"\5\0\5\1\0\1" + bytes(6)),
        (GREETING + b"\5\1\0\2" + bytes(6), b"\5\0\5\x08\0\1" + bytes(6)),
        (GREETING + socks_request(HOST, 0), b"\5\0\5\1\0\1" + bytes(6)),
        (b"\4\1\0\x50\1\1\1\1\0", b"\0\x5b" + bytes(6)),
    ]:
        with proxy.connect() as connection:
            connection.sendall(said)
            assert receive_exactly(connection, len(answer)) == answer
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
    assert "socks5h://" in proxy.await_log("socks5h://")


def test_a_server_that_is_away_is_told_from_one_that_may_not_be_reached(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    proxy = serve(Allow(f"{HOST}:{PORT}", to=f"127.0.0.1:{port}", tcp=True), Allow("no.invalid:1", tcp=True))
    code, connection = socks(proxy, HOST, PORT)
    connection.close()
    assert code == NO_SERVER
    code, connection = socks(proxy, "no.invalid", 1)
    connection.close()
    assert code == NO_HOST
    assert "db.example cannot be reached: Connection refused." in proxy.log()
    assert "the name no.invalid has no address." in proxy.log()


def test_one_box_cannot_open_connections_without_end_whichever_way(serve: Serve, start: Start) -> None:
    server = start(shout)
    proxy = serve(Allow(f"{HOST}:{PORT}", to=server.address, tcp=True))
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS // 2):
            stack.enter_context(proxy.connect())
            forward = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.forwards[0]), 10))
            assert read_until(forward, b"\n")
        forwarded = ("127.0.0.1", proxy.forwards[0])
        with pytest.raises(ConnectionResetError), socket.create_connection(forwarded, 10) as extra:
            extra.recv(1)
        assert f"this box has {MAX_CONNECTIONS} connections open" in proxy.log()


def test_a_stopped_box_has_no_port_and_no_connection_left(
    forwarder: Forwarder, serve: Serve, start: Start
) -> None:
    proxy = serve(Allow(f"{HOST}:{PORT}", to=start(shout).address, tcp=True))
    with socket.create_connection(("127.0.0.1", proxy.forwards[0]), 10) as connection:
        assert read_until(connection, b"\n")
        forwarder.stop("box0")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.forwards[0]), 10)


# -- what the log says


def test_each_refusal_is_one_line_of_the_boxs_log_whatever_is_in_it(serve: Serve, start: Start) -> None:
    proxy = serve(Allow("shop.example", methods=("GET",)))
    refused = proxy.send(b"POST http://shop.example/\x1b[2J%0a HTTP/1.1\r\nHost: shop.example\r\n\r\n")
    assert refused.startswith(b"HTTP/1.1 4")
    proxy.get("elsewhere.example")
    proxy.send(b"nonsense\r\n\r\n")
    proxy.get("a" * 60 + ".example", "/" + "x" * 4000)
    lines = proxy.log().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("Kibo: ") and line.isprintable() for line in lines)
    assert 'add Allow("elsewhere.example:80")' in lines[1]
    assert max(map(len, lines)) < MAX_CHARACTERS + 20


def test_a_box_cannot_fill_its_log_through_the_gateway(serve: Serve) -> None:
    proxy = serve()
    for _ in range(BURST * 4):
        proxy.get("elsewhere.example")
    lines = proxy.log().splitlines()
    assert BURST < len(lines) < BURST * 3
    assert any("too many refusals at once" in line for line in lines)


def test_a_program_that_trusts_only_one_certificate_is_named_in_the_log(
    serve: Serve, start: Start, servers_authority: trustme.CA
) -> None:
    proxy = serve(Allow("pinned.example", to=start().address))
    client = ssl.create_default_context()
    client.load_verify_locations(cadata=servers_authority.cert_pem.bytes().decode())
    with proxy.tunnel("pinned.example:443") as tunnel, pytest.raises(ssl.SSLError):
        client.wrap_socket(tunnel, server_hostname="pinned.example")
    assert 'Allow("pinned.example", passthrough=True)' in proxy.await_log("\n")


def test_a_log_that_takes_no_more_is_no_trouble(forwarder: Forwarder, start: Start) -> None:
    server = start()
    with socket.create_server(("127.0.0.1", 0)) as listener, open("/dev/full", "wb") as log:
        forwarder.serve(
            listener.fileno(), [Allow("shop.example", to=server.address)], "full", log=log.fileno()
        )
        port = listener.getsockname()[1]
    for host, status in (("elsewhere.example", b"403"), ("shop.example", b"200")):
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert read_until(connection, b"\r\n\r\n")[9:12] == status
    forwarder.stop("full")
