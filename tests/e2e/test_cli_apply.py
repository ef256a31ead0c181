"""What is wanted on the command line: applied, shown, done by `kibo up`, and wanted no more."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.test_cli import BOXES, Cli, cli, home, warm  # noqa: F401 - fixtures
from patience import eventually

TRIGGERS = """\
kind: Trigger
name: every-minute
cron: "* * * * *"
run: {box: "run_boxes.py:Worker(times=2)", action: double, with: {number: 21}}
---
kind: Trigger
name: on-order
topic: order.*.paid
run: {box: run_boxes.py:Worker, action: double, message: number}
"""
#: Publishes what the second trigger hears of, from a process of its own.
PUBLISHER = """
import kibo
from run_boxes import Worker
with kibo.branch(goal="orders") as main:
    worker = main.spawn(Worker(), name="worker")
    worker.publish_event("order.1.paid", 7)
    worker.publish_event("order.2.paid", "seven")
"""


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for name in ("run_boxes.py", "payer_boxes.py"):
        shutil.copy(BOXES.with_name(name), folder)
    (folder / "boxes.yaml").write_text(TRIGGERS)
    return folder / "boxes.yaml"


def test_a_file_is_applied_shown_and_wanted_no_more(cli: Cli, boxes: Path) -> None:  # noqa: F811
    file = str(boxes.relative_to(cli.work))
    assert cli("apply", "-f", file, "--dry-run").stdout.splitlines() == [
        "trigger/every-minute created (dry run)",
        "trigger/on-order created (dry run)",
    ]
    assert [each["what"] for each in cli.json("apply", "-f", file)["changes"]] == ["created", "created"]
    minute, order = cli.json("get")
    assert (minute["name"], minute["zone"], minute["run"]) == ("every-minute", "UTC", None)
    assert 0 <= minute["next_s"] - minute["applied_s"] <= 120
    assert order["topic"] == "order.*.paid"
    boxes.write_text(TRIGGERS.replace("topic:", "topics:"))
    refused = cli("apply", "-f", file, status=65).stderr
    assert f"{file}:8:1: unknown field 'topics'" in refused
    assert "Did you mean 'topic'?" in refused
    only = TRIGGERS.partition("---")[2].replace("run_boxes.py", "shop/run_boxes.py")
    told = json.loads(cli("apply", "-f", "-", "--prune", "--json", stdin=only).stdout)
    assert [each["what"] for each in told["changes"]] == ["pruned", "unchanged"]
    assert "topic order.*.paid" in cli("get", "trigger/on-order").stdout
    assert cli.json("get", "triggers", "every-minute", status=66)["error"]["code"] == "wanted.unknown"


def test_what_is_published_anywhere_is_done_by_the_process_that_is_up(cli: Cli, boxes: Path) -> None:  # noqa: F811
    cli("apply", "-f", str(boxes), "--prune")
    with cli.start("up") as up:
        try:
            subprocess.run(
                [sys.executable, "-c", PUBLISHER],
                cwd=boxes.parent, env=cli.variables, check=True, timeout=50,
            )  # fmt: skip
            eventually(lambda: len(_ended(cli)) == 2)
        finally:
            up.send_signal(signal.SIGTERM)
    assert sorted((each["state"], (each["failure"] or {}).get("code")) for each in _ended(cli)) == [
        ("done", None),
        ("failed", "action.arguments"),
    ]
    (order,) = cli.json("get", "trigger/on-order")
    assert order["run"] in {each["id"] for each in _ended(cli)}


def _ended(cli: Cli) -> list[dict[str, object]]:  # noqa: F811
    found = [each for each in cli.json("runs", "--all") if str(each["name"]).startswith("on-order msg_")]
    return [each for each in found if each["state"] in ("done", "failed")]


def test_a_unit_of_systemd_is_printed(cli: Cli) -> None:  # noqa: F811
    unit = cli("up", "--systemd").stdout
    assert f"Environment=KIBO_HOME={cli.home}" in unit
    assert "ExecStart=" in unit
    if analyzer := shutil.which("systemd-analyze"):
        file = cli.work / "kibo.service"
        file.write_text(unit)
        subprocess.run(
            [analyzer, "verify", "--user", str(file)],
            env=cli.variables | {"XDG_RUNTIME_DIR": str(cli.work)},
            check=True,
        )
