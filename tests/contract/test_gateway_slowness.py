"""Clients and servers that say too little for too long, or too much, at the gateway; with its bounds shortened."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager, closing

import pytest

from doors import ANSWER, Proxy, Server, read_until
from kibo.box.policy import Allow
from kibo.effects import client, link
from kibo.effects.exchange import Fields, Request, Whole
from kibo.effects.forwarder import Forwarder
from kibo.effects.upstream import Upstream, trusting
from kibo.effects.wires import Plain

pytestmark = pytest.mark.contract

BOUND_S = 0.2


@asynccontextmanager
async def connected() -> Iterator[tuple[client.Client, asyncio.StreamWriter]]:
    """A box's side of a connection, and the gateway's."""
    ours, theirs = socket.socketpair()
    _, box = await asyncio.open_connection(sock=theirs)
    _, plain = await asyncio.get_running_loop().create_connection(Plain, sock=ours)
    try:
        yield client.Client(plain), box
    finally:
        plain.close()
        box.close()
        await box.wait_closed()


def test_a_head_that_comes_a_byte_at_a_time_has_a_bound_from_its_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "HEAD_S", BOUND_S)

    async def drip() -> int:
        async with connected() as (gateway, box):
            waiting = asyncio.ensure_future(gateway.head())
            sent = 0
            while not waiting.done():  # each byte comes in time, and all of them do not
                box.write(b"G" if not sent else b"x")
                sent += 1
                await asyncio.wait([waiting], timeout=BOUND_S / 8)
            with pytest.raises(TimeoutError):
                await waiting
            return sent

    assert asyncio.run(drip()) > 1


def test_between_requests_there_is_a_bound_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "KEPT_S", BOUND_S)

    async def silent() -> None:
        async with connected() as (gateway, _):
            with pytest.raises(TimeoutError):
                await gateway.head()

    asyncio.run(silent())


async def unheard(status: int, fields: Fields) -> None:
    """Nobody waits for interim answers."""


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n"])
def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(link, "IDLE_S", BOUND_S)

    def hang(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(said)
        assert connection.recv(1) == b""  # until the gateway ends it

    async def ask(address: str) -> str:
        rule = Allow("shop.example", to=address)
        request = Request(rule, False, "shop.example", 80, b"GET", b"/", [(b"host", b"x")], Whole(), False)
        upstream = Upstream(trusting())
        with pytest.raises(link.Refused) as refused:
            await upstream.send(request, unheard)
        upstream.close()
        return str(refused.value)

    with closing(Server(hang)) as server:
        assert "the server gave no answer that can be read" in asyncio.run(ask(server.address))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forwarder]:
    with Forwarder.start(tmp_path_factory.mktemp("slowness") / "authority") as running:
        yield running


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_servers_head_without_an_end_is_given_up_and_a_large_one_passes(
    gateway: Forwarder, end: bytes
) -> None:
    size = link.MAX_ANSWER_HEAD_BYTES

    def say(connection: socket.socket) -> None:
        path = read_until(connection, b"\r\n\r\n").split(b" ")[1]
        lines = b"x-much: %b\r\n" % (b"x" * 1000)
        most = size // 2 if path == b"/large" else 4 * size
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + lines * (most // len(lines))
        connection.sendall(head + b"\r\n" if path == b"/large" else head + end)

    with closing(Server(say)) as server:
        box = Proxy(gateway, "inst_heads", [Allow("shop.example", to=server.address)], [])
        assert box.get("shop.example", "/large").startswith(b"HTTP/1.1 200 OK")
        assert box.get("shop.example", "/endless").startswith(b"HTTP/1.1 502")


def test_a_redirect_to_another_host_is_a_request_that_its_rules_are_for(gateway: Forwarder) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(closing(Server()))

        def send_on(connection: socket.socket) -> None:
            read_until(connection, b"\r\n\r\n")
            connection.sendall(
                b"HTTP/1.1 302 Found\r\nlocation: http://other.example/x\r\ncontent-length: 0\r\n\r\n"
            )

        shop = stack.enter_context(closing(Server(send_on)))
        rules = [Allow("shop.example", to=shop.address)]
        box = Proxy(gateway, "inst_redirects", list(rules), [])
        assert b"location: http://other.example/x" in box.get("shop.example")
        assert other.connections == 0, "the gateway follows nowhere by itself"
        assert box.get("other.example", "/x").startswith(b"HTTP/1.1 403")
        allowed = [*rules, Allow("other.example", to=other.address)]
        assert Proxy(gateway, "inst_redirects", list(allowed), []).get("other.example", "/x") == ANSWER
