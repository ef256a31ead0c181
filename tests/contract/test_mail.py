"""Mail and the board over every database."""

from __future__ import annotations

import threading

import pytest

from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.hub import board as boards
from kibo.hub.board import Board
from kibo.hub.post import Post
from kibo.model.errors import BranchClosed, Exhausted, MessageInvalid
from letters import handled, post

pytestmark = pytest.mark.contract


def test_letters_are_sent_inherited_and_committed(history: History) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], {"ä": [1, None]}, key="once")
    mail.send("a", [("b", "")], b"\0\xff")
    (fork,) = history.fork(mail.branch)
    theirs = post(history, fork.id)
    assert handled(theirs, "b") == [{"ä": [1, None]}, b"\0\xff"]
    theirs.send("b", [("a", "")], "done")
    history.commit(fork.id)
    mail = post(history, mail.branch)
    assert handled(mail, "b") == []
    assert handled(mail, "a") == ["done"]


def test_a_merge_handles_what_either_side_has_and_sends_once_what_both_have_sent(history: History) -> None:
    mail = post(history)
    mail.send("a", [("b", "")], 1)
    mail.send("a", [("b", "")], 2)
    (fork,) = history.fork(mail.branch)
    theirs = post(history, fork.id)
    for each in (mail, theirs):
        each.send("a", [("b", "")], "both", key="once")
    (first, _), *_ = mail.take(("b", ""), 1)
    mail.settle([first])
    assert handled(theirs, "b") == [1, 2, "both"]
    theirs.send("a", [("b", "")], 3)
    ours, other = history.snapshot(mail.branch), history.snapshot(fork.id)
    history.record_merge(fork.id, {}, (ours.id, other.id))
    assert handled(post(history, mail.branch), "b") == ["both", 3]


def test_several_threads_write_at_once_and_all_is_there(history: History) -> None:
    mail = post(history)

    def send(who: int) -> None:
        for number in range(25):
            mail.send(f"s{who}", [("b", "")], [who, number])

    threads = [threading.Thread(target=send, args=(who,)) for who in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = handled(Post(history.log, mail.branch), "b")
    assert len(found) == 150
    for who in range(6):
        assert [number for sender, number in found if sender == who] == list(range(25))


def test_a_board_is_seen_by_siblings_at_once_and_stays(history: History) -> None:
    root = history.create()
    first, second = history.fork(root.id, 2)
    ours = Board(history.store, root.id, first.id)
    theirs = Board(history.store, root.id, second.id)
    ours.post({"found": 1}, "a")
    theirs.post(b"\0")
    found = theirs.read()
    assert [(each.origin, each.author, each.body) for each in found] == [
        (first.id, "a", {"found": 1}),
        (second.id, "", b"\0"),
    ]
    history.abort(first.id)
    assert ours.read() == found
    assert theirs.read(after=found[0].position) == found[1:]
    with pytest.raises(BranchClosed):
        ours.post("too late")
    assert Board(history.store, history.create().id, root.id).read() == []


def test_a_board_makes_no_fork_stale(history: History) -> None:
    root = history.create()
    (fork,) = history.fork(root.id)
    Board(history.store, root.id, root.id).post(1)
    history.commit(fork.id)


def test_a_board_is_bounded_and_checks_what_it_is_given(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "MAX_BOARD", 1)
    root = history.create()
    board = Board(history.store, root.id, root.id)
    with pytest.raises(MessageInvalid):
        board.post("\ud800")
    board.post(1)
    with pytest.raises(Exhausted):
        board.post(2)


def test_a_board_goes_with_its_tree(history: History) -> None:
    root, other = history.create(), history.create()
    for each in (root, other):
        Board(history.store, each.id, each.id).post(1)
    history.abort(root.id)
    history.collect(Retention(closed_s=0.0), names=lambda _world: [])
    assert Board(history.store, root.id, root.id).read() == []
    assert len(Board(history.store, other.id, other.id).read()) == 1
