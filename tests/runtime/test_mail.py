"""Messages and events between running boxes, and what branches make of them."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import kibo
import leftovers
from kibo.branch.branch import Branch
from kibo.model import errors
from kibo.runtime.instance import Instance
from kibo.runtime.mailing import Receipt
from kibo.runtime.memory import memory_of
from letter_boxes import Clerk, Listener, Plain, Reader, Stepper, Tally
from patience import until

#: Seconds in which what is sent is handled, on a machine that does other things.
SOON_S = 20.0
#: How many messages are many, and after how many parts of them the memory is looked at.
MANY, PIECES = 100_000, 10


@pytest.fixture
def pair(main: Branch) -> tuple[Instance, Instance]:
    return main.spawn(Reader(), name="a"), main.spawn(Reader(), name="b")


def handled(receipt: Any) -> list[str]:
    return [each.state for each in receipt.wait(timeout_s=SOON_S)]


# -- messages


def test_a_message_is_handled_in_the_box_in_order(pair) -> None:
    a, b = pair
    for number in range(20):
        last = a.send_message(b, number)
    assert handled(last) == ["consumed"]
    assert b.read() == list(range(20))
    assert a.read() == []


def test_what_is_sent_while_an_action_is_under_way_is_handled_as_soon_as_it_has_ended(
    pair, calls: ThreadPoolExecutor
) -> None:
    a, b = pair
    working = calls.submit(b.work, 0.3)
    until(lambda: b._conversation.turn.held)
    receipts = [a.send_message(b, number) for number in range(3)]
    assert working.result(SOON_S) == 0  # nothing was handled in the middle of it
    for receipt in receipts:
        receipt.wait(timeout_s=SOON_S)  # without another word to b
    assert b.read() == [0, 1, 2]


def test_no_message_is_lost_or_doubled_where_an_action_is_just_about_to_end(
    pair, calls: ThreadPoolExecutor
) -> None:
    seed = int(os.environ.get("KIBO_TEST_SEED", random.SystemRandom().getrandbits(32)))
    print(f"KIBO_TEST_SEED={seed}")
    dice = random.Random(seed)
    a, b = pair
    sent, receipts = 0, []
    for _ in range(60):
        takes_s = dice.uniform(0.0, 0.004)
        working = calls.submit(b.work, takes_s)
        time.sleep(dice.uniform(0.0, 0.008))  # around its end, on either side
        for _ in range(dice.randrange(1, 4)):
            receipts.append(a.send_message(b, sent))
            sent += 1
        assert working.result(SOON_S) == 0
    for receipt in receipts:
        receipt.wait(timeout_s=SOON_S)
    assert b.read() == list(range(sent))
    assert len(set(b.seen())) == sent


def test_a_handler_that_raises_gets_the_message_again_with_the_same_id(pair) -> None:
    a, b = pair
    receipt = a.send_message("b", {"raise": 1})
    next_one = a.send_message("b", "after")
    assert handled(receipt) == handled(next_one) == ["consumed"]
    first, second, third = b.seen()
    assert (first, second) == (receipt.id, receipt.id)
    assert third == next_one.id
    assert b.read() == [{"raise": 1}, "after"]


def test_a_handler_that_always_raises_leaves_a_dead_letter_that_can_be_delivered_after_all(
    main, pair
) -> None:
    a, b = pair
    receipt = a.send_message(b, {"raise": 5})
    (delivery,) = receipt.wait(timeout_s=SOON_S)
    assert (delivery.state, delivery.attempts) == ("dead", 5)
    assert "attempt 5" in delivery.why
    (letter,) = b.mail.dead()
    assert (letter.message.id, letter.message.body) == (receipt.id, {"raise": 5})
    assert len(main.mail.dead()) == 1
    assert b.mail.redeliver(receipt.id) == 1
    until(lambda: len(b.seen()) > 5, SOON_S)


def test_a_handler_that_never_returns_has_its_time(main) -> None:
    class Slow(Reader):
        env = kibo.Env(limits=kibo.Limits(action_s=0.3))

    a, b = main.spawn(Plain()), main.spawn(Slow())
    receipt = a.send_message(b, {"sleep": 60})
    until(lambda: receipt.deliveries()[0].attempts == 2, SOON_S)
    assert "did not end within 0.3 s" in receipt.deliveries()[0].why
    assert b.alive


def test_a_handler_that_ends_its_instance_leaves_a_dead_letter_and_later_ones_an_error(pair) -> None:
    a, b = pair
    receipt = a.send_message(b, {"exit": 3})
    assert handled(receipt) == ["dead"]
    with pytest.raises(errors.InstanceEnded, match="revives nobody"):
        a.send_message(b, 1)
    with pytest.raises(errors.InstanceEnded):
        b.send_message(a, 1)


def test_mail_to_an_instance_that_is_destroyed_is_dead_and_revives_nobody(main) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    receipt = a.send_message(b, 1)
    b.destroy()
    with pytest.raises(errors.InstanceEnded):
        a.send_message("b", 2)
    a.send_message(a, "look")  # the next change looks at all that waits
    assert handled(receipt) == ["dead"]


def test_a_message_with_a_key_is_handled_once(pair) -> None:
    a, b = pair
    first, second = a.send_message(b, 1, key="k"), a.send_message(b, 1, key="k")
    assert first.id == second.id
    assert handled(second) == ["consumed"]
    assert b.read() == [1]


def test_a_program_takes_messages_itself(main) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    assert b.mail.receive() is None
    receipt = a.send_message(b, b"\0", reply_to="msg_1")
    message = b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    assert (message.body, message.sender, message.to, message.reply_to) == (b"\0", "a", "b", "msg_1")
    assert [each.state for each in receipt.deliveries()] == ["delivered"]
    b.mail.failed(message, "not now")
    message = b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    assert message.attempt == 2
    b.mail.done(message)
    assert handled(receipt) == ["consumed"]
    with pytest.raises(errors.MessageUnknown):
        b.mail.done(message)


# -- requests


def test_a_request_returns_what_the_handler_returns(pair) -> None:
    a, b = pair
    assert a.request(b, {"return": {"x": [1]}}, timeout_s=SOON_S) == {"x": [1]}
    assert a.read() == []


def test_a_request_that_nobody_answers_times_out_and_is_not_handled_later(main, pair) -> None:
    a, _ = pair
    silent = main.spawn(Plain(), name="silent")
    with pytest.raises(errors.ReplyTimedOut) as caught:
        a.request(silent, 1, timeout_s=0.1)
    assert caught.value.retry == "unknown"
    assert silent.mail.receive() is None
    assert len(silent.mail.dead()) == 1


def test_a_request_whose_handler_raises_each_time_says_so(pair) -> None:
    a, b = pair
    with pytest.raises(errors.ActionFailed, match="attempt 5"):
        a.request(b, {"raise": 9}, timeout_s=SOON_S)


def test_a_program_answers_a_request(main, calls: ThreadPoolExecutor) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    asked = calls.submit(a.request, b, "?", timeout_s=SOON_S)
    message = b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    assert message.asks
    b.send_message(a, "!", reply_to=message.id)
    assert asked.result(SOON_S) == "!"


def test_what_answers_a_message_that_asked_nothing_is_a_message(main, calls: ThreadPoolExecutor) -> None:
    a, b, c = (main.spawn(Plain(), name=name) for name in "abc")
    a.send_message(b, "news")
    message = b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    for other in (a, c):
        b.send_message(other, "thanks", reply_to=message.id)
        heard = other.mail.receive(timeout_s=SOON_S)
        assert heard is not None
        assert (heard.body, heard.reply_to) == ("thanks", message.id)
        other.mail.done(heard)
    b.mail.done(message)
    asked = calls.submit(a.request, b, "?", timeout_s=SOON_S)
    message = b.mail.receive(timeout_s=SOON_S)
    assert message is not None
    b.send_message(c, "who knows?", reply_to=message.id)  # the answer is somebody else's to hear
    heard = c.mail.receive(timeout_s=SOON_S)
    assert heard is not None
    assert heard.body == "who knows?"
    b.send_message(a, "!", reply_to=message.id)
    assert asked.result(SOON_S) == "!"


# -- events


def test_events_reach_methods_and_functions_by_pattern(main) -> None:
    a, b = main.spawn(Listener(), name="a"), main.spawn(Listener(), name="b")
    heard: list[Any] = []
    b.on_event("order.>", lambda event: heard.append([event.event, event.body]))
    receipt = a.publish_event("order.7.paid", 3)
    assert handled(receipt) == ["consumed"] * 3
    assert a.hearing() == b.hearing() == heard == [["order.7.paid", 3]]
    assert a.publish_event("unheard").deliveries() == []
    assert handled(b.publish_event("bell")) == ["consumed"] * 2
    assert b.hearing()[1:] == ["bell"]


def test_a_function_hears_of_several_patterns_until_its_subscription_ends(main) -> None:
    a, heard = main.spawn(Plain(), name="a"), list[str]()

    def hear(event: kibo.Message) -> None:
        heard.append(event.event)

    first, second = a.on_event("x.*", hear), a.on_event("y", hear)
    assert first != second
    assert a.on_event("y", hear) == second
    for name in ("x.1", "y"):
        assert handled(a.publish_event(name)) == ["consumed"]
    a.off_event(first)
    assert a.publish_event("x.2").deliveries() == []
    assert handled(a.publish_event("y")) == ["consumed"]
    assert heard == ["x.1", "y", "y"]
    with pytest.raises(errors.InvalidInput, match="already"):
        a.on_event("z", print, subscription=second.removeprefix("~"))


def test_of_a_group_one_gets_each_event(main) -> None:
    members = [main.spawn(Listener(), name=name) for name in "abc"]
    receipts = [members[0].publish_event("work.now", number) for number in range(9)]
    assert [handled(receipt) for receipt in receipts] == [["consumed"]] * 9
    found = [member.hearing() for member in members]
    assert sorted(each for heard in found for each in heard) == list(range(9))
    assert all(found)


def test_a_name_that_is_none_is_refused_where_it_is_written(main) -> None:
    a = main.spawn(Plain())
    with pytest.raises(errors.InvalidInput):
        a.publish_event("a b")
    with pytest.raises(errors.InvalidInput):
        a.on_event("a.>.b", print)
    with pytest.raises(errors.InvalidInput):

        class Wrong(kibo.Box):
            @kibo.on_event("a..b")
            def heard(self): ...


def test_two_parts_that_handle_messages_conflict() -> None:
    with pytest.raises(errors.CompositionConflict, match="handler of"):
        Reader() + Other()
    assert [each.name for each in (Reader() | Other()).spawn()._conversation.plan.handlers] == ["Other.note"]


class Other(kibo.Box):
    """Handles messages, too."""

    @kibo.on_message
    def note(self) -> None: ...


# -- branches


def test_siblings_never_see_each_others_mail_and_a_commit_brings_it(main, pair) -> None:
    a, b = pair
    first, second = main.fork(2)
    assert handled(first[a].send_message(b, "one")) == ["consumed"]
    sent = first[a].publish_event("nothing")
    with pytest.raises(errors.MessageUnknown):
        second.mail.redeliver(sent.id)
    assert (first[b].read(), second[b].read(), b.read()) == (["one"], [], [])
    assert [message.body for message in second.mail.sent()] == []
    first.commit()
    assert b.read() == ["one"]
    assert [message.body for message in main.mail.sent()] == ["one", None]
    with pytest.raises(errors.BranchStale):
        second[a].send_message(b, "late") if second.status == "open" else second.commit()


def test_what_an_aborted_fork_has_sent_comes_to_nobody(main, pair) -> None:
    a, b = pair
    (fork,) = main.fork()
    silent = main.mail.sent()
    handled(fork[a].send_message(b, "no"))
    fork.abort()
    assert b.read() == []
    assert main.mail.sent() == silent
    with pytest.raises(errors.KiboError):
        fork[a].send_message(b, "late")


def test_an_instance_of_another_tree_is_no_recipient_whatever_it_is_called(main, pair) -> None:
    a, _ = pair
    with kibo.branch("another") as elsewhere:
        b = elsewhere.spawn(Reader(), name="b")
        with pytest.raises(errors.InstanceUnknown):
            a.send_message(b, "guess")
        with pytest.raises(errors.InstanceUnknown):
            elsewhere["b"].send_message(a, "guess")
        assert b.read() == []


def test_unread_mail_is_inherited_and_handled_on_each_side(main) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    a.send_message(b, 1)
    first, second = main.fork(2)
    for fork in (first, second):
        message = fork[b].mail.receive()
        assert message is not None
        fork[b].mail.done(message)
        assert fork[b].mail.receive() is None
    first.commit()
    assert b.mail.receive() is None


def test_a_branch_with_forks_rests_until_they_have_ended(main, pair, calls: ThreadPoolExecutor) -> None:
    a, b = pair
    held, begun = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        held.wait(SOON_S)

    b.on_event("go", hold)
    first = a.publish_event("go")
    assert begun.wait(SOON_S)
    second = a.publish_event("go")
    forking = calls.submit(main.fork)
    until(lambda: main._running.mail.room._pauses)
    held.set()
    (fork,) = forking.result(SOON_S)
    states = [receipt.deliveries()[0].state for receipt in (first, second)]
    assert states == ["consumed", "accepted"]
    assert fork.status == "open"
    fork.commit()
    assert handled(second) == ["consumed"]


def test_a_function_hears_what_a_fork_publishes_once_it_is_committed(main, pair) -> None:
    a, b = pair
    heard: list[int] = []
    b.on_event("done", lambda event: heard.append(event.body))
    first, second = main.fork(2)
    second[a].publish_event("done", 2)
    sent = first[a].publish_event("done", 1)
    assert [each.state for each in sent.deliveries()] == ["accepted"]
    assert heard == []
    first.commit()
    until(lambda: heard == [1], SOON_S)


def test_a_handler_that_forks_and_commits_has_handled_its_message(main, pair) -> None:
    a, b = pair
    done = threading.Event()

    def explore(event: kibo.Message) -> None:
        (fork,) = main.fork()
        fork[a].send_message(b, "of a fork").wait(timeout_s=SOON_S)
        fork.commit()
        done.set()

    b.on_event("explore", explore)
    receipt = a.publish_event("explore")
    assert done.wait(SOON_S)
    assert handled(receipt) == ["consumed"]
    assert b.read() == ["of a fork"]
    assert receipt.deliveries()[0].attempts == 1


def test_a_message_that_is_being_handled_while_its_branch_is_forked_is_handled_once_on_each_side(
    pair, main
) -> None:
    a, b = pair
    receipts = [a.send_message(b, number) for number in range(40)]
    forks = main.fork(2)
    for fork in forks:
        until(lambda fork=fork: len(fork[b].read()) == 40, SOON_S)
        assert fork[b].read() == list(range(40))
    forks[0].commit()
    assert b.read() == list(range(40))
    assert [handled(receipt) for receipt in receipts] == [["consumed"]] * 40


def test_a_checkout_goes_on_with_unread_mail(main, pair) -> None:
    a, _ = pair
    silent = main.spawn(Plain(), name="silent")
    a.send_message(silent, "kept")
    kept = main.snapshot("kept")
    with kibo.checkout(kept.id, Reader(), Plain()) as again:
        message = again["silent"].mail.receive(timeout_s=SOON_S)
        assert message is not None
        assert message.body == "kept"


def test_mail_in_a_parent_makes_its_forks_stale_and_a_merge_joins_both(main, pair) -> None:
    a, b = pair
    (fork,) = main.fork()
    handled(fork[a].send_message(b, "theirs"))
    receipt = a.send_message(b, "ours")
    with pytest.raises(errors.BranchStale):
        fork.commit()
    assert handled(receipt) == ["consumed"]
    fork.merge()
    assert [message.body for message in main.mail.sent()] == ["ours", "theirs"]


# -- outside of branches


def test_instances_in_no_branch_send_to_each_other() -> None:
    heard: list[str] = []
    with Reader().spawn() as a, Reader().spawn() as b, Listener().spawn() as c:
        assert handled(a.send_message(b, "hello")) == ["consumed"]
        assert b.read() == ["hello"]
        b.on_event("bell", lambda: heard.append("rang"))
        assert handled(a.publish_event("bell")) == ["consumed"] * 2
        assert (heard, c.hearing()) == (["rang"], ["bell"])
        with pytest.raises(errors.InstanceUnknown):
            a.send_message("nobody", 1)
    with Plain().spawn() as a, pytest.raises(errors.InstanceEnded):
        a.send_message(b, "late")


def test_mail_keeps_no_instance_alive() -> None:
    a, b = Plain().spawn(), Plain().spawn()
    a.send_message(b, 1)
    name = b.id
    del b
    gc.collect()
    with pytest.raises(errors.InstanceUnknown):
        a.send_message(str(name), 2)


# -- in the long run


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_messages_are_handled_once_in_order_and_leave_no_more_memory_behind(
    main, calls: ThreadPoolExecutor
) -> None:
    senders = [main.spawn(Plain(), name=f"s{number}") for number in range(8)]
    tally = main.spawn(Tally(), name="tally")
    each = MANY // PIECES // len(senders)
    sizes: list[int] = []

    def send(sender: Instance, piece: int) -> Any:
        for number in range(each):
            last = sender.send_message(tally, piece * each + number, wait_s=SOON_S)
        return last

    for piece in range(PIECES):
        sending = [calls.submit(send, sender, piece) for sender in senders]
        for last in sending:
            last.result(100.0).wait(timeout_s=100.0)
        gc.collect()
        sizes.append(memory_of(os.getpid()) or 0)
        print(f"{(piece + 1) * MANY // PIECES} messages: {sizes[-1] >> 10} KiB", flush=True)
    assert tally.told() == [MANY, 0]
    assert main.mail.dead() == []
    # As many receipts are kept as one piece has messages: from then on, nothing is added.
    assert max(sizes[2:]) <= 1.05 * min(sizes[1:3])


# -- losing the runtime


@pytest.mark.parametrize("how", ["warden", "keeper"])
def test_a_letter_that_is_in_a_box_whose_runtime_is_killed_comes_again_to_whoever_goes_on(how: str) -> None:
    main = kibo.branch()
    out, desk = main.spawn(Plain(), name="out"), main.spawn(Clerk(), name="desk")
    out.send_message(desk, [0, ""])
    until(lambda: desk.kept() == [0])
    desk.files.write("/work/wait", b"")
    first = out.send_message(desk, [1, ""])
    until(lambda: desk.exec("cat /work/kept").stdout == "0\n1\n")
    second = out.send_message(desk, [2, ""])
    session = desk._conversation.session
    os.kill(leftovers.warden_of(os.getpid()) if how == "warden" else session._keeper.pid, signal.SIGKILL)
    until(lambda: not session.alive and main.mail.presence()["desk"] == "ended")
    with pytest.raises((errors.InstanceEnded, errors.RuntimeLost)):
        out.send_message(desk, [3, ""])
    until(lambda: not main.mail._mail.post.held)
    assert [each.state for each in (*first.deliveries(), *second.deliveries())] == ["delivered", "accepted"]
    assert main.mail.dead() == []
    main.close()
    with kibo.checkout(main.id, Plain(), Clerk()) as again:
        assert again["desk"].exec("rm /work/wait").returncode == 0
        # At least once: what the first had done before the kill is on the disk, and the message was not noted.
        until(lambda: again["desk"].kept() == [0, 1, 1, 2])
        found = [Receipt(again.mail._mail, receipt.id).wait(timeout_s=SOON_S) for receipt in (first, second)]
        assert [(each.state, each.attempts) for (each,) in found] == [("consumed", 2), ("consumed", 1)]
        again.abort()


# -- delegating


def test_a_delegation_tells_its_progress_and_its_result(main) -> None:
    a, b = main.spawn(Plain()), main.spawn(Stepper())
    delegated = a.delegate(b, "walk", 2)
    assert [(event.kind, event.value) for event in delegated.events()] == [
        ("begun", None),
        ("progress", 0),
        ("progress", 1),
        ("done", None),
    ]
    assert delegated.result() is None
    assert a.delegate(b, "add", 1, other=2).result(SOON_S) == 3
    failed = a.delegate(b, "fail")
    with pytest.raises(errors.ActionRaised):
        failed.result(SOON_S)
    assert failed.state == "failed"
    with pytest.raises(errors.UnknownAction):
        a.delegate(b, "fly")
    with pytest.raises(errors.InvalidArguments):
        a.delegate(b, "add", "x")


def test_a_delegation_that_is_cancelled_interrupts_its_action_and_no_other(main) -> None:
    a, b = main.spawn(Plain()), main.spawn(Stepper())
    slow = a.delegate(b, "sleep", 60)
    until(lambda: main.mail.presence()["Stepper"] == "busy")
    behind = a.delegate(b, "add", 1, other=2)
    assert slow.cancel()
    assert slow.state == "cancelled"
    assert behind.result(SOON_S) == 3
    assert not behind.cancel()
    with pytest.raises(errors.WrongState, match="cancelled"):
        slow.result()


def test_what_became_of_delegations_is_told_to_whoever_asks(main) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Stepper(), name="b")
    a.delegate(b, "add", 1, 2).result(SOON_S)
    failed = a.delegate(b, "fail")
    with pytest.raises(errors.ActionRaised):
        failed.result(SOON_S)
    slow = a.delegate(b, "sleep", 60)
    until(lambda: main.mail.presence()["b"] == "busy")
    told = main.mail.delegations()
    assert [(each.action, each.state) for each in told] == [
        ("add", "done"),
        ("fail", "failed"),
        ("sleep", "begun"),
    ]
    assert "ValueError" in told[1].why
    assert (told[2].id, told[2].sender, told[2].to, told[2].branch) == (slow.id, "a", "b", main.id)
    assert slow.cancel()
    assert main.mail.delegations()[2].state == "cancelled"
    with pytest.raises(errors.UnknownAction):
        a.delegate(b, "fly")
    assert len(main.mail.delegations()) == 3  # what has not begun is none


def test_a_delegation_that_a_fork_has_not_seen_the_end_of_is_lost_there_and_not_where_it_is(
    main, calls: ThreadPoolExecutor
) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Stepper(), name="b")
    before = a.delegate(b, "sleep", 60)
    until(lambda: main.mail.presence()["b"] == "busy")
    forking = calls.submit(main.fork)
    until(lambda: main._running.mail.room._pauses)
    behind = a.delegate(b, "add", 1, other=2)  # waits for its turn behind the fork
    assert before.cancel()
    (fork,) = forking.result(SOON_S)
    assert behind.result(SOON_S) == 3
    assert [each.state for each in main.mail.delegations()] == ["cancelled", "done"]
    states = [each.state for each in fork.mail.delegations()]
    assert states[0] in ("cancelled", "lost")  # its end was noted before the fork was made, or after
    assert states[1:] == ["lost"]
    mine = fork["a"].delegate(fork["b"], "sleep", 60)
    fork.abort()
    with pytest.raises(errors.KiboError):
        mine.result(SOON_S)
    told = fork.mail.delegations()[-1]
    assert told.id == mine.id
    assert told.state in ("failed", "lost")  # its end was noted before the branch was closed, or could not be
    assert told.why


def test_presence_is_apart_from_mail(main) -> None:
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    assert main.mail.presence() == {"a": "idle", "b": "idle"}
    a.send_message(b, 1)
    (fork,) = main.fork()
    assert set(main.mail.presence().values()) <= {"idle", "asleep"}
    b.destroy()
    assert main.mail.presence().get("b") in (None, "ended")
    fork.abort()


def test_a_board_is_read_by_siblings(main) -> None:
    first, second = main.fork(2)
    first.board.post({"oat": False}, author="a")
    (posting,) = second.board.read()
    assert (posting.origin, posting.author, posting.body) == (first.id, "a", {"oat": False})
    first.abort()
    assert main.board.read() == [posting]
    second.commit()


def test_one_that_is_too_far_behind_is_waited_for(
    main, monkeypatch: pytest.MonkeyPatch, calls: ThreadPoolExecutor
) -> None:
    monkeypatch.setattr("kibo.hub.post.MAX_MAILBOX", 1)
    a, b = main.spawn(Plain(), name="a"), main.spawn(Plain(), name="b")
    a.send_message(b, 1)
    with pytest.raises(errors.MailboxFull):
        a.send_message(b, 2)
    sent = calls.submit(a.send_message, b, 2, wait_s=SOON_S)
    message = b.mail.receive()
    assert message is not None
    b.mail.done(message)
    assert [each.state for each in sent.result(SOON_S).deliveries()] == ["accepted"]
