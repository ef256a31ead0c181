"""The forwarder as its own process, with real sockets on both sides of it."""

import base64
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from doors import ANSWER, LAST_ANSWER, Handler, Proxy, Serve, Server, read_all, read_until, serving
from kibo.box.policy import Allow, Deny, Secret
from kibo.effects.destinations import is_public
from kibo.effects.door import MAX_CONNECTIONS
from kibo.effects.forwarder import Forwarder
from kibo.effects.orders import Order
from kibo.model.asker import Asker
from kibo.model.errors import InvalidInput, RuntimeLost

pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def forwarder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarder]:
    with Forwarder.start(tmp_path_factory.mktemp("authority"), {"PASSWORD": 'b&"ns'}) as running:
        yield running


@pytest.fixture
def serve(forwarder: Forwarder) -> Iterator[Serve]:
    with serving(forwarder) as serve_box:
        yield serve_box


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    with ExitStack() as stack:

        def start_server(handle: Handler | None = None) -> Server:
            server = Server(handle)
            stack.callback(server.close)
            return server

        yield start_server


Start = Callable[..., Server]


# -- what is allowed


def test_an_allowed_name_leads_where_its_rule_says_and_the_server_sees_a_plain_request(
    serve: Serve, start: Start
) -> None:
    server = start()
    answer = serve(Allow("shop.example", to=server.address)).get("shop.example", "/menu?x=1")
    assert answer.endswith(b"\r\n\r\nok")
    assert server.received[0].startswith(b"GET /menu?x=1 HTTP/1.1\r\nhost: shop.example\r\n")


def test_what_concerns_the_proxy_alone_is_not_passed_on(serve: Serve, start: Start) -> None:
    server = start()
    serve(Allow("shop.example", to=server.address)).send(
        b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nProxy-Authorization: Basic eA==\r\n"
        b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nX-Kept: 1\r\n\r\n"
    )
    assert b"x-kept: 1" in server.received[0]
    assert b"proxy-authorization" not in server.received[0]
    assert b"x-mine" not in server.received[0]


def test_host_kibo_is_the_loopback_of_the_machine_at_the_port_that_a_rule_names(
    serve: Serve, start: Start
) -> None:
    server = start()
    proxy = serve(Allow(f"host.kibo:{server.port}"))
    assert proxy.get(f"host.kibo:{server.port}").startswith(b"HTTP/1.1 200")
    assert proxy.get("host.kibo:1").startswith(b"HTTP/1.1 403")


def test_an_address_that_a_rule_spells_out_is_allowed(serve: Serve, start: Start) -> None:
    server = start()
    assert serve(Allow(server.address)).get(server.address).startswith(b"HTTP/1.1 200")


# -- what is not


def test_without_a_rule_the_answer_names_the_rule_to_ask_for(serve: Serve) -> None:
    answer = serve(Allow("shop.example")).get("elsewhere.example:8080")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden")
    assert b'add Allow("elsewhere.example:8080") to the `egress`' in answer


