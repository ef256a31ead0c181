"""Databases that somebody else wrote, opened so that they can do no harm: bounded, read-only, and nothing in them runs.

A file from a box may be anything. Its schema is text that SQLite compiles, with triggers, views and expressions. So it
is copied first, beside nothing that SQLite would take for a part of it; its schema may call no function that is not
innocuous, extensions cannot be loaded, no other file can be attached, and whatever runs is broken off after some time.
Source: "Defense Against The Dark Arts" in SQLite's documentation.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from examples.merge_sqlite.rows import Key, Row, Table, Value

#: What all SQLite databases begin with.
MAGIC: Final = b"SQLite format 3\0"
#: What is a part of a database while it is in use: its name with one of these.
SIDECARS: Final = ("-wal", "-journal")
#: Bytes of one database: three versions of it are held in memory.
MAX_BYTES: Final = 64 << 20
#: Seconds that one merge of a database may take.
MAX_SECONDS: Final = 30.0
#: Bytes of one value, and of one statement of a schema.
_MAX_VALUE: Final = 16 << 20
_MAX_SQL: Final = 1 << 20
_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: _MAX_VALUE,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: _MAX_SQL,
    sqlite3.SQLITE_LIMIT_COLUMN: 500,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
#: Instructions of SQLite's machine between two looks at the clock.
_STEPS: Final = 10_000
#: What stands for the row number, of which a table may have a column of its own.
_ROW_NUMBERS: Final = ("rowid", "_rowid_", "oid")


class Refused(Exception):
    """A database cannot be merged, for a reason that is no row."""


class Database:
    """One database, open.

    Args:
        path: A file of this process's own, with nothing beside it.
        writable: Whether it is to be changed.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        mode = "mode=rw" if writable else "mode=ro&immutable=1"
        self._link = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None)
        for limit, value in _LIMITS.items():
            self._link.setlimit(limit, value)
        ends = time.monotonic() + MAX_SECONDS
        self._link.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "foreign_keys=OFF"):
            self._link.execute(f"PRAGMA {pragma}")

    def close(self) -> None:
        """Closes it."""
        self._link.close()

    def run(self, sql: str, values: tuple[Value, ...] = ()) -> sqlite3.Cursor:
        """Runs one statement."""
        return self._link.execute(sql, values)

    def check(self) -> None:
        """Reads all of it.

        Raises:
            Refused: It is damaged, or has what cannot be merged row by row.
        """
        said = [line for (line,) in self.run("PRAGMA integrity_check(3)")]
        if said != ["ok"]:
            raise Refused(f"is damaged: {'; '.join(map(str, said))}")
        for (name,) in self.run("SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'"):
            raise Refused(f"has a virtual table, {name}, whose contents are no rows")

    def schema(self) -> dict[tuple[str, str], str]:
        """Returns the statements that made it, by type and name."""
        found = self.run(
            "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name"
        )
        return {(kind, name): sql for kind, name, sql in found if not name.startswith("sqlite_")}

    def tables(self) -> list[str]:
        """Returns the names of its tables, without SQLite's own."""
        return [name for kind, name in self.schema() if kind == "table"]

    def read(self, table: str) -> Table:
        """Reads a table.

        Raises:
            Refused: Its rows cannot be told apart.
        """
        columns, key = self._columns(table)
        wanted = ", ".join(map(quoted, (*key, *columns)))
        rows: dict[Key, Row] = {}
        for values in self.run(f"SELECT {wanted} FROM {quoted(table)}"):
            if None in values[: len(key)]:
                raise Refused(f"has a row without a key in {table}")
            rows[values[: len(key)]] = values[len(key) :]
        return Table(columns, rows, key)

    def _columns(self, table: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        # name, its place in the primary key from 1 on or 0, and whether it is hidden or computed from others
        found = self.run("SELECT name, pk, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
        columns = tuple(name for name, _, hidden in found if not hidden)
        key = tuple(name for name, place, _ in sorted(found, key=lambda each: each[1]) if place)
        if not key:
            taken = {name.lower() for name, _, _ in found}
            key = tuple(name for name in _ROW_NUMBERS if name not in taken)[:1]
        if not key:
            raise Refused(f"has no key in {table}, and columns that hide its row numbers")
        return columns, key

    def dangling(self) -> set[tuple[Value, ...]]:
        """Returns what points at rows that are not there: table, row number, the other table, which reference."""
        return set(self.run("PRAGMA foreign_key_check"))

    def sequences(self) -> dict[str, int]:
        """Returns the largest key that each table with AUTOINCREMENT has ever had."""
        if not self.run("SELECT count(*) FROM sqlite_schema WHERE name = 'sqlite_sequence'").fetchone()[0]:
            return {}
        found = self.run("SELECT name, seq FROM sqlite_sequence").fetchall()
        return {name: number for name, number in found if isinstance(number, int)}

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        """Takes its triggers out for the time of the block: rows that are merged have had their effects already."""
        triggers = [(name, sql) for (kind, name), sql in self.schema().items() if kind == "trigger"]
        for name, _ in triggers:
            self.run(f"DROP TRIGGER {quoted(name)}")
        yield
        for _, sql in triggers:
            self.run(sql)


@contextmanager
def opened(path: Path, *, writable: bool = False) -> Iterator[Database]:
    """Opens a database.

    Raises:
        Refused: SQLite does not take it.
    """
    try:
        with closing(Database(path, writable=writable)) as database:
            yield database
    except sqlite3.Error as error:
        # Damage, a value that is no text, too large, too slow: all of them of the file, none of ours.
        raise Refused(f"cannot be read or written by SQLite: {error}") from None


def quoted(name: str) -> str:
    """Writes a name into a statement."""
    return '"' + name.replace('"', '""') + '"'
