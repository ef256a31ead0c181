"""What becomes of a letter, what a message may hold, and how letters reach functions, without any box."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kibo.branch.history import History
from kibo.hub import post as posts
from kibo.hub.bodies import checked_key
from kibo.hub.letters import TRANSITIONS, Letter, step
from kibo.hub.post import Post
from kibo.model.errors import (
    BranchClosed,
    InvalidInput,
    MailboxFull,
    MessageInvalid,
    MessageUnknown,
    StoreDamaged,
)
from kibo.model.limits import MAX_DELIVERIES, MAX_MESSAGE_BYTES, MAX_VALUE_DEPTH
from kibo.model.message import Message, call_handler
from kibo.model.topics import checked_event, checked_pattern, matches
from kibo.store import crash
from kibo.store.database import Store
from letters import handled, post, room, taken
from patience import until

SEEDS = [1, 2, 3]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """One store for all: each test has a tree of its own."""
    with Store.open(f"sqlite:///{tmp_path_factory.mktemp('mail')}/history.db") as store:
        yield History(store)


def states(of: Post, message: str) -> list[str]:
    return [each.state for each in of.receipt(message)]


# -- letters


def test_every_state_of_a_letter_is_reached_and_only_consumed_ends_it() -> None:
    states = {"accepted", *TRANSITIONS.values()}
    assert states == {"accepted", "delivered", "retry", "consumed", "dead"}
    assert {state for state, _ in TRANSITIONS} == states - {"consumed"}


def test_a_letter_counts_its_attempts_and_waits_twice_as_long_after_each() -> None:
    letter = Letter("msg_1", 0, ("b", ""), 1)
    waits = []
    for _ in range(3):
        letter = step(step(letter, "hub.taken", 100.0), "hub.failed", 100.0, "no")
        waits.append(letter.due_s - 100.0)
    assert (letter.state, letter.attempts, letter.why) == ("retry", 3, "no")
    assert waits == pytest.approx([waits[0], 2 * waits[0], 4 * waits[0]])


def test_a_letter_that_no_handler_has_seen_counts_as_not_taken() -> None:
    letter = Letter("msg_1", 0, ("b", ""), 1)
    assert step(step(letter, "hub.taken", 1.0), "hub.returned", 2.0) == letter


def test_what_does_not_follow_changes_nothing() -> None:
    letter = Letter("msg_1", 0, ("b", ""), 1)
    assert step(letter, "hub.failed", 1.0) is letter
    assert step(letter, "hub.revived", 1.0) is letter
    assert step(letter._replace(state="consumed"), "hub.taken", 1.0).state == "consumed"


# -- names and bodies


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("order.paid", ["order.paid"], ["order", "order.paid.late", "orders.paid"]),
        ("order.*", ["order.paid"], ["order", "order.a.b"]),
        ("*.paid", ["order.paid"], ["paid", "a.b.paid"]),
        ("order.>", ["order.a", "order.a.b"], ["order", "other.a"]),
        (">", ["a", "a.b.c"], []),
    ],
)
def test_a_pattern_stands_for_names_word_by_word(pattern: str, yes: list[str], no: list[str]) -> None:
    assert checked_pattern(pattern) == pattern
    assert [name for name in yes + no if matches(pattern, name)] == yes


@pytest.mark.parametrize("name", ["", ".", "a..b", "a b", "a.*", ">", "ä", "a" * 201, None, 3, "a\n"])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(InvalidInput):
        checked_event(name)


@pytest.mark.parametrize("pattern", ["", "a.>.b", "a*", ">.a", "a\n", None])
def test_a_pattern_that_is_none_is_refused(pattern: Any) -> None:
    with pytest.raises(InvalidInput):
        checked_pattern(pattern)


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def cyclic() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "body",
    [
        "\ud800",
        {"a": ["\udfff"]},
        {"\ud800": 1},
        {1: "a"},
        float("nan"),
        [float("inf")],
        1 << 64,
        -(1 << 63) - 1,
        {1, 2},
        object(),
        "x" * MAX_MESSAGE_BYTES,
        b"x" * (MAX_MESSAGE_BYTES + 1),
        nested(MAX_VALUE_DEPTH + 1),
        cyclic(),
    ],
    ids=lambda body: type(body).__name__,
)
def test_a_body_that_would_arrive_otherwise_is_refused_and_nothing_is_sent(
    history: History, body: Any
) -> None:
    mail = post(history)
    with pytest.raises(MessageInvalid) as caught:
        mail.send("a", [("b", "")], body)
    assert (caught.value.code, caught.value.retry) == ("message.invalid", "never")
    assert caught.value.hint
    assert history.log.length(mail.branch) == 0


@pytest.mark.parametrize(
    "body",
    [
        None,
        True,
        0,
        -(1 << 63),
        (1 << 64) - 1,
        1.5,
        "\0ä\U0001f600",
        "",
        [],
        {},
        {"": [1, {"a": None}]},
        b"",
        b"\xff\0",
    ],
)
def test_a_body_arrives_as_it_was_sent(history: History, body: Any) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], body)
    again = Post(history.log, mail.branch)
    (found,) = handled(again, "b")
    assert found == body
    assert type(found) is type(body)


@pytest.mark.parametrize("key", ["", "x" * 201, 3, "\ud800"])
def test_a_key_that_is_none_is_refused(key: Any) -> None:
    with pytest.raises(MessageInvalid):
        checked_key(key)


def test_a_handler_takes_the_message_or_nothing() -> None:
    message = Message("msg_1", "a", "b", 1)

    class Box:
        def with_it(self, message: Message) -> Any:
            return message.body

        def without(self) -> str:
            return "called"

    assert call_handler(Box().with_it, message) == 1
    assert call_handler(Box().without, message) == "called"
    assert call_handler(lambda: 2, message) == 2
    assert call_handler(lambda *all_of: len(all_of), message) == 1
    assert call_handler(str, message).startswith("Message(")


# -- the mail of a branch


def test_messages_are_taken_in_the_order_in_which_they_were_sent(history: History) -> None:
    mail = post(history)
    for number in range(300):
        mail.send("a", [("b", "")], number)
    assert handled(mail, "b") == list(range(300))


def test_a_message_with_a_key_is_sent_once(history: History) -> None:
    mail = post(history)
    first = mail.send("a", [("b", "")], 1, key="once")
    assert mail.send("a", [("b", "")], 2, key="once") == first
    assert mail.send("c", [("b", "")], 3, key="once") != first
    assert handled(mail, "b") == [1, 3]
    assert Post(history.log, mail.branch).send("a", [("b", "")], 4, key="once") == first
    assert handled(mail, "b") == []


def test_threads_that_send_with_one_key_send_one_message(history: History) -> None:
    mail, ids = post(history), []
    threads = [
        threading.Thread(target=lambda: ids.append(mail.send("a", [("b", "")], 1, key="once")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 1
    assert handled(mail, "b") == [1]
    assert states(mail, ids[0]) == ["consumed"]


def test_what_is_taken_is_nobody_elses_until_it_is_settled(history: History) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], 1)
    ((letter, _),) = taken(mail, "b")
    assert taken(mail, "b") == []
    mail.let_go([letter])
    assert [body for _, body in taken(mail, "b")] == [1]


def test_another_process_goes_on_with_what_the_last_had_taken_with_the_same_id(history: History) -> None:
    mail = post(history)
    sent = mail.send("a", [("b", "")], 1)
    mail.take(("b", ""))
    ((_, message),) = Post(history.log, mail.branch).take(("b", ""))
    assert (message.id, message.attempt) == (sent, 2)


def test_what_fails_is_dead_after_some_attempts_and_can_be_delivered_after_all(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail, now_s = post(history), time.time()
    monkeypatch.setattr(posts.time, "time", lambda: now_s)
    sent = mail.send("a", [("b", "")], 1)
    mail.send("a", [("b", "")], 2)
    for attempt in range(1, MAX_DELIVERIES + 1):
        ((letter, _),) = taken(mail, "b", 1)
        mail.settle(failed=letter, why=f"attempt {attempt}")
        if attempt < MAX_DELIVERIES:
            assert states(mail, sent) == ["retry"]
            assert taken(mail, "b") == []  # nothing overtakes it
            due_s = mail.due_s()
            assert due_s is not None
            now_s += due_s
    assert [(each.message.body, each.why) for each in mail.dead()] == [(1, f"attempt {MAX_DELIVERIES}")]
    assert handled(mail, "b") == [2]
    assert mail.revive(sent) == 1
    assert handled(mail, "b") == [1]
    assert mail.dead() == []
    with pytest.raises(MessageUnknown):
        mail.revive(sent)


def test_what_ends_whoever_handles_it_is_not_delivered_for_ever(history: History) -> None:
    mail = post(history)
    sent = mail.send("a", [("b", "")], 1)
    for _ in range(MAX_DELIVERIES):
        assert len(Post(history.log, mail.branch).take(("b", ""))) == 1  # and is killed
    last = Post(history.log, mail.branch)
    assert last.take(("b", "")) == []
    assert [each.message.id for each in last.dead()] == [sent]


def test_a_full_mailbox_is_an_error_that_says_when_to_try_again(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posts, "MAX_MAILBOX", 2)
    mail = post(history)
    for number in range(2):
        mail.send("a", [("b", "")], number)
    with pytest.raises(MailboxFull) as caught:
        mail.send("a", [("c", ""), ("b", "")], 3)
    assert caught.value.retry == "after"
    assert not mail.room([("b", "")])
    assert handled(mail, "c") == []
    assert handled(mail, "b") == [0, 1]
    mail.send("a", [("b", "")], 4)


def test_a_request_is_dead_once_its_sender_does_not_wait(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = post(history)
    sent = mail.send("a", [("b", "")], 1, until=time.time() + 60)
    late = mail.send("a", [("b", "")], 2, until=time.time() + 60)
    ((letter, _),) = taken(mail, "b", 1)
    mail.reply(letter, "yes")
    ((_, answer),) = mail.take(("a", f"?{sent}"))
    assert (answer.body, answer.reply_to) == ("yes", sent)
    now_s = time.time()
    monkeypatch.setattr(posts.time, "time", lambda: now_s + 61)
    assert taken(mail, "b") == []
    assert states(mail, late) == ["dead"]


def test_an_event_of_a_group_goes_to_who_has_least_waiting(history: History) -> None:
    mail = post(history)
    group = [("b", "B.work"), ("c", "C.work"), ("d", "D.work")]
    chosen = []
    for number in range(6):
        one = mail.one_of(group)
        mail.send("a", [one], number, event="work")
        chosen.append(one)
    assert sorted(chosen) == sorted(2 * group)


def test_a_message_that_nobody_knows_has_no_receipt(history: History) -> None:
    mail = post(history)
    with pytest.raises(MessageUnknown):
        mail.receipt("msg_1")
    assert mail.receipt(mail.send("a", [], 1, event="unheard")) == []


def test_messages_are_read_on_from_a_cursor(history: History) -> None:
    mail = post(history)
    for number in range(5):
        mail.send("a", [("b", "")], number)
    handled(mail, "b")
    first = mail.history(limit=2)
    assert [each.body for each in first] == [0, 1]
    assert [each.body for each in mail.history(after=first[-1].seq)] == [2, 3, 4]


def test_what_another_process_writes_is_seen_in_its_place(history: History) -> None:
    mail = post(history)
    other = Post(history.log, mail.branch)
    for number in range(10):
        (mail, other)[number % 2].send("a", [("b", "")], number)
    history.log.append(mail.branch, "context.user", "in between")
    mail.send("a", [("b", "")], 10)
    assert handled(mail, "b") == list(range(11))


def test_an_entry_that_has_no_form_is_refused_with_its_place(history: History) -> None:
    mail = post(history)
    history.log.append(mail.branch, "hub.sent", {"id": 3})
    with pytest.raises(StoreDamaged, match=r"no hub\.sent"):
        Post(history.log, mail.branch).boxes()


def test_an_entry_of_a_kind_to_come_is_passed_over(history: History) -> None:
    mail = post(history)
    history.log.append(mail.branch, "hub.later", {"id": 3})
    mail.send("a", [("b", "")], 1)
    assert handled(mail, "b") == [1]


def test_large_bodies_are_read_again_when_they_are_due(history: History) -> None:
    mail = post(history)
    bodies = [str(number) * 1000 for number in range(10)]
    for body in bodies:
        mail.send("a", [("b", "")], body)
    assert handled(mail, "b") == bodies


# -- branches


def test_a_fork_has_unread_mail_siblings_see_nothing_and_a_commit_brings_it(history: History) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], "old")
    first, second = history.fork(mail.branch, 2)
    ours, theirs = post(history, first.id), post(history, second.id)
    assert handled(ours, "b") == ["old"]
    ours.send("a", [("b", "")], "new")
    assert handled(theirs, "b") == ["old"]
    history.commit(first.id)
    mail.replace(ours.share())
    assert handled(mail, "b") == ["new"]
    with pytest.raises(BranchClosed):
        ours.send("a", [("b", "")], "late")


def test_what_was_shared_with_a_fork_goes_its_own_way(history: History) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], 1)
    (fork,) = history.fork(mail.branch)
    theirs = Post(history.log, fork.id, boxes=mail.share())
    assert handled(theirs, "b") == [1]
    assert handled(mail, "b") == [1]


# -- to functions


@pytest.mark.parametrize("seed", SEEDS)
def test_no_letter_is_lost_or_doubled_where_its_reader_is_just_about_to_rest(
    history: History, seed: int
) -> None:
    chance, got = random.Random(seed), list[int]()
    branch = history.create().id
    place = room(history, branch, {"b": lambda message: got.append(message.body)})

    def pause(passed: str) -> None:
        if passed.startswith("mail.") and chance.random() < 0.5:
            time.sleep(chance.random() * 0.002)

    crash.install(pause)
    try:
        for number in range(60):
            place.post.send("a", [("b", "")], number)
            time.sleep(chance.choice([0, 0, 0.0005, 0.003]))
        until(lambda: len(got) == 60 and not place.post.addresses())
    finally:
        crash.install(None)
        place.close()
    assert got == list(range(60)), f"seed {seed}"


def test_a_function_that_raises_gets_the_message_again(history: History) -> None:
    ids: list[tuple[str, int]] = []

    def raising(message: Message) -> None:
        ids.append((message.id, message.attempt))
        if message.attempt < 3:
            raise ValueError("not yet")

    place = room(history, history.create().id, {"b": raising})
    sent = place.post.send("a", [("b", "")], 1)
    until(lambda: states(place.post, sent) == ["consumed"])
    assert ids == [(sent, 1), (sent, 2), (sent, 3)]


def test_a_function_that_never_returns_loses_its_message_and_nobody_elses(history: History) -> None:
    never, got = threading.Event(), list[Any]()
    place = room(
        history,
        history.create().id,
        {"b": lambda: never.wait(60), "c": lambda message: got.append(message.body)},
        timeout_s=0.1,
    )
    stuck = place.post.send("a", [("b", "")], 1)
    place.post.send("a", [("c", "")], 2)
    until(lambda: states(place.post, stuck) == ["dead"])
    assert got == [2]
    assert "did not return within 0.1 s" in place.post.dead()[0].why
    never.set()
    # It has been handled after all.
    until(lambda: states(place.post, stuck) == ["consumed"])


def test_however_many_functions_are_slow_others_have_their_messages(history: History) -> None:
    slow, got = threading.Event(), list[Any]()
    functions: dict[str, Any] = {f"slow-{number}": lambda: slow.wait(60) for number in range(100)}
    place = room(history, history.create().id, {**functions, "b": lambda message: got.append(message.body)})
    place.post.send("a", [(name, "") for name in functions], 1)
    place.post.send("a", [("b", "")], 2)
    until(lambda: got == [2])
    slow.set()
    until(lambda: not place.post.addresses())


def test_what_waits_for_an_instance_that_is_gone_is_dead(history: History) -> None:
    place = room(history, history.create().id, {"b": lambda: None})
    sent = place.post.send("a", [("c", "")], 1)
    until(lambda: states(place.post, sent) == ["dead"])
    assert place.post.dead()[0].why == "its recipient has ended"
