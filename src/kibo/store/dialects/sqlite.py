"""SQLite: one file, any number of processes of one machine."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy.engine import Connection, Engine

from kibo.model.errors import StoreUnavailable
from kibo.store.dialects.port import Failure

_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_HINTS: Final = {
    sqlite3.SQLITE_CANTOPEN: "See that the directory exists and that this user may write in it.",
    sqlite3.SQLITE_READONLY: "See that this user may write the file, its directory and what stands beside it.",
    sqlite3.SQLITE_NOTADB: "The file is no database: point the store at another, or restore it from a backup.",
    sqlite3.SQLITE_CORRUPT: "The file is damaged: `sqlite3 FILE .recover` saves what can be read.",
    sqlite3.SQLITE_IOERR: "The disk gave an error; the kernel's log says which.",
    sqlite3.SQLITE_BUSY: "Another process has held the store for longer than the timeout; see who has it open.",
}


class Sqlite:
    """The embedded default: WAL, and every commit on the disk before it returns."""

    one_writer = True
    matching = (
        "context_words.position IN (SELECT rowid FROM context_search WHERE context_search MATCH :wanted)"
    )

    def connect_arguments(self, timeout_s: float) -> dict[str, Any]:
        """One thread uses a connection at a time, and another may close it."""
        return {
            "timeout": timeout_s,
            "isolation_level": None,  # BEGIN is ours: the driver's own would start readers that turn into writers
            "check_same_thread": False,
            "cached_statements": 256,
        }

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Sets what SQLite keeps by connection. WAL stays with the file, and asking again costs nothing."""
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # in WAL, NORMAL loses the last commits in a power cut
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA mmap_size=268435456")  # a cold read touches pages instead of copying them

    def begin(self, connection: sqlite3.Connection, write: bool) -> None:
        """A writer takes the lock at once: a reader that became one would fail where another wrote meanwhile."""
        connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")

    @contextmanager
    def migrating(self, engine: Engine, timeout_s: float) -> Iterator[Connection]:
        """A lock file beside the database: the switch to WAL does not wait for locks of the database itself."""
        path = f"{engine.url.database}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StoreUnavailable(
                            f"{path} is held by another process that is opening the store",
                            hint="Try again; if it lasts, see who holds the file.",
                        ) from None
                    time.sleep(0.01)
            with engine.connect() as connection:
                yield connection
        finally:
            os.close(fd)

    def classify(self, error: Exception) -> Failure:
        """By SQLite's primary result code."""
        code = _code(error)
        if code in _BUSY:
            return "again"
        return "full" if code == sqlite3.SQLITE_FULL else "other"

    def words_query(self, words: Sequence[str], *, every: bool) -> str:
        """In the language of its full-text index."""
        return (" AND " if every else " OR ").join(words)

    def remedy(self, error: Exception) -> str:
        """By SQLite's primary result code."""
        return _HINTS.get(_code(error), "")


def _code(error: Exception) -> int:
    """The low byte is the primary code, what is above it says more than we need."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


DIALECT = Sqlite()
