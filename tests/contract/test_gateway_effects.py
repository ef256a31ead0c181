"""Effects through the gateway as its own process: recorded, held, released once, and never repeated."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import databases
from doors import ANSWER, Proxy, Server, read_all, read_until
from kibo.box.policy import Allow, Secret
from kibo.branch.history import History
from kibo.branch.records import BranchRecord
from kibo.effects import presence
from kibo.effects.forwarder import Forwarder
from kibo.effects.ledger import Ledger
from kibo.effects.records import Effect, Outcome
from kibo.effects.sending import settles
from kibo.model.asker import Asker
from kibo.model.limits import MAX_EFFECT_ANSWER_BYTES, MAX_EFFECT_BODY_BYTES
from kibo.store.database import Store
from patience import until
from searching import files_with

pytestmark = pytest.mark.contract

VALUE = "v4lue-of-the-secret"


class Shop(Server):
    """Counts what it is asked to do."""

    def __init__(self) -> None:
        super().__init__(self.sell)
        self.requests: list[bytes] = []
        self.answers = [ANSWER]

    def sell(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            chunk = connection.recv(65536)
            if not chunk:
                return  # its gateway died before it said anything
            data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        length = next((int(x[15:]) for x in head.split(b"\r\n") if x.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += connection.recv(65536)
        self.requests.append(head + b"\r\n\r\n" + body)
        connection.sendall(self.answers[-1])

    @property
    def paths(self) -> list[bytes]:
        return [request.split(b" ")[1] for request in self.requests]


class Installation:
    """A state directory with its history, and the gateway of a process that uses it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = Store.open(databases.new_history(place))
        self.history, self.ledger = History(self.store), Ledger(self.store)
        self.shop = Shop()
        self.boxes = 0
        self.values = {"PASSWORD": VALUE}
        self.sources: dict[str, str] = {}
        self.rules = [Allow("shop.example", to=self.shop.address)]
        self.gateway = self.start()

    def start(self) -> Forwarder:
        return Forwarder.start(
            self.place / "authority",
            self.values,
            sources=self.sources,
            store=f"sqlite:///{self.place}/history.db",
        )

    def restart(self, crash: str = "") -> None:
        """Has another process go on, whose gateway dies at a crash point."""
        self.gateway.close()
        with pytest.MonkeyPatch.context() as patch:
            if crash:
                patch.setenv("KIBO_CRASH_AT", crash)
            self.gateway = self.start()
        if not crash:
            self.gateway.certificate()

    def box(
        self, branch: BranchRecord | None = None, *rules: Allow, secrets: list[Secret] | None = None
    ) -> Proxy:
        self.boxes += 1
        asker = Asker() if branch is None else Asker(branch.id, branch.tree, branch.parent is not None)
        return Proxy(self.gateway, f"inst_{self.boxes}", list(rules) or self.rules, secrets or [], asker)

    def commit(self, branch: BranchRecord) -> None:
        """As a process does that runs the branch: the history first, and then the gateway is told."""
        self.history.commit(branch.id)
        parent = self.history.get(branch.parent or "")
        asker = Asker(parent.id, parent.tree, parent.parent is not None)
        with self.gateway.settle(branch.id, asker) as told:
            told.settimeout(20)
            assert told.recv(1) == b""

    def effects(self) -> list[Effect]:
        return self.ledger.listed()

    def states(self) -> list[str]:
        return [effect.state for effect in self.effects()]

    def await_states(self, *states: str) -> None:
        deadline = time.monotonic() + 10
        while (found := self.states()) != list(states):  # another process records them
            assert time.monotonic() < deadline, found
            time.sleep(0.01)

    def close(self) -> None:
        self.gateway.close()
        self.shop.close()
        self.store.close()


def held_up(within_s: float) -> tuple[Server, threading.Event, threading.Event]:
    """Starts a server that says when it was asked, and answers once it is told to, or after so long."""
    asked, go = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        read_until(connection, b"card=1")
        asked.set()
        go.wait(within_s)
        connection.sendall(ANSWER)

    return Server(late), asked, go


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path)
    yield made
    made.close()


