"""Mail from inside of boxes: what `me` and `kibo-box` receive, read, post and delegate, and in which branch."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import kibo
from caller_boxes import Asking, Hearing, Planner, Writer
from kibo import MaySpawn, MayTalk, aio
from kibo.branch.branch import Branch
from kibo.runtime.instance import Instance
from letter_boxes import Listener, Plain, Reader, Stepper
from patience import eventually

SOON_S = 20.0
#: Receives one message, and says that it is done.
TAKE = """
message = me.receive(timeout_s=20)
result = [message.body, message.event, message.attempt]
me.done(message)
"""


def states(receipt: Any) -> list[str]:
    return [each.state for each in receipt.deliveries()]


@pytest.fixture
def box(main: Branch) -> Instance:
    return main.spawn(Asking(), name="box")


@pytest.fixture
def plain(main: Branch) -> Instance:
    return main.spawn(Plain(), name="plain")


# -- receiving


def test_code_in_a_box_takes_its_messages_in_order_and_says_when_each_is_done(box: Any, plain: Any) -> None:
    assert box.run("result = me.receive()") is None
    first, second = plain.send_message(box, {"n": 1}), plain.send_message(box, b"\0")
    found = box.run(
        "one = me.receive()\nresult = [one.body, one.sender, one.to, me.receive()]\n"
        "me.failed(one, 'not now')\n"
        "one = me.receive(timeout_s=20)\nresult += [one.attempt]\nme.done(one)\nresult += [me.receive().body]"
    )
    assert found == [{"n": 1}, "plain", "box", None, 2, b"\0"]
    assert states(first) == ["consumed"]
    assert states(second) == ["delivered"]
    assert box.try_to_ask("settle", {"message": first.id})[0] == "message.unknown"


def test_a_box_waits_for_a_message_and_answers_a_request(
    box: Any, plain: Any, calls: ThreadPoolExecutor
) -> None:
    answering = calls.submit(
        box.run, "m = me.receive(timeout_s=20)\nme.send_message(m.sender, m.body + 1, reply_to=m.id)"
    )
    assert plain.request(box, 1, timeout_s=SOON_S) == 2
    answering.result(SOON_S)


def test_a_box_that_handles_messages_by_a_method_does_not_take_them_besides(main: Branch) -> None:
    hearing = main.spawn(Hearing())
    code, message, hint = hearing.try_to_ask("receive", {})
    assert (code, "itself" in message) == ("input.invalid", True)
    assert "on_message" in hint
    with pytest.raises(kibo.KiboError, match="itself"):
        hearing.mail.receive()


def test_what_a_program_keeps_for_too_long_is_delivered_again(box: Any, plain: Any) -> None:
    receipt = plain.send_message(box, 1)
    found = box.run(
        "one = me.receive(hold_s=0.05)\ntwo = me.receive(timeout_s=20)\nresult = [one.id == two.id, two.attempt]\n"
        "me.done(two)"
    )
    assert found == [True, 2]
    assert states(receipt) == ["consumed"]


def test_a_program_that_ends_in_the_middle_loses_nothing_and_keeps_the_order(box: Any, plain: Any) -> None:
    """A reader that dies mid-batch: with the first of three in its hands."""
    receipts = [plain.send_message(box, number) for number in range(3)]
    take = "python3 -IS -c 'pass'; kibo-box call receive --json '{\"hold_s\": 0.2}' >/dev/null; kill -9 $$"
    assert box.exec(take).returncode == -9
    assert states(receipts[0]) == ["delivered"]
    found = [box.run(TAKE) for _ in receipts]
    assert found == [[0, "", 2], [1, "", 1], [2, "", 1]]
    assert [states(receipt) for receipt in receipts] == [["consumed"]] * 3


def test_a_message_whose_receiver_went_away_while_it_waited_counts_as_not_delivered(
    box: Any, plain: Any
) -> None:
    gone = """
