"""The store: one database, opened by any number of processes and threads.

Work runs in transactions, as functions that are given one::

    store = Store.open("sqlite:///history.db")
    store.write(lambda tx: tx.run(INSERT, name="x"))
    rows = store.read(lambda tx: tx.rows(SELECT))

A function may run again where the database rolled it back (two writers met): it must do nothing besides its statements.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from kibo.model.errors import Bug, HostDiskFull, InvalidInput, KiboError, StoreUnavailable
from kibo.model.interrupts import held_back
from kibo.store import forks, migrating
from kibo.store.dialects import dialect_for
from kibo.store.dialects.port import DatabaseDialect
from kibo.store.prepared import Prepared, Row

T = TypeVar("T")

#: How often one transaction is tried where others keep getting in its way. Each waits a little longer than the last:
#: ten are a second, after which the store is not busy but broken.
MAX_ATTEMPTS: Final = 10

#: How long to wait for another process's transaction. Kibo's own take milliseconds.
TIMEOUT_S: Final = 30.0

#: How long to wait for a server to which one only wants to know the way, in seconds.
REACH_S: Final = 5.0

#: Connections of threads that have ended, kept for those that begin: opening one takes longer than most transactions.
MAX_SPARE: Final = 8


class Transaction:
    """Statements that happen entirely or not at all. Made by `Store.write` and `Store.read`, gone after them."""

    __slots__ = ("_connection", "_cursor", "_dialect", "reads_json")

    def __init__(self, connection: Any, engine: Engine) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._dialect = engine.dialect
        self.reads_json: Final = engine.dialect.name == "sqlite"  # whether a list may be given as one value

    def run(self, statement: Prepared, **values: Any) -> int:
        """Executes a statement. Returns how many rows it matched."""
        compiled = statement.on(self._dialect)
        self._cursor.execute(compiled.text, compiled.arguments(values))
        return int(self._cursor.rowcount)

    def run_all(self, statement: Prepared, values: Iterable[Mapping[str, Any]]) -> None:
        """Executes a statement once for each set of values."""
        compiled = statement.on(self._dialect)
        self._cursor.executemany(compiled.text, [compiled.arguments(each) for each in values])

    def rows(self, statement: Prepared, **values: Any) -> list[Row]:
        """Executes a query and returns all rows.

        Raises:
            StoreDamaged: One of them holds what its columns cannot.
        """
        compiled = statement.on(self._dialect)
        self._cursor.execute(compiled.text, compiled.arguments(values))
        found: list[Row] = list(self._cursor.fetchall())
        if compiled.check is not None:
            for row in found:
                compiled.check.check(row, values)
        return found

    def sound(self, statement: Prepared, **values: Any) -> list[Row]:
        """Executes a query and returns the rows that are not damaged: for who must go on with those in any case."""
        compiled = statement.on(self._dialect)
        self._cursor.execute(compiled.text, compiled.arguments(values))
        found: list[Row] = list(self._cursor.fetchall())
        return found if compiled.check is None else [row for row in found if compiled.check.holds(row)]

    def row(self, statement: Prepared, **values: Any) -> Row | None:
        """Executes a query and returns its first row, or None.

        Raises:
            StoreDamaged: It holds what its columns cannot.
        """
        compiled = statement.on(self._dialect)
        self._cursor.execute(compiled.text, compiled.arguments(values))
        found: Row | None = self._cursor.fetchone()
        if found is not None and compiled.check is not None:
            compiled.check.check(found, values)
        return found

    def close(self) -> None:
        """Lets the cursor go; its results end with it."""
        self._cursor.close()


class Store:
    """One database. Threads share it, each with a connection of its own.

    A forked child gets new ones by itself. It cannot use a file's store where another thread was in a transaction
    that had waited for 5 s for another process: see `kibo.store.forks`.

    Args:
        engine: From SQLAlchemy.
        dialect: What this kind of database needs.
        timeout_s: How long to wait for others.
    """

    def __init__(self, engine: Engine, dialect: DatabaseDialect, timeout_s: float) -> None:
        self._engine: Final = engine
        self.dialect: Final = dialect
        self._timeout_s: Final = timeout_s
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._local = threading.local()
        self._connections: dict[int, tuple[threading.Thread, Any]] = {}
        #: Of threads that have ended.
        self._spare: list[Any] = []
        _opened.add(self)

    @classmethod
    def open(cls, url: str, *, timeout_s: float = TIMEOUT_S) -> Self:
        """Opens a store, makes it where there is none, and brings an older one up to date.

        Any number of processes may do so at once: one makes it, the others wait. About 5 ms for a store that is
        there, 300 for a new one.

        Args:
            url: ``sqlite:///relative/or//absolute/path``, ``postgresql+psycopg://user:password@host/database`` or
                ``mysql+pymysql://user:password@host/database``.
            timeout_s: How long to wait for other processes, here and in every transaction.

        Raises:
            InvalidInput: The URL is none, or its driver is not installed. Never retry.
            StoreUnavailable: The database does not answer, or was written by a newer Kibo. The hint says what to do.
            HostDiskFull: There is no room for it. Retry after making room.
        """
        store = cls._unopened(url, timeout_s)
        store._check_untorn()
        engine, dialect = store._engine, store.dialect
        event.listen(engine, "connect", lambda connection, _record: dialect.prepare(connection))
        try:
            with forks.at_work():
                migrating.migrate(engine, dialect, timeout_s)
        except DBAPIError as error:
            raise store._translated(error.orig or error) from error
        except OSError as error:
            raise StoreUnavailable(
                f"{store.name} cannot be opened: {error.strerror}",
                hint="See that the directory exists and that this user may write in it.",
            ) from error
        return store

    @classmethod
    def reach(cls, url: str) -> str:
        """Finds out whether a database can be used, and changes nothing. Returns it as anybody may see it.

        Args:
            url: See `open`. Whether there can be a file is not tried.

        Raises:
            InvalidInput, StoreUnavailable: As `open`.
        """
        store = cls._unopened(url, REACH_S)
        if not store.dialect.one_writer:
            try:
                store._engine.connect().close()
            except DBAPIError as error:
                raise store._translated(error.orig or error) from error
        return store.name

    @classmethod
    def _unopened(cls, url: str, timeout_s: float) -> Self:
        parsed = parse_url(url)
        dialect = dialect_for(parsed)
        arguments = dialect.connect_arguments(timeout_s)
        return cls(create_engine(parsed, poolclass=NullPool, connect_args=arguments), dialect, timeout_s)

    @property
    def name(self) -> str:
        """The database as an error may show it; see `shown`."""
        return shown(self._engine.url)

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction and commits it. When this returns, what was written is on the disk.

        Args:
            work: Given the transaction. An exception from it rolls everything back and is passed on.

        Raises:
            StoreUnavailable: The database does not answer. What was asked has happened entirely or not at all.
            HostDiskFull: No room; nothing was written.
        """
        self._check_outermost()
        if not self.dialect.one_writer:
            return self._perform(work, write=True)
        with held_back():
            # In this process writers queue here, in order and without polling. Elsewhere the database decides.
            if not self._writing.acquire(timeout=self._timeout_s):
                raise StoreUnavailable(f"{self.name} is held by another thread", hint="Try again.")
            try:
                return self._perform(work, write=True)
            finally:
                self._writing.release()

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction that only reads.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        return self._perform(work, write=False)

    def close(self) -> None:
        """Closes every connection of every thread. A second call does nothing; a later use opens new ones."""
        with forks.at_work():
            with self._guard:
                connections, self._connections = self._connections, {}
                spare, self._spare = self._spare, []
            for connection in (*(each for _, each in connections.values()), *spare):
                connection.close()

    def __enter__(self) -> Self:
        """The store itself: a block closes it at its end."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Closes it."""
        self.close()

    def _perform(self, work: Callable[[Transaction], T], write: bool) -> T:
        self._check_outermost()
        forks.enter()
        self._local.busy = True
        try:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                committing = False
                connection = self._connection()
                tx = None
                try:
                    self.dialect.begin(connection, write)
                    tx = Transaction(connection, self._engine)
                    result = work(tx)
                    committing = True
                    connection.commit()
                except self._driver_error as error:
                    failure = self.dialect.classify(error)
                    self._undo(connection, lost=failure == "lost")
                    # A connection that died before COMMIT was sent has done nothing: a restarted server is no error.
                    repeatable = failure == "again" or (failure == "lost" and not committing)
                    if not repeatable or attempt == MAX_ATTEMPTS or self._timed_out(error, failure):
                        raise self._translated(error) from error
                    time.sleep(random.uniform(0, 0.02) * attempt)
                except BaseException:
                    self._undo(connection, lost=False)
                    raise
                else:
                    return result
                finally:
                    if tx is not None:
                        tx.close()
            raise Bug("a transaction was neither done nor refused")
        finally:
            self._local.busy = False
            forks.leave()

    def _check_outermost(self) -> None:
        if getattr(self._local, "busy", False):
            raise Bug("a transaction was begun inside another on the same thread")

    def _timed_out(self, error: Exception, failure: str) -> bool:
        """SQLite has waited for the whole timeout before it says that it is busy; the others say so at once."""
        return failure == "again" and self.dialect.one_writer

    def _undo(self, connection: Any, lost: bool) -> None:
        """Rolls back; a connection on which even that fails is dropped, and the server rolls back by itself."""
        if not lost:
            try:
                connection.rollback()
                return
            except self._driver_error:
                pass
        with self._guard:
            self._connections.pop(threading.get_ident(), None)
            self._gather()
            spare, self._spare = self._spare, []  # they may be lost as well, and would be tried one by one
        for each in (connection, *spare):
            try:
                each.close()
            except self._driver_error:
                pass  # it was lost already

    def _connection(self) -> Any:
        thread, connection = self._connections.get(threading.get_ident(), (None, None))
        if thread is threading.current_thread():
            return connection
        try:
            return self._connect()
        except self._driver_error as error:
            raise self._translated(error) from error

    def _connect(self) -> Any:
        """Goes on with a connection of a thread that has ended, or opens one."""
        self._check_untorn()
        with self._guard:
            self._gather()
            connection = self._spare.pop() if self._spare else None
            left, self._spare = self._spare[MAX_SPARE:], self._spare[:MAX_SPARE]
        for each in left:
            each.close()
        if connection is None:
            fairy = self._engine.raw_connection()
            connection = fairy.driver_connection
            fairy.detach()  # ours now: no pool, no finaliser
        with self._guard:
            self._connections[threading.get_ident()] = (threading.current_thread(), connection)
        return connection

    def _gather(self) -> None:
        """Takes the connections of threads that have ended. The caller has the guard."""
        for who in [who for who, (thread, _) in self._connections.items() if not thread.is_alive()]:
            self._spare.append(self._connections.pop(who)[1])

    def _check_untorn(self) -> None:
        if self._engine.url in _torn:
            raise StoreUnavailable(
                f"{self.name}: this process was forked in the middle of a transaction of its parent's",
                hint="Fork when no call of Kibo's waits, or start a new interpreter, as multiprocessing's spawn does.",
            )

    def _translated(self, error: Exception) -> KiboError:
        if self.dialect.classify(error) == "full":
            return HostDiskFull(
                f"the disk that holds {self.name} is full",
                hint="Run `kibo gc`, or make room on that disk.",
                details={"store": self.name},
            )
        hint = self.dialect.remedy(error)
        api = self._engine.dialect.loaded_dbapi
        if not hint and isinstance(error, api.IntegrityError | api.ProgrammingError | api.DataError):
            return Bug(f"the database refused a statement: {error}", details={"store": self.name})
        hint = hint or "The message is the database's own."
        return StoreUnavailable(f"{self.name}: {error}", hint=hint, details={"store": self.name})

    def _let_go(self, busy: set[int]) -> None:
        """Closes before a fork what no thread is using."""
        for who in self._connections.keys() - busy:
            _, connection = self._connections[who]
            connection.close()
            del self._connections[who]
        while self._spare:
            self._spare.pop().close()

    def _forget(self) -> None:
        """Starts anew in a forked child: what is still open is the parent's, and locks may be held by threads of it."""
        # Never closed here: closing would tell the server, or SQLite's files, that the parent is done.
        _abandoned.append((self._connections, self._spare))
        if self._connections and self.dialect.one_writer:
            _torn.add(self._engine.url)
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._local = threading.local()
        self._connections, self._spare = {}, []

    @property
    def _driver_error(self) -> type[Exception]:
        found: type[Exception] = self._engine.dialect.loaded_dbapi.Error
        return found


