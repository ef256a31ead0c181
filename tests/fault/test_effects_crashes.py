"""Payments of forks, through a whole program with real boxes that is killed on the way, or whose gateway is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
from kibo.effects.records import Effect
from kibo.wiring.branches import Records
from own_runtimes import link_layers
from running_till import Till

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("effects_user.py")


@pytest.fixture(scope="module")
def built(till: Till) -> Iterator[Path]:
    """A state directory with the layers of the box, and the authority."""
    path = Path(tempfile.mkdtemp(prefix="kibo-paying-"))
    run(path, till, "heir")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def home(built: Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="kibo-paid-"))
    link_layers(built, place)
    shutil.copytree(built / "authority", place / "authority")
    before = set(leftovers.descendants(os.getpid()))
    with leftovers.adopt_orphans():
        yield place
        left = leftovers.await_clean(place, 0, before, 10.0)
        leftovers.reap_adopted(before)
    assert not left, f"left behind: {left}"
    shutil.rmtree(place)


def run(home: Path, till: Till, what: str, crash: str = "") -> int:
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "KIBO_HOME": str(home)}
    if crash:
        variables["KIBO_CRASH_AT"] = crash
    command = [sys.executable, PROGRAM, till.address, what]
    return subprocess.run(command, env=variables, timeout=50, stdout=subprocess.DEVNULL).returncode


def recorded(home: Path) -> tuple[bool, dict[str, Effect]]:
    """Returns whether the second fork was committed, and the effects by their paths."""
    records = Records(home)
    try:
        status = records.history.get("1").status
        return status == "committed", {
            effect.url.rpartition("/")[2]: effect for effect in records.ledger.listed()
        }
    finally:
        records.close()


@pytest.mark.parametrize(
    ("crash", "committed", "paid", "state"),
    [
        # The program itself.
        ("commit.before_swap", False, 0, "dropped"),
        ("commit.before_commit", False, 0, "dropped"),
        ("commit.recorded", True, 1, "done"),
        # Its gateway.
        ("effect.before_hold:3", None, None, None),
        ("effect.released", True, 1, "done"),
        ("effect.before_send", True, 1, "done"),
        ("effect.sending", True, 0, "in_doubt"),
        ("effect.answered", True, 1, "in_doubt"),
        ("effect.before_answer", True, 1, "in_doubt"),
        # Neither.
        ("", True, 1, "done"),
    ],
)
def test_wherever_it_is_killed_the_fork_that_was_committed_has_paid_once_or_is_in_doubt_and_no_other_has(
    home: Path, shop: Till, crash: str, committed: bool | None, paid: int | None, state: str | None
) -> None:
    run(home, shop, "race", crash)
    for _ in range(2):
        assert run(home, shop, "heir") == 0
        won, effects = recorded(home)
        assert set(shop.paid) <= {"/1"}
        assert all(effects[each].state == "dropped" for each in effects.keys() - {"1"})
        if committed is None:  # it depends on which of the three came third
            assert shop.paid == []
            assert all(effect.state == "dropped" for effect in effects.values())
        else:
            assert (won, len(shop.paid), effects["1"].state) == (committed, paid, state)


@pytest.mark.parametrize(
    ("what", "crash", "paid", "state"),
    [
        # The program, which is the client and the person.
        ("ask", "effect.before_approve", 0, "dropped"),
        ("ask", "effect.approved", 1, "done"),
        ("ask-fork", "commit.recorded", 0, "dropped"),
        # Its gateway.
        ("ask", "effect.before_send", 1, "done"),
        ("ask-fork", "effect.sending", 0, "in_doubt"),
        # Neither.
        ("ask-fork", "", 1, "done"),
    ],
)
def test_wherever_it_is_killed_nothing_is_paid_that_nobody_has_approved_and_what_was_approved_is_paid_once(
    home: Path, shop: Till, what: str, crash: str, paid: int, state: str
) -> None:
    run(home, shop, what, crash)
    assert run(home, shop, "heir") == 0
    records = Records(home)
    try:
        (effect,) = records.ledger.listed()
    finally:
        records.close()
    assert (len(shop.paid), effect.state) == (paid, state)
    assert bool(effect.approver) == (state != "dropped")
