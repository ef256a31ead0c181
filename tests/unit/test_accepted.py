"""What of a branch's mail stands when its instances go back to a snapshot."""

from __future__ import annotations

from typing import Any

import msgspec

from kibo.hub.accepted import accepted
from kibo.hub.entries import Delegated, Ended, Marked, Sent, Subscribed, encoded
from kibo.store.log import Entry


def log(*drafts: tuple[str, msgspec.Struct]) -> list[Entry]:
    return [
        Entry(seq, f"hub.{kind}", encoded(form), float(seq), None, seq)
        for seq, (kind, form) in enumerate(drafts, 10)
    ]


def sent(name: str, *to: tuple[str, str], **others: Any) -> tuple[str, Sent]:
    return "sent", Sent(name, "a", list(to), **others)


def standing(*drafts: tuple[str, msgspec.Struct]) -> list[tuple[int, str, bytes]]:
    return [(each.seq, each.kind.removeprefix("hub."), each.body) for each in accepted(log(*drafts))]


def kinds(*drafts: tuple[str, msgspec.Struct]) -> list[str]:
    return [kind for _, kind, _ in standing(*drafts)]


def test_what_was_sent_from_outside_stands_with_its_time_and_what_a_box_sent_does_not() -> None:
    drafts = sent("m1", ("b", "")), sent("m2", ("b", ""), inside=True), sent("m3", ("b", ""), event="e")
    found = accepted(log(*drafts))
    assert [(each.seq, each.at_s) for each in found] == [(10, 10.0), (12, 12.0)]


def test_what_code_in_a_box_has_handled_it_has_not_and_its_attempts_are_not_counted() -> None:
    of = [("m1", 0)]
    assert kinds(
        sent("m1", ("b", "")),
        ("taken", Marked(of)),
        ("failed", Marked(of, "no")),
        ("taken", Marked(of)),
        ("consumed", Marked(of, inside=True)),
    ) == ["sent"]


def test_what_was_begun_and_not_ended_counts_as_an_attempt() -> None:
    of = [("m1", 0)]
    assert kinds(sent("m1", ("b", "")), ("taken", Marked(of))) == ["sent", "taken"]
    assert kinds(("taken", Marked(of)), ("dead", Marked(of, "no"))) == ["taken", "dead"]


def test_what_a_function_outside_has_handled_it_has_and_of_several_letters_each_is_judged_alone() -> None:
    both = [("m1", 0), ("m1", 1)]
    found = accepted(
        log(
            sent("m1", ("b", ""), ("c", "~f")),
            ("taken", Marked(both)),
            ("consumed", Marked([("m1", 0)], inside=True)),
            ("consumed", Marked([("m1", 1)])),
        )
    )
    assert [each.kind for each in found] == ["hub.sent", "hub.taken", "hub.consumed"]
    left = msgspec.json.decode(found[1].body, type=Marked)
    assert left.of == [("m1", 1)]


def test_nothing_is_left_of_what_became_of_an_undone_message() -> None:
    of = [("m1", 0)]
    assert kinds(sent("m1", ("c", "~f"), inside=True), ("taken", Marked(of)), ("consumed", Marked(of))) == []


def test_an_answer_has_nobody_left_who_waits() -> None:
    of = [("m1", 0)]
    drafts = sent("m1", ("b", ""), until=9.0), sent("m2", ("a", "?m1"), reply_to="m1")
    assert kinds(*drafts, ("consumed", Marked(of, inside=True))) == ["sent"]
    assert kinds(*drafts, ("consumed", Marked(of))) == ["sent", "consumed"]


def test_a_function_stays_subscribed_a_box_does_not_and_a_delegation_has_not_ended() -> None:
    assert kinds(
        ("subscribed", Subscribed("a", "~f", "e.*")),
        ("subscribed", Subscribed("a", "=e.*", "e.*")),
        ("unsubscribed", Subscribed("a", "~f")),
        ("delegated", Delegated("d1", "a", "b", "act", "br", "p")),
        ("ended", Ended("d1", "done")),
    ) == ["subscribed", "unsubscribed", "delegated"]


def test_what_is_not_mail_does_not_stand() -> None:
    assert accepted([Entry(1, "context.user", b"{}", 0.0, None, 1)]) == []