def test_a_tunnel_needs_a_rule_too(serve: Serve) -> None:
    answer = serve().send(b"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: elsewhere.example:443\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b'Allow("elsewhere.example:443")' in answer


def test_deny_wins(serve: Serve, start: Start) -> None:
    server = start()
    proxy = serve(Allow("*.example", to=server.address), Deny("bad.example"))
    assert proxy.get("good.example").startswith(b"HTTP/1.1 200")
    assert b'Deny("bad.example")' in proxy.get("bad.example")


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001", "localhost."])
def test_a_name_that_leads_to_a_private_address_is_refused_unless_the_rule_names_the_address(
    serve: Serve, start: Start, host: str
) -> None:
    server = start()
    answer = serve(Allow(f"{host}:{server.port}")).get(f"{host}:{server.port}")
    assert answer.startswith(b"HTTP/1.1 403")
    assert b'to="<address>:<port>"' in answer
    assert not server.received


def test_a_wildcard_names_neither_the_machine_nor_an_address(serve: Serve, start: Start) -> None:
    server = start()
    proxy = serve(Allow(f"*.kibo:{server.port}"), Allow(f"*.0.0.1:{server.port}"))
    assert proxy.get(f"host.kibo:{server.port}").startswith(b"HTTP/1.1 403")
    assert proxy.get(server.address).startswith(b"HTTP/1.1 403")
    assert not server.received


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:169.254.169.254", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
    ],
)
def test_private_loopback_and_link_local_addresses_are_known_in_every_wrapping(
    address: str, public: bool
) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"GET https://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example:81\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nHost: shop.example\r\n\r\n",
        b"GET http://other.example@shop.example/ HTTP/1.1\r\n\r\n",
        b"GET http://shop.example\\@other.example/ HTTP/1.1\r\n\r\n",
        b"GET http://shop.example/ HTTP/2.0\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n folded\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nX: 1\nY: 2\r\n\r\n",
        b"GET http://shop.example/ HTTP/1.1\r\nX : 1\r\n\r\n",
        b"POST http://shop.example/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST http://shop.example/ HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
        b"POST http://shop.example/ HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST http://shop.example/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"CONNECT shop.example HTTP/1.1\r\n\r\n",
        b"CONNECT http://shop.example:80/ HTTP/1.1\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_a_request_that_two_programs_might_read_differently_is_refused(
    serve: Serve, start: Start, request_: bytes
) -> None:
    server = start()
    answer = serve(Allow("shop.example", to=server.address)).send(request_)
    assert answer.startswith(b"HTTP/1.1 400")
    assert not server.received


def test_requests_that_are_sent_ahead_are_checked_one_by_one_and_answered_in_order(
    serve: Serve, start: Start
) -> None:
    server = start()
    request = b"GET http://%s.example/%d HTTP/1.1\r\nHost: %s.example\r\n\r\n"
    ahead = (
        request % (b"shop", 1, b"shop") + request % (b"shop", 2, b"shop") + request % (b"bank", 3, b"bank")
    )
    answer = serve(Allow("shop.example", to=server.address)).send(ahead + request % (b"shop", 4, b"shop"))
    assert [head.split(b" ")[1] for head in server.received] == [b"/1", b"/2"]
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"HTTP/1.1 403" in answer.rpartition(b"ok")[2]


