"""Programs that have something delegated, killed at each step: whoever asks sees what became of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
from fault import delegation_user
from kibo.branch.delegations import told
from kibo.branch.history import History
from kibo.branch.owning import lives
from kibo.hub.post import Post
from kibo.model.message import DelegationRecord
from kibo.runtime.layers.temporary import remove_tree
from kibo.store.database import Store
from own_runtimes import new_home

WITHIN_S = 10.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    made = new_home("kibo-delegations-")
    with leftovers.adopt_orphans():
        before = set(leftovers.descendants(os.getpid()))
        yield made
        assert leftovers.await_clean(made, os.getpid(), before, WITHIN_S) == {}
    remove_tree(made)


def begun(home: Path, action: str, at: str = "") -> tuple[subprocess.Popen[str], str]:
    """Starts the program; returns it, and the branch that it made."""
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "KIBO_HOME": str(home)}
    pipe = subprocess.PIPE
    made = subprocess.Popen(
        [sys.executable, delegation_user.__file__, action, at],
        env=variables,
        stdin=pipe,
        stdout=pipe,
        text=True,
    )
    assert made.stdout is not None
    return made, made.stdout.readline().strip()


def found(home: Path, branch: str) -> list[DelegationRecord]:
    """What another process is told of the branch's delegations."""
    with Store.open(f"sqlite:///{home}/history.db") as store:
        history = History(store)
        known = Post(history.log, branch).delegations()
        record = history.get(branch)
        return [told(each, record, lambda name: lives(home, name)) for each in known]


@pytest.mark.parametrize(
    ("action", "at"),
    [("add", "delegation.noted"), ("add", "delegation.before_end"), ("walk", "")],
)
def test_one_whose_process_was_killed_is_lost_for_whoever_asks(home: Path, action: str, at: str) -> None:
    user, branch = begun(home, action, at)
    with user:
        if not at:
            assert user.stdout is not None
            assert user.stdout.readline() == "progress\n"
            assert [(each.state, each.why) for each in found(home, branch)] == [("begun", "")]
            user.kill()
        assert user.wait(60) == -signal.SIGKILL
    (told,) = found(home, branch)
    assert (told.sender, told.to, told.action, told.branch) == ("boss", "stepper", action, branch)
    assert (told.state, told.why) == ("lost", "the process that saw to it has ended")
    assert found(home, branch) == [told]


def test_one_that_ended_in_time_is_what_it_was_after_its_process_has_ended(home: Path) -> None:
    user, branch = begun(home, "add")
    with user:
        assert user.wait(60) == 0
    (told,) = found(home, branch)
    assert (told.state, told.why) == ("done", "")