import socket
from kibo.runtime import wire
sock = socket.socket(socket.AF_UNIX)
sock.connect(me.SOCKET)
sock.sendall(wire.pack(["receive", {"timeout_s": 20}]))
me.progress(1)  # answered behind it: the other is under way
sock.close()
"""
    box.run(gone)
    receipt = plain.send_message(box, 1)
    eventually(lambda: states(receipt) == ["accepted"] and receipt.deliveries()[0].attempts == 0)
    assert box.run(TAKE) == [1, "", 1]


def test_shells_take_messages_by_kibo_box(box: Any, main: Branch, plain: Any) -> None:
    assert box.exec("kibo-box receive").returncode == 75
    receipt = plain.send_message(box, "to a shell")
    done = box.exec("kibo-box receive 20")
    message = json.loads(done.stdout)
    assert (message["body"], message["id"]) == ("to a shell", receipt.id)
    assert box.exec(["kibo-box", "done", message["id"]]).returncode == 0
    assert states(receipt) == ["consumed"]
    assert json.loads(box.exec("kibo-box send plain hello").stdout).startswith("msg_")
    assert plain.mail.receive().body == "hello"
    box.exec("kibo-box subscribe 'order.>'")
    box.exec("kibo-box publish order.paid '{\"n\": 2}'")
    assert json.loads(box.exec("kibo-box receive 20").stdout)["body"] == {"n": 2}
    assert box.exec("kibo-box receive soon").returncode == 65
    main.board.post("seen")
    assert json.loads(box.exec("kibo-box board").stdout)["body"] == "seen"
    assert box.exec("kibo-box post mine").returncode == 77


# -- events


def test_a_box_subscribes_while_it_runs_and_gets_each_event_once(main: Branch, box: Any, plain: Any) -> None:
    names = box.run("result = [me.subscribe('order.*'), me.subscribe('order.>'), me.subscribe('order.*')]")
    assert names == ["=order.*", "=order.>", "=order.*"]
    plain.publish_event("order.paid", 1)
    plain.publish_event("other")
    plain.send_message(box, "a message")
    assert [box.run(TAKE) for _ in range(2)] == [[1, "order.paid", 1], ["a message", "", 1]]
    assert box.run("result = me.receive()") is None
    box.run("me.unsubscribe('=order.*'); me.unsubscribe('=order.>')")
    assert plain.publish_event("order.paid").deliveries() == []


def test_events_that_a_box_subscribed_to_come_to_its_method_for_messages(main: Branch, plain: Any) -> None:
    hearing = main.spawn(Hearing(), name="hearing")
    hearing.run("me.subscribe('bell')")
    assert [each.state for each in plain.publish_event("bell", 3).wait(timeout_s=SOON_S)] == ["consumed"]
    assert hearing.run("result = self.kept") == [["bell", 3]]


def test_of_a_group_that_boxes_made_one_gets_each_event(main: Branch, plain: Any) -> None:
    boxes = [main.spawn(Asking(), name=name) for name in ("one", "two")]
    for each in boxes:
        each.run("me.subscribe('work.>', group='workers')")
    for number in range(4):
        plain.publish_event("work.now", number)
    found = [
        each.run("result = []\nwhile m := me.receive(): result.append(m.body); me.done(m)") for each in boxes
    ]
    assert sorted(found[0] + found[1]) == list(range(4))
    assert all(found)


# -- looking


def test_a_box_reads_its_receipts_its_dead_letters_and_what_was_sent(
    main: Branch, box: Any, plain: Any
) -> None:
    reader = main.spawn(Reader(), name="reader")
    found = box.run(
        "sent = me.send_message('reader', 1)\n"
        "result = [each.state for each in me.wait(sent)] + [each.to for each in me.receipt(sent)]"
    )
    assert found == ["consumed", "reader"]
    theirs = plain.send_message(reader, "between others")
    receipt = plain.send_message(box, "bad")
    plain.publish_event("bell", "an event")
    for _ in range(5):
        box.run("m = me.receive(timeout_s=20); me.failed(m, 'cannot')")
    assert box.run("result = [[each.message.body, each.why] for each in me.dead()]") == [["bad", "cannot"]]
    assert box.run("result = [each.body for each in me.sent()]") == [1, "bad", "an event"]
    assert box.run(f"result = me.redeliver({receipt.id!r})") == 1
    assert box.run(TAKE) == ["bad", "", 1]
    assert box.try_to_ask("receipt", {"message": theirs.id})[0] == "message.unknown"
    assert box.run("result = me.presence()") == {"box": "busy", "plain": "idle", "reader": "idle"}


# -- branches


def test_a_fork_has_what_was_unread_and_what_it_took_comes_with_its_commit(
    main: Branch, box: Any, plain: Any
) -> None:
    plain.send_message(box, "before")
    one, two = main.fork(2)
    one[plain].send_message(box, "in one")
    assert [one[box].run(TAKE)[0] for _ in range(2)] == ["before", "in one"]
    assert two[box].run(TAKE)[0] == "before"
    assert two[box].run("result = me.receive()") is None
    one.commit()
    assert box.run("result = me.receive()") is None
    assert plain.mail.receive() is None


def test_a_branch_with_forks_gives_its_boxes_no_message_that_would_make_them_stale(
    main: Branch, box: Any, plain: Any
) -> None:
    receipt = plain.send_message(box, 1)
    (fork,) = main.fork()
    assert box.run("result = me.receive()") is None
    assert states(receipt) == ["accepted"]
    fork.abort()
    assert box.run(TAKE) == [1, "", 1]


def test_a_message_that_a_program_has_when_its_branch_is_forked_is_there_in_the_fork_too(
    main: Branch, box: Any, plain: Any
) -> None:
    plain.send_message(box, 1)
    box.run("self.kept = me.receive(hold_s=600)")
    (fork,) = main.fork()
    assert fork[box].run(TAKE) == [1, "", 2]
    box.run("me.done(self.kept)")
    assert box.run("result = me.receive()") is None


def test_what_a_box_takes_after_a_commit_is_given_back_in_the_parent(
    main: Branch, box: Any, plain: Any
) -> None:
    plain.send_message(box, 1)
    (fork,) = main.fork()
    fork[box].run("me.receive(hold_s=0.3)")
    fork.commit()
    assert box.run(TAKE) == [1, "", 2]


def test_the_board_is_read_by_all_branches_and_written_in_the_boxs_own_name(main: Branch) -> None:
    writer = main.spawn(Writer(), name="writer")
    one, two = main.fork(2)
    one[writer].run("me.board.post({'found': 1})")
    (entry,) = two[writer].run("result = [each.as_dict() for each in me.board.read()]")
    assert (entry["body"], entry["author"], entry["origin"]) == ({"found": 1}, "writer", one.id)
    one.abort()
    assert [each.body for each in main.board.read()] == [{"found": 1}]
    assert two[writer].run(f"result = me.board.read(after={entry['position']})") == []
    assert main.spawn(Asking()).try_to_ask("post", {"body": 1})[0] == "policy.denied"


def test_what_a_box_in_a_branch_spawned_says_nothing_outside_of_it(main: Branch) -> None:
    class Speaking(Asking):
        rights = [MayTalk()]

    class Boss(Asking):
        rights = [MaySpawn(Speaking)]

    boss = main.spawn(Boss(), name="boss")
    (fork,) = main.fork()
    with Listener().spawn() as outside:
        outside.publish_event("nothing")  # it is known by now
        found = fork[boss].run(
            "result = []\nwith me.spawn('Speaking') as it:\n"
            "    for verb, arguments in (('publish', {'event': 'bell'}), ('receive', {}), ('presence', {}),\n"
            f"                            ('sent', {{}}), ('send', {{'to': '{outside.id}', 'body': 1}})):\n"
            "        result.append(it.try_to_ask(verb, arguments)[0])"
        )
        assert found == ["state.wrong"] * 5
        assert outside.hearing() == []


# -- waiting for each other


def test_a_fork_lets_an_action_have_the_answer_that_it_waits_for(
    main: Branch, calls: ThreadPoolExecutor
) -> None:
    """Whoever forks has the turn of the one that is asked, and waits for that of the one that asks."""
    asking, reader = main.spawn(Asking(), name="b"), main.spawn(Reader(), name="a")
    asking.send_message(reader, "the branch has mail").wait(timeout_s=SOON_S)
    ask = """
