"""Whatever is killed between a record and its doing, nothing is wanted by half, and no run is lost or started twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import letters
from fault.wanted_user import BEGUN_S
from kibo.branch.history import History
from kibo.schedule.applying import Wants
from kibo.schedule.submitting import Submission
from kibo.store.database import Store

pytestmark = pytest.mark.fault

PROGRAM = Path(__file__).with_name("wanted_user.py")
THEN_S = str(BEGUN_S + 3 * 86_400)


def program(url: str, what: str, point: str = "") -> int:
    variables = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROGRAM.parents[1]), *filter(None, sys.path)]),
    }
    if point:
        variables["KIBO_CRASH_AT"] = point
    return subprocess.run([sys.executable, PROGRAM, url, what], env=variables, timeout=60).returncode


@pytest.mark.parametrize("point", ["wanted.before_next", "wanted.before_commit", "wanted.applied"])
def test_what_was_applied_by_a_process_that_was_killed_is_there_whole_or_not_at_all(
    tmp_path: Path, point: str
) -> None:
    url = f"sqlite:///{tmp_path}/history.db"
    assert program(url, "apply", point) == -signal.SIGKILL
    with Store.open(url) as store:
        found = [each.trigger.name for each in Wants(store).standing()]
        assert found == (["daily", "order"] if point == "wanted.applied" else [])


@pytest.mark.parametrize("point", ["trigger.before_commit", "hearing.before_commit", "trigger.before_ring"])
def test_a_tick_and_a_message_start_one_run_each_whoever_is_killed(tmp_path: Path, point: str) -> None:
    url = f"sqlite:///{tmp_path}/history.db"
    assert program(url, "apply") == 0
    with Store.open(url) as store:
        said = letters.post(History(store)).send("till", [], 1, event="order.paid")
        assert program(url, THEN_S, point) == -signal.SIGKILL
        for _ in range(2):
            assert program(url, THEN_S) == 0
            names = sorted(each.request.name for each in Submission(store).listed(10))
            assert names == ["daily 2026-06-04T12:00Z", f"order {said}"]
