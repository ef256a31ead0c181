"""The store over SQLite, PostgreSQL and MariaDB: opening, transactions, threads, processes, forks of the process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from sqlalchemy import LargeBinary, MetaData, String, Text, create_engine, select, text
from sqlalchemy.dialects import mysql

import databases
from effect_drafts import draft
from kibo.branch.history import History
from kibo.effects.ledger import Ledger
from kibo.model.errors import InvalidInput, KiboError, StoreUnavailable
from kibo.store import forks, schema
from kibo.store.database import MAX_SPARE, Store, Transaction
from kibo.store.prepared import Prepared
from locks import own_locks

APPROVAL_COLUMNS = "approval_s due due_up due_boot approved approver approved_digest".split()
SOURCE = str(Path(__file__).parents[2] / "src")


def run(url: str, program: str, count: int = 1) -> list[str]:
    """Runs a program in several processes at once. Returns what each printed."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {SOURCE!r}); url = {url!r}\n{program}"]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    found = []
    for process in running:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        found.append(out.strip())
    return found


@pytest.fixture
def url(database_server: str) -> str:
    """A database without tables: what makes them is tried here."""
    return databases.new_database(database_server)


def test_a_new_store_is_made_once_by_whichever_process_is_first(url):
    program = (
        "from kibo.store.database import Store\nfrom kibo.branch.history import History\n"
        "print(History(Store.open(url)).create('x').id)"
    )
    made = run(url, program, count=6)
    with Store.open(url) as store:
        assert {branch.id for branch in History(store).roots()} == set(made)


def described(name: str | None, _type: str, _parents: object) -> bool:
    """Leaves out indexes of words, and the tables that FTS5 makes of one: each database has its own."""
    return name is None or not name.startswith(("context_search", "ix_context_words_text"))


#: What is no LONGTEXT in utf8mb4 and no LONGBLOB on MariaDB.
OTHERS = {
    "context_words.words": mysql.LONGTEXT(charset="ascii", collation="ascii_bin"),
    "snapshots.near": mysql.BLOB(),
}


def tables() -> MetaData:
    """The tables with the types that each database has: text compares by bytes, and what is long has no bound."""
    made = MetaData()
    for each in schema.metadata.sorted_tables:
        for column in each.to_metadata(made).columns:
            kind, on_mysql = column.type, OTHERS.get(str(column))
            if isinstance(kind, Text):
                on_mysql = on_mysql or mysql.LONGTEXT(charset="utf8mb4")
            elif isinstance(kind, LargeBinary):
                on_mysql = on_mysql or mysql.LONGBLOB()
            elif isinstance(kind, String):
                on_mysql = mysql.VARCHAR(kind.length, charset="utf8mb4", collation="utf8mb4_bin")
                if kind.length == 40:
                    kind = kind.with_variant(String(40, collation="C"), "postgresql")
            if on_mysql is not None:
                column.type = kind.with_variant(on_mysql, "mysql", "mariadb")
    return made


def test_the_migrations_make_what_the_code_describes(url, store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from kibo.store.migrating import SCRIPTS

    assert ScriptDirectory(str(SCRIPTS)).get_current_head() == schema.REVISION
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"include_name": described})
        assert compare_metadata(context, tables()) == []
        found = MetaData()
        found.reflect(connection, only=lambda name, _: described(name, "table", None))
    engine.dispose()
    assert {*schema.metadata.tables, "alembic_version"} == set(found.tables)


def test_a_store_from_before_positions_is_brought_up_and_reads_the_same(url, store):
    history = History(store)
    branch = history.create().id
    for number in range(200):  # further back than one list says
        history.log.extend(branch, [("note", {"n": number})] * (1 + number % 3))
        history.snapshot(branch, {"n": number})
    before = history.log.read(branch, limit=10_000)
    store.close()
    engine = create_engine(url)
    with engine.begin() as connection:
        for snapshot, near in connection.execute(
            select(schema.snapshots.c.id, schema.snapshots.c.near)
        ).all():
            narrow = b"".join(near[start : start + 16] for start in range(0, len(near), 24))
            connection.execute(
                schema.snapshots.update().where(schema.snapshots.c.id == snapshot).values(near=narrow)
            )
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    with Store.open(url) as again:
        history = History(again)
        assert history.log.read(branch, limit=10_000) == before
        history.log.append(branch, "note", b"new")
        history.snapshot(branch, {"n": "new"})
        assert [entry.seq for entry in history.log.newest(branch, 300)] == [
            *range(before[-1].seq - 298, before[-1].seq + 2)
        ]