import os, time
end = time.monotonic() + 15
while not os.path.exists("/work/GO") and time.monotonic() < end:
    time.sleep(0.005)
result = me.request("a", {"return": 7}, timeout_s=30)
"""
    asked = calls.submit(asking.run, ask.replace("GO", "fork"))
    eventually(lambda: asking._conversation.turn.held)
    forking = calls.submit(main.fork)
    eventually(lambda: main._running.mail.room._pauses)
    asking.exec("mkdir -p /work; touch /work/fork")
    assert asked.result(SOON_S) == 7
    (fork,) = forking.result(SOON_S)
    # So does a commit.
    asked = calls.submit(fork[asking].run, ask.replace("GO", "commit"))
    eventually(lambda: fork[asking]._conversation.turn.held)
    room = fork._running.mail.room
    committing = calls.submit(fork.commit)
    eventually(lambda: room._pauses)
    fork[asking].exec("touch /work/commit")
    assert asked.result(SOON_S) == 7
    committing.result(SOON_S)


# -- delegating


def test_a_box_delegates_and_hears_of_progress(main: Branch) -> None:
    boss = main.spawn(Writer(), name="boss")
    main.spawn(Stepper(), name="stepper")
    assert boss.run("result = list(me.delegate('stepper', 'walk', 3))") == [0, 1, 2]
    found = boss.run(
        "def do():\n    return (yield from me.delegate('stepper', 'add', 1, other=2))\n"
        "it = do()\ntry:\n    next(it)\nexcept StopIteration as end:\n    result = end.value"
    )
    assert found == 3
    assert boss.try_to_ask("delegate", {"to": "stepper", "action": "fail"})[0] == "action.raised"
    told = boss.run("result = [[each.action, each.state, each.seq] for each in me.delegations()]")
    assert [each[:2] for each in told] == [["walk", "done"], ["add", "done"], ["fail", "failed"]]
    later = boss.run(f"result = [each.action for each in me.delegations(after={told[1][2]})]")
    assert later == ["fail"]
    other = main.spawn(Writer(), name="other")
    assert other.run("result = me.delegations()") == []  # another's are another's
    assert boss.try_to_ask("delegate", {"to": "boss", "action": "run", "args": [""]})[0] == "input.invalid"
    assert main.spawn(Planner()).try_to_ask("delegate", {"to": "stepper", "action": "add"})[0] == (
        "policy.denied"
    )


def test_what_a_program_delegated_ends_with_the_program(main: Branch) -> None:
    boss, stepper = main.spawn(Writer(), name="boss"), main.spawn(Stepper(), name="stepper")
    call = json.dumps({"to": "stepper", "action": "walk", "args": [1_000_000_000]})
    assert boss.exec(f"kibo-box call delegate --json '{call}' | head -1").stdout == "0\n"
    eventually(lambda: stepper.status == "running" and not stepper._conversation.turn.held)
    assert stepper.add(1, 2) == 3


def test_a_quota_bounds_what_a_box_writes_and_not_what_it_may_not(main: Branch) -> None:
    writer, plain = main.spawn(Writer(), name="writer"), main.spawn(Plain(), name="plain")
    assert writer.try_to_ask("send", {"to": "nobody", "body": "x" * 150_000})[0] == "instance.unknown"
    assert writer.try_to_ask("send", {"to": "plain", "body": "x" * 150_000})[0] == ""
    code, message, hint = writer.try_to_ask("post", {"body": "x" * 100_000})
    assert (code, "200000 bytes" in message, "mail_bytes" in hint) == ("limit", True, True)
    assert writer.try_to_ask("post", {"body": "small"})[0] == ""
    assert len(plain.mail.receive().body) == 150_000


@pytest.mark.anyio
async def test_for_coroutines_it_is_the_same() -> None:
    async with aio.branch("to be tested") as main:
        box, plain = await main.spawn(Asking(), name="box"), await main.spawn(Plain(), name="plain")
        await plain.send_message(box, 1)
        assert await box.run(TAKE) == [1, "", 1]
        await box.run("me.subscribe('bell')")
        await plain.publish_event("bell", 2)
        (fork,) = await main.fork()
        assert await fork[box].run(TAKE) == [2, "bell", 1]
        await fork.commit()
        assert await box.run("result = me.receive()") is None


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
