"""The resolver of `examples/merge_sqlite`, against a model of plain dictionaries, and against files that mean harm."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from examples.merge_sqlite import database
from examples.merge_sqlite.database import Refused
from examples.merge_sqlite.merging import merge_databases
from examples.merge_sqlite.rows import Clash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Rows = dict[Any, tuple[Any, Any]]

VALUES = st.sampled_from([None, 0, 1, 1.0, "1", "a", b"a", "\N{GREEK SMALL LETTER ALPHA}", -(2**63), 0.5])
TABLES = {
    "integer": "CREATE TABLE t (k INTEGER PRIMARY KEY, a, b)",
    "text": "CREATE TABLE t (k TEXT PRIMARY KEY, a, b)",
    "without rowid": "CREATE TABLE t (k TEXT NOT NULL PRIMARY KEY, a, b) WITHOUT ROWID",
    "two columns": "CREATE TABLE t (a, k TEXT NOT NULL, j INTEGER NOT NULL, b, PRIMARY KEY (j, k))",
    "no key": "CREATE TABLE t (a, b)",
}
KEYS: dict[str, Any] = {
    "integer": [(1,), (2,), (3,), (-7,)],
    "text": [("a",), ("A",), ("b",), ("",)],
    "without rowid": [("a",), ("A",), ("b",), ("",)],
    "two columns": [(1, "a"), (1, "b"), (2, "a"), (2, "b")],
    "no key": [(1,), (2,), (3,), (9,)],
}
NAMES = {"two columns": ("j", "k"), "no key": ("rowid",)}


def make(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as link, link:
        for statement in statements:
            link.execute(statement)
    return path


def fill(path: Path, kind: str, rows: Rows) -> Path:
    names = (*NAMES.get(kind, ("k",)), "a", "b")
    make(path, TABLES[kind])
    with closing(sqlite3.connect(path)) as link, link:
        for key, row in rows.items():
            link.execute(
                f"INSERT INTO t ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", key + row
            )
    return path


def rows_of(path: Path, kind: str) -> Rows:
    names = NAMES.get(kind, ("k",))
    with closing(sqlite3.connect(path)) as link:
        found = link.execute(f"SELECT {', '.join(names)}, a, b FROM t").fetchall()
    return {row[: len(names)]: row[len(names) :] for row in found}


def typed(row: tuple[Any, ...] | None) -> Any:
    return None if row is None else tuple((type(value), value) for value in row)


def model(base: Rows, ours: Rows, theirs: Rows) -> tuple[dict[Any, Any], set[tuple[Any, str, str]]]:
    """Joins dictionaries: what is left, and which key clashes, why and in which column."""
    merged, clashes = {}, set()
    for key in {*base, *ours, *theirs}:
        was, one, two = (typed(side.get(key)) for side in (base, ours, theirs))
        if one == two or two == was:
            merged[key] = one
        elif one == was:
            merged[key] = two
        elif was is None:
            clashes.add((key, "added", ""))
        elif one is None or two is None:
            clashes.add((key, "deleted", ""))
        else:
            cells = []
            for name, a, b, c in zip("ab", was, one, two, strict=True):
                if b != c and a not in (b, c):
                    clashes.add((key, "cell", name))
                cells.append(c if b == a else b)
            merged[key] = tuple(cells)
    return {key: row for key, row in merged.items() if row is not None}, clashes


@st.composite
def histories(draw: st.DrawFn) -> tuple[str, Rows, Rows, Rows]:
    kind = draw(st.sampled_from(sorted(TABLES)))
    sides = st.dictionaries(st.sampled_from(KEYS[kind]), st.tuples(VALUES, VALUES))
    base = draw(sides)
    versions = []
    for _ in range(2):
        gone = draw(st.sets(st.sampled_from(KEYS[kind])))
        version = {key: row for key, row in base.items() if key not in gone} | draw(sides)
        for key, row in base.items():
            if key in version and draw(st.booleans()):
                version[key] = (draw(VALUES), row[1])
        versions.append(version)
    return kind, base, *versions


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories())
def test_rows_merge_as_dictionaries_do(tmp_path_factory, history):
    kind, *sides = history
    place = tmp_path_factory.mktemp("merge")
    paths = [fill(place / name, kind, rows) for name, rows in zip("bot", sides, strict=True)]
    before = [path.read_bytes() for path in paths]
    into = place / "merged"
    clashes = merge_databases(paths[0], paths[1], paths[2], into)
    wanted, expected = model(*sides)
    assert {(clash.key, clash.kind, clash.column) for clash in clashes} == expected
    if not clashes:
        assert {key: typed(row) for key, row in rows_of(into, kind).items()} == wanted
    assert [path.read_bytes() for path in paths] == before


class Files:
    """Three versions of a database, made of statements."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def merge(self, base: list[str] | None, ours: list[str], theirs: list[str]) -> list[Clash]:
        """Merges; ours and theirs go on from the base."""
        paths = [
            make(self.place / name, *(base or []), *more)
            for name, more in (("base", []), ("ours", ours), ("theirs", theirs))
        ]
        return merge_databases(paths[0] if base is not None else None, *paths[1:], self.place / "merged")

    def ask(self, sql: str) -> list[Any]:
        """Asks the merged one."""
        with closing(sqlite3.connect(self.place / "merged")) as link:
            return link.execute(sql).fetchall()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