def test_a_store_from_before_approvals_is_brought_up_also_by_half_and_asks_nobody_about_what_it_has(
    url, store
):
    made = Ledger(store).begin(draft(), "gw_1")
    store.close()
    added = [column.name for column in schema.effects.columns if column.name in APPROVAL_COLUMNS]
    for left in (0, 3):
        engine = create_engine(url)
        with engine.begin() as connection:
            for name in added[left:]:
                connection.execute(text(f"ALTER TABLE effects DROP COLUMN {name}"))
            connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))
        engine.dispose()
        with Store.open(url) as again:
            assert Ledger(again).get(made.id).effect == made
            assert Ledger(again).hold(draft(approve_within_s=60.0), "gw_1").state == "asking"


def test_a_store_of_a_newer_kibo_is_refused(url, store):
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="newer Kibo") as refused:
        Store.open(url)
    assert refused.value.hint
    assert refused.value.details["store_revision"] == "from_the_future"


def test_a_half_made_store_is_finished(url):
    engine = create_engine(url)
    schema.branches.create(engine)  # where each table is committed by itself, a killed migration leaves some
    engine.dispose()
    with Store.open(url) as store:
        assert History(store).create().name == "main"


def test_a_file_that_is_gone_is_a_store_that_does_not_answer_also_on_a_new_thread(tmp_path):
    (tmp_path / "home").mkdir()
    raised: list[BaseException] = []

    def read() -> None:
        try:
            store.read(lambda tx: tx.rows(Prepared(select(schema.branches.c.id))))
        except BaseException as error:  # noqa: BLE001 - looked at below
            raised.append(error)

    with Store.open(f"sqlite:///{tmp_path}/home/history.db") as store:
        shutil.rmtree(tmp_path / "home")
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    assert [type(error) for error in raised] == [StoreUnavailable]


def test_an_error_inside_a_transaction_undoes_all_of_it(history):
    main = history.create()

    def within(_tx: Transaction) -> None:
        raise RuntimeError("the caller changed its mind")

    with pytest.raises(RuntimeError):
        history.fork(main.id, 3, within=within)
    assert history.children(main.id) == []
    assert len(history.fork(main.id, 3)) == 3


def test_a_transaction_inside_another_is_a_bug_of_the_caller(history):
    with pytest.raises(KiboError, match="inside another"):
        history.store.write(lambda tx: history.create())
    assert history.roots() == []


def test_a_forked_child_gets_connections_of_its_own_and_leaves_the_parents_alone(history):
    main = history.create()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            history.log.append(main.id, "note", b"from the child")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    history.log.append(main.id, "note", b"from the parent")
    assert [entry.body for entry in history.log.read(main.id)] == [b"from the child", b"from the parent"]


