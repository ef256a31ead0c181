"""Approvals on the command line: what is shown is what is sent, and no payload can pass for a word of Kibo's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.test_cli import Cli, cli, home, warm  # noqa: F401 - fixtures
from effect_drafts import draft
from kibo.effects.ledger import Ledger
from kibo.effects.records import Effect
from kibo.store.database import Store


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:  # noqa: F811
    home.mkdir(exist_ok=True)
    with Store.open(f"sqlite:///{home}/history.db") as store:
        yield Ledger(store)


def asking(ledger: Ledger, body: bytes = b"card=1") -> Effect:
    return ledger.hold(draft(body=body, approve_within_s=3600.0), "gw_elsewhere")


def test_a_person_sees_the_exact_payload_and_is_asked(cli: Cli, ledger: Ledger) -> None:  # noqa: F811
    plain = ledger.begin(draft(), "gw_elsewhere")
    body = (
        b"card=1\x1b[2J\xc2\x9b\xe2\x80\xae\n\nPOST https://shop.example/free (eff_1). Type yes to approve: "
    )
    effect = asking(ledger, body)
    assert [each["id"] for each in cli.json("effects")] == [effect.id, plain.id]
    assert cli("effects").stdout.splitlines()[1].split()[:2] == [effect.id[:12], "asking"]

    shown = cli("approve", effect.id[:16], stdin="no\n", status=1).stdout
    assert effect.digest in shown
    assert re.search(r"approval  is asked for, for \d+ min more", shown)
    assert "| POST /pay?x=1\n| host: shop.example\n|\n" in shown.replace("| \n", "|\n")
    assert "| POST https://shop.example/free (eff_1)" in shown
    assert "| card=1\\x1b[2J\\x9b\\u202e\n" in shown
    assert "\x1b" not in shown
    question = shown.splitlines()[-1]
    assert question.startswith(
        f"POST https://shop.example/pay?x=1 ({effect.id[:12]}, digest {effect.digest[:16]})"
    )
    assert question.endswith("not approved")
    for answer in ("", "y\n"):
        cli("approve", effect.id, stdin=answer, status=1)
    assert ledger.get(effect.id).effect == effect

    assert "is approved" in cli("approve", effect.id, stdin="yes\n").stdout
    found = ledger.get(effect.id).effect
    assert (found.state, found.approved_s is not None) == ("released", True)
    assert f"approved  by {found.approver}, " in cli("effects", "show", effect.id).stdout
    assert "(uid " in found.approver
    assert "was approved by" in cli("approve", effect.id, "--yes", status=75).stderr


def test_a_program_approves_by_digest_and_nothing_else_is_approved_so(cli: Cli, ledger: Ledger) -> None:  # noqa: F811
    one, other = asking(ledger), asking(ledger, b"card=2")
    assert cli("approve", one.id, "--json", status=65).stdout.count("--digest")
    error = cli.json("approve", one.id, "--digest", other.digest, status=75)["error"]
    assert (error["code"], one.digest in error["message"]) == ("state.wrong", True)
    approved = cli.json("approve", one.id, "--digest", one.digest)
    assert (approved["state"], approved["digest"]) == ("released", one.digest)
    assert cli.json("approve", other.id, "--yes")["state"] == "released"


def test_what_is_refused_says_who_and_why(cli: Cli, ledger: Ledger) -> None:  # noqa: F811
    one, two = asking(ledger), asking(ledger)
    assert "is refused" in cli("deny", one.id, "--why", "too dear").stdout
    found = cli.json("deny", two.id)
    assert (found["state"], "refused it" in found["reason"]) == ("dropped", True)
    assert ledger.get(one.id).effect.reason.endswith("refused it: too dear")
    assert "is dropped" in cli("approve", one.id, "--yes", status=75).stderr
    assert cli("deny", one.id, status=75).stderr


def test_a_policy_says_who_is_asked(cli: Cli) -> None:  # noqa: F811
    (cli.work / "careful.py").write_text(
        "from kibo import Allow, Box\n\n\nclass Careful(Box):\n    '''Asks.'''\n\n"
        "    egress = [Allow('shop.example', approve=True), Allow('*.example', passthrough=True)]\n"
    )
    asks = cli("policy", "check", "careful.py:Careful", "https://shop.example/pay", "--method", "POST").stdout
    assert "waits for a person to approve it, for up to 60 min" in asks
    assert (
        cli.json("policy", "check", "careful.py:Careful", "https://shop.example/pay")["approve_within_s"]
        is None
    )
