"""Names whose answers change or lie: the gateway looks one up once, and connects to an address that it has checked."""

import asyncio
import socket
from typing import Any

import pytest

from doors import GREETING, socks_request
from kibo.box.forwards import forwards
from kibo.box.policy import Allow
from kibo.effects.door import Door, Services
from kibo.effects.notices import Notices
from kibo.effects.upstream import Upstream, trusting
from kibo.model.asker import NOBODY

PUBLIC, OTHER, PRIVATE = "93.184.216.34", "93.184.216.35", "169.254.169.254"
ASKED = {
    "HTTP": b"GET http://name.example:5432/ HTTP/1.1\r\nHost: name.example:5432\r\n\r\n",
    "CONNECT": b"CONNECT name.example:5432 HTTP/1.1\r\nHost: name.example:5432\r\n\r\n",
    "SOCKS": GREETING + socks_request("name.example", 5432),
    "a port of the box": b"",
}


class Outside:
    """A resolver that gives one answer after the other, and a network in which nobody but loopback is there."""

    def __init__(self, answers: list[list[str]]) -> None:
        self._answers = answers
        self.looked_up: list[str] = []
        self.tried: list[str] = []

    def surround(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the place of both for a loop."""
        self._connect = loop.create_connection
        loop.getaddrinfo = self.look_up  # type: ignore[assignment, method-assign]
        loop.create_connection = self.connect  # type: ignore[assignment, method-assign]

    async def look_up(self, host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        self.looked_up.append(host)
        answer = self._answers[min(len(self.looked_up), len(self._answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in answer]

    async def connect(self, made: Any, address: str, port: int, **options: Any) -> tuple[Any, Any]:
        if address == "127.0.0.1":
            return await self._connect(made, address, port, **options)
        self.tried.append(address)
        raise ConnectionRefusedError(111, "refused")


async def ask(way: str, outside: Outside, rule: Allow) -> None:
    """Has a box ask for the name in one way, and hears it out."""
    outside.surround(asyncio.get_running_loop())
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(1 + len(forwards([rule])))]
    ports = [each.getsockname()[1] for each in sockets]
    services = Services(None, trusting())  # type: ignore[arg-type] # nothing here is TLS
    upstream = Upstream(services.trust)
    door = Door(sockets[0], [rule], [], services, "box", NOBODY, upstream, Notices(None), sockets[1:])
    await door.open()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", ports[-1 if way == "a port of the box" else 0]
    )
    try:
        writer.write(ASKED[way])
        await reader.read()
    except ConnectionResetError:
        pass  # how a port without a proxy says no
    finally:
        writer.close()
        await door.close()


@pytest.mark.parametrize("way", ASKED)
@pytest.mark.parametrize(
    ("answers", "tried"),
    [
        ([[PUBLIC], [PRIVATE]], [PUBLIC]),
        ([[PUBLIC, PRIVATE, OTHER, "127.0.0.2", "10.0.0.1"], [PRIVATE]], [PUBLIC, OTHER]),
        ([[PRIVATE, "127.0.0.2", "192.168.0.1"], [PUBLIC]], []),
        ([["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"], [PUBLIC]], []),
    ],
)
def test_an_answer_that_changes_between_the_check_and_the_connection_leads_nowhere_else(
    way: str, answers: list[list[str]], tried: list[str]
) -> None:
    outside = Outside(answers)
    asyncio.run(ask(way, outside, Allow("name.example:5432", tcp=True)))
    assert outside.tried == tried
    assert outside.looked_up == ["name.example"]


@pytest.mark.parametrize("way", ["SOCKS", "CONNECT"])
def test_in_a_tunnel_that_is_opened_each_request_leads_to_addresses_checked_for_it(
    monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    outside = Outside([[PRIVATE], [PUBLIC]])
    asked = ASKED[way] + b"GET / HTTP/1.1\r\nHost: name.example:5432\r\n\r\n"
    monkeypatch.setitem(ASKED, way, asked)
    asyncio.run(ask(way, outside, Allow("name.example:5432")))
    assert outside.tried == []
    assert outside.looked_up == ["name.example"]
