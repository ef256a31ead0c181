"""The examples of branches, run as their readers run them: what they print, and what they make of the host's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from examples.fix_tests.repository import make_repository
from examples.merge_sqlite.resolver import DatabaseMerger
from examples.merge_sqlite.shop import Shop, make_database

import kibo
from kibo.model.errors import MergeConflict
from own_runtimes import own_runtime

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def run(home: Path, *words: str, how: str = "-m") -> str:
    done = subprocess.run(
        [sys.executable, how, *words],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "KIBO_HOME": str(home)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def git(repository: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of both, so that their box is built once."""
    return Path(os.environ.get("KIBO_HOME") or tmp_path_factory.mktemp("home"))


def test_three_strategies_mend_a_repository(home: Path, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "prices")
    head = git(repository, "rev-parse", "HEAD")
    said = run(home, "examples.fix_tests.demo", "--repo", str(repository))
    assert "4 tests fail" in said
    assert "careful won; 0 tests fail" in said
    assert "untouched so far" in said
    # What was applied is what the tests need, and nothing that only the box needed.
    changed = {line.split()[-1] for line in git(repository, "status", "--porcelain").splitlines()}
    assert changed
    assert all(path.startswith("prices/") for path in changed)
    assert git(repository, "diff") in said
    assert git(repository, "rev-parse", "HEAD") == head
    git(repository, "fsck", "--strict")
    tests = subprocess.run(
        [sys.executable, "-m", "unittest", "discover", "-s", "tests", "-t", "."],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert tests.returncode == 0, tests.stderr


def test_agents_of_different_character_work_on_it(home: Path) -> None:
    said = run(home, "examples.agent.demo")
    states = [line.split()[1] for line in said.splitlines() if " tokens  " in line]
    assert len(states) == 3
    assert states.count("won") == 1
    assert "+++ b/prices/" in said
    assert "+++ b/tests/" not in said


def test_the_cheapest_of_three_hotels_is_booked_and_the_others_are_let_go(home: Path) -> None:
    printed = run(home, "examples.hotel.demo", "--yes")
    # The palace is cheapest once all are held; the lodge only looked so.
    assert "one booking, P-" in printed
    assert printed.count(": released") == 2


def test_of_the_team_that_loses_no_file_no_mail_and_no_memory_is_in_main(home: Path) -> None:
    said = run(home, "examples.team.demo")
    assert "careful won; main has its files: " in said
    assert "hasty    ada: parse.py written" in said
    assert "on the board: careful: 0 wrong hasty: 3 wrong" in said
    for there in ("3 files", "2 messages", "1 memories"):
        assert f"of hasty's {there}, 0 are in main" in said


def test_two_branches_sell_from_one_database_and_the_merge_keeps_both(home: Path) -> None:
    said = run(home, "examples.merge_sqlite.demo")
    assert "merged     work/shop.db: ['ada-1', 'bob-1', 'bob-2', 'mon-1']" in said
    assert "goods      {'latte': [360, 9], 'mocha': [400, 10]}" in said
    assert "refused    both sides changed '/work/shop.db'" in said
    assert "cell goods['latte'].cents: 350 became 360 and 1" in said
    applied = [line.split()[1] for line in said.splitlines() if line.startswith("applied")]
    assert applied == ["ada-1", "bob-1", "bob-2", "mon-1"]


def test_a_database_whose_log_was_not_brought_into_it_is_not_merged(tmp_path: Path) -> None:
    make_database(tmp_path / "shop.db")
    write = "import sqlite3, os; c = sqlite3.connect('shop.db'); c.execute('PRAGMA journal_mode=WAL');"
    write += (
        "c.execute(\"INSERT INTO orders (number, good, amount) VALUES ('lost', 'latte', 1)\"); c.commit();"
    )
    with own_runtime(), kibo.branch() as main:
        shop = main.spawn(Shop(), workspace=tmp_path)
        one, two = main.fork(2)
        one[shop].order("one", "latte", 1)
        # It ends as one does that is killed: what it wrote is in the log alone.
        assert two[shop].exec(["python3", "-c", f"{write} os._exit(0)"]).returncode == 0
        one.commit()
        merger = DatabaseMerger()
        with pytest.raises(MergeConflict) as caught:
            two.merge(merger)
        kinds = {path["path"]: path["kind"] for path in caught.value.details["paths"]}
        assert kinds == {"/work/shop.db": "content", "/work/shop.db-wal": "together"}
        assert "has a log beside it" in merger.kept["work/shop.db"].reason
        assert shop.orders() == ["mon-1", "one"]


WAIT = """
import kibo
from kibo.model.errors import RunCancelled, RunFailed

ended = 0
for run in kibo.runs(tenant="swarm", most=1000):
    try:
        run.result(timeout_s=40)
    except (RunFailed, RunCancelled):  # given up, or a fork whose sibling was first
        assert run.status in ("abandoned", "cancelled"), run.record()
    ended += run.record().parent is not None
print(ended, "parts of a swarm have ended")
"""


def test_a_swarm_explores_under_one_budget_and_one_that_is_killed_goes_on(home: Path) -> None:
    words = ["examples.swarm.demo", "--explorers", "8", "--tasks", "2"]
    killed = subprocess.Popen(
        [sys.executable, "-m", *words],
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "KIBO_HOME": str(home)},
    )
    assert killed.stderr is not None
    assert b"8 explorers submitted" in killed.stderr.readline()
    killed.kill()  # in the middle of its work
    killed.communicate()
    said = run(home, *words)
    assert "2 of 2 found, 2 hold" in said
    # What the first one had submitted is done by whoever waits for it.
    said = run(home, WAIT, how="-c")
    assert int(said.split()[0]) >= 2 * 8
