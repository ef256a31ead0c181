"""Mail on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.test_cli import Cli, cli, home  # noqa: F401 - fixtures
from kibo.branch.history import History
from kibo.store.database import Store
from letters import handled, post


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
