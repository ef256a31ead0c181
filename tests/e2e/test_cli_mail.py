"""Mail on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures
from kibo.branch.history import History
from kibo.hub.entries import Delegated, Ended
from kibo.hub.post import Post
from kibo.store.database import Store
from kibo.store.wakeups import telling
from letters import handled, post
from patience import until


@pytest.fixture
def history(home: Path) -> Iterator[History]:  # noqa: F811
    home.mkdir(exist_ok=True)
    with Store.open(f"sqlite:///{home}/history.db") as store:
        yield History(store)


def test_mail_is_listed_with_what_became_of_it_and_delivered_after_all(cli: Cli, history: History) -> None:  # noqa: F811
    assert "no branch" in cli("mail", status=66).stderr
    branch = history.create(name="team")
    assert "no messages" in cli("mail").stdout
    assert cli.json("mail", "redeliver", "team", "msg_1", status=66)["error"]["code"] == "message.unknown"
    mail = post(history, branch.id)
    done = mail.send("a", [("b", "")], "x\x1b[2J")
    handled(mail, "b")
    dead = mail.send("a", [("b", "")], b"\0")
    mail.bury(("b", ""), "its recipient\nhas ended")
    heard = mail.send("b", [("a", "A.on")], {"n": 1}, event="order.paid")

    listed = cli.json("mail")
    assert [(each["id"], each["event"], [of["state"] for of in each["deliveries"]]) for each in listed] == [
        (done, "", ["consumed"]),
        (dead, "", ["dead"]),
        (heard, "order.paid", ["accepted"]),
    ]
    assert listed[1]["body"] == {"base64": "AA=="}
    table = cli("mail", "team").stdout
    assert "\x1b" not in table
    assert "order.paid" in table

    (found,) = cli.json("mail", branch.id, "--dead")
    assert (found["id"], found["why"]) == (dead, "its recipient\nhas ended")
    assert cli.json("mail", "redeliver", "team", dead[:14]) == {"message": dead, "recipients": 1}
    assert cli.json("mail", "team", "--dead") == []
    assert handled(post(history, branch.id), "b") == [b"\0"]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def waits(pid: int) -> bool:
    """Tells whether a process is in poll(2), and was so a moment ago."""
    before = switches(pid)
    time.sleep(0.05)
    return status(pid)["State"].startswith("S") and switches(pid) == before


def switches(pid: int) -> int:
    """How often it has gone to sleep."""
    return int(status(pid)["voluntary_ctxt_switches"])


def test_mail_is_followed_as_it_is_written_by_another_process_and_nobody_looks_meanwhile(
    home: Path,  # noqa: F811
    history: History,
) -> None:
    branch = history.create(name="team")
    told = partial(telling, home / "followers")
    with told():
        pass  # where nobody follows there is nobody to wake
    assert not (home / "followers").exists()
    writer = Post(history.log, branch.id, None, telling=told)
    writer.send("a", [("b", "")], 1)
    command = [sys.executable, "-m", "kibo.cli", "mail", branch.id, "--follow", "--json"]
    paths = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "KIBO_HOME": str(home), "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["body"] == 1
        for number in range(2, 30):
            writer.send("a", [("b", "")], number)
            assert json.loads(following.stdout.readline())["body"] == number
        until(lambda: waits(following.pid))
        before = switches(following.pid)
        time.sleep(0.6)  # whoever looked every so often would have
        assert switches(following.pid) == before
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 130


def test_what_became_of_delegations_is_listed(cli: Cli, history: History) -> None:  # noqa: F811
    branch = history.create(name="team")
    assert "no delegations" in cli("mail", "delegations", branch.id).stdout
    mail = post(history, branch.id)
    for name in ("dlg_1", "dlg_2", "dlg_3"):
        mail.delegate(Delegated(name, "boss", "worker", "walk", str(branch.id), "0" * 8))
    mail.end(Ended("dlg_1", "done"))
    mail.end(Ended("dlg_2", "failed", "it was\nlate"))
    mail.end(Ended("dlg_2", "done"))  # the first end counts
    mail.end(Ended("dlg_9", "done"))  # of one that nobody has begun
    found = cli.json("mail", "delegations", branch.id)
    assert [(each["id"], each["state"]) for each in found] == [
        ("dlg_1", "done"),
        ("dlg_2", "failed"),
        ("dlg_3", "lost"),
    ]
    assert found[2]["why"] == "the process that saw to it has ended"
    table = cli("mail", "delegations", branch.id).stdout
    assert "lost" in table
    assert "walk" in table
    history.abort(branch.id)
    assert "aborted" in cli.json("mail", "delegations", branch.id)[2]["why"]
