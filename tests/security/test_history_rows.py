"""Rows of the history that somebody damaged: what rests on them is refused by name, everything else goes on."""

from __future__ import annotations

import copy
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column

from effect_drafts import draft
from kibo.branch.listing import listed
from kibo.effects.records import Outcome, key_digest
from kibo.model.errors import KiboError
from kibo.store.checking import type_of
from kibo.store.schema import metadata
from kibo.wiring.records import Records

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
        self.snapshots: list[str] = []
        self.effects: list[str] = []
        for number in range(2):
            history.log.append(self.fork, "note", number)
            self.snapshots.append(history.snapshot(self.fork, {"instances": {}}).id)
        records.close()

    def change(self, statement: str, *values: Any) -> None:
        with closing(sqlite3.connect(self.home / "history.db")) as link, link:
            link.execute("PRAGMA foreign_keys=OFF")
            link.execute(statement, values)


@pytest.fixture
def memory() -> Iterator[Path]:
    """A directory in memory: nothing here is about the disk, and hundreds of histories are opened."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kibo-rows-") as place:
        yield Path(place)


@pytest.fixture
def damaged(memory: Path) -> Damaged:
    return Damaged(memory / "home")


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


def readers(it: Damaged, records: Records) -> list[Callable[[], Any]]:
    """All that reads the bad tree, or everything."""
    standing, history, ledger = records.standing(), records.history, records.ledger
    return [
        lambda: listed(history, {}, everything=True),
        lambda: list(standing.diff(it.fork)),
        lambda: [entry.value for entry in history.log.read(it.fork)],
        lambda: history.log.newest(it.fork),
        lambda: history.log.newest(it.fork, kinds=["note"]),
        lambda: [entry.value for entry in history.log.everything()],
        lambda: list(history.worlds()),
        ledger.listed,
        lambda: [ledger.get(each) for each in it.effects],
        lambda: ledger.sent_with("scope", key_digest(b"key")),
        lambda: ledger.unsent("gw_1"),
        lambda: history.fork(it.fork),
        standing.plan,
        lambda: standing.send(it.snapshots[1], it.home / "sent.kibo"),
        lambda: list(history.export(it.snapshots[1])),
        lambda: standing.merge(it.fork),
        lambda: standing.commit(it.fork),
        lambda: standing.abort(it.root),
        lambda: ledger.bury("gw_1"),
        lambda: standing.collect(0.0, 0.0),
        standing.layers,
    ]


def goes_on(it: Damaged) -> list[KiboError]:
    """Reads all there is, and works in the good tree. Returns what was refused."""
    records = Records(it.home)
    refused = []
    for step in readers(it, records):
        try:
            step()
        except KiboError as error:
            assert error.code != "kibo.bug", error  # noqa: PT017 - that it is one of ours at all is what is tried
            refused.append(error)
    (fork,) = records.history.fork(it.good)
    records.history.log.append(fork.id, "note", "on")
    records.standing().commit(fork.id)
    assert [entry.value for entry in records.history.log.read(it.good)] == ["on"]
    records.close()
    Records(it.home).close()
    return refused


@pytest.mark.parametrize("what", DAMAGE)
def test_what_rests_on_a_damaged_row_is_refused_and_the_rest_goes_on(damaged: Damaged, what: str) -> None:
    DAMAGE[what](damaged)
    goes_on(damaged)


#: What may stand where something else belongs: nothing, another type, and what is out of range or nothing at all.
WRONG: dict[type, list[Any]] = {
    str: [None, b"\xc1\xff", "odd"],
    bytes: [None, "odd", b"\xc1\xff"],
    int: [None, "odd", b"\xc1\xff", 2**63 - 1, -1, 0.5],
    float: [None, "odd", b"\xc1\xff", float("inf")],
}
#: Columns that SQLite makes its own number of a row.
OWN_NUMBERS = ("wanted_state.number",)
COLUMNS = [
    pytest.param(table.name, column, id=f"{table.name}.{column.name}")
    for table in metadata.sorted_tables
    for column in table.columns
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    """A history with rows of the bad tree in every table, whose columns take anything."""
    it = Damaged(tmp_path_factory.mktemp("whole") / "home")
    records = Records(it.home)
    history, ledger = records.history, records.ledger
    history.label(it.snapshots[0], "named")
    history.pin(it.snapshots[0], "somebody", ttl_s=1000.0)
    drafts = [draft(it.fork), draft(it.fork, key=b"key")]
    it.effects = [ledger.begin(drafts[0], "gw_1").id, ledger.begin(drafts[1], "gw_1").id]
    ledger.answer(it.effects[1], Outcome(200, [(b"name", b"value")], b"body", whole=True))
    records.close()
    it.change("INSERT INTO unflushed(snapshot, host, boot) VALUES (?, ?, 'another')", it.snapshots[1], HERE)
    it.change("INSERT INTO garbage(resource) VALUES ('delta_00')")
    with closing(sqlite3.connect(it.home / "history.db")) as link, link:
        link.execute("PRAGMA writable_schema=ON")
        link.execute("UPDATE sqlite_schema SET sql=replace(sql, 'NOT NULL', '') WHERE type='table'")
    return it


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_value_that_a_column_cannot_have_is_refused_by_name_and_the_rest_goes_on(
    whole: Damaged, memory: Path, table: str, column: Column[Any]
) -> None:
    if f"{table}.{column.name}" in OWN_NUMBERS or column.name == "position":
        return  # SQLite's own number of a row: the file format has no other type for it
    for number, value in enumerate(WRONG[type_of(column)]):
        it = copy.copy(whole)
        it.home = memory / str(number)
        shutil.copytree(whole.home, it.home)
        last = f"(SELECT max(rowid) FROM {table})"
        it.change(f'UPDATE {table} SET "{column.name}"=? WHERE rowid={last}', value)
        refused = goes_on(it)
        if value is None and not column.nullable and table in ("branches", "snapshots", "labels", "pins"):
            assert "store.damaged" in {error.code for error in refused}
        for error in refused:
            assert error.hint, error
            if error.code == "store.damaged":
                assert error.details.keys() & {"row", "snapshot"}, error.details
        shutil.rmtree(it.home)


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
