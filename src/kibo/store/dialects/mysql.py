"""MariaDB, and what else speaks MySQL's protocol, through PyMySQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pymysql
from sqlalchemy import text
from sqlalchemy.engine import Connection, Engine

from kibo.model.errors import StoreUnavailable
from kibo.store.dialects.port import Failure

_AGAIN: Final = (1205, 1213, 1062)  # lock wait timeout, deadlock; a row that another writer made first
_LOST: Final = (0, 1053, 1927, 2002, 2003, 2006, 2013, 2014, 2055, 4031)
_FULL: Final = (1021, 1041, 1114)
_ACCESS: Final = (1044, 1045, 1049, 1142, 1698)


class Mysql:
    """Row locks, at READ COMMITTED as PostgreSQL has it: at the server's default, readers lock gaps."""

    one_writer = False
    matching = "MATCH (context_words.words) AGAINST (:wanted IN BOOLEAN MODE)"

    def connect_arguments(self, timeout_s: float) -> dict[str, Any]:
        """Text is utf8mb4; what is written is committed by us."""
        return {"charset": "utf8mb4", "connect_timeout": max(2, int(timeout_s)), "autocommit": False}

    def prepare(self, connection: Any) -> None:
        """Sets what the server keeps by session. A value that does not fit is an error, never cut short."""
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
            cursor.execute("SET SESSION innodb_lock_wait_timeout = 30")
        connection.commit()

    def begin(self, connection: Any, write: bool) -> None:
        """Nothing: the server begins with the first statement."""

    @contextmanager
    def migrating(self, engine: Engine, timeout_s: float) -> Iterator[Connection]:
        """A named lock of the session, which ends with it. The server commits each change of a table by itself."""
        values = {"name": f"kibo:{engine.url.database}", "wait": timeout_s}
        with engine.connect() as connection:
            if connection.execute(text("SELECT GET_LOCK(:name, :wait)"), values).scalar() != 1:
                raise StoreUnavailable(
                    "another process is migrating the store", hint="Try again when it is done."
                )
            connection.commit()
            yield connection

    def classify(self, error: Exception) -> Failure:
        """By the server's error number, or the client's."""
        number = _number(error)
        if number in _AGAIN:
            return "again"
        if number in _FULL:
            return "full"
        lost = number in _LOST and isinstance(
            error, pymysql.err.OperationalError | pymysql.err.InterfaceError
        )
        return "lost" if lost else "other"

    def words_query(self, words: Sequence[str], *, every: bool) -> str:
        """In the language of its full-text index."""
        return " ".join(f"+{word}" for word in words) if every else " ".join(words)

    def remedy(self, error: Exception) -> str:
        """By the server's error number, or the client's."""
        number = _number(error)
        if number in _LOST:
            return "See that the server runs and can be reached at this address, then try again."
        if number in _ACCESS:
            return "See that user, password and database of the URL are right, and that the user may create tables."
        return ""


def _number(error: Exception) -> int:
    first = error.args[0] if error.args else 0
    return first if isinstance(first, int) else 0


DIALECT = Mysql()