TABLE = "CREATE TABLE t (k TEXT PRIMARY KEY, a, b)"
ROW = "INSERT INTO t VALUES ('x', 1, 2)"


def test_a_clash_carries_what_all_three_have(files: Files) -> None:
    [clash] = files.merge([TABLE, ROW], ["UPDATE t SET a = 3"], ["UPDATE t SET a = 4, b = 5"])
    assert clash == Clash("cell", "t", ("x",), "a", 1, 3, 4)
    assert str(clash) == "cell t['x'].a: 1 became 3 and 4"


@pytest.mark.parametrize("swapped", [False, True])
def test_a_schema_that_one_side_changed_is_taken_with_the_others_rows(files: Files, swapped: bool) -> None:
    schema = ["ALTER TABLE t ADD COLUMN c DEFAULT 7", "UPDATE t SET b = 9, c = 8", "CREATE INDEX i ON t (a)"]
    rows = ["UPDATE t SET a = 3 WHERE k = 'x'", "INSERT INTO t VALUES ('y', 4, 5)"]
    assert files.merge([TABLE, ROW], *((rows, schema) if swapped else (schema, rows))) == []
    assert files.ask("SELECT * FROM t ORDER BY k") == [("x", 3, 9, 8), ("y", 4, 5, 7)]
    assert files.ask("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql NOT NULL") == [("i",)]


@pytest.mark.parametrize("swapped", [False, True])
def test_what_was_written_to_what_the_other_removed_clashes(files: Files, swapped: bool) -> None:
    for number, (gone, written) in enumerate(
        [
            ("DROP TABLE t", "INSERT INTO t VALUES ('y', 1, 2)"),
            ("ALTER TABLE t DROP COLUMN a", "UPDATE t SET a = 3"),
            ("ALTER TABLE t DROP COLUMN a", "INSERT INTO t VALUES ('y', 1, 2)"),
        ]
    ):
        place = files.place / str(number)
        place.mkdir()
        sides = ([written], [gone]) if swapped else ([gone], [written])
        assert [clash.kind for clash in Files(place).merge([TABLE, ROW], *sides)] == ["schema"]


def test_a_schema_that_both_changed_is_refused(files: Files) -> None:
    with pytest.raises(Refused, match="both sides changed"):
        files.merge([TABLE], ["CREATE TABLE one (a)"], ["CREATE TABLE two (a)"])


def test_databases_that_both_made_are_joined_where_their_schemas_are_the_same(files: Files) -> None:
    one, two = (
        [TABLE, ROW, "INSERT INTO t VALUES ('y', 1, 1)"],
        [TABLE, ROW, "INSERT INTO t VALUES ('z', 2, 2)"],
    )
    assert files.merge(None, one, two) == []
    assert [key for (key,) in files.ask("SELECT k FROM t ORDER BY k")] == ["x", "y", "z"]


def test_rows_that_break_a_constraint_only_together_clash(files: Files) -> None:
    base = ["CREATE TABLE t (k TEXT PRIMARY KEY, mail TEXT UNIQUE)"]
    [clash] = files.merge(base, ["INSERT INTO t VALUES ('a', 'm')"], ["INSERT INTO t VALUES ('b', 'm')"])
    assert (clash.kind, clash.key) == ("constraint", ("b",))
    assert "UNIQUE" in clash.message


def test_unique_values_may_change_places(files: Files) -> None:
    base = ["CREATE TABLE t (k TEXT PRIMARY KEY, mail TEXT UNIQUE, n)"]
    base += ["INSERT INTO t VALUES ('a', 'one', 0), ('b', 'two', 0)"]
    swap = "UPDATE t SET mail = {} WHERE k = {}"
    theirs = [swap.format("'x'", "'a'"), swap.format("'one'", "'b'"), swap.format("'two'", "'a'")]
    assert files.merge(base, ["UPDATE t SET n = 1"], theirs) == []
    assert files.ask("SELECT * FROM t ORDER BY k") == [("a", "two", 1), ("b", "one", 1)]


