"""A process killed with mail that no snapshot has: what its boxes were sent is handled once, what they did undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
from fault import rewind_user
from fault.rewind_user import COUNT
from kibo.branch.history import History
from kibo.hub.post import Post
from kibo.runtime.layers.temporary import remove_tree
from kibo.store.database import Store
from own_runtimes import new_home

pytestmark = pytest.mark.fault

WITHIN_S = 10.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    made = new_home("kibo-rewind-")
    with leftovers.adopt_orphans():
        before = set(leftovers.descendants(os.getpid()))
        yield made
        assert leftovers.await_clean(made, os.getpid(), before, WITHIN_S) == {}
    remove_tree(made)


class Case:
    """One branch, and the programs that are killed with it."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name, self.branch = home, f"heard-{name}", ""

    def program(self, verb: str, argument: str, crash_at: str = "") -> subprocess.Popen[str]:
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "KIBO_HOME": str(self.home),
            "HEARD": self.name,
        } | ({"KIBO_CRASH_AT": crash_at} if crash_at else {})
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, rewind_user.__file__, verb, argument],
            env=variables,
            stdin=pipe,
            stdout=pipe,
            text=True,
        )

    def kill(self, at: str) -> None:
        """Runs the program until it is killed."""
        with self.program("begin", at) as user:
            assert user.stdout is not None
            self.branch = user.stdout.readline().strip()
            if not at:
                assert user.stdout.readline() == "ready\n"
                user.kill()
            assert user.wait(60) == -signal.SIGKILL

    def go_on(self) -> dict[str, list[object]]:
        with self.program("again", self.branch) as user:
            told, _ = user.communicate(timeout=60)
            assert user.returncode == 0
        found: dict[str, list[object]] = json.loads(told)
        return found

    def bodies(self, branch: str) -> list[object]:
        with Store.open(f"sqlite:///{self.home}/history.db") as store:
            return [message.body for message in Post(History(store).log, branch).history()]

    def heard(self) -> list[str]:
        return (self.home / self.name).read_text().split()


#: What came of it, wherever who had it was killed.
DONE = {"kept": list(range(COUNT + 1)), "taken": [1, 2], "dead": []}


@pytest.mark.parametrize("at", ["mail.taken", "mail.settled"])
def test_what_was_sent_to_boxes_since_the_snapshot_is_handled_once(home: Path, at: str) -> None:
    case = Case(home, at)
    case.kill(at)
    # What was not accepted its sender sends again, as one that was not told so would.
    sent = [each[0] for each in case.bodies(case.branch) if isinstance(each, list)]
    assert sent == list(range(len(sent)))
    with Store.open(f"sqlite:///{home}/history.db") as store:
        post = Post(History(store).log, case.branch)
        for number in range(len(sent), COUNT + 1):
            post.send("out", [("desk", "")], [number, "out"])
    assert case.go_on() == DONE
    assert case.heard().count("direct") == 1


def test_what_boxes_sent_since_the_snapshot_is_undone_and_can_be_read_wherever_who_undoes_it_is_killed(
    home: Path,
) -> None:
    case = Case(home, "undone")
    case.kill("")
    for at in ("rewind.before_head:1", "rewind.before_commit:1"):
        with case.program("again", case.branch, at) as user:
            assert user.wait(60) == -signal.SIGKILL
    assert case.go_on() == DONE
    assert case.heard().count("direct") == 1
    with Store.open(f"sqlite:///{home}/history.db") as store:
        tree = History(store).tree(case.branch)
    (undone,) = [each for each in tree if each.name == "unsealed"]
    assert undone.status == "aborted"
    assert "undone" in case.bodies(undone.id)
    assert "undone" not in case.bodies(case.branch)
    assert tree[0].unsealed == 0