def test_a_forked_child_locks_the_file_as_any_other_process_does(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/history.db") as store:
        store.read(lambda tx: None)
        own = own_locks(tmp_path)
        assert own  # or this shows nothing
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            store.read(lambda tx: None)
            os.write(writing, "\n".join(own_locks(tmp_path)).encode())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert os.read(reading, 10_000).decode().splitlines() == own


def test_what_a_child_writes_is_kept_where_its_parent_ends_before_it(tmp_path):
    url = f"sqlite:///{tmp_path}/history.db"
    program = """
import os, sys
from kibo.store.database import Store
from kibo.branch.history import History
history = History(Store.open(sys.argv[1]))
main = history.create()
opened, end = os.pipe(), os.pipe()
if os.fork():
    os.read(opened[0], 1)
    history.store.close()  # as the last that uses the file, were it not for the child
    os._exit(0)
history.roots()
os.write(opened[1], b"x")
os.close(end[1])
os.read(end[0], 1)
history.log.append(main.id, "note", b"from the child")
os._exit(0)  # as if killed: what was written is on the disk
"""
    run = subprocess.run([sys.executable, "-c", program, url], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    # The pipe of its errors ends with the child, which the parent did not wait for.
    history = History(Store.open(url))
    (main,) = history.roots()
    assert [entry.body for entry in history.log.read(main.id)] == [b"from the child"]
    history.store.close()


def test_a_child_forked_in_the_middle_of_a_transaction_is_refused_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(forks, "_PATIENCE_S", 0.05)
    url = f"sqlite:///{tmp_path}/history.db"
    begun, end = threading.Event(), threading.Event()

    def work(_tx: Transaction) -> None:
        begun.set()
        end.wait()

    with Store.open(url) as store:
        writer = threading.Thread(target=store.write, args=(work,))
        writer.start()
        begun.wait()

        def refused() -> bool:
            with pytest.raises(StoreUnavailable, match="in the middle of a transaction"):
                store.read(lambda tx: None)
            with pytest.raises(StoreUnavailable, match="in the middle of a transaction"):
                Store.open(url)
            return True

        try:
            child = os.fork()
            if child == 0:
                os._exit(0 if refused() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            end.set()
            writer.join()
        store.read(lambda tx: None)


def test_a_fork_while_another_thread_writes_does_not_hang_the_child(history):
    main = history.create()
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            history.log.append(main.id, "note", b"x")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    history.log.append(main.id, "child", b"")
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        writer.join()
    assert len(history.log.newest(main.id, kinds=["child"])) == 5


def test_a_thread_goes_on_with_the_connection_of_one_that_has_ended(history):
    used = []

    def create() -> None:
        history.create()
        used.append(history.store._connections[threading.get_ident()][1])

    for _ in range(20):
        thread = threading.Thread(target=create)
        thread.start()
        thread.join()
    assert len({id(each) for each in used}) == 1
    assert len(history.roots()) == 20


def test_of_many_threads_that_have_ended_a_few_connections_are_kept(history):
    together = threading.Barrier(20)

    def create() -> None:
        history.create()
        together.wait()

    threads = [threading.Thread(target=create) for _ in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    last = threading.Thread(target=history.create)
    last.start()
    last.join()
    assert len(history.store._spare) == MAX_SPARE
    assert len(history.store._connections) <= 2
    assert len(history.roots()) == 21


def test_a_store_can_be_used_again_after_it_was_closed(history):
    history.create()
    history.store.close()
    assert len(history.roots()) == 1


@pytest.mark.parametrize(
    "bad",
    [
        "nonsense:secret",
        "oracle://x:secret@y",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+other:///x",
        "postgresql+psycopg://u:sec@secret@host/x",
        "postgresql+psycopg://host:secret/x",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_shown(bad):
    with pytest.raises(InvalidInput) as refused:
        Store.open(bad)
    assert refused.value.hint
    assert "secret" not in "".join(traceback.format_exception(refused.value)).replace(repr(bad), "")


def test_a_server_that_is_not_there_is_named_with_a_remedy_and_without_the_password():
    for url in (
        "postgresql+psycopg://u:secret@127.0.0.1:1/x",
        "postgresql+psycopg://u@127.0.0.1:1/x?password=secret",
        "mysql+pymysql://u:secret@127.0.0.1:1/x",
    ):
        with pytest.raises(StoreUnavailable) as refused:
            Store.open(url, timeout_s=2)
        assert "secret" not in "".join(traceback.format_exception(refused.value))
        assert "server runs" in refused.value.hint


def test_a_file_that_is_no_database_and_a_directory_that_is_not_there_are_named(tmp_path):
    (tmp_path / "text.db").write_bytes(b"this is no database, it is a text" * 100)
    for path in (tmp_path / "text.db", tmp_path / "nowhere" / "x.db"):
        with pytest.raises(StoreUnavailable) as refused:
            Store.open(f"sqlite:///{path}")
        assert str(path) in str(refused.value)
        assert refused.value.hint
    assert (tmp_path / "text.db").read_bytes().startswith(b"this is no database")
