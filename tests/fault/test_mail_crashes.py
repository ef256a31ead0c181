"""Programs that send and handle mail, killed at each step: nothing is lost, and all is in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fault import mail_user
from kibo.branch.history import History
from kibo.hub.board import Board
from kibo.hub.post import Post
from kibo.store import crash
from kibo.store.database import Store
from letters import handled

pytestmark = pytest.mark.fault

COUNT = 12


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def begun(home: Path) -> str:
    with Store.open(f"sqlite:///{home}/history.db") as store:
        return str(History(store).create().id)


def run(home: Path, branch: str, at: str = "", count: int = COUNT) -> int:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if at:
        variables["KIBO_CRASH_AT"] = at
    return subprocess.run(
        [sys.executable, mail_user.__file__, home, branch, str(count)], env=variables, check=False
    ).returncode


def lines(home: Path) -> list[tuple[str, int]]:
    found = (line.split() for line in (home / "handled").read_text().splitlines())
    return [(name, int(body)) for name, body in found]


@pytest.mark.parametrize(
    ("at", "again"),
    [
        ("append.before_tail:3", 0),
        ("append.before_commit:7", 0),
        ("mail.taken:1", 0),
        ("mail.before_settled:1", 1),
        ("mail.settled:1", 0),
    ],
)
def test_whoever_goes_on_handles_all_in_order_and_again_only_what_was_not_noted(
    home: Path, at: str, again: int
) -> None:
    branch = begun(home)
    assert run(home, branch, at) == -signal.SIGKILL
    assert run(home, branch) == 0
    found = lines(home)
    order = list(dict.fromkeys(body for _, body in found))
    assert order == list(range(COUNT))
    assert len(dict(found)) == COUNT  # one id each, however often it was delivered
    doubled = len(found) - COUNT
    assert doubled > 0 if again else doubled == 0
    with Store.open(f"sqlite:///{home}/history.db") as store:
        mail = Post(History(store).log, branch)
        assert handled(mail, "b") == []
        assert mail.dead() == []


def test_an_entry_of_a_board_whose_writer_is_killed_is_not_there(home: Path) -> None:
    branch = begun(home)
    pid = os.fork()
    if pid == 0:
        try:
            crash.install(
                lambda passed: (
                    os.kill(os.getpid(), signal.SIGKILL) if passed == "board.before_commit" else None
                )
            )
            with Store.open(f"sqlite:///{home}/history.db") as store:
                Board(store, branch, branch).post("found")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with Store.open(f"sqlite:///{home}/history.db") as store:
        board = Board(store, branch, branch)
        assert board.read() == []
        board.post("found")
        assert [each.body for each in board.read()] == ["found"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_that_wait_are_all_there_after_a_kill(home: Path) -> None:
    branch, count, senders = begun(home), 100_000, 8
    each = count // senders
    with (
        Store.open(f"sqlite:///{home}/history.db") as store,
        ThreadPoolExecutor(senders) as threads,
    ):
        mail = Post(History(store).log, branch)

        def send(who: int) -> None:
            for number in range(who * each, (who + 1) * each):
                mail.send("a", [("b", "")], number)

        list(threads.map(send, range(senders)))
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for wait_s in (2.0, 4.0, 8.0):
        child = subprocess.Popen([sys.executable, mail_user.__file__, home, branch, "0"], env=variables)
        time.sleep(wait_s)
        child.kill()
        child.wait()
    assert run(home, branch, count=0) == 0
    found = lines(home)
    assert len(dict(found)) == count
    order = list(dict.fromkeys(body for _, body in found))
    for who in range(senders):
        assert [body for body in order if body // each == who] == list(range(who * each, (who + 1) * each))
