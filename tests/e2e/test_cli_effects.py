"""Effects on the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.test_cli import Cli, cli, warm  # noqa: F401 - fixtures
from effect_drafts import call, draft
from kibo.branch.history import History
from kibo.effects.calls import Calls
from kibo.effects.ledger import Ledger
from kibo.effects.records import PACK, Effect, Outcome
from kibo.store.database import Store
from running_till import running_till


@pytest.fixture
def home() -> Iterator[Path]:
    """A state directory for each test: it looks at all effects that there are."""
    with tempfile.TemporaryDirectory(prefix="kibo-cli-") as path:
        yield Path(path)


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    home.mkdir(exist_ok=True)
    with Store.open(f"sqlite:///{home}/history.db") as store:
        yield Ledger(store)


def test_effects_are_listed_shown_to_the_byte_and_resolved(cli: Cli, home: Path, ledger: Ledger) -> None:  # noqa: F811
    history = History(ledger._store)
    main = history.create(name="shopping")
    (fork,) = history.fork(main.id)
    held = ledger.hold(draft(fork.id), "gw_elsewhere")
    nasty = draft(main.id, body=b"a\x1b[2Jb\n")
    payload = nasty.payload
    payload = type(payload)(
        payload.secure, payload.host, payload.port, payload.method, b"/\x9bx", payload.fields,
        [(b"sum", b"\x1b7")], payload.has_body, payload.upgrade, payload.fillable,
    )  # fmt: skip
    doubtful = ledger.begin(nasty._replace(payload=payload), "gw_elsewhere")
    ledger.lose(doubtful.id, "no answer")
    done = ledger.begin(draft(main.id), "gw_elsewhere")
    ledger.answer(done.id, Outcome(201, [(b"location", b"/1")], b"\xff\x00", False))

    listed = cli.json("effects")
    assert [(each["id"], each["state"], each["status"]) for each in listed] == [
        (held.id, "held", None),
        (doubtful.id, "in_doubt", None),
        (done.id, "done", 201),
    ]
    table = cli("effects", "shopping").stdout
    assert held.id[:12] not in table
    assert "in_doubt" in table
    assert "https://shop.example/\\x9bx" in table

    shown = cli("effects", "show", doubtful.id[:16]).stdout
    assert f"{doubtful.id}: in_doubt, no answer" in shown
    assert "a\\x1b[2Jb" in shown
    assert "sum: \\x1b7" in shown
    assert "\x1b" not in shown
    assert doubtful.digest in shown
    shown = cli("effects", "show", done.id).stdout
    assert "answer    201\nlocation: /1\n" in shown
    assert "(2 bytes that are no text; --json has them)" in shown
    assert "(it was longer, and the rest was not kept)" in shown
    facts = cli.json("effects", "show", done.id)
    assert facts["answer"]["body"] == {"base64": "/wA="}
    assert facts["fields"] == [["host", "shop.example"]]
    assert facts["trailers"] == []
    assert cli.json("effects", "show", doubtful.id)["trailers"] == [["sum", "\x1b7"]]

    assert cli("effects", "resolve", doubtful.id, status=65).stderr
    cli("effects", "resolve", doubtful.id, "--not-done")
    assert ledger.get(doubtful.id).effect == replace(
        doubtful, state="not_done", reason=ledger.get(doubtful.id).effect.reason,
        ended_s=ledger.get(doubtful.id).effect.ended_s,
    )  # fmt: skip
    assert "in doubt" not in cli("effects", "resolve", doubtful.id, "--done", status=75).stdout
    assert "no effect begins" in cli("effects", "show", "eff_zz", status=66).stderr


def test_calls_are_shown_and_what_an_abort_leaves_to_undo_is_listed_and_resolved(
    cli: Cli,  # noqa: F811
    home: Path,
    ledger: Ledger,
) -> None:
    history, calls = History(ledger._store), Calls(ledger._store)
    main = history.create(name="trip")
    (fork,) = history.fork(main.id, names=["hotel"])
    made = calls.begin(call(fork.id, room="1\x1b[2J"), "call_elsewhere")
    assert isinstance(made, Effect)
    calls.returned(made.id, PACK.encode({"number": 7, "raw": b"\xff"}))

    aborted = cli("abort", "hotel").stdout
    assert f"to undo: {made.id[:12]}" in aborted
    assert "Inn.take, not_undone" in aborted
    assert "CALL" in cli("effects").stdout
    shown = cli("effects", "show", made.id).stdout
    assert f"{made.id}: not_undone, its branch was aborted" in shown
    assert "undone by free()" in shown
    assert "Inn.take(room='1\\x1b[2J')" in shown
    assert "returned  {'number': 7, 'raw': b'\\xff'}" in shown
    facts = cli.json("effects", "show", made.id)
    assert (facts["arguments"], facts["result_known"]) == ({"room": "1\x1b[2J"}, True)
    assert facts["result"]["raw"] == {"base64": "/w=="}

    assert cli("effects", "resolve", made.id, "--undone", "--done", status=65).stderr
    assert "is undone" in cli("effects", "resolve", made.id, "--undone").stdout
    assert cli("effects", "resolve", made.id, "--undone", status=75).stderr


def test_gc_lets_effects_go_that_ended_long_ago_with_their_branches(
    cli: Cli,  # noqa: F811
    home: Path,
    ledger: Ledger,
) -> None:
    history = History(ledger._store)
    (fork,) = history.fork(history.create().id)
    for branch in ("", fork.id):
        ledger.answer(ledger.begin(draft(branch), "gw_elsewhere").id, Outcome(200, [], b"", True))
    kept = ledger.begin(draft(), "gw_elsewhere")
    ledger.lose(kept.id, "no answer")
    assert cli.json("gc")["effects"] == 0, "thirty days by default"
    planned = cli("gc", "--effects", "0s", "--dry-run").stdout
    assert "would remove 1 effect from the ledger" in planned
    assert cli.json("gc", "--effects", "0s")["effects"] == 1
    assert [effect.origin for effect in ledger.listed()] == [fork.id, ""]
    history.abort(fork.id)
    assert cli.json("gc", "--effects", "0s", "--closed", "0s")["effects"] == 1
    assert [effect.id for effect in ledger.listed()] == [kept.id]


GUEST = """
from urllib.request import urlopen