def request(path: str = "/pay", *fields: str, body: bytes = b"card=1", method: str = "POST") -> bytes:
    lines = [f"{method} http://shop.example{path} HTTP/1.1", "Host: shop.example", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Asking:
    """A client that waits for an answer, in a thread."""

    def __init__(self, box: Proxy, data: bytes) -> None:
        self.connection = box.connect()
        self.connection.settimeout(None)  # it waits for others' doings, however long those take
        self.connection.sendall(data)
        self.answer = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            self.answer = self.connection.recv(65536)

    def wait(self) -> bytes:
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.connection.close()
        return self.answer

    def leave(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.wait()

    @property
    def waits(self) -> bool:
        return self._thread.is_alive()


def ask(box: Proxy, data: bytes) -> bytes:
    with box.connect() as connection:
        connection.sendall(data)
        return read_until(connection, b"\r\n\r\n")


# -- at once


def test_outside_of_branches_an_effect_is_recorded_sent_at_once_and_its_answer_recorded(
    here: Installation,
) -> None:
    here.shop.answers = [b"HTTP/1.1 201 Created\r\nlocation: /orders/1\r\ncontent-length: 4\r\n\r\npaid"]
    assert ask(here.box(), request()).startswith(b"HTTP/1.1 201 Created")
    (effect,) = here.effects()
    exact = here.ledger.get(effect.id)
    assert (effect.state, effect.status, effect.url) == ("done", 201, "http://shop.example/pay")
    assert (effect.effect, effect.instance, effect.branch) == ("irreversible", "inst_1", "")
    assert exact.body == b"card=1"
    assert exact.outcome is not None
    assert (exact.outcome.body, exact.outcome.whole) == (b"paid", True)
    assert f"idempotency-key: {effect.id}".encode() in here.shop.requests[0]


def test_reads_are_not_recorded_wherever_they_come_from(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    for branch in (None, main, fork):
        for method in ("GET", "HEAD", "OPTIONS"):
            assert ask(here.box(branch), request(method=method, body=b"")).startswith(b"HTTP/1.1 200")
    read = Allow("shop.example", to=here.shop.address, effect="read")
    assert ask(here.box(fork, read), request()).startswith(b"HTTP/1.1 200")
    assert here.effects() == []
    assert len(here.shop.requests) == 10


def test_a_rule_can_make_a_read_an_effect(here: Installation) -> None:
    rule = Allow("shop.example", to=here.shop.address, effect="reversible")
    ask(here.box(None, rule), request(method="GET", body=b""))
    assert [each.effect for each in here.effects()] == ["reversible"]


def test_what_a_server_may_take_for_another_request_is_no_read(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    search = Allow(
        "shop.example", to=here.shop.address, methods=("GET", "POST"), paths=("/search",), effect="read"
    )
    box = here.box(fork, search, Allow("shop.example", to=here.shop.address))
    names = ("X-HTTP-Method-Override", "X_HTTP_Method_Override", "x-http_method")
    asking = [Asking(box, request("/search", f"{name}: DELETE", method="GET", body=b"")) for name in names]
    here.await_states("held", "held", "held")
    for each in asking:
        each.leave()
    for name in ("X-Original-URL", "x_rewrite_url"):
        assert ask(box, request("/search", f"{name}: /pay")).startswith(b"HTTP/1.1 400")
    assert here.shop.requests == []


def test_what_is_longer_than_the_ledger_keeps_passes_whole(here: Installation) -> None:
    body = os.urandom(MAX_EFFECT_BODY_BYTES + 100_000)
    assert ask(here.box(), request(body=body)).startswith(b"HTTP/1.1 200")
    assert here.shop.requests[0].endswith(body)
    exact = here.ledger.get(here.effects()[0].id)
    assert not exact.whole
    assert body.startswith(exact.body)


def test_an_answer_that_comes_bit_by_bit_is_passed_on_as_it_comes_and_kept(here: Installation) -> None:
    more = threading.Event()

    def slowly(connection: socket.socket) -> None:
        read_until(connection, b"card=1")
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        more.wait(10)
        connection.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    server = Server(slowly)
    with here.box(None, Allow("shop.example", to=server.address)).connect() as connection:
        connection.sendall(request())
        read_until(connection, b"one\r\n")
        assert here.states() == ["done"]
        more.set()
        read_until(connection, b"0\r\n\r\n")
    until(lambda: (here.ledger.get(here.effects()[0].id).outcome or None).whole)
    outcome = here.ledger.get(here.effects()[0].id).outcome
    assert outcome is not None
    assert outcome.body == b"onetwo"
    server.close()


def test_a_server_that_cannot_be_reached_has_been_sent_nothing(here: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        gone = f"127.0.0.1:{probe.getsockname()[1]}"
    assert ask(here.box(None, Allow("shop.example", to=gone)), request()).startswith(b"HTTP/1.1 502")
    assert here.effects() == []


def test_a_server_that_breaks_off_leaves_a_doubt_that_is_told(here: Installation) -> None:
    here.shop.answers = [b""]
    with here.box().connect() as connection:
        connection.sendall(request())
        page = read_all(connection)
    (effect,) = here.effects()
    assert effect.state == "in_doubt"
    assert page.startswith(b"HTTP/1.1 502")
    assert f"kibo effects show {effect.id}".encode() in page
    assert len(here.shop.requests) == 1


def test_an_interim_answer_that_nobody_hears_leaves_no_doubt(here: Installation) -> None:
    asked, gone = threading.Event(), threading.Event()

    def hint(connection: socket.socket) -> None:
        read_until(connection, b"card=1")
        asked.set()
        gone.wait(10)
        for _ in range(3):
            connection.sendall(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")
            time.sleep(0.05)
        connection.sendall(ANSWER)

    server = Server(hint)
    connection = here.box(None, Allow("shop.example", to=server.address)).connect()
    connection.sendall(request())
    asked.wait(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    gone.set()
    here.await_states("done")
    server.close()


def test_values_of_secrets_reach_the_server_and_not_the_store(here: Installation) -> None:
    secret = Secret("PASSWORD", hosts=["shop.example"])
    said = f"you said {VALUE}".encode()
    here.shop.answers = [
        b"HTTP/1.1 200 OK\r\nx-said: %b\r\ncontent-length: %d\r\n\r\n%b" % (said, len(said), said)
    ]
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    asked = f"Authorization: Bearer {secret.placeholder}"
    kind = "Content-Type: application/json"
    body = f'{{"p": "{secret.placeholder}"}}'.encode()
    for branch in (None, fork):
        box = here.box(branch, secrets=[secret])
        asking = Asking(box, request(f"/pay?p={secret.placeholder}", asked, kind, body=body))
        if branch is not None:
            here.await_states("done", "held")
            here.commit(branch)
        assert asking.wait().startswith(b"HTTP/1.1 200")
    for sent in here.shop.requests:
        assert sent.count(VALUE.encode()) == 3
        assert secret.placeholder.encode() not in sent
    here.gateway.close()
    assert not files_with(VALUE, below=here.place, named="history.db*")
    exact = here.ledger.get(here.effects()[0].id)
    assert secret.placeholder.encode() in exact.body
    assert exact.outcome is not None
    assert exact.outcome.body == f"you said {secret.placeholder}".encode()


# -- held


def test_of_forks_that_race_to_pay_the_one_that_is_committed_pays_once(here: Installation) -> None:
    main = here.history.create()
    forks = here.history.fork(main.id, 3)
    asking = [Asking(here.box(fork), request(f"/pay/{n}")) for n, fork in enumerate(forks)]
    here.await_states("held", "held", "held")
    assert here.shop.requests == []
    assert all(each.waits for each in asking)
    here.commit(forks[1])
    assert asking[1].wait().startswith(b"HTTP/1.1 200")
    for loser in (asking[0], asking[2]):
        assert loser.waits
        loser.leave()
    until(lambda: sorted(here.states()) == ["done", "dropped", "dropped"])
    assert here.shop.paths == [b"/pay/1"]


def test_what_is_held_in_a_fork_of_a_fork_waits_for_both_commits(here: Installation) -> None:
    main = here.history.create()
    (outer,) = here.history.fork(main.id)
    (inner,) = here.history.fork(outer.id)
    box = here.box(inner)
    asking = Asking(box, request())
    here.await_states("held")
    here.commit(inner)
    assert here.shop.requests == []
    later = Asking(box, request("/more"))  # of the parent now, which holds too
    here.await_states("held", "held")
    assert [effect.origin for effect in here.effects()] == [inner.id, outer.id]
    here.commit(outer)
    assert [each.wait()[:12] for each in (asking, later)] == [b"HTTP/1.1 200"] * 2
    assert here.shop.paths == [b"/pay", b"/more"]
    ask(box, request("/at-once"))
    assert here.shop.paths[2:] == [b"/at-once"]


def test_what_is_released_is_sent_in_the_order_in_which_it_was_asked_for(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box = here.box(fork)
    asking = []
    for number in range(12):
        asking.append(Asking(box, request(f"/{number}")))
        here.await_states(*["held"] * (number + 1))
    here.commit(fork)
    assert here.states() == ["done"] * 12
    assert here.shop.paths == [b"/%d" % number for number in range(12)]
    assert all(each.wait() for each in asking)


def test_a_connection_goes_on_after_what_it_has_waited_for(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    with here.box(fork).connect() as connection:
        connection.sendall(request("/one", body=b""))
        here.await_states("held")
        here.commit(fork)
        assert read_until(connection, b"\r\n\r\nok").startswith(b"HTTP/1.1 200")
        connection.sendall(request("/two"))
        assert read_until(connection, b"\r\n\r\nok").startswith(b"HTTP/1.1 200")
    assert here.shop.paths == [b"/one", b"/two"]


def test_a_client_that_goes_away_takes_its_request_back(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box = here.box(fork)
    asking = Asking(box, request())
    here.await_states("held")
    asking.leave()
    here.await_states("dropped")
    assert "client went away" in here.effects()[0].reason
    again = Asking(box, request("/again"))
    here.await_states("dropped", "held")
    here.gateway.stop("inst_1")
    here.await_states("dropped", "dropped")
    again.wait()
    here.commit(fork)
    assert here.shop.requests == []


def test_what_was_released_is_sent_though_its_client_has_gone(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    asking = Asking(here.box(fork), request())
    here.await_states("held")
    here.history.commit(fork.id)
    asking.leave()
    with here.gateway.settle(fork.id, Asker(main.id, main.id)) as told:
        assert told.recv(1) == b""
    assert here.states() == ["done"]
    assert len(here.shop.requests) == 1


def test_of_an_answer_without_end_that_nobody_waits_for_only_what_is_kept_is_taken(
    here: Installation,
) -> None:
    ended = threading.Event()

    def stream(connection: socket.socket) -> None:
        read_until(connection, b"card=1")
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"x" * 65536)
        ended.set()

    with contextlib.closing(Server(stream)) as server:
        main = here.history.create()
        (fork,) = here.history.fork(main.id)
        asking = Asking(here.box(fork, Allow("shop.example", to=server.address)), request())
        here.await_states("held")
        here.history.commit(fork.id)
        asking.leave()
        here.gateway.settle(fork.id, Asker(main.id, main.id)).close()
        assert ended.wait(10)
        outcome = here.ledger.get(here.effects()[0].id).outcome
    assert outcome is not None
    assert (outcome.status, len(outcome.body), outcome.whole) == (200, MAX_EFFECT_ANSWER_BYTES, False)


def test_an_aborted_branch_sends_nothing_and_what_it_asks_for_later_is_refused(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box = here.box(fork)
    asking = Asking(box, request())
    here.await_states("held")
    here.history.abort(fork.id)
    assert here.states() == ["dropped"]
    assert ask(box, request("/late")).startswith(b"HTTP/1.1 403")
    assert here.states() == ["dropped", "dropped"]
    here.gateway.stop("inst_1")
    asking.wait()
    assert here.shop.requests == []


def test_a_body_that_is_too_large_to_hold_is_refused_with_a_remedy(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    with here.box(fork).connect() as connection:
        connection.sendall(request(body=bytes(MAX_EFFECT_BODY_BYTES + 1)))
        page = read_until(connection, b'effect="read")')
    assert page.startswith(b"HTTP/1.1 413")
    assert here.effects() == []


def test_bodies_that_wait_are_not_kept_in_memory(here: Installation) -> None:
    def memory() -> int:
        status = Path(f"/proc/{here.gateway.pid}/status").read_text()
        return int(status.partition("RssAnon:")[2].split()[0]) * 1024

    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box, size, count = here.box(fork), MAX_EFFECT_BODY_BYTES, 12
    asking = [Asking(box, request(body=b"x" * size))]
    here.await_states("held")
    before = memory()
    for number in range(1, count):
        asking.append(Asking(box, request(body=b"x" * size)))
        here.await_states(*["held"] * (number + 1))
    assert memory() - before < count * size / 4
    here.commit(fork)
    assert all(each.wait().startswith(b"HTTP/1.1 200") for each in asking)
    assert here.states() == ["done"] * count


def test_what_cannot_be_opened_cannot_be_held_and_is_refused_unless_its_rule_says_that_it_reads(
    here: Installation,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    closed = Allow("shop.example:443", to=here.shop.address, passthrough=True)
    tunnel = b"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n\r\n"
    with here.box(fork, closed).connect() as connection:
        connection.sendall(tunnel)
        page = read_until(connection, b'effect="read")')
    assert page.startswith(b"HTTP/1.1 403")
    for branch, rule in ((main, closed), (fork, closed.replace(effect="read"))):
        assert ask(here.box(branch, rule), tunnel).startswith(b"HTTP/1.1 200")


def test_a_websocket_is_held_as_anything_may_be_sent_on_it(here: Installation) -> None:
    def echo(connection: socket.socket) -> None:
        read_until(connection, b"\r\n\r\n")
        connection.sendall(b"HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n")
        connection.sendall(connection.recv(100))

    server = Server(echo)
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box = here.box(fork, Allow("shop.example", to=server.address))
    with box.connect() as connection:
        connection.sendall(
            request("/ws", "Upgrade: websocket", "Connection: upgrade", method="GET", body=b"")
        )
        here.await_states("held")
        assert server.connections == 0
        here.commit(fork)
        assert read_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101")
        connection.sendall(b"frame")
        assert read_until(connection, b"frame") == b"frame"
    assert [(each.state, each.status) for each in here.effects()] == [("done", 101)]
    server.close()


def test_a_released_effect_that_cannot_be_sent_has_failed_and_its_client_hears_of_it(
    here: Installation,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        gone = f"127.0.0.1:{probe.getsockname()[1]}"
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    asking = Asking(here.box(fork, Allow("shop.example", to=gone)), request())
    here.await_states("held")
    here.commit(fork)
    assert asking.wait().startswith(b"HTTP/1.1 502")
    assert here.states() == ["failed"]


# -- once


def test_a_repetition_with_the_same_key_has_the_first_ones_answer_and_is_not_sent(here: Installation) -> None:
    here.shop.answers = [b"HTTP/1.1 201 Created\r\nlocation: /orders/1\r\ncontent-length: 4\r\n\r\npaid"]
    main = here.history.create()
    box = here.box(main)
    keyed = request("/pay", "Idempotency-Key: k1")
    first = ask(box, keyed)
    with here.box(main).connect() as connection:
        connection.sendall(keyed)
        again = read_until(connection, b"paid")
    assert (b"201" in again, b"location: /orders/1" in again) == (True, True)
    assert first.startswith(b"HTTP/1.1 201")
    assert len(here.shop.requests) == 1
    assert b"idempotency-key: k1" in here.shop.requests[0]
    assert b"content-length: 4\r\n" in again
    other = request("/pay", "Idempotency-Key: k1", body=b"card=2")
    assert ask(box, other).startswith(b"HTTP/1.1 422")
    assert ask(box, request("/pay", "Idempotency-Key: k2")).startswith(b"HTTP/1.1 201")
    assert ask(here.box(), keyed).startswith(b"HTTP/1.1 201")  # of somebody else
    assert len(here.shop.requests) == 3


def test_repetitions_that_come_at_once_are_sent_once(here: Installation) -> None:
    box = here.box()
    asking = [Asking(box, request("/pay", "Idempotency-Key: k")) for _ in range(8)]
    assert [each.wait()[:12] for each in asking] == [b"HTTP/1.1 200"] * 8
    assert len(here.shop.requests) == 1


def test_of_two_boxes_of_a_branch_that_wait_with_one_key_one_is_sent_and_both_have_its_answer(
    here: Installation,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    keyed = request("/pay", "Idempotency-Key: k")
    asking = [Asking(here.box(fork), keyed) for _ in range(2)]
    here.await_states("held", "held")
    here.commit(fork)
    assert [each.wait()[:12] for each in asking] == [b"HTTP/1.1 200"] * 2
    assert here.states() == ["done", "failed"]
    assert len(here.shop.requests) == 1


def test_siblings_hold_the_same_key_each_and_one_of_them_uses_it(here: Installation) -> None:
    main = here.history.create()
    one, two = here.history.fork(main.id, 2)
    keyed = request("/pay", "Idempotency-Key: k")
    asking = [Asking(here.box(fork), keyed) for fork in (one, two)]
    here.await_states("held", "held")
    here.commit(two)
    assert asking[1].wait().startswith(b"HTTP/1.1 200")
    assert ask(here.box(main), keyed).startswith(b"HTTP/1.1 200")
    assert len(here.shop.requests) == 1
    asking[0].leave()


def test_a_request_with_a_key_that_comes_while_a_fork_is_released_which_has_that_key_is_its_repetition(
    here: Installation,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    slow, asked, go = held_up(20)
    keyed = request("/pay", "Idempotency-Key: k")
    first = Asking(here.box(fork, Allow("shop.example", to=slow.address)), request("/slow"))
    here.await_states("held")
    second = Asking(here.box(fork), keyed)
    here.await_states("held", "held")
    here.history.commit(fork.id)
    with here.gateway.settle(fork.id, Asker(main.id, main.id)) as told:
        asked.wait(20)
        third = Asking(here.box(main), keyed)
        # Of the same loop and the same ledger, and later: once it has its answer, the third waits for the release.
        assert ask(here.box(), request("/other")).startswith(b"HTTP/1.1 200")
        go.set()
        told.settimeout(20)
        assert told.recv(1) == b""
    assert [each.wait()[:12] for each in (first, second, third)] == [b"HTTP/1.1 200"] * 3
    assert here.shop.paths == [b"/other", b"/pay"]
    slow.close()


def killed(here: Installation) -> None:
    assert here.gateway._process.wait(10) == -signal.SIGKILL


@pytest.mark.parametrize("crash", ["effect.answered", "effect.before_answer"])
def test_a_gateway_that_dies_between_charge_and_record_leaves_a_doubt_and_nobody_charges_again(
    here: Installation, crash: str
) -> None:
    main = here.history.create()
    here.restart(crash)
    asking = Asking(here.box(main), request("/pay", "Idempotency-Key: k"))
    killed(here)
    assert asking.wait() == b""
    assert here.states() == ["sending"]
    here.restart()
    here.await_states("in_doubt")
    page = ask(here.box(main), request("/pay", "Idempotency-Key: k"))
    assert page.startswith(b"HTTP/1.1 409")
    assert len(here.shop.requests) == 1
    here.ledger.resolve(here.effects()[0].id, done=False, by="ada")
    assert ask(here.box(main), request("/pay", "Idempotency-Key: k")).startswith(b"HTTP/1.1 200")
    assert len(here.shop.requests) == 2


@pytest.mark.parametrize(
    ("crash", "sent", "state"),
    [
        ("effect.before_hold", 0, None),
        ("effect.released", 1, "done"),
        ("effect.before_send", 1, "done"),
        ("effect.sending", 0, "in_doubt"),
        ("effect.answered", 1, "in_doubt"),
        ("effect.before_answer", 1, "in_doubt"),
    ],
)
def test_wherever_a_gateway_dies_what_was_committed_is_sent_once_or_in_doubt(
    here: Installation, crash: str, sent: int, state: str | None
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    here.restart(crash)
    asking = Asking(here.box(fork), request())
    if state is None:
        killed(here)
    else:
        here.await_states("held")
    here.history.commit(fork.id, {"moved": 1})
    if state is not None:
        with contextlib.closing(here.gateway.settle(fork.id, Asker(main.id, main.id))):
            killed(here)
    asking.wait()
    for _ in range(2):
        here.restart()
        here.await_states(*([] if state is None else [state]))
        assert len(here.shop.requests) == sent
    assert [path.name for path in (here.place / "gateways").iterdir()] == [here.gateway.gateway]


@pytest.mark.parametrize(
    ("crash", "sent", "state"), [("effect.released", 1, "done"), ("effect.sending", 0, "in_doubt")]
)
def test_what_a_gateway_leaves_that_dies_while_another_runs_is_that_ones(
    here: Installation, crash: str, sent: int, state: str
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    here.restart(crash)
    asking = Asking(here.box(fork), request())
    here.await_states("held")
    with contextlib.closing(here.start()) as other:
        recording = Proxy(other, "inst_0", here.rules, [])
        ask(recording, request("/other"))  # it has looked for dead ones, and this one lives
        here.history.commit(fork.id)
        with contextlib.closing(here.gateway.settle(fork.id, Asker(main.id, main.id))):
            killed(here)
        asking.wait()
        here.await_states(state, "done")
        assert here.shop.paths == [b"/other", b"/pay"][: 1 + sent]


def test_what_a_dead_gateway_left_is_sent_by_one_that_begins_while_somebody_else_looks_at_it(
    here: Installation,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    here.restart("effect.released")
    asking = Asking(here.box(fork), request())
    here.await_states("held")
    here.history.commit(fork.id)
    with contextlib.closing(here.gateway.settle(fork.id, Asker(main.id, main.id))):
        killed(here)
    asking.wait()
    with presence.buried(here.place / "gateways", here.gateway.gateway) as dead:
        assert dead
        here.restart()
        ask(here.box(), request("/other"))  # it has looked
    here.await_states("done", "done")
    assert here.shop.paths == [b"/other", b"/pay"]


def test_what_a_killed_gateway_held_is_dropped_and_a_commit_releases_none_of_it(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    asking = Asking(here.box(fork), request())
    here.await_states("held")
    os.kill(here.gateway.pid, signal.SIGKILL)
    asking.wait()
    here.restart()
    here.await_states("dropped")
    here.history.commit(fork.id, {"moved": 1})
    assert here.states() == ["dropped"]
    assert here.shop.requests == []


# -- once, at servers that act once on each key


class Till(Shop):
    """A shop that acts once on each key, and answers a repetition as it answered the first."""

    def __init__(self) -> None:
        super().__init__()
        self._handle = self.charge
        self.charged: dict[bytes, bytes] = {}
        #: What it does with the next requests instead of answering: nothing, break off half-way, or say something.
        self.fails: list[bytes] = []

    def charge(self, connection: socket.socket) -> None:
        fails = self.fails.pop(0) if self.fails else None
        if fails == b"deaf":
            read_until(connection, b"\r\n\r\n")
            return
        before = len(self.requests)
        self.answers = [b""]
        self.sell(connection)
        if len(self.requests) == before:
            return  # its gateway died before it said anything
        key = re.search(rb"idempotency-key: (\S+)", self.requests[-1])
        assert key is not None
        receipt = self.charged.setdefault(key[1], b"receipt %d" % (len(self.charged) + 1))
        answer = b"HTTP/1.1 201 Created\r\ncontent-length: %d\r\n\r\n%b" % (len(receipt), receipt)
        connection.sendall({None: answer, b"cut": b"", b"half": answer[:-3]}.get(fails, fails or b""))


@pytest.fixture
def till(here: Installation) -> Till:
    here.shop.close()
    here.shop = till = Till()
    here.rules = [Allow("shop.example", to=till.address, idempotent=True)]
    return till


@pytest.mark.parametrize(
    ("crash", "key"), [("effect.sending", ""), ("effect.answered", "k"), ("effect.before_answer", "")]
)
def test_what_a_gateway_left_in_doubt_is_asked_for_again_with_its_key_and_was_charged_once(
    here: Installation, till: Till, crash: str, key: str
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    fields = [f"Idempotency-Key: {key}"] if key else []
    here.restart(crash)
    asking = Asking(here.box(fork), request("/pay", *fields))
    here.await_states("held")
    here.history.commit(fork.id)
    with contextlib.closing(here.gateway.settle(fork.id, Asker(main.id, main.id))):
        killed(here)
    asking.wait()
    # The one that comes next dies at the same place, and one before it has begun.
    for again in (crash, "effect.before_repeat"):
        here.restart(again)
        killed(here)
    here.restart()
    here.await_states("done")
    (effect,) = here.effects()
    assert (effect.status, effect.reason) == (201, "")
    assert here.ledger.get(effect.id).outcome == Outcome(201, [(b"content-length", b"9")], b"receipt 1", True)
    assert list(till.charged) == [(key or effect.id).encode()]
    assert len(set(till.requests)) == 1, "each is the same, to the letter"


@pytest.mark.parametrize("fails", [b"deaf", b"cut", b"half"])
def test_a_client_whose_server_breaks_off_has_the_answer_to_a_repetition(
    here: Installation, till: Till, fails: bytes
) -> None:
    till.fails = [fails]
    assert here.box().send(request()).endswith(b"receipt 1")
    assert here.states() == ["done"]
    assert len(till.charged) == 1


def test_an_answer_that_says_nothing_of_the_first_is_no_outcome(here: Installation, till: Till) -> None:
    said = b"HTTP/1.1 409 still at it\r\ncontent-length: 0\r\n\r\n"
    till.fails = [b"cut", said]
    assert here.box().send(request()).endswith(b"receipt 1")
    # To the first request it is one.
    till.fails = [said]
    assert ask(here.box(), request("/other")).startswith(b"HTTP/1.1 409")
    assert [(each.state, each.status) for each in here.effects()] == [("done", 201), ("done", 409)]
    assert len(till.requests) == 4
    said_nothing = {status for status in range(100, 600) if not settles(status)}
    assert said_nothing == {401, 403, 407, 408, 409, 421, 422, 425, 429, *range(500, 600)}


def test_nothing_is_sent_again_where_no_rule_says_so_of_just_that_or_what_was_sent_is_not_kept_whole(
    here: Installation, till: Till
) -> None:
    to = till.address
    rules = [
        Allow("shop.example", to=to),
        Allow("shop.example", to=to, methods=("PUT",), idempotent=True),
        Allow("shop.example", to=to, paths=("/once",), idempotent=True),
    ]
    till.fails = [b"cut"] * 3
    for sent in (request("/pay"), request("/x/../once")):
        assert b"It is not sent again" in ask(here.box(None, *rules), sent)
    large = request("/once", body=b"x" * (MAX_EFFECT_BODY_BYTES + 1))
    assert b"It is not sent again" in ask(here.box(None, *rules), large)
    here.restart()
    here.box().send(request("/after"))
    assert here.states() == [*["in_doubt"] * 3, "done"]
    assert len(till.requests) == 4
    # What a rule does say it of is, whichever stands first.
    till.fails = [b"cut"] * 2
    for sent in (request("/pay", method="PUT"), request("/once")):
        assert b"receipt" in here.box(None, *rules).send(sent)


def test_what_was_sent_too_long_ago_or_by_a_clock_that_was_set_back_stays_in_doubt(
    here: Installation, till: Till
) -> None:
    here.restart("effect.answered")
    Asking(here.box(), request()).wait()
    killed(here)
    for by_s in (-60.0, 60 + 13 * 3600.0):
        with contextlib.closing(sqlite3.connect(here.place / "history.db")) as database:
            database.execute("UPDATE effects SET sent = sent - ?", (by_s,))
            database.commit()
        here.ledger.bury(here.gateway.gateway)
        assert here.states() == ["in_doubt"]
        assert here.ledger.repeatable() == []
        assert not here.ledger.repeat(here.effects()[0].id, "gw_1")
    here.restart()
    assert here.ledger.resolve(here.effects()[0].id, done=True, by="ada").state == "done"
    assert len(till.requests) == 1


def test_a_server_that_is_away_is_asked_by_the_next_gateway_and_a_person_may_be_first(
    here: Installation, till: Till
) -> None:
    here.restart("effect.answered")
    for path in ("/one", "/two"):
        Asking(here.box(), request(path)).wait()
        killed(here)
        here.restart("effect.answered")
    till.fails = [b"deaf"] * 2
    here.restart()
    until(lambda: not till.fails)
    one, _ = here.effects()
    here.await_states("in_doubt", "in_doubt")
    here.gateway.close()  # while it asked again, nobody could say what came of it
    here.ledger.resolve(one.id, done=False, by="ada")
    here.restart()  # the one before it ended as it should, and has left this to do
    here.await_states("not_done", "done")
    assert len(till.charged) == 2


def test_a_gateway_that_is_told_to_end_records_the_answers_that_are_on_their_way(here: Installation) -> None:
    server, asked, go = held_up(10)
    asking = Asking(here.box(None, Allow("shop.example", to=server.address)), request())
    asked.wait(10)
    closing = threading.Thread(target=here.gateway.close)
    closing.start()
    asking.wait()
    go.set()
    closing.join()
    assert here.states() == ["done"]
    server.close()


def test_a_ledger_that_cannot_be_written_sends_nothing_that_changes_something(tmp_path: Path) -> None:
    here = Installation(tmp_path)
    with contextlib.closing(here):
        with sqlite3.connect(tmp_path / "history.db") as other:
            other.execute("DROP TABLE effects")
        with here.box().connect() as connection:
            connection.sendall(request())
            page = read_all(connection)
        assert page.startswith(b"HTTP/1.1 503")
        assert b"history.db" not in page  # where things lie on the host is nothing for boxes
        assert str(tmp_path).encode() not in page
        assert ask(here.box(), request(method="GET", body=b"")).startswith(b"HTTP/1.1 200")
        assert here.shop.paths == [b"/pay"]


@contextlib.contextmanager
def out_of_order(here: Installation) -> Iterator[None]:
    """Takes the ledger away for a block, and makes sure that the gateway has missed it."""
    with sqlite3.connect(here.place / "history.db") as other:
        other.execute("ALTER TABLE effects RENAME TO away")
    try:
        yield
        # Its ledger does one thing after the other: what it was asked before, it has tried.
        assert ask(here.box(), request("/no")).startswith(b"HTTP/1.1 503")
    finally:
        with sqlite3.connect(here.place / "history.db") as other:
            other.execute("ALTER TABLE away RENAME TO effects")


def test_what_a_dead_gateway_left_is_sent_though_the_ledger_is_out_of_order_when_the_next_begins(
    here: Installation,
) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    asking = Asking(here.box(fork), request())
    here.await_states("held")
    here.history.commit(fork.id)
    os.kill(here.gateway.pid, signal.SIGKILL)
    asking.wait()
    with out_of_order(here):
        here.restart()
    here.await_states("done")
    assert here.shop.paths == [b"/pay"]


def test_what_is_released_or_taken_back_while_the_ledger_is_out_of_order_is_so_afterwards(
    here: Installation,
) -> None:
    main = here.history.create()
    one, two = here.history.fork(main.id, 2)
    paying, leaving = Asking(here.box(one), request("/one")), Asking(here.box(two), request("/two"))
    here.await_states("held", "held")
    here.history.commit(one.id)
    with out_of_order(here):
        told = here.gateway.settle(one.id, Asker(main.id, main.tree, False))
        leaving.leave()
    assert paying.wait().startswith(b"HTTP/1.1 200")
    assert told.recv(1) == b""
    told.close()
    until(lambda: sorted(here.states()) == ["done", "dropped"])
    assert here.shop.paths == [b"/one"]


def test_curl_waits_for_as_long_as_it_takes(here: Installation) -> None:
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    box = here.box(fork)
    command = ["curl", "-sS", "--noproxy", "", "-x", f"http://127.0.0.1:{box.port}", "-d", "card=1"]
    with subprocess.Popen([*command, "http://shop.example/pay"], stdout=subprocess.PIPE) as curl:
        here.await_states("held")
        here.commit(fork)
        assert curl.stdout is not None
        assert curl.stdout.read() == b"ok"
    assert len(here.shop.requests) == 1


@pytest.fixture
def fork(here: Installation) -> BranchRecord:
    (made,) = here.history.fork(here.history.create().id)
    return made


@contextlib.contextmanager
def within(here: Installation, box: Proxy, *, lets_out: bool = True) -> Iterator[None]:
    """Has the gateway know of a recorded call in a box."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        here.gateway.within(box.name, "eff_1", theirs, lets_out=lets_out)
        theirs.close()
        yield


def test_within_a_call_that_can_be_undone_a_forks_requests_are_sent_at_once_and_after_it_held_again(
    here: Installation, fork: BranchRecord
) -> None:
    box = here.box(fork)
    with within(here, box):
        assert ask(box, request("/in")).startswith(b"HTTP/1.1 200")
    asking = Asking(box, request("/after"))
    here.await_states("done", "held")
    assert [each.within for each in here.effects()] == ["eff_1", None]
    assert here.shop.paths == [b"/in"]
    asking.leave()


def test_within_other_calls_and_for_what_a_rule_calls_irreversible_a_forks_requests_are_held(
    here: Installation, fork: BranchRecord
) -> None:
    allow = Allow("shop.example", to=here.shop.address)
    never = Allow("shop.example", to=here.shop.address, paths=("/pay",), effect="irreversible")
    box = here.box(fork, allow, never)
    upgrade = request("/socket", "Connection: Upgrade", "Upgrade: websocket", body=b"", method="GET")
    with within(here, box):
        held = [Asking(box, request(path)) for path in ("/pay", "/./pay", "/p%61y")] + [Asking(box, upgrade)]
        here.await_states("held", "held", "held", "held")
    with within(here, box, lets_out=False):
        held.append(Asking(box, request("/other")))
        here.await_states(*["held"] * 5)
    assert here.shop.requests == []
    for each in held:
        each.leave()


def test_what_began_before_such_a_call_or_ends_after_it_is_held(
    here: Installation, fork: BranchRecord
) -> None:
    box, whole = here.box(fork), request("/slow")
    for begins_before in (True, False):
        with contextlib.ExitStack() as call, box.connect() as connection:
            if not begins_before:
                call.enter_context(within(here, box))
            connection.sendall(whole[:-3])
            # The gateway has read the first part once it has answered what came after that on another connection.
            assert ask(box, request(method="GET", body=b"")).startswith(b"HTTP/1.1 200")
            if begins_before:
                call.enter_context(within(here, box))
            else:
                call.close()
            connection.sendall(whole[-3:])
            here.await_states(*(["dropped"] if not begins_before else []), "held")
        here.await_states(*(["dropped"] * (1 if begins_before else 2)))
    assert b"/slow" not in here.shop.paths


def test_a_box_cannot_say_that_it_is_within_a_call_and_a_door_that_is_closed_is_fine(
    here: Installation, fork: BranchRecord
) -> None:
    box = here.box(fork)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        here.gateway.within("inst_unknown", "eff_1", theirs, lets_out=True)
    asking = Asking(box, request("/pay", "X-Kibo-Within: eff_1"))
    here.await_states("held")
    asking.leave()


# -- what is answered before it is sent


@pytest.fixture
def mailing(here: Installation) -> Installation:
    """An installation whose shop sends mail, too, and nobody waits for that."""
    here.rules = [
        Allow("shop.example", to=here.shop.address),
        Allow("shop.example", to=here.shop.address, methods=("POST",), paths=("/mail",), effect="bufferable"),
    ]
    return here


def effect_of(answer: bytes) -> str:
    assert answer.startswith(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n"), answer
    return answer.partition(b"kibo-effect: ")[2].split(b"\r\n")[0].decode()


def test_mail_of_a_fork_is_answered_at_once_sent_at_its_commit_once_and_in_order_and_never_of_another(
    mailing: Installation,
) -> None:
    here = mailing
    main = here.history.create()
    one, two = here.history.fork(main.id, 2)
    box = here.box(one, secrets=[Secret("PASSWORD", hosts=["shop.example"])])
    secret = "kibo-secret-PASSWORD"
    first = box.send(request("/mail", f"authorization: Bearer {secret}", body=b"to=ada"))
    waiting = Asking(box, request("/pay"))
    here.await_states("held", "held")
    assert here.ledger.waiting(one.id) == {"inst_1"}
    lost = here.box(two).send(request("/mail"))
    assert here.ledger.waiting(two.id) == set(), "it waits for nothing"
    box.send(request("/mail", body=b"to=bob"))
    assert here.shop.requests == []
    here.commit(one)
    assert here.shop.paths == [b"/mail", b"/pay", b"/mail"]
    assert f"Bearer {VALUE}".encode() in here.shop.requests[0]
    assert effect_of(first).encode() in here.shop.requests[0], "as its key"
    assert waiting.wait().startswith(b"HTTP/1.1 200 OK\r\n")
    here.history.abort(two.id)
    assert here.states() == ["done", "done", "dropped", "done"]
    assert here.ledger.get(effect_of(lost)).effect.state == "dropped"
    assert here.ledger.get(effect_of(first)).effect.status == 200


def test_in_a_root_mail_is_sent_at_once_and_its_answer_is_the_servers(mailing: Installation) -> None:
    assert mailing.box(mailing.history.create()).send(request("/mail")) == ANSWER
    assert mailing.states() == ["done"]


def test_mail_is_sent_by_another_gateway_with_the_values_that_that_one_has(mailing: Installation) -> None:
    here = mailing
    (fork,) = here.history.fork(here.history.create().id)
    box = here.box(fork, secrets=[Secret("PASSWORD", hosts=["shop.example"])])
    box.send(request("/mail", "authorization: kibo-secret-PASSWORD"))
    here.gateway.stop(box.name)
    here.restart()
    assert here.states() == ["held"]
    here.commit(fork)
    assert here.states() == ["released"], "this one has no value"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PASSWORD", VALUE)
        here.restart()
        here.await_states("done")
    assert VALUE.encode() in here.shop.requests[0]


def test_mail_waits_for_a_vault_that_does_not_answer_and_is_sent_with_its_value_once_it_does(
    mailing: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = mailing
    sealed = Server(
        lambda connection: connection.sendall(b"HTTP/1.1 503 sealed\r\ncontent-length: 0\r\n\r\n")
    )
    (fork,) = here.history.fork(here.history.create().id)
    box = here.box(fork, secrets=[Secret("PASSWORD", hosts=["shop.example"])])
    box.send(request("/mail", "authorization: kibo-secret-PASSWORD"))
    here.gateway.stop(box.name)
    here.sources = {"PASSWORD": "vault:secret/shop#password"}
    monkeypatch.setenv("VAULT_ADDR", f"http://{sealed.address}")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.t0ken")
    here.restart()
    here.commit(fork)
    assert here.states() == ["released"]
    sealed._handle = unsealed
    here.await_states("done")
    assert VALUE.encode() in here.shop.requests[0]
    sealed.close()


def test_what_waits_for_its_value_is_overtaken_by_what_does_not_need_it_and_by_nothing_that_does(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answers = threading.Event(), threading.Event()

    def silent(connection: socket.socket) -> None:
        asked.set()
        answers.wait(60)
        unsealed(connection)

    vault = Server(silent)
    here.values["OTHER"] = "an0ther-value"
    here.restart()
    main = here.history.create()
    (fork,) = here.history.fork(main.id)
    hosts = {"shop.example": "PASSWORD", "other.example": "OTHER", "plain.example": "NONE"}
    box = here.box(
        fork,
        *(Allow(host, to=here.shop.address, effect="bufferable") for host in hosts),
        secrets=[Secret(hosts[host], hosts=[host]) for host in ("shop.example", "other.example")],
    )
    for number, host in enumerate(("shop.example", "plain.example", "shop.example", "other.example"), 1):
        mail = request(f"/{number}", f"authorization: kibo-secret-{hosts[host]}")
        effect_of(box.send(mail.replace(b"shop.example", host.encode())))
    here.gateway.stop(box.name)
    here.sources = {"PASSWORD": "vault:secret/shop#password"}
    monkeypatch.setenv("VAULT_ADDR", f"http://{vault.address}")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.t0ken")
    monkeypatch.setenv("OTHER", "an0ther-value")
    here.restart()
    here.commit(fork)
    assert asked.is_set()
    assert here.shop.paths == [b"/2", b"/4"]
    assert here.states() == ["released", "done", "released", "done"]
    assert ask(here.box(main), request("/pay")).startswith(b"HTTP/1.1 200 OK\r\n")
    answers.set()
    here.await_states("done", "done", "done", "done", "done")
    assert here.shop.paths == [b"/2", b"/4", b"/pay", b"/1", b"/3"]
    assert VALUE.encode() in here.shop.requests[3]
    vault.close()


def unsealed(connection: socket.socket) -> None:
    asked = read_until(connection, b"\r\n\r\n").split(b" ")[1]
    data = '{"path": "secret/", "options": {"version": "2"}}'
    if asked.endswith(b"/data/shop"):
        data = f'{{"data": {{"password": "{VALUE}"}}}}'
    body = f'{{"data": {data}}}'.encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


@pytest.mark.parametrize("dies", ["before", "after"])
def test_what_was_accepted_outlives_its_gateway_and_is_sent_once_by_the_next(
    mailing: Installation, dies: str
) -> None:
    here = mailing
    here.restart("effect.buffered" if dies == "before" else "effect.released")
    (fork,) = here.history.fork(here.history.create().id)
    answer = here.box(fork).send(request("/mail"))
    assert (answer == b"") == (dies == "before")
    if dies == "before":
        here.await_states("held")
    here.history.commit(fork.id)
    if dies == "after":
        parent = here.history.get(fork.parent or "")
        with here.gateway.settle(fork.id, Asker(parent.id, parent.tree)) as told:
            told.settimeout(20)
            told.recv(1)
    for _ in range(2):
        here.restart()
        here.await_states("done")
    assert here.shop.paths == [b"/mail"]


def test_mail_of_a_fork_that_is_stale_is_sent_if_that_is_merged(mailing: Installation) -> None:
    here = mailing
    main = here.history.create()
    one, two = here.history.fork(main.id, 2)
    box = here.box(two)
    box.send(request("/mail"))
    paying = Asking(box, request("/pay"))
    here.await_states("held", "held")
    here.history.snapshot(one.id, {"moved": 1})
    here.commit(one)
    here.ledger.abandon(two.id, "its branch became stale")
    assert here.states() == ["held", "dropped"]
    ours, theirs = here.history.get(main.id).head, here.history.get(two.id).head
    here.history.record_merge(two.id, {"both": 1}, (ours, theirs))
    with here.gateway.settle(two.id, Asker(main.id, main.tree)) as told:
        told.settimeout(20)
        assert told.recv(1) == b""
    assert here.states() == ["done", "dropped"]
    paying.leave()


def test_what_has_an_answer_to_wait_for_is_not_answered_before_it_is_sent(mailing: Installation) -> None:
    here = mailing
    address = here.shop.address
    here.rules = [
        Allow("shop.example", to=address, effect="bufferable", approve=True),
        Allow("ws.example", to=address, effect="bufferable"),
    ]
    (fork,) = here.history.fork(here.history.create().id)
    asking = Asking(here.box(fork), request("/approve"))
    upgrade = request("/ws", "Connection: Upgrade", "Upgrade: websocket", body=b"", method="GET")
    upgrading = Asking(here.box(fork), upgrade.replace(b"shop.example", b"ws.example"))
    here.await_states("held", "held")
    assert here.ledger.waiting(fork.id) == {"inst_1", "inst_2"}
    assert {effect.effect for effect in here.effects()} == {"irreversible"}
    here.history.abort(fork.id)
    for each in (asking, upgrading):
        each.leave()


def test_mail_with_a_key_is_accepted_twice_and_sent_once(mailing: Installation) -> None:
    here = mailing
    (fork,) = here.history.fork(here.history.create().id)
    box = here.box(fork)
    for _ in range(2):
        effect_of(box.send(request("/mail", "Idempotency-Key: welcome")))
    here.commit(fork)
    assert here.shop.paths == [b"/mail"]
    assert sorted(here.states()) == ["done", "failed"]