def test_a_row_that_points_at_what_the_other_removed_clashes(files: Files) -> None:
    base = ["CREATE TABLE good (name TEXT PRIMARY KEY)", "INSERT INTO good VALUES ('latte')"]
    base += ["CREATE TABLE bought (n TEXT PRIMARY KEY, what TEXT REFERENCES good)"]
    [clash] = files.merge(base, ["DELETE FROM good"], ["INSERT INTO bought VALUES ('1', 'latte')"])
    assert (clash.kind, clash.table) == ("reference", "bought")


def test_triggers_stay_and_do_not_run_for_rows_that_are_merged(files: Files) -> None:
    base = [TABLE, "CREATE TABLE log (k TEXT PRIMARY KEY)"]
    base += ["CREATE TRIGGER noted AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.k); END"]
    assert files.merge(base, ["INSERT INTO t VALUES ('a', 1, 1)"], ["INSERT INTO t VALUES ('b', 1, 1)"]) == []
    assert files.ask("SELECT k FROM log ORDER BY k") == [("a",), ("b",)]
    assert files.ask("SELECT name FROM sqlite_schema WHERE type = 'trigger'") == [("noted",)]


def test_no_key_that_either_side_has_given_is_given_again(files: Files) -> None:
    base = ["CREATE TABLE t (k INTEGER PRIMARY KEY AUTOINCREMENT, a)", "INSERT INTO t (a) VALUES (0)"]
    theirs = ["INSERT INTO t (a) VALUES (1), (2), (3)", "DELETE FROM t WHERE k > 1"]
    assert files.merge(base, ["UPDATE t SET a = 5"], theirs) == []
    assert files.ask("SELECT seq FROM sqlite_sequence") == [(4,)]


def test_the_version_of_a_schema_is_taken_from_who_changed_it(files: Files) -> None:
    assert files.merge([TABLE], [ROW], ["PRAGMA user_version = 7"]) == []
    assert files.ask("PRAGMA user_version") == [(7,)]
    assert files.ask("SELECT k FROM t") == [("x",)]


@pytest.mark.parametrize(
    ("base", "why"),
    [
        (["CREATE VIRTUAL TABLE t USING rtree(id, low, high)"], "virtual table"),
        (["CREATE TABLE t (rowid, _rowid_, oid)"], "row numbers"),
        (["CREATE TABLE t (k TEXT PRIMARY KEY, a)", "INSERT INTO t VALUES (NULL, 1)"], "without a key"),
        ([TABLE, "INSERT INTO t VALUES ('x', CAST(x'ff' AS TEXT), 1)"], "cannot be read"),
    ],
)
def test_what_has_no_rows_that_can_be_told_apart_is_refused(files: Files, base: list[str], why: str) -> None:
    with pytest.raises(Refused, match=why):
        files.merge(base, ["CREATE TABLE other (k TEXT PRIMARY KEY)"], [])


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", TABLE, ROW)
    for number, damage in enumerate([b"", b"\xff" * 4096, database.MAGIC + b"\0" * 4080]):
        bad = tmp_path / f"bad-{number}"
        bad.write_bytes(whole.read_bytes()[:4096] + damage if number else whole.read_bytes()[:4096])
        with pytest.raises(Refused):
            merge_databases(whole, whole, bad, tmp_path / "merged")


def test_a_database_that_computes_for_ever_is_broken_off(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MAX_SECONDS", 0.0)
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000)"
    many = f"{numbers} INSERT INTO t SELECT i, i, i FROM n"
    with pytest.raises(Refused, match="interrupted"):
        files.merge([TABLE, many], [ROW], [])


def test_a_schema_can_call_nothing_that_reaches_out(files: Files) -> None:
    base = [TABLE, "CREATE VIEW v AS SELECT load_extension('/tmp/x.so')"]
    assert files.merge(base, [ROW], ["INSERT INTO t VALUES ('y', 1, 1)"]) == []  # nobody looks at a view
    with database.opened(files.place / "merged") as opened, pytest.raises(sqlite3.Error, match="unsafe use"):
        opened.run("SELECT * FROM v")
    with database.opened(files.place / "merged") as opened, pytest.raises(sqlite3.Error, match="attached"):
        opened.run("ATTACH ? AS more", (str(files.place / "ours"),))
