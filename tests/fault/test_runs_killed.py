"""Whatever is killed while a run is carried out, the next process goes on with it, and nothing is paid twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import leftovers
from own_runtimes import new_home
from running_till import Till

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("run_user.py")
#: Before anything was asked for; while the payment is held; once it was let out; once it is done.
POINTS = (
    pytest.param("attempt.branch_made", marks=pytest.mark.soak),
    pytest.param("attempt.made", marks=pytest.mark.soak),
    "attempt.at_boundary",
    "attempt.acted",
)


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    path = new_home("kibo-runs-")
    yield path
    shutil.rmtree(path)


def program(home: Path, till: Till, what: str, point: str = "") -> tuple[int, list[str]]:
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    variables = {**os.environ, "KIBO_HOME": str(home), "PYTHONPATH": paths}
    if point:
        variables["KIBO_CRASH_AT"] = point
    done = subprocess.run(
        [sys.executable, PROGRAM, till.address, what],
        env=variables, stdout=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("point", POINTS)
def test_a_run_goes_on_after_its_process_was_killed_and_pays_once(
    home: Path, till: Till, shop: Till, point: str
) -> None:
    before = set(leftovers.descendants(os.getpid()))
    status, said = program(home, till, "submit", point)
    assert status == -signal.SIGKILL
    (run,) = said
    status, said = program(home, till, run)
    assert status == 0
    assert shop.paid == ["/pay"]
    assert said == ["result receipt 1 for /pay"]
    assert leftovers.await_clean(home, os.getpid(), before, within_s=10.0) == {}


def test_a_payment_that_was_let_out_by_a_process_that_was_killed_then_is_not_made_again(
    home: Path, till: Till, shop: Till
) -> None:
    status, said = program(home, till, "submit", "commit.recorded")
    assert status == -signal.SIGKILL
    (run,) = said
    status, said = program(home, till, run)
    assert status == 0
    # Nobody knows what the shop has answered to whom is gone: that is told, and not tried.
    assert shop.paid == ["/pay"]
    assert said == ["failed effect.in_doubt"]
