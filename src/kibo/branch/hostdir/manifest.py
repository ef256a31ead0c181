"""What a host directory looked like when it was frozen: one row a path, in a file that is looked up, never read whole.

``entries`` is what was frozen and does not change; ``applied`` is what later applies made of it, and hides the former.
A path that an apply removed is a row without a mode. Rows of one directory lie together.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from kibo.runtime.layers.store import disk_full
from kibo.runtime.trees.stack import join

_SCHEMA: Final = """
CREATE TABLE entries(dir BLOB, name BLOB, mode INT, size INT, mtime INT, ctime INT, ino INT, racy INT,
                     PRIMARY KEY(dir, name)) WITHOUT ROWID;
CREATE TABLE applied(dir BLOB, name BLOB, mode INT, size INT, mtime INT, ctime INT, ino INT, racy INT,
                     PRIMARY KEY(dir, name)) WITHOUT ROWID;
CREATE TABLE skipped(path BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID;
"""
_COLUMNS: Final = "mode, size, mtime, ctime, ino, racy"


class Row(NamedTuple):
    """One path of the host.

    Attributes:
        mode: ``st_mode``, with the bits of its kind; 0 where an apply removed it.
        size: Bytes.
        mtime_ns: When its content changed.
        ctime_ns: When anything of it changed.
        ino: Its inode.
        racy: Whether it was written so shortly before it was read that its times may hide a later change.
    """

    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    ino: int
    racy: int = 0

    @classmethod
    def of(cls, info: os.stat_result, *, racy: bool = False) -> Row:
        """Makes a row from a status. A directory's size and times are left out: they change with its entries."""
        return cls(info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, int(racy))

    def matches(self, info: os.stat_result) -> bool:
        """Whether a status is the same, so that nothing has touched the path."""
        return self[:5] == (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)

    def near(self, info: os.stat_result) -> bool:
        """Whether only the time of the inode differs, as after a hard link of it was made or removed elsewhere."""
        if stat.S_ISFIFO(self.mode):  # its times change with whatever passes through it
            return (self.mode, self.ino) == (info.st_mode, info.st_ino)
        return self[:3] == (info.st_mode, info.st_size, info.st_mtime_ns) and self.ino == info.st_ino


GONE: Final = Row(0, 0, 0, 0, 0)


class Manifest:
    """One such file. Not for two threads at once; processes exclude each other through SQLite's own locks."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """Opens it. About 0.1 ms.

        Args:
            path: The file.
            create: Whether to make a new, empty one.
        """
        self.path = path
        mode = "rwc" if create else "rw"
        self._base = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None
        )
        if create:
            # Built aside, flushed and renamed as a whole: until then nothing depends on it.
            self._base.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;" + _SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self._base.close()

    def __enter__(self) -> Self:
        """Returns the manifest."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes it."""
        self.close()

    def copy(self, path: Path) -> Manifest:
        """Makes a new manifest with the same frozen entries and nothing applied, to be built further."""
        target = sqlite3.connect(path, isolation_level=None)
        target.execute("PRAGMA synchronous=OFF")
        with exhausting(path.parent):
            self._base.backup(target)
        target.close()
        made = Manifest(path)
        made._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; DELETE FROM applied; DELETE FROM skipped;"
        )
        return made

    def begin(self) -> None:
        """Starts a series of changes that are written together."""
        self._base.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Ends the series."""
        self._base.execute("COMMIT")

    # While freezing.

    def frozen_in(self, directory: bytes) -> dict[bytes, Row]:
        """Returns the rows of one directory's entries as they were frozen, by name."""
        rows = self._base.execute(f"SELECT name, {_COLUMNS} FROM entries WHERE dir=?", (directory,))
        return {row[0]: Row(*row[1:]) for row in rows if row[0]}

    def set_frozen(self, directory: bytes, rows: Iterable[tuple[bytes, Row]]) -> None:
        """Writes rows of one directory."""
        self._base.executemany(
            "INSERT OR REPLACE INTO entries VALUES(?,?,?,?,?,?,?,?)",
            ((directory, name, *row) for name, row in rows),
        )

    def drop_frozen(self, path: bytes) -> None:
        """Removes the rows of a path and of everything below it."""
        self._base.execute("DELETE FROM entries WHERE dir=? AND name=?", _split(path))
        self._base.execute("DELETE FROM entries WHERE dir=? OR (dir>? AND dir<?)", _below(path))

    def skip(self, path: bytes, reason: str) -> None:
        """Notes that something was left out."""
        self._base.execute("INSERT OR REPLACE INTO skipped VALUES(?,?)", (path, reason))

    def skipped(self, limit: int) -> list[tuple[bytes, str]]:
        """Returns the first paths that were left out, and why."""
        rows = self._base.execute("SELECT path, reason FROM skipped ORDER BY path LIMIT ?", (limit,))
        return [(row[0], row[1]) for row in rows]

    def count(self) -> int:
        """Returns how many paths were frozen. Reads the whole index."""
        return int(self._base.execute("SELECT count(*) FROM entries").fetchone()[0])

    # While applying.

    def find(self, path: bytes) -> Row | None:
        """Returns what is expected at a path of the host, or None where nothing is. About 10 us."""
        row = self.applied(path) or self._one("entries", path)
        return None if row is None or not row.mode else row

    def applied(self, path: bytes) -> Row | None:
        """Returns what an apply made of a path, `GONE` where it removed it, or None where none touched it."""
        return self._one("applied", path)

    def applied_paths(self) -> list[bytes]:
        """Returns every path that an apply touched."""
        return [join(row[0], row[1]) for row in self._base.execute("SELECT dir, name FROM applied")]

    def inside(self, directory: bytes) -> dict[bytes, Row]:
        """Returns what is expected in a directory of the host, by name."""
        found = self.frozen_in(directory)
        for row in self._base.execute(f"SELECT name, {_COLUMNS} FROM applied WHERE dir=?", (directory,)):
            found[row[0]] = Row(*row[1:])
        return {name: row for name, row in found.items() if row.mode}

    def below(self, path: bytes) -> Iterator[tuple[bytes, Row]]:
        """Yields what is expected below a directory of the host, in no particular order."""
        for table, other in (("entries", "applied"), ("applied", "")):
            sql = f"SELECT dir, name, {_COLUMNS} FROM {table} AS t WHERE (dir=? OR (dir>? AND dir<?))"
            if other:
                sql += f" AND NOT EXISTS(SELECT 1 FROM {other} AS o WHERE o.dir=t.dir AND o.name=t.name)"
            for row in self._base.execute(sql, _below(path)):
                if row[2] and row[1]:
                    yield join(row[0], row[1]), Row(*row[2:])

    def advance(self, rows: Iterable[tuple[bytes, Row]]) -> None:
        """Notes what an apply made of paths, all of them or none, on the disk before it returns."""
        self._base.execute("PRAGMA synchronous=FULL")
        with exhausting(self.path.parent):
            self.begin()
            self._base.executemany(
                "INSERT OR REPLACE INTO applied VALUES(?,?,?,?,?,?,?,?)",
                ((*_split(path), *row) for path, row in rows),
            )
            self.commit()

    def _one(self, table: str, path: bytes) -> Row | None:
        row = self._base.execute(
            f"SELECT {_COLUMNS} FROM {table} WHERE dir=? AND name=?", _split(path)
        ).fetchone()
        return None if row is None else Row(*row)


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name


def _below(path: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns the directory itself, and the bounds between which its subdirectories' paths lie in byte order."""
    return path, path + b"/", path + b"0"


class exhausting:
    """Turns SQLite's "disk is full" inside a block into the error that says whose disk is full."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Nothing to do before the block."""

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Translates it; lets everything else through."""
        full = isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode in _FULL
        if full:
            raise disk_full(self._place) from error


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite says that a file is no manifest, or no whole one; not that it is in use, say."""
    return error.sqlite_errorcode & 0xFF in _DAMAGED


#: The last two: the file, or a table, is missing.
_DAMAGED: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_ERROR,
)
#: A write that found no room is a full disk, or an I/O error where the file system says so only when it writes back.
_FULL: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