def parse_url(url: str) -> URL:
    """Reads the URL of a store. It is in no error: where it has no form, nobody can tell its password from the rest.

    Raises:
        InvalidInput: It is none, or SQLite's with no file: what one process has in memory no other sees.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise InvalidInput(
            "the URL of the store has not the form of one",
            hint="Such as sqlite:///history.db or postgresql+psycopg://user:password@host/database; in a user or a "
            "password, write @ as %40, : as %3A and / as %2F.",
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InvalidInput(
            "the URL of the store names no file", hint="Three slashes and a path: sqlite:///history.db"
        )
    return parsed


def shown(url: URL) -> str:
    """Writes a store's URL as anybody may see it: without its password, and without options, which may have one."""
    return url.set(query={}).render_as_string(hide_password=True)


_opened: Final[weakref.WeakSet[Store]] = weakref.WeakSet()
_abandoned: Final[list[Any]] = []
_torn: Final[set[URL]] = set()  # files that were open as this process was forked


def open_files() -> frozenset[tuple[int, int]]:
    """Finds the files of SQLite's that this process has open: device and inode of each.

    Nothing else in the process may open one, not even to read it: whoever closes a file gives up all locks that the
    process has on it (POSIX says so), and then two processes write at once.
    """
    found = set()
    for store in list(_opened):
        if store.dialect.one_writer:
            for ending in ("", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    info = os.stat(f"{store._engine.url.database}{ending}")
                    found.add((info.st_dev, info.st_ino))
    return frozenset(found)


def _before_fork(busy: set[int]) -> None:
    for store in list(_opened):
        store._let_go(busy)


def _after_fork() -> None:
    for store in list(_opened):
        store._forget()


forks.at_rest.append(_before_fork)
os.register_at_fork(after_in_child=_after_fork)
