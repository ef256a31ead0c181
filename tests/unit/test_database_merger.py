"""The resolver of `examples/merge_sqlite` in merges of directories: what it merges, and what it leaves."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from examples.merge_sqlite import resolver
from examples.merge_sqlite.resolver import DatabaseMerger

from kibo.model.errors import MergeConflict
from kibo.runtime.trees.conflict import OURS
from kibo.runtime.trees.merge import merge_trees

Edit = Callable[[Path], None]


def running(*statements: str) -> Edit:
    def edit(path: Path) -> None:
        with closing(sqlite3.connect(path)) as link, link:
            for statement in statements:
                link.execute(statement)

    return edit


START = running("CREATE TABLE t (k TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES ('x', 1)")
ONE, TWO = running("INSERT INTO t VALUES ('one', 1)"), running("INSERT INTO t VALUES ('two', 2)")


@pytest.fixture
def merge(tmp_path: Path) -> Callable[..., Path]:
    """Merges three versions of a directory's only database, each made by an edit of its own copy."""

    def work(merger: DatabaseMerger, one: Edit = ONE, two: Edit = TWO, start: Edit | None = START) -> Path:
        layers = {name: tmp_path / name for name in ("base", "ours", "theirs", "into")}
        for layer in layers.values():
            layer.mkdir()
        begun = tmp_path / "begun.db"
        if start is not None:
            start(begun)
            (layers["base"] / "shop.db").write_bytes(begun.read_bytes())
        for name, edit in (("ours", one), ("theirs", two)):
            path = layers[name] / "shop.db"
            if start is not None:
                path.write_bytes(begun.read_bytes())
            edit(path)
        merge_trees([layers["base"]], [layers["ours"]], [layers["theirs"]], layers["into"], merger)
        return layers["into"] / "shop.db"

    return work


def keys(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as link:
        return [key for (key,) in link.execute("SELECT k FROM t ORDER BY k")]


def test_both_sides_rows_are_kept(merge: Callable[..., Path]) -> None:
    merger = DatabaseMerger()
    assert keys(merge(merger)) == ["one", "two", "x"]
    assert (merger.merged, merger.kept) == (["shop.db"], {})


def test_a_database_that_both_made_has_the_rows_of_both(merge: Callable[..., Path]) -> None:
    create = "CREATE TABLE t (k TEXT PRIMARY KEY)"
    one, two = running(create, "INSERT INTO t VALUES ('a')"), running(create, "INSERT INTO t VALUES ('b')")
    assert keys(merge(DatabaseMerger(), one, two, None)) == ["a", "b"]


def test_rows_that_clash_leave_the_conflict_with_each_of_them(merge: Callable[..., Path]) -> None:
    merger = DatabaseMerger()
    with pytest.raises(MergeConflict) as caught:
        merge(merger, running("UPDATE t SET a = 2"), running("UPDATE t SET a = 3"))
    assert [conflict.path for conflict in caught.value.conflicts] == [b"shop.db"]
    [clash] = merger.kept["shop.db"].clashes
    assert (clash.kind, clash.base, clash.ours, clash.theirs) == ("cell", 1, 2, 3)


def test_sides_are_not_mistaken_where_theirs_is_taken_as_it_is(merge: Callable[..., Path]) -> None:
    merger = DatabaseMerger()
    with pytest.raises(MergeConflict):
        merge(merger, running("UPDATE t SET a = 2"), running("UPDATE t SET a = 3", "CREATE INDEX i ON t (a)"))
    [clash] = merger.kept["shop.db"].clashes
    assert (clash.base, clash.ours, clash.theirs) == (1, 2, 3)


def written_ahead(path: Path) -> None:
    """Writes a row into a log, as a program does that is killed before it closes its database."""
    with closing(sqlite3.connect(path)) as link:
        link.execute("PRAGMA journal_mode=WAL")
        link.execute("INSERT INTO t VALUES ('in the log', 1)")
        link.commit()
        log = path.with_name("shop.db-wal").read_bytes()
        assert log
    path.with_name("shop.db-wal").write_bytes(log)


def interrupted(path: Path) -> None:
    ONE(path)
    path.with_name("shop.db-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + bytes(504))


@pytest.mark.parametrize("end", [written_ahead, interrupted])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_database_with_an_unfinished_log_is_not_merged(
    merge: Callable[..., Path], end: Edit, swapped: bool
) -> None:
    merger = DatabaseMerger()
    with pytest.raises(MergeConflict):
        merge(merger, *((TWO, end) if swapped else (end, TWO)))
    assert "has a log beside it" in merger.kept["shop.db"].reason


def test_a_journal_without_a_transaction_is_none(merge: Callable[..., Path]) -> None:
    assert "one" in keys(
        merge(DatabaseMerger(), running("PRAGMA journal_mode=PERSIST", "INSERT INTO t VALUES ('one', 1)"))
    )


def test_a_database_in_wal_mode_that_was_closed_is_merged_and_stays_in_it(merge: Callable[..., Path]) -> None:
    closed = running("PRAGMA journal_mode=WAL", "INSERT INTO t VALUES ('one', 1)")
    path = merge(DatabaseMerger(), closed)
    assert path.read_bytes()[18:20] == b"\2\2"
    assert sorted(os.listdir(path.parent)) == ["shop.db"]
    assert keys(path) == ["one", "two", "x"]


def test_a_database_that_is_too_large_is_refused(
    merge: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "MAX_BYTES", 4096)
    merger = DatabaseMerger()
    with pytest.raises(MergeConflict):
        merge(merger)
    assert "at most 4,096" in merger.kept["shop.db"].reason


def test_modes_that_differ_are_not_guessed(merge: Callable[..., Path]) -> None:
    def then(edit: Edit, mode: int) -> Edit:
        return lambda path: (edit(path), path.chmod(mode))[0]

    merger = DatabaseMerger()
    with pytest.raises(MergeConflict):
        merge(merger, then(ONE, 0o600), then(TWO, 0o640))
    assert "another mode" in merger.kept["shop.db"].reason


def test_what_is_no_database_is_somebody_elses(merge: Callable[..., Path]) -> None:
    def writing(text: bytes) -> Edit:
        return lambda path: path.write_bytes(text) and None

    asked = []
    merger = DatabaseMerger(lambda conflict: asked.append(conflict.path) or OURS)  # type: ignore[func-returns-value]
    merge(merger, writing(b"\0one"), writing(b"\0two"), writing(b"\0"))
    assert asked == [b"shop.db"]
    assert (merger.merged, merger.kept) == ([], {})
