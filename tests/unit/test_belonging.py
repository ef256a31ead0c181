"""A database and its log, changed apart: neither side's file is taken without the other."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kibo.model.errors import MergeConflict
from kibo.runtime.trees.conflict import OURS, THEIRS, Resolution
from kibo.runtime.trees.merge import merge_trees
from kibo.runtime.trees.stack import Stack

Edit = Callable[[Path], None]


def add(row: str) -> Edit:
    """Adds a row and closes the database: all is in its file then."""

    def edit(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "shop.db")) as link, link:
            link.execute("INSERT INTO t VALUES (?)", (row,))

    return edit


def leave(row: str) -> Edit:
    """Adds a row as a program does that is killed, or copied, before it has closed the database."""

    def edit(directory: Path) -> None:
        with closing(sqlite3.connect(directory / "shop.db")) as link:
            with link:
                link.execute("INSERT INTO t VALUES (?)", (row,))
            for name in ("shop.db", "shop.db-wal"):
                shutil.copy(directory / name, directory / f"{name}.now")
        (directory / "shop.db-shm").unlink(missing_ok=True)
        for name in ("shop.db", "shop.db-wal"):
            os.replace(directory / f"{name}.now", directory / name)

    return edit


def rows(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / "shop.db")) as link:
        assert link.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return [row for (row,) in link.execute("SELECT * FROM t ORDER BY 1")]


class World:
    """A base with a database in WAL mode, and two sides."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.base, self.into = place / "base", place / "into"
        self.base.mkdir()
        with closing(sqlite3.connect(self.base / "shop.db")) as link, link:
            link.execute("PRAGMA journal_mode=WAL")
            link.execute("CREATE TABLE t (a TEXT PRIMARY KEY)")
            link.execute("INSERT INTO t VALUES ('begun')")
        self.deltas: list[Path] = []

    def start(self, edit: Edit) -> None:
        edit(self.base)

    def side(self, edit: Edit) -> None:
        """Makes a delta of what an edit does to a copy of the base."""
        number = len(self.deltas)
        work, delta = self.place / f"work-{number}", self.place / f"delta-{number}"
        shutil.copytree(self.base, work)
        delta.mkdir()
        edit(work)
        before, after = (
            {name: (place / name).read_bytes() for name in os.listdir(place)} for place in (self.base, work)
        )
        for name in before.keys() | after.keys():
            if name not in after:
                os.mknod(delta / name, stat.S_IFCHR, 0)
            elif before.get(name) != after[name]:
                (delta / name).write_bytes(after[name])
        self.deltas.append(delta)

    def merge(self, resolution: Resolution | None = None) -> Path:
        """Merges the second side into the first. Returns a directory that shows the result."""
        ours, theirs = self.deltas
        shutil.rmtree(self.into, ignore_errors=True)
        self.into.mkdir()
        resolver = None if resolution is None else lambda _: resolution
        merge_trees([self.base], [ours], [theirs], self.into, resolver)
        shown = self.place / "shown"
        shutil.rmtree(shown, ignore_errors=True)
        shown.mkdir()
        with Stack([self.base, ours, self.into]) as stack:
            for node in stack.root.children():
                (shown / os.fsdecode(node.path)).write_bytes(node.read())
        return shown

    def conflicts(self) -> dict[str, str]:
        with pytest.raises(MergeConflict) as caught:
            self.merge()
        return {os.fsdecode(each.path): each.kind for each in caught.value.conflicts}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


APART = {
    "ours the database, theirs the log": (add("ours"), leave("theirs")),
    "ours the log, theirs the database": (leave("ours"), add("theirs")),
}


@pytest.mark.parametrize("how", APART)
def test_a_database_and_its_log_that_were_changed_apart_are_one_conflict(world: World, how: str) -> None:
    for edit in APART[how]:
        world.side(edit)
    assert sorted(name for delta in world.deltas for name in os.listdir(delta)) == ["shop.db", "shop.db-wal"]
    assert world.conflicts() == {"shop.db": "together", "shop.db-wal": "together"}
    assert rows(world.merge(OURS)) == ["begun", "ours"]
    assert rows(world.merge(THEIRS)) == ["begun", "theirs"]


def test_a_log_that_one_side_brought_into_its_database_does_not_leave_without_it(world: World) -> None:
    world.start(leave("left"))
    world.side(add("ours"))  # which also closes it: the log is gone, its rows are in the file
    world.side(lambda directory: None)
    assert rows(world.merge()) == ["begun", "left", "ours"]
    world.deltas.clear()
    shutil.rmtree(world.place / "work-0")
    shutil.rmtree(world.place / "delta-0")
    shutil.rmtree(world.place / "work-1")
    shutil.rmtree(world.place / "delta-1")
    world.side(add("ours"))
    world.side(leave("theirs"))
    found = world.conflicts()
    assert set(found) == {"shop.db", "shop.db-wal"}
    assert found["shop.db"] == "together"
    assert rows(world.merge(OURS)) == ["begun", "left", "ours"]
    assert rows(world.merge(THEIRS)) == ["begun", "left", "theirs"]


def test_a_journal_left_by_a_killed_program_belongs_to_its_database(world: World) -> None:
    def killed(directory: Path) -> None:
        (directory / "shop.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))

    world.side(killed)
    world.side(add("theirs"))
    assert world.conflicts() == {"shop.db": "together", "shop.db-journal": "together"}


@pytest.mark.parametrize(
    "edit",
    [
        lambda directory: (directory / "shop.db-wal").write_bytes(b""),
        lambda directory: (directory / "shop.db-journal").write_bytes(bytes(512)),
        lambda directory: (directory / "shop.db-notes").write_text("notes"),
        lambda directory: (directory / "other.db-wal").write_text("of another"),
    ],
    ids=["an empty log", "a journal that holds nothing", "another file", "another database's log"],
)
def test_what_does_not_belong_to_it_is_taken_as_before(world: World, edit: Edit) -> None:
    world.side(add("ours"))
    world.side(edit)
    shown = world.merge()
    (shown / "shop.db-journal").unlink(missing_ok=True)
    assert rows(shown) == ["begun", "ours"]


def test_files_with_such_names_that_are_no_database_are_files(world: World) -> None:
    (world.base / "work").write_text("work")
    world.side(lambda directory: (directory / "work").write_text("more work") and None)
    world.side(lambda directory: (directory / "work-journal").write_text("a diary") and None)
    shown = world.merge()
    assert (shown / "work").read_text() == "more work"
    assert (shown / "work-journal").read_text() == "a diary"


def test_sides_that_brought_in_the_same_log_and_one_that_went_on_do_not_conflict(world: World) -> None:
    world.side(add("both"))

    def both(directory: Path) -> None:
        add("both")(directory)
        leave("theirs")(directory)

    world.side(both)
    ours, theirs = world.deltas
    shutil.copy(ours / "shop.db", theirs / "shop.db")  # the same bytes, whenever they were written
    assert rows(world.merge())[:2] == ["begun", "both"]
