"""PostgreSQL, through psycopg 3."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from kibo.store.dialects.port import Failure

#: Serialization failure, deadlock, lock not available; a row that another writer made first.
_AGAIN: Final = ("40001", "40P01", "55P03", "23505")
#: The advisory lock that one migration at a time holds: "kibo" in ASCII.
_MIGRATION: Final = 0x6B69626F


class Postgresql:
    """Row locks, at READ COMMITTED: every write is guarded by a condition of its own."""

    one_writer = False
    matching = "to_tsvector('simple', context_words.words) @@ to_tsquery('simple', :wanted)"

    def connect_arguments(self, timeout_s: float) -> dict[str, Any]:
        """The server gives up waiting for a row as SQLite does for its file."""
        waiting = f"-c lock_timeout={int(timeout_s * 1000)}"
        return {"connect_timeout": max(2, int(timeout_s)), "options": waiting}

    def prepare(self, connection: Any) -> None:
        """Nothing: the settings came with the connection."""

    def begin(self, connection: Any, write: bool) -> None:
        """Nothing: the driver begins with the first statement."""

    @contextmanager
    def migrating(self, engine: Engine, timeout_s: float) -> Iterator[Connection]:
        """An advisory lock of the session, which ends with it."""
        with engine.connect() as connection:
            connection.execute(text(f"SELECT pg_advisory_lock({_MIGRATION})"))
            connection.commit()
            yield connection

    def classify(self, error: Exception) -> Failure:
        """By SQLSTATE; an error without one is the connection's."""
        state = getattr(error, "sqlstate", None)
        if state in _AGAIN:
            return "again"
        if state == "53100":
            return "full"
        if state is None or state[:2] in ("08", "57"):
            return "lost" if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) else "other"
        return "other"

    def words_query(self, words: Sequence[str], *, every: bool) -> str:
        """In the language of its full-text index."""
        return (" & " if every else " | ").join(words)

    def remedy(self, error: Exception) -> str:
        """By the class of SQLSTATE."""
        state = getattr(error, "sqlstate", None) or "08"
        if state[:2] in ("08", "57"):
            return "See that the server runs and can be reached at this address, then try again."
        if state[:2] in ("28", "3D", "42"):
            return "See that user, password and database of the URL are right, and that the user may create tables."
        return ""


DIALECT = Postgresql()
