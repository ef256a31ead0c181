"""A box that may send mail, and does so with bad intent: it reads and ends nothing of others, and fills no disk."""

from __future__ import annotations

from typing import Any

import pytest

import kibo
from caller_boxes import Asking, Writer
from kibo.branch.branch import Branch
from kibo.model.limits import MAX_BOX_SUBSCRIPTIONS
from letter_boxes import Plain

pytestmark = pytest.mark.security


def codes(box: Any, *calls: tuple[str, dict[str, Any]]) -> list[str]:
    return [box.try_to_ask(verb, arguments)[0] for verb, arguments in calls]


def test_a_wildcard_hears_events_and_never_a_message_to_another(main: Branch) -> None:
    box, plain = main.spawn(Asking(), name="box"), main.spawn(Plain(), name="plain")
    other = main.spawn(Plain(), name="other")
    box.run("me.subscribe('>')")
    plain.send_message(other, "private")
    assert box.run("result = me.receive()") is None
    assert box.run("result = list(me.sent())") == []
    assert other.mail.receive().body == "private"


def test_a_box_ends_reads_and_settles_nothing_of_anothers(main: Branch) -> None:
    box, plain = main.spawn(Asking(), name="box"), main.spawn(Plain(), name="plain")
    heard: list[Any] = []
    subscription = box.on_event("bell", lambda event: heard.append(event.body))
    sent = plain.send_message(plain, 1)
    assert plain.mail.receive() is not None
    found = codes(
        box,
        ("unsubscribe", {"subscription": subscription}),
        ("settle", {"message": sent.id}),
        ("settle", {"message": sent.id, "why": "no"}),
        ("receipt", {"message": sent.id}),
        ("wait", {"message": sent.id}),
        ("redeliver", {"message": sent.id}),
        ("receive", {"member": "plain"}),
        ("dead", {"member": "plain"}),
        ("send", {"to": "plain", "body": 1, "sender": "plain"}),
        ("post", {"body": 1, "author": "plain"}),
    )
    unknown, invalid = "message.unknown", "input.invalid"
    assert found == [invalid, *[unknown] * 5, *[invalid] * 3, "policy.denied"]
    assert [each.state for each in sent.deliveries()] == ["delivered"]
    plain.publish_event("bell", 2).wait(timeout_s=20)
    assert heard == [2]


@pytest.mark.parametrize("name", ["~other", "?msg_1", "=bell", "", "box\0", "../other", "other.0"])
def test_a_siblings_name_and_those_of_handlers_reach_nobody(main: Branch, name: str) -> None:
    box = main.spawn(Asking(), name="box")
    one, two = main.fork(2)
    two.spawn(Plain(), name="other")
    assert (
        codes(one[box], ("send", {"to": name, "body": 1}), ("request", {"to": "other", "body": 1}))
        == ["instance.unknown"] * 2
    )
    assert two.mail.sent() == []


def test_subscriptions_of_one_box_are_few_and_leave_room_for_others(main: Branch) -> None:
    box, plain = main.spawn(Asking(), name="box"), main.spawn(Plain(), name="plain")
    found = box.run(
        f"for n in range({MAX_BOX_SUBSCRIPTIONS}): me.subscribe(f'topic.{{n}}')\n"
        "try:\n    me.subscribe('more')\nexcept kibo.KiboError as error:\n    result = error.code"
    )
    assert found == "limit"
    assert box.run("result = me.subscribe('topic.0')") == "=topic.0"
    plain.on_event("bell", print)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("receive", {"timeout_s": 1e9}),
        ("receive", {"timeout_s": float("nan")}),
        ("receive", {"hold_s": -1}),
        ("receive", {"hold_s": float("inf")}),
        ("sent", {"limit": 10**6}),
        ("sent", {"after": -1}),
        ("sent", {"after": 1 << 63}),
        ("read", {"limit": 0}),
        ("dead", {"limit": 101}),
        ("subscribe", {"pattern": "a.>.b"}),
        ("subscribe", {"pattern": "x" * 100_000}),
        ("unsubscribe", {"subscription": "?msg_1"}),
        ("send", {"to": "box", "body": b"x" * (1 << 20)}),
        ("send", {"to": "box", "body": 1, "key": "x" * 1000}),
        ("wait", {"message": "msg_1", "stage": "dead"}),
    ],
)
def test_what_is_out_of_bounds_is_refused_and_writes_nothing(
    main: Branch, verb: str, arguments: dict[str, Any]
) -> None:
    box = main.spawn(Asking(), name="box")
    assert box.try_to_ask(verb, arguments)[0] in ("input.invalid", "message.invalid")
    assert main.mail.sent() == []


def test_a_flood_ends_at_the_quota_whatever_it_is_made_of(main: Branch) -> None:
    writer = main.spawn(Writer(), name="writer")
    found = writer.run(
        "made = 0\n"
        "try:\n"
        "    while made < 2000:\n"
        "        me.unsubscribe(me.subscribe('a')); me.publish_event('e', 'x' * 2000); made += 1\n"
        "except kibo.KiboError as error:\n    result = [error.code, made]"
    )
    assert found[0] == "limit"
    assert 0 < found[1] < 100


def test_an_aborted_branch_writes_no_more_on_the_board(main: Branch) -> None:
    writer = main.spawn(Writer(), name="writer")
    (fork,) = main.fork()
    board = fork._running.board
    fork[writer].run("me.board.post(1)")
    fork.abort()
    with pytest.raises(kibo.KiboError) as refused:
        board.post(2, "writer")
    assert refused.value.code == "branch.closed"
    assert [each.body for each in main.board.read()] == [1]


def test_several_at_once_at_the_last_byte_of_a_quota_are_not_all_let_in(main: Branch) -> None:
    writer, plain = main.spawn(Writer(), name="writer"), main.spawn(Plain(), name="plain")
    found = writer.run(
        "import threading\nsaid = []\n"
        "def send():\n"
        "    try:\n        me.send_message('plain', 'x' * 90_000); said.append('ok')\n"
        "    except kibo.KiboError as error:\n        said.append(error.code)\n"
        "threads = [threading.Thread(target=send) for _ in range(6)]\n"
        "[each.start() for each in threads]; [each.join() for each in threads]\nresult = sorted(said)"
    )
    assert found == ["limit"] * 4 + ["ok"] * 2
    assert len(main.mail.sent()) == 2
    assert plain.mail.receive() is not None