import kibo
from kibo import Allow, Box, action


def told(what: str) -> str:
    with urlopen("http://inn.example" + what, b"guest=ada") as answer:
        return answer.read().decode()


class Guest(Box):
    egress = [Allow("inn.example", to={address!r})]

    @action(effect="reversible", compensate="free")
    def take(self, room: str) -> str:
        return told("/take/" + room)

    @action
    def free(self, room: str, result: str) -> None:
        told("/free/" + room)
        if room == "sticky":
            raise ValueError("it sticks")


def be_killed() -> None:
    with kibo.branch() as main:
        guest = main.spawn(Guest())
        (fork,) = main.fork(names=["fork"])
        for room in ("1", "sticky", "2"):
            fork[guest].take(room)
        fork.abort()
"""


def test_what_a_killed_program_left_is_undone_by_fresh_instances_the_newest_first_and_each_once(
    cli: Cli,  # noqa: F811
    home: Path,
) -> None:
    with running_till() as inn:
        (cli.work / "guest.py").write_text(GUEST.format(address=inn.address))
        program = [sys.executable, "-c", "import guest; guest.be_killed()"]
        killed = {**cli.variables, "KIBO_CRASH_AT": "undo.owed"}
        assert subprocess.run(program, cwd=cli.work, env=killed).returncode == -signal.SIGKILL
        taken = ["/take/1", "/take/sticky", "/take/2"]
        assert inn.paid == taken

        killed["KIBO_CRASH_AT"] = "undo.called"
        command = [sys.executable, "-m", "kibo.cli", "effects", "undo", "fork", "guest.py:Guest"]
        assert subprocess.run(command, cwd=cli.work, env=killed).returncode == -signal.SIGKILL
        assert inn.paid == [*taken, "/free/2"]

        told = cli("effects", "undo", "fork", "guest.py:Guest", status=1).stdout.splitlines()
        assert [line.partition(" is ")[2].partition(":")[0] for line in told] == ["not undone"] * 2 + [
            "undone"
        ]
        assert told[0].endswith("it may be undone"), "and is not undone again"
        assert "it sticks" in told[1]
        assert inn.paid == [*taken, "/free/2", "/free/sticky", "/free/1"]

        one = told[2].split()[0]
        assert "nothing of" in cli("effects", "undo", one, "guest.py:Guest", status=75).stderr
    missing = cli.json("effects", "undo", told[1].split()[0], status=65)
    assert missing["error"]["details"]["labels"] == ["Guest"]


REPORTER = """
import os
import signal
from urllib.request import urlopen

import kibo
from kibo import Allow, Box, action


class Reporter(Box):
    egress = [Allow("inn.example", to={address!r}, effect="bufferable")]

    @action
    def report(self, path: str) -> None:
        urlopen("http://inn.example" + path, b"guest=ada").close()


def be_killed() -> None:
    main = kibo.branch()
    reporter = main.spawn(Reporter())
    (fork,) = main.fork(names=["fork"])
    for path in ("/one", "/two"):
        fork[reporter].report(path)
    fork.snapshot()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("command", ["commit", "merge"])
def test_what_a_killed_program_had_accepted_is_sent_by_the_command_that_commits_its_branch(
    cli: Cli,  # noqa: F811
    command: str,
) -> None:
    with running_till() as inn:
        (cli.work / "reporter.py").write_text(REPORTER.format(address=inn.address))
        program = [sys.executable, "-c", "import reporter; reporter.be_killed()"]
        assert subprocess.run(program, cwd=cli.work, env=cli.variables).returncode == -signal.SIGKILL
        assert inn.paid == []
        effects = cli.json(command, "fork")["effects"]
        assert [(each["state"], each["status"]) for each in effects] == [("done", 200)] * 2
        assert inn.paid == ["/one", "/two"]
