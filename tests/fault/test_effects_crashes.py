"""Payments of forks, through a whole program with real boxes that is killed on the way, or whose gateway is."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import leftovers
from kibo.effects.recorder import unpacked
from kibo.effects.records import Effect, Exact
from kibo.wiring.records import Records
from own_runtimes import link_layers, new_home
from running_till import Till
from warm import Warm

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("effects_user.py")
UNDOING = Path(__file__).with_name("undoing_user.py")
Run = Callable[..., int]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a program to its end, whichever that is, and returns how it ended."""
    paths = os.pathsep.join(filter(None, sys.path))
    with Warm(sys.executable, {**os.environ, "PYTHONPATH": paths}) as starter:

        def run(home: Path, till: Till, what: str, crash: str = "", program: Path = PROGRAM) -> int:
            variables = {**os.environ, "PYTHONPATH": paths, "KIBO_HOME": str(home)}
            if crash:
                variables["KIBO_CRASH_AT"] = crash
            return starter.run([str(program), till.address, what], variables, 50).returncode

        yield run


@pytest.fixture(scope="module")
def built(run: Run, till: Till) -> Iterator[Path]:
    """A state directory with the layers of the box, and the authority."""
    path = new_home("kibo-paying-")
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
    run: Run, home: Path, shop: Till, crash: str, committed: bool | None, paid: int | None, state: str | None
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
    run: Run, home: Path, shop: Till, what: str, crash: str, paid: int, state: str
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


def calls(home: Path) -> list[Exact]:
    """Returns the recorded calls, as the next program of the state directory finds them."""
    records = Records(home)
    try:
        return [records.ledger.get(each.id) for each in records.ledger.listed() if each.action]
    finally:
        records.close()


def rooms(shop: Till, what: str) -> list[str]:
    return [path.split("/")[2] for path in shop.paid if path.startswith(f"/{what}/")]


@pytest.mark.parametrize(
    ("crash", "states"),
    [
        ("call.before_answer:2", ["not_undone", "in_doubt"]),
        ("abort.before_commit", ["not_undone", "not_undone"]),
        ("undo.owed", ["not_undone", "not_undone"]),
        ("undo.called", ["not_undone", "not_undone"]),
        ("undo.claimed:2", ["not_undone", "undone"]),
    ],
)
def test_wherever_a_program_is_killed_what_its_fork_took_is_undone_once_or_said_to_be_left(
    run: Run, home: Path, shop: Till, crash: str, states: list[str]
) -> None:
    run(home, shop, "abort", crash, UNDOING)
    for _ in range(2):
        found = calls(home)
        assert [each.effect.state for each in found] == states
    left = {unpacked(each.body)["room"] for each in found if each.effect.state in ("not_undone", "in_doubt")}
    taken, freed = rooms(shop, "take"), rooms(shop, "free")
    assert len(freed) == len(set(freed))
    assert set(taken) - set(freed) <= left


@pytest.mark.parametrize(
    ("crash", "states"),
    [
        ("commit.recorded", ["not_undone", "done"]),
        ("undo.owed", ["not_undone", "done"]),
    ],
)
def test_a_program_killed_in_a_commit_keeps_what_was_committed_and_leaves_the_rest_to_be_undone(
    run: Run, home: Path, shop: Till, crash: str, states: list[str]
) -> None:
    run(home, shop, "commit", crash, UNDOING)
    for _ in range(2):
        assert [each.effect.state for each in calls(home)] == states
    assert rooms(shop, "free") == []


def test_ctrl_c_while_something_is_undone_leaves_nothing_unsaid(run: Run, home: Path, shop: Till) -> None:
    assert run(home, shop, "interrupted", program=UNDOING) != 0
    found = [each.effect for each in calls(home)]
    assert [each.state for each in found] == ["not_undone", "not_undone"]
    assert "interrupted" in found[1].reason
    assert rooms(shop, "free") == ["endless"]


def test_what_cannot_be_undone_because_its_gateway_is_dead_is_said(run: Run, home: Path, shop: Till) -> None:
    assert run(home, shop, "gateway_dies", program=UNDOING) == 0
    assert [each.effect.state for each in calls(home)] == ["not_undone"]


@pytest.mark.parametrize(
    ("crash", "state", "ordered"),
    [
        ("effect.sending", "in_doubt", 0),  # the gateway
        ("call.before_answer", "in_doubt", 1),
    ],
)
def test_what_is_ordered_with_a_key_is_ordered_once_or_in_doubt_whatever_is_killed(
    run: Run, home: Path, shop: Till, crash: str, state: str, ordered: int
) -> None:
    run(home, shop, "order", crash, UNDOING)
    for _ in range(2):
        run(home, shop, "order", program=UNDOING)
        assert [each.effect.state for each in calls(home)] == [state]
        assert len(shop.paid) == ordered
