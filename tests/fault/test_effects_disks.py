"""A full disk under the ledger: nothing is sent that is not recorded, and with room all goes on, once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.test_gateway_effects import Asking, Installation, ask, held_up, request
from doors import read_until
from kibo import Allow
from kibo.model.asker import Asker
from patience import until
from small_disks import NO_ROOM, full, mounted, use

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount file systems of its own"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def here() -> Iterator[Installation]:
    """An installation on a disk of its own."""
    with mounted("tmpfs", "size=24m") as home:
        home.mkdir()
        made = Installation(home)
        # What comes first makes files, and may need room for more than the ledger.
        assert ask(made.box(), request("/first")).startswith(b"HTTP/1.1 200")
        yield made
        made.close()


def test_boxes_on_a_full_disk_are_refused_and_once_there_is_room_pay_once() -> None:
    with mounted("tmpfs", "size=320m") as home:
        assert use(Path(__file__).with_name("effects_disk_user.py"), home) == []


def test_what_is_released_or_taken_back_on_a_full_disk_is_so_once_there_is_room(here: Installation) -> None:
    main = here.history.create()
    one, two = here.history.fork(main.id, 2)
    box = here.box(one)
    first = Asking(box, request("/one"))
    here.await_states("done", "held")
    second, leaving = Asking(box, request("/two")), Asking(here.box(two), request("/three"))
    here.await_states("done", "held", "held", "held")
    here.history.commit(one.id)
    with full(here.place):
        told = here.gateway.settle(one.id, Asker(main.id, main.tree, False))
        leaving.leave()
        refused(here)
        assert here.shop.paths == [b"/first"]
        assert first.waits
        assert second.waits
    with told:
        told.settimeout(20)
        assert told.recv(1) == b""
    for asking in (first, second):
        assert asking.wait().startswith(b"HTTP/1.1 200")
    assert here.shop.paths == [b"/first", b"/one", b"/two"]
    until(lambda: sorted(here.states()) == ["done", "done", "done", "dropped"])


@pytest.mark.parametrize("dies", [False, True])
def test_an_answer_for_which_there_is_no_room_is_passed_on_once_there_is_and_is_in_doubt_if_its_gateway_dies_first(
    here: Installation, dies: bool
) -> None:
    server, asked, go = held_up(20)
    asking = Asking(here.box(None, Allow("shop.example", to=server.address)), request())
    asked.wait(10)
    with full(here.place):
        go.set()
        refused(here)
        assert here.states() == ["done", "sending"]
        assert asking.waits
        if dies:
            os.kill(here.gateway.pid, signal.SIGKILL)
            assert asking.wait() == b""
            here.restart()
            refused(here)
    if dies:
        here.await_states("done", "in_doubt")
    else:
        assert asking.wait().startswith(b"HTTP/1.1 200")
        assert here.states() == ["done", "done"]
    assert server.connections == 1
    server.close()


def test_what_a_dead_gateway_left_is_sent_by_the_next_that_began_on_a_full_disk(here: Installation) -> None:
    (fork,) = here.history.fork(here.history.create().id)
    asking = Asking(here.box(fork), request("/left"))
    here.await_states("done", "held")
    here.history.commit(fork.id)
    os.kill(here.gateway.pid, signal.SIGKILL)
    asking.wait()
    with full(here.place):
        here.restart()
        refused(here)
        assert here.states() == ["done", "released"]
    here.await_states("done", "done")
    assert here.shop.paths == [b"/first", b"/left"]


def refused(here: Installation) -> None:
    """Sees that the gateway records nothing. Its ledger does one thing after the other: what came before, it tried."""
    with here.box().connect() as connection:
        connection.sendall(request("/no"))
        assert NO_ROOM.encode() in read_until(connection, b"is some.")
