"""Rows of the history that somebody damaged: what rests on them is refused by name, everything else goes on."""

from __future__ import annotations

import platform
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kibo.branch.listing import listed
from kibo.model.errors import KiboError
from kibo.wiring.branches import Records

pytestmark = pytest.mark.timeout(30)
CLIMBING = (
    '{"instances":{"D":{"box":"b2:0","label":"D","layers":["../../etc"],"deltas":["../../../etc"],'
    '"turns":0,"frozen":"../../x"}}}'
)
HERE = platform.node() or "localhost"


class Damaged:
    """A history with a good tree, and a bad one: a root, a fork of it, and two snapshots of that."""

    def __init__(self, home: Path) -> None:
        self.home = home
        records = Records(home)
        history = records.history
        self.good = history.create("good", "good").id
        self.root = history.create("bad", "bad").id
        self.fork = history.fork(self.root, 1)[0].id
        self.snapshots = []
        for number in range(2):
            history.log.append(self.fork, "note", number)
            self.snapshots.append(history.snapshot(self.fork, {"instances": {}}).id)
        records.close()

    def change(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.home / "history.db")) as link, link:
            link.execute("PRAGMA foreign_keys=OFF")
            link.execute(statement, values)


@pytest.fixture
def damaged(tmp_path: Path) -> Damaged:
    return Damaged(tmp_path / "home")


def loop_snapshots(it: Damaged) -> None:
    it.change("UPDATE snapshots SET parent=? WHERE id=?", it.snapshots[1], it.snapshots[0])


def loop_lost(it: Damaged) -> None:
    loop_snapshots(it)
    for name in it.snapshots:
        it.change("INSERT INTO unflushed(snapshot, host, boot) VALUES (?, ?, 'another')", name, HERE)


DAMAGE: dict[str, Callable[[Damaged], None]] = {
    "snapshots that descend from each other": loop_snapshots,
    "lost snapshots that descend from each other": loop_lost,
    "branches that descend from each other": lambda it: it.change(
        "UPDATE branches SET parent=? WHERE id=?", it.fork, it.root
    ),
    "a branch of its own": lambda it: it.change("UPDATE branches SET parent=id WHERE id=?", it.fork),
    "a head that is not there": lambda it: it.change(
        "UPDATE branches SET head='snap_none' WHERE id=?", it.fork
    ),
    "a status that none has": lambda it: it.change("UPDATE branches SET status='odd' WHERE id=?", it.fork),
    "a world that is no text": lambda it: it.change(
        "UPDATE snapshots SET world=x'ff' WHERE id=?", it.snapshots[1]
    ),
    "a world without end": lambda it: it.change(
        "UPDATE snapshots SET world=? WHERE id=?", "[" * 200_000, it.snapshots[1]
    ),
    "a world that climbs": lambda it: it.change(
        "UPDATE snapshots SET world=? WHERE id=?", CLIMBING, it.snapshots[1]
    ),
    "a torn list of segments": lambda it: it.change(
        "UPDATE snapshots SET near=x'0011' WHERE id=?", it.snapshots[1]
    ),
    "a list of segments that is text": lambda it: it.change(
        "UPDATE snapshots SET near='abc' WHERE id=?", it.snapshots[1]
    ),
    "a lost snapshot that is not there": lambda it: it.change(
        "INSERT INTO unflushed(snapshot, host, boot) VALUES ('snap_gone', ?, 'another')", HERE
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_what_rests_on_a_damaged_row_is_refused_and_the_rest_goes_on(damaged: Damaged, what: str) -> None:
    DAMAGE[what](damaged)
    records = Records(damaged.home)
    standing, history = records.standing(), records.history
    steps: list[Callable[[], Any]] = [
        lambda: listed(history, {}, everything=True),
        lambda: list(standing.diff(damaged.fork)),
        lambda: history.log.read(damaged.fork),
        lambda: history.log.newest(damaged.fork),
        lambda: history.fork(damaged.fork),
        standing.plan,
        lambda: standing.send(damaged.snapshots[1], damaged.home / "sent.kibo"),
        lambda: standing.commit(damaged.fork),
        lambda: standing.abort(damaged.root),
        lambda: standing.collect(0.0, 0.0),
        standing.layers,
    ]
    for step in steps:
        try:
            step()
        except KiboError as error:
            assert error.code != "kibo.bug"  # noqa: PT017 - that it is one of ours at all is what is tried
    (fork,) = history.fork(damaged.good)
    history.log.append(fork.id, "note", "on")
    standing.commit(fork.id)
    assert [entry.value for entry in history.log.read(damaged.good)] == ["on"]
    records.close()
    Records(damaged.home).close()


def test_a_world_that_climbs_names_nothing_that_a_collection_removes(
    damaged: Damaged, tmp_path: Path
) -> None:
    outside = tmp_path / "etc"
    outside.mkdir()
    (outside / "precious").touch()
    DAMAGE["a world that climbs"](damaged)
    for turn, records in enumerate(opened(damaged.home)):
        if not turn:
            records.standing().abort(damaged.root)
        records.standing().collect(0.0, 0.0)
    assert [path.name for path in outside.iterdir()] == ["precious"]


def opened(home: Path) -> Iterator[Records]:
    """Opens the history twice: what the first left to be done later is done by the second."""
    for _ in range(2):
        records = Records(home)
        try:
            yield records
        finally:
            records.close()
