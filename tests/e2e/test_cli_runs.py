"""Runs on the command line: submitted, carried out by `kibo up`, told of, cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.test_cli import BOXES, Cli, cli, home, warm  # noqa: F401 - fixtures
from kibo.schedule.submitting import Submission
from kibo.store.database import Store
from patience import eventually

RUNS = f"{BOXES.with_name('run_boxes.py')}:Worker"


@pytest.fixture
def runs(home: Path) -> Iterator[Submission]:  # noqa: F811
    home.mkdir(exist_ok=True)
    with Store.open(f"sqlite:///{home}/history.db") as store:
        yield Submission(store)


def test_runs_are_submitted_and_listed_and_what_is_wrong_is_told(cli: Cli, runs: Submission) -> None:  # noqa: F811
    assert "no run is open" in cli("runs").stdout
    run = cli.json("submit", "--name", "twice", "--priority", "3", RUNS, "double", "21")["run"]
    then = cli("submit", "--after", run, f"{RUNS}(times=2)", "double", "number=1").stdout.strip()
    assert [(each["id"], each["state"], each["name"]) for each in cli.json("runs")] == [
        (then, "waiting", ""),
        (run, "queued", "twice"),
    ]
    assert "twice" in cli("runs", run[:12]).stdout
    assert cli.json("submit", RUNS, "nap", status=64)["error"]["code"] == "action.unknown"
    assert cli.json("events", "run_0000", status=66)["error"]["code"] == "run.unknown"
    assert [each.id for each in runs.listed(10)] == [then, run]


def test_another_process_carries_runs_out_until_it_is_ended(cli: Cli, runs: Submission) -> None:  # noqa: F811
    endless = cli("submit", RUNS, "work").stdout.strip()
    with _up(cli) as up:
        eventually(lambda: {each.state for each in runs.listed(10)} == {"done", "running"})
        assert [each["event"] for each in _lines(cli, "events", endless)] == ["submit", "place", "begin"]
        assert cli.json("cancel", endless[:12]) == {"cancelled": [endless]}
        told = [each["event"] for each in _lines(cli, "events", endless, "--follow")]
        assert told == ["submit", "place", "begin", "cancel", "stopped"]
    assert up.returncode == 128 + signal.SIGTERM
    assert "cancelled" in cli("cancel", endless).stdout


def test_a_run_is_carried_out_by_the_command_that_waits_for_it(cli: Cli, home: Path) -> None:  # noqa: F811
    assert home.exists()
    assert "16" in cli("submit", "--wait", f"{RUNS}(times=4)", "double", "2").stdout
    failed = cli.json("submit", "--wait", RUNS, "choose", status=1)["error"]
    assert (failed["code"], failed["details"]["failure"]) == ("run.failed", "action.raised")
    assert cli.json("answer", failed["details"]["run"], "retry", status=75)["error"]["code"] == "state.wrong"


def test_a_run_that_waits_is_explained_and_one_that_has_run_is_drawn(
    cli: Cli,  # noqa: F811
    runs: Submission,
    tmp_path: Path,
) -> None:
    run = cli("submit", "--name", "<b>[red]first\x1b[31m", RUNS, "double", "21").stdout.strip()
    assert "kibo up" in cli("explain", run[:12]).stdout
    assert cli.json("timeline", "run_0000", status=66)["error"]["code"] == "run.unknown"
    with _up(cli):
        eventually(lambda: runs.get(run).ended)
    told = cli("timeline", run).stdout
    labels = [line[11:].split()[0] for line in told.splitlines()[1:]]
    assert labels == ["queued", "launch", "action", "commit", "succeed"]
    assert "\x1b" not in told
    drawing = tmp_path / "run.html"
    assert "run.html" in cli("timeline", run, "-o", str(drawing)).stdout
    assert "&lt;b&gt;[red]first\\x1b" in drawing.read_text()


def test_top_shows_one_frame_for_a_pipe_and_goes_on_until_nobody_reads(cli: Cli, runs: Submission) -> None:  # noqa: F811
    run = cli("submit", "--tenant", "ada", "--name", "[red]\u202ename", RUNS, "work").stdout.strip()
    frame = cli("top", "--once").stdout
    assert "1 open run, 0 boxes" in frame
    assert "nobody carries runs out" in frame
    assert "[red]\\u202ename" in frame
    with _up(cli):
        eventually(lambda: runs.get(run).state == "running")
        found = cli.json("top", "--once")
        assert [(each["tenant"], each["working"]) for each in found["tenants"]] == [("ada", 1)]
        assert [(each["runs"], each["draining"]) for each in found["nodes"]] == [(1, False)]
        assert found["nodes"][0]["free"]["boxes"] == found["nodes"][0]["room"]["boxes"] - 1
        assert found["boxes"] == 1
        with cli.start("top", "--json", "--every", "100ms") as top:
            assert top.stdout is not None
            frames = [json.loads(top.stdout.readline()) for _ in range(2)]
            top.stdout.close()
        assert frames[0]["at_s"] < frames[1]["at_s"]
        assert top.returncode == 128 + signal.SIGPIPE


@contextmanager
def _up(cli: Cli) -> Iterator[subprocess.Popen[str]]:  # noqa: F811
    """Has another process carry runs out during a block."""
    with cli.start("up") as up:
        try:
            yield up
        finally:
            up.send_signal(signal.SIGTERM)


def _lines(cli: Cli, *arguments: str) -> list[dict[str, object]]:  # noqa: F811
    return [json.loads(line) for line in cli(*arguments, "--json").stdout.splitlines()]
