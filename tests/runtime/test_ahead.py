"""Forks of a cached state that are made before they are asked for: who gets them, and what becomes of the others."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import leftovers
from kibo import Box, action
from kibo.branch.branch import Branch
from kibo.runtime.ahead import MAX_AHEAD
from kibo.runtime.instance import spawned_of
from kibo.runtime.waiting import Blocking, run
from kibo.wiring import runtime
from patience import eventually


class Guestbook(Box):
    """Notes what happens to it."""

    tag: str

    def launch(self) -> None:
        """Leaves something to be found."""
        self.lines = ["launched"]

    def resume(self) -> None:
        """Notes when it goes on."""
        self.lines.append("resumed")

    @action
    def sign(self, name: str) -> list[str]:
        """Add a line, and return all of them."""
        self.lines.append(name)
        with open("/work/signed", "a") as file:
            file.write(name)
        return self.lines


def guests() -> set[int]:
    """Lists the first processes of all boxes, those of states and those that nobody has asked for included."""
    below = leftovers.descendants(leftovers.warden_of(os.getpid()))
    return {pid for pid, name in below.items() if name == "kibo-guest"}


def instances() -> list[dict[str, Any]]:
    """Lists what the warden tells of instances."""
    answer, _ = run(runtime().states().session.ask(Blocking(), "list", {}))
    return [cell for cell in answer["cells"] if cell["state"] != "sealed"]


def waiting_for(box: Box) -> set[int]:
    """Has a fork of a box's state wait. Returns its process."""
    box.spawn().destroy()
    before = guests()
    box.spawn().destroy()
    eventually(lambda: len(guests() - before) == 1)
    return guests() - before


def test_a_state_that_is_used_once_has_no_fork_waiting() -> None:
    with Guestbook(tag="once").spawn() as box:
        before = guests()
        box.exec(["true"])  # takes longer than the next would have been put off for
        assert guests() == before


def test_a_state_that_is_in_use_has_one_waiting_which_is_the_next_instance() -> None:
    box = Guestbook(tag="next")
    waiting = waiting_for(box)
    seen = time.monotonic()
    assert instances() == []
    with box.spawn(name="mine") as mine:
        assert mine.sign("ada") == ["launched", "resumed", "ada"]
        (told,) = instances()
        assert (told["id"], told["name"]) == (mine.id, "mine")
        assert told["made"] >= seen
        assert [change.path for change in mine.diff()] == ["/work/signed"]
        assert mine.exec(["cat", "/work/signed"]).stdout == "ada"
        assert waiting <= guests()
    assert not waiting & guests()
    with box.spawn() as other:
        assert other.sign("bob") == ["launched", "resumed", "bob"]


def test_one_that_was_killed_is_given_to_nobody() -> None:
    box = Guestbook(tag="killed")
    killed = waiting_for(box)
    os.kill(*killed, signal.SIGKILL)
    eventually(lambda: not killed & guests())
    with box.spawn() as instance:
        assert instance.sign("ada") == ["launched", "resumed", "ada"]


def layers() -> set[str]:
    """Lists the layers on disk."""
    return set(os.listdir(runtime().home / "deltas"))


def waiting_on_disk_for(box: Box, main: Branch) -> set[int]:
    """Has a fork of a box's state wait that writes to a layer on disk. Returns its process."""
    main.spawn(box).destroy()
    before, known = guests(), layers()
    main.spawn(box).destroy()
    eventually(lambda: len(guests() - before) == 1 and len(layers() - known) == 2)
    return guests() - before


def test_what_writes_to_memory_and_what_writes_to_a_disk_wait_beside_each_other(main: Branch) -> None:
    box = Guestbook(tag="branch")
    in_memory = waiting_for(box)
    on_disk = waiting_on_disk_for(box, main)
    assert in_memory <= guests()
    instance = main.spawn(box)
    instance.sign("ada")
    assert [change.path for change in instance.diff()] == ["/work/signed"]
    assert in_memory | on_disk <= guests()
    instance.destroy()
    assert not on_disk & guests()
    assert in_memory <= guests()


def test_one_that_waits_on_disk_writes_to_the_layer_of_whoever_takes_it(main: Branch) -> None:
    box = Guestbook(tag="layer")
    waiting = waiting_on_disk_for(box, main)
    ready = layers()
    instance = main.spawn(box)
    instance.sign("ada")
    assert waiting <= guests()
    assert (runtime().home / "deltas" / spawned_of(instance).upper / "u/work/signed").read_text() == "ada"
    assert len(ready - layers()) == 1  # the name that it waited under
    left, right = main.fork(2)
    left[instance].sign("bob")
    assert left[instance].files.read("/work/signed") == b"adabob"
    assert right[instance].files.read("/work/signed") == b"ada"
    left.commit()
    assert main[instance].files.read("/work/signed") == b"adabob"


def test_one_on_disk_that_nobody_asks_for_leaves_no_layer(main: Branch) -> None:
    box = Guestbook(tag="leaves")
    known = layers()
    waiting = waiting_on_disk_for(box, main)
    assert len(layers() - known) == 3
    eventually(lambda: not waiting & guests())
    eventually(lambda: len(layers() - known) == 2)  # those of the two that somebody had


def test_no_more_than_a_few_wait_and_each_ends_when_nobody_asks_for_it() -> None:
    boxes = [Guestbook(tag=f"few {number}") for number in range(MAX_AHEAD + 2)]
    for box in boxes:
        box.spawn().destroy()
    states = guests()
    for box in boxes:
        box.spawn().destroy()
        box.spawn().destroy()
        assert len(guests() - states) <= MAX_AHEAD
    assert guests() - states
    eventually(lambda: not guests() - states)
