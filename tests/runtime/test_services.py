"""Services of a box: ready before spawn returns, restarted as they ask for, and gone with the box."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
from kibo import Box, Env, Service, action
from kibo.model import errors
from kibo.runtime.instance import Instance
from kibo.runtime.services import listens, pause_before_restart

SERVER = """
import http.server, os, sys, time
time.sleep(float(os.environ.get("DELAY", "0")))
class Menu(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/exit":
            os._exit(int(os.environ.get("STATUS", "1")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {os.environ.get('SIZE')}".encode())
print("opening", flush=True)
http.server.HTTPServer(("127.0.0.1", 8080), Menu).serve_forever()
"""


class Shop(Box):
    """Has a server."""

    env = Env(
        files={"/opt/shop.py": SERVER.encode()},
        services=[
            Service(
                "shop",
                ["/usr/bin/python3", "/opt/shop.py"],
                ready="tcp:8080",
                restart="always",
                variables={"SIZE": "small", "DELAY": "0.3", "STATUS": "0"},
            )
        ],
    )

    def launch(self) -> None:
        """Asks it, so that it must be there before."""
        self.at_launch = self.fetch()

    def fetch(self, path: str = "") -> str:
        """Asks the server."""
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:8080/{path}", timeout=5) as answer:
            return str(answer.read().decode())

    @action
    def menu(self) -> str:
        """Ask the server."""
        return self.fetch()

    @action
    def before(self) -> str:
        """What it said at launch."""
        return self.at_launch

    @action
    def stop(self) -> None:
        """Have it end."""
        try:
            self.fetch("exit")
        except OSError:
            pass  # it ends without a word


@pytest.fixture
def shop() -> Iterator[Instance]:
    with Shop().spawn() as instance:
        yield instance


def until(box: Instance, seconds: float = 5.0) -> str:
    """Asks until the server answers."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return str(box.menu())
        except errors.ActionRaised:
            assert time.monotonic() < deadline, box.logs(service="shop")
            time.sleep(0.05)


def test_a_service_answers_as_soon_as_spawn_returns_and_at_launch(shop: Instance) -> None:
    assert shop.menu().endswith(" small")
    assert shop.before().endswith(" small")


def test_each_instance_has_its_own(shop: Instance) -> None:
    with Shop().spawn() as other:
        shop.stop()
        assert other.menu().endswith(" small")


def test_a_service_that_ends_is_started_again(shop: Instance) -> None:
    before = shop.menu()
    shop.stop()
    assert until(shop) != before
    assert shop.logs(service="shop").count("opening") >= 2


def test_a_service_that_is_killed_is_started_again(shop: Instance) -> None:
    pid = shop.menu().split()[0]
    shop.exec(f"kill -9 {pid}")
    assert until(shop).split()[0] != pid


def test_services_come_back_when_the_box_kills_their_supervisor(shop: Instance) -> None:
    shop.exec("for p in /proc/[0-9]*; do grep -q kibo-services $p/comm && kill -9 ${p#/proc/}; done")
    time.sleep(0.1)
    assert until(shop).endswith(" small")


def test_a_service_that_must_not_restart_stays_ended() -> None:
    class Once(Shop):
        env = Env(services=[Service("shop", "python3 /opt/shop.py", ready="tcp:8080", restart="never")])

    with Once().spawn() as box:
        box.stop()
        time.sleep(0.5)
        with pytest.raises(errors.ActionRaised, match="refused"):
            box.menu()


def test_a_service_that_is_not_ready_in_time_is_an_error_that_shows_its_log() -> None:
    class Slow(Box):
        env = Env(services=[Service("mill", "echo grinding; sleep 60", ready="tcp:9", start_timeout_s=0.4)])

    before = len(leftovers.descendants(os.getpid()))
    with pytest.raises(errors.ServiceFailed, match="mill") as caught:
        Slow().spawn()
    assert "grinding" in str(caught.value)
    assert "0.4 s" in str(caught.value)
    assert caught.value.code == "service.failed"
    deadline = time.monotonic() + 5
    while len(leftovers.descendants(os.getpid())) > before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("ready", ["tcp:9", "cmd:test -e /nothing", None])
def test_a_service_that_ends_before_it_is_ready_is_an_error(ready: str | None) -> None:
    class Broken(Box):
        env = Env(services=[Service("mill", "echo no beans; exit 3", ready=ready, restart="never")])

    if ready is None:
        Broken().spawn().destroy()  # without a way to tell, started is ready
        return
    with pytest.raises(errors.ServiceFailed, match="status 3") as caught:
        Broken().spawn()
    assert "no beans" in str(caught.value)


def test_a_service_whose_program_is_missing_says_so() -> None:
    class Missing(Box):
        env = Env(services=[Service("mill", ["no-such-mill"], ready="tcp:9", restart="never")])

    with pytest.raises(errors.ServiceFailed, match="no-such-mill"):
        Missing().spawn()


def test_a_service_that_fails_at_first_is_given_its_time() -> None:
    class Shaky(Box):
        env = Env(
            services=[
                Service(
                    "mill",
                    "test -e /tmp/tried || { touch /tmp/tried; exit 1; }; touch /tmp/up; sleep 60",
                    ready="cmd:test -e /tmp/up",
                )
            ]
        )

    with Shaky().spawn() as box:
        assert box.exec("ls /tmp/up").returncode == 0


def test_services_start_in_order_each_once_the_one_before_is_ready() -> None:
    class Ordered(Box):
        env = Env(
            services=[
                Service("first", "sleep 0.2; touch /tmp/first; sleep 60", ready="cmd:test -e /tmp/first"),
                Service("second", "ls /tmp/first; sleep 60"),
            ]
        )

    with Ordered().spawn() as box:
        deadline = time.monotonic() + 5
        while "/tmp/first" not in box.logs(service="second"):
            assert time.monotonic() < deadline, box.logs(service="second")
            time.sleep(0.02)


def test_what_a_service_wrote_before_the_state_was_kept_is_there_and_it_ended_in_good_order() -> None:
    class Keeper(Box):
        env = Env(
            services=[
                Service(
                    "book",
                    "trap 'echo closed >> /work/book; exit 0' TERM; touch /work/book; while :; do sleep 0.02; done",
                    ready="cmd:test -e /work/book",
                )
            ]
        )

    with Keeper().spawn() as box:
        assert box.files.read("book") == b"closed\n"


def test_an_unknown_service_has_no_log(shop: Instance) -> None:
    for name in ("till", "../log", "/etc/passwd"):
        with pytest.raises(errors.NotFound, match="no service"):
            shop.logs(service=name)
    assert shop.logs() == ""


def test_services_end_with_their_box(shop: Instance) -> None:
    before = leftovers.descendants(os.getpid())
    with Shop().spawn():
        found = leftovers.descendants(os.getpid()).items()
        # Guests left out: one may wait for whoever asks next.
        own = {p: name for p, name in found if p not in before and name != "kibo-guest"}
        assert {"kibo-services", "python3"} <= set(own.values())
    assert own.keys() & leftovers.descendants(os.getpid()).keys() == set()


def test_sums_have_the_services_of_their_parts() -> None:
    class Till(Box):
        env = Env(services=[Service("till", "echo open; sleep 60")])

    with (Shop() + Till()).spawn() as box:
        assert box.menu()
        deadline = time.monotonic() + 5
        while box.logs(service="till") != "open\n":
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_the_pause_before_a_restart_grows_to_a_bound_and_starts_over_after_a_long_run() -> None:
    pauses, pause = [], 0.0
    for _ in range(9):
        pause = pause_before_restart("always", 1, 0.1, pause) or 0.0
        pauses.append(pause)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert pause_before_restart("always", 0, 60.0, 10.0) == 0.1
    assert pause_before_restart("on-failure", 0, 1.0, 0.0) is None
    assert pause_before_restart("on-failure", -9, 1.0, 0.0) == 0.1
    assert pause_before_restart("never", 1, 1.0, 0.0) is None


def test_a_port_that_is_listened_on_is_told_from_one_that_is_only_connected(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    head = "  sl  local_address rem_address   st tx_queue\n"
    table.write_text(
        head + "   0: 0100007F:1F90 00000000:0000 0A 0:0\n   1: 0100007F:0050 0100007F:1F90 01 0:0\n"
        "   2: 01004D7F:1B58 00000000:0000 0A 0:0\n"  # the gateway's, for a host that a rule names
    )
    assert listens(8080, (str(table), str(tmp_path / "none")))
    assert not listens(80, (str(table),))
    assert not listens(7000, (str(table),))