def test_a_head_that_is_too_large_is_refused(serve: Serve) -> None:
    proxy = serve(Allow("shop.example"))
    with proxy.connect() as connection:
        connection.sendall(b"GET http://shop.example/ HTTP/1.1\r\nX: " + b"x" * 70_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 431")


def test_a_server_that_is_away_or_talks_nonsense_is_a_bad_gateway(serve: Serve, start: Start) -> None:
    nonsense = start(lambda connection: connection.sendall(b"what?"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        away = f"127.0.0.1:{closed.getsockname()[1]}"
    proxy = serve(Allow("away.example", to=away), Allow("nonsense.example", to=nonsense.address))
    assert b"away.example cannot be reached: Connection refused" in proxy.get("away.example")
    assert proxy.get("nonsense.example").startswith(b"HTTP/1.1 502")


# -- how bytes are carried


def test_a_tunnel_carries_both_ways_and_each_side_may_end_first(serve: Serve, start: Start) -> None:
    def handle(connection: socket.socket) -> None:
        said = read_all(connection)
        connection.sendall(b"you said " + said)

    with serve(Allow("shop.example:443", to=start(handle).address, passthrough=True)).tunnel(
        "shop.example:443"
    ) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b"you said hello"


def test_a_large_body_arrives_whole_by_length_and_in_chunks(serve: Serve, start: Start) -> None:
    sizes: list[int] = []

    def handle(connection: socket.socket) -> None:
        head, _, rest = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        size, tail = rest.count(b"z"), rest[-20:]
        while not (size == 20_000_000 and (b"content-length" in head or tail.endswith(b"x: 1\r\n\r\n"))):
            chunk = connection.recv(1 << 20)
            size, tail = size + chunk.count(b"z"), (tail + chunk)[-20:]
        sizes.append(size)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" + LAST_ANSWER)

    proxy = serve(Allow("shop.example", to=start(handle).address))
    body, head = b"z" * 20_000_000, b"POST http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n"
    by_length = proxy.send(head + b"Content-Length: 20000000\r\n\r\n" + body)
    in_chunks = proxy.send(
        head + b"Transfer-Encoding: chunked\r\n\r\n1312d00\r\n" + body + b"\r\n0\r\nX: 1\r\n\r\n"
    )
    assert sizes == [20_000_000, 20_000_000]
    assert by_length.startswith(b"HTTP/1.1 100 \r\n\r\nHTTP/1.1 200 OK\r\n")
    assert in_chunks.endswith(b"ok")


def test_an_answer_that_comes_before_the_body_was_wanted_is_passed_on(serve: Serve, start: Start) -> None:
    def handle(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")

    with serve(Allow("shop.example", to=start(handle).address)).connect() as connection:
        connection.sendall(
            b"POST http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 1000000\r\n\r\nsome"
        )
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_a_client_that_does_not_read_holds_up_the_server_and_not_the_memory(
    serve: Serve, start: Start
) -> None:
    sent = 0

    def handle(connection: socket.socket) -> None:
        nonlocal sent
        connection.settimeout(1)
        while True:
            sent += connection.send(b"x" * 65536)

    with serve(Allow("shop.example:443", to=start(handle).address, passthrough=True)).tunnel(
        "shop.example:443"
    ):
        time.sleep(0.5)
        held = sent
        time.sleep(0.3)
        assert sent == held < 32_000_000


def test_a_reset_by_the_server_is_a_reset_to_the_client_and_not_an_end(serve: Serve, start: Start) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\npart")
        time.sleep(0.1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serve(Allow("shop.example", to=start(handle).address)).connect() as connection:
        connection.sendall(b"GET http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            read_all(connection)


def test_one_box_cannot_open_connections_without_end(serve: Serve, start: Start) -> None:
    proxy = serve()
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(proxy.connect())
        assert proxy.send(b"").startswith(b"HTTP/1.1 503")
    deadline = time.monotonic() + 5
    while proxy.get("x.example").startswith(b"HTTP/1.1 503"):
        assert time.monotonic() < deadline


# -- secrets


def test_a_secret_is_put_in_for_its_hosts_only_each_time_in_the_right_notation(
    serve: Serve, start: Start
) -> None:
    received: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        head, _, body = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        received.append(head + b"\r\n\r\n" + body)
        connection.sendall(LAST_ANSWER)

    server = start(handle)
    secret = Secret("PASSWORD", hosts=["shop.example"])
    proxy = serve(
        Allow("shop.example", to=server.address), Allow("other.example", to=server.address), secrets=[secret]
    )
    basic = base64.b64encode(b"ada:kibo-secret-PASSWORD").decode()
    for host, kind, body in [
        ("shop.example", "application/x-www-form-urlencoded", "p=kibo-secret-PASSWORD"),
        ("shop.example", "application/json; charset=utf-8", '{"p": "kibo-secret-PASSWORD"}'),
        ("other.example", "application/x-www-form-urlencoded", "p=kibo-secret-PASSWORD"),
    ]:
        proxy.send(
            f"POST http://{host}/?q=kibo-secret-PASSWORD HTTP/1.1\r\nHost: {host}\r\nX-Key: kibo-secret-PASSWORD\r\n"
            f"Authorization: Basic {basic}\r\nX-Basic: Basic {basic}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
    form, as_json, other = received
    assert form.endswith(b"\r\n\r\np=b%26%22ns")
    assert b"?q=b%26%22ns" in form
    assert b'x-key: b&"ns\r\n' in form
    assert b"\r\nauthorization: Basic %b\r\n" % base64.b64encode(b'ada:b&"ns') in form
    assert f"\r\nx-basic: Basic {basic}\r\n".encode() in form
    assert as_json.endswith(rb'{"p": "b&\"ns"}')
    assert other.count(b"kibo-secret-PASSWORD") == 3
    assert other.count(basic.encode()) == 2
    assert b"b&" not in other


def test_a_secret_without_a_value_is_an_error_that_says_where_to_put_it(serve: Serve) -> None:
    with pytest.raises(InvalidInput, match="Set TOKEN in the environment"):
        serve(Allow("shop.example"), secrets=[Secret("TOKEN", hosts=["shop.example"])])


# -- how it ends


def test_stop_cuts_the_connections_of_the_box_and_frees_its_socket(
    forwarder: Forwarder, start: Start
) -> None:
    server = start(lambda connection: connection.recv(1) and None)
    proxy = Proxy(forwarder, "stopped", [Allow("shop.example:443", to=server.address, passthrough=True)], [])
    with proxy.tunnel("shop.example:443") as connection:
        forwarder.stop("stopped")
        with pytest.raises(ConnectionResetError):
            read_all(connection)
    with pytest.raises(ConnectionRefusedError):
        proxy.connect()
    forwarder.stop("stopped")


def test_a_door_closes_by_itself_when_the_first_process_of_its_box_ends(forwarder: Forwarder) -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as process,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        pidfd = os.pidfd_open(process.pid)
        forwarder.serve(listener.fileno(), [], "ended", pidfd=pidfd)
        os.close(pidfd)
        address = listener.getsockname()
        listener.close()
        socket.create_connection(address).close()
        process.kill()
        process.wait()
        deadline = time.monotonic() + 5
        with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
            while time.monotonic() < deadline:
                socket.create_connection(address).close()


def test_a_forwarder_that_has_ended_says_so_and_can_be_closed_again(tmp_path: Path) -> None:
    forwarder = Forwarder.start(tmp_path)
    forwarder.stop("none")
    os.kill(forwarder.pid, signal.SIGKILL)
    with pytest.raises(RuntimeLost):
        forwarder.stop("none")
    forwarder.close()
    forwarder.close()
    with pytest.raises(RuntimeLost):
        forwarder.stop("none")


def test_an_answer_that_came_too_late_is_not_taken_for_that_to_the_next_order(tmp_path: Path) -> None:
    with Forwarder.start(tmp_path) as forwarder:
        forwarder.certificate()
        os.kill(forwarder.pid, signal.SIGSTOP)
        forwarder._control.settimeout(0.05)
        with pytest.raises(RuntimeLost, match="does not answer"):
            forwarder.stop("none")
        forwarder._control.settimeout(10)
        os.kill(forwarder.pid, signal.SIGCONT)
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            pytest.raises(RuntimeLost, match="can hold nothing"),
        ):
            forwarder.serve(listener.fileno(), [], "box", asker=Asker("br_1", "br_0", holds=True))
        assert forwarder.certificate().startswith(b"-----BEGIN")


def test_a_forwarder_ends_in_peace_where_who_gave_an_order_is_gone_before_the_answer(tmp_path: Path) -> None:
    with Forwarder.start(tmp_path) as forwarder:
        forwarder.certificate()
        os.kill(forwarder.pid, signal.SIGSTOP)
        forwarder._control.send(msgspec.msgpack.encode(Order("ask", "")))
        forwarder._control.close()
        os.kill(forwarder.pid, signal.SIGCONT)
        assert forwarder._process.wait(20) == 0


def test_killing_the_user_process_ends_the_forwarder(tmp_path: Path) -> None:
    program = (
        "import pathlib, time; from kibo.effects.forwarder import Forwarder\n"
        f"f = Forwarder.start(pathlib.Path({str(tmp_path)!r})); f.stop('x'); print(f.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout
        pidfd = os.pidfd_open(int(user.stdout.readline()))
        try:
            user.send_signal(signal.SIGKILL)
            ended, _, _ = select.select([pidfd], [], [], 5)
        finally:
            os.close(pidfd)
    assert ended


def test_a_body_that_no_secret_is_put_into_arrives_whole_with_one_in_the_head(
    serve: Serve, start: Start
) -> None:
    received: list[bytes] = []
    body = os.urandom(200_000)

    def take(connection: socket.socket) -> None:
        head, _, rest = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        while len(rest) < len(body):
            rest += connection.recv(65536)
        received.extend((head, rest))
        connection.sendall(ANSWER)

    secret = Secret("PASSWORD", hosts=["shop.example"])
    proxy = serve(Allow("shop.example", to=start(take).address), secrets=[secret])
    head = f"POST http://shop.example/ HTTP/1.1\r\nHost: shop.example\r\nX-Token: {secret.placeholder}\r\n"
    answer = proxy.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert answer.startswith(b"HTTP/1.1 200")
    assert received[1] == body
    assert b'x-token: b&"ns' in received[0]
