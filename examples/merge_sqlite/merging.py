"""Three-way merge of SQLite databases, as files."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.merge_sqlite.database import SIDECARS, Database, Refused, opened, quoted
from examples.merge_sqlite.rows import Changes, Clash, Key, Table, Value, changed, merge_table

#: Numbers that belong to a database as a whole, and are not rows.
_NUMBERS: Final = ("user_version", "application_id")


@dataclass(frozen=True, slots=True)
class _Sides:
    """Three versions: what both came from, the one that is taken as it is, and the one whose changes are put on top."""

    base: Database | None
    taken: Database
    other: Database
    taken_is_ours: bool


def merge_databases(base: Path | None, ours: Path, theirs: Path, into: Path) -> list[Clash]:
    """Merges two versions of a database.

    Args:
        base: What both came from; None where both made it.
        ours: Our version. All are files of this process's own, with nothing beside them; none is changed.
        theirs: Their version.
        into: Where the merged one goes.

    Returns:
        What could not be joined. Where there is any, `into` is of no use.

    Raises:
        Refused: One of them is damaged, or both changed the schema, or it has what is no row.
    """
    with opened(ours) as mine, opened(theirs) as its:
        if base is None:
            mine.check(), its.check()
            return _merge(_Sides(None, mine, its, True), ours, into)
        with opened(base) as was:
            for database in (was, mine, its):
                database.check()
            start = was.schema()
            if start in (mine.schema(), its.schema()):
                taken_is_ours = its.schema() == start
                pair = (mine, its) if taken_is_ours else (its, mine)
                return _merge(_Sides(was, *pair, taken_is_ours), ours if taken_is_ours else theirs, into)
            raise Refused("has a schema that both sides changed")


def _merge(sides: _Sides, start: Path, into: Path) -> list[Clash]:
    if sides.base is None and sides.taken.schema() != sides.other.schema():
        raise Refused("was made by both sides, with different schemas")
    numbers = _numbers(sides)
    work: dict[str, _Work] = {}
    for table in sides.other.tables():
        made = _merge_table(sides, table)
        if made.changes.removed or made.changes.written or made.changes.clashes:
            work[table] = made
    clashes = [clash for made in work.values() for clash in made.changes.clashes]
    if clashes:
        return clashes
    shutil.copyfile(start, into)
    with opened(into, writable=True) as result:
        clashes = _write(result, work, sides)
        if not clashes:
            for name, number in numbers.items():
                result.run(f"PRAGMA {name}={number:d}")
            result.check()
    if not clashes and any(into.with_name(into.name + end).exists() for end in SIDECARS):
        raise Refused("was not written entirely")
    return clashes


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be done to one table of the side that is taken."""

    taken: Table
    changes: Changes


def _merge_table(sides: _Sides, name: str) -> _Work:
    other = sides.other.read(name)
    base = Table(other.columns, {}, other.key) if sides.base is None else sides.base.read(name)
    taken = sides.taken.read(name) if name in sides.taken.tables() else None
    if taken is not None and taken.key == base.key:
        return _Work(taken, merge_table(name, base, taken, other, taken_is_ours=sides.taken_is_ours))
    clashes = []
    if next(changed(base, other), None) is not None:
        how = "was removed" if taken is None else "has another key"
        clashes.append(
            Clash("schema", name, message=f"the table {how} on one side, and was written to on the other")
        )
    return _Work(base, Changes(clashes=clashes))


def _numbers(sides: _Sides) -> dict[str, int]:
    found = {}
    for name in _NUMBERS:
        versions = [sides.base, sides.taken, sides.other]
        base, taken, other = (
            0 if one is None else one.run(f"PRAGMA {name}").fetchone()[0] for one in versions
        )
        if taken != other and base not in (taken, other):
            raise Refused(f"has a {name} that both sides changed")
        found[name] = other if taken == base else taken
    return found


def _write(result: Database, work: dict[str, _Work], sides: _Sides) -> list[Clash]:
    """Does what was decided, in one transaction."""
    clashes: list[Clash] = []
    before = result.dangling()
    result.run("BEGIN IMMEDIATE")
    with result.without_triggers():
        # What goes and what is replaced makes room first: values may have changed places.
        for table, each in work.items():
            replaced = (key for key in each.changes.written if key in each.taken.rows)
            for which in (*each.changes.removed, *replaced):
                _remove(result, table, each.taken.key, which)
        for table, each in work.items():
            for which, row in each.changes.written.items():
                clashes += _insert(result, table, which, dict(zip(each.taken.key, which, strict=True)) | row)
    _raise_sequences(result, sides)
    for name, number, parent, _ in sorted(result.dangling() - before, key=repr):
        message = f"row {number} points at a row of {parent} that is not there"
        clashes.append(Clash("reference", str(name), message=message))
    result.run("ROLLBACK" if clashes else "COMMIT")
    return clashes


def _remove(result: Database, table: str, key: tuple[str, ...], which: Key) -> None:
    where = " AND ".join(f"{quoted(column)} IS ?" for column in key)
    count = result.run(f"DELETE FROM {quoted(table)} WHERE {where}", which).rowcount
    if count != 1:
        raise Refused(f"has {count} rows with one key in {table}")


def _insert(result: Database, table: str, which: Key, row: dict[str, Value]) -> list[Clash]:
    columns, marks = ", ".join(map(quoted, row)), ", ".join("?" * len(row))
    try:
        result.run(f"INSERT INTO {quoted(table)} ({columns}) VALUES ({marks})", tuple(row.values()))
    except sqlite3.IntegrityError as error:
        return [Clash("constraint", table, which, message=str(error))]
    except sqlite3.OperationalError as error:
        if "has no column" not in str(error):
            raise
        return [Clash("schema", table, which, message=f"a new row has what is gone: {error}")]
    return []


def _raise_sequences(result: Database, sides: _Sides) -> None:
    """Sees to it that no key is given again that either side has given."""
    has = result.sequences()
    for table, number in sides.other.sequences().items():
        if number > has.get(table, number):
            result.run("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, table))
