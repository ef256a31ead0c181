"""Two programs of one customer at a real shop, which sees one session and no cookie twice."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import kibo
from kibo import Allow
from running_till import serving
from sign_in_boxes import PROFILE, Customer


class Shop:
    """A shop that signs people in, and gives them another cookie with each purchase: the last is good for nothing.

    Attributes:
        logins: How often somebody signed in.
        bought: How often somebody bought.
        address: Where it is.
    """

    def __init__(self) -> None:
        self.logins = self.bought = 0
        self.good: set[str] = set()
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                sid = (self.headers["cookie"] or "").removeprefix("sid=")
                if self.path == "/login":
                    shop.logins += 1
                elif sid in shop.good:
                    shop.good.remove(sid)
                    shop.bought += 1
                else:
                    self.send_response(401)
                    self.send_header("content-length", "0")
                    self.end_headers()
                    return
                fresh = secrets.token_hex(8)
                shop.good.add(fresh)
                body = f"receipt {shop.bought}".encode()
                self.send_response(200)
                self.send_header("set-cookie", f"sid={fresh}; Path=/; Max-Age=3600")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Tests print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def shop() -> Iterator[Shop]:
    shop = Shop()
    with serving(shop.server):
        yield shop


def test_whoever_comes_next_goes_on_with_the_sign_in_of_the_last(shop: Shop, tmp_path: Path) -> None:
    class Ada(Customer):
        """Buys at this shop."""

        egress = [Allow("shop.example", to=shop.address)]

    receipts: list[str] = []

    def program() -> None:
        profile = kibo.session(f"shop.example/{tmp_path.name}")
        for _ in range(3):
            with profile.lease(wait_s=30) as lease, Ada().spawn() as box:
                lease.load(box, PROFILE)
                receipts.append(box.buy())
                lease.save(box, PROFILE)

    programs = [threading.Thread(target=program) for _ in range(2)]
    for each in programs:
        each.start()
    for each in programs:
        each.join()
    assert sorted(receipts) == [f"receipt {number}" for number in range(1, 7)]
    assert (shop.logins, shop.bought) == (1, 6)


def test_a_fork_that_loses_signs_nobody_out(shop: Shop, tmp_path: Path) -> None:
    class Ada(Customer):
        """Buys at this shop."""

        egress = [Allow("shop.example", to=shop.address, effect="read")]

    profile = kibo.session(f"shop.example/{tmp_path.name}")
    with kibo.branch() as main, profile.lease() as lease:
        box = main.spawn(Ada())
        lease.load(box, PROFILE)
        one, two = main.fork(2)
        for fork in (one, two):
            fork[box].buy()
            lease.save(fork[box], PROFILE)
        assert shop.logins == 2
        one.commit()
        box.buy()  # with the cookie of the fork that won
        lease.save(box, PROFILE)
    with profile.lease() as lease, Ada().spawn() as later:
        lease.load(later, PROFILE)
        later.buy()
    assert shop.logins == 2
