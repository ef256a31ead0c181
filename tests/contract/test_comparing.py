"""What differs between two worlds besides their files, over every database."""

from __future__ import annotations

from typing import Any

from contexts import context
from kibo.branch.comparing import Comparison, compare
from kibo.branch.history import History
from kibo.branch.points import Side
from kibo.hub.post import Post
from kibo.model.ids import BranchId, SnapshotId

BOX = ("b", "")


def between(history: History, one: str, two: str) -> Comparison:
    return compare(history, iter(()), _side(history, one), _side(history, two))


def _side(history: History, of: str) -> Side:
    if of.startswith(BranchId.prefix):
        return Side(BranchId(of), history.get_snapshot(history.get(of).head))
    return Side(SnapshotId(of), history.get_snapshot(of))


def messages(found: Comparison) -> list[tuple[Any, ...]]:
    return [
        (each.kind, each.message.body, *([one.state for one in side] for side in (each.before, each.after)))
        for each in found.messages
    ]


def consume(post: Post) -> None:
    post.settle([letter for letter, _ in post.take(BOX)])


def test_a_message_has_changed_where_one_side_has_handled_it_since(history: History) -> None:
    main = history.create()
    Post(history.log, main.id).send("a", [BOX], "old")
    one, two = history.fork(main.id, 2)
    consume(Post(history.log, two.id))
    Post(history.log, two.id).send("a", [BOX], "new")
    assert messages(between(history, one.id, two.id)) == [
        ("changed", "old", ["accepted"], ["consumed"]),
        ("added", "new", [], ["accepted"]),
    ]
    assert messages(between(history, two.id, main.id)) == [
        ("removed", "new", ["accepted"], []),
        ("changed", "old", ["consumed"], ["accepted"]),
    ]
    consume(Post(history.log, one.id))
    assert messages(between(history, one.id, two.id)) == [("added", "new", [], ["accepted"])]


def test_a_message_that_a_merge_brought_is_the_same_on_both_sides(history: History) -> None:
    main = history.create()
    (side,) = history.fork(main.id)
    context(history, side.id).user("said")
    Post(history.log, side.id).send("a", [BOX], "sent")
    context(history, main.id).user("meanwhile")
    heads = (history.snapshot(main.id).id, history.snapshot(side.id).id)
    history.record_merge(side.id, {}, heads)
    assert [entry.origin for entry in history.log.read(main.id)] == [None, side.id, side.id]
    consume(Post(history.log, main.id))
    found = between(history, heads[1], main.id)
    assert [(each.kind, each.item.text) for each in found.context] == [("added", "meanwhile")]
    assert messages(found) == [("changed", "sent", ["accepted"], ["consumed"])]
    assert not between(history, main.id, main.id)


def test_of_a_branch_all_that_was_written_counts_and_of_a_snapshot_what_it_sealed(history: History) -> None:
    main = history.create()
    context(history, main.id).user("sealed")
    sealed = history.snapshot(main.id, {"n": 1}, "label").id
    context(history, main.id).user("since")
    found = between(history, sealed, main.id)
    assert [(each.kind, each.item.text) for each in found.context] == [("added", "since")]
    found = between(history, main.id, history.snapshots(sealed)[-1].id)
    assert [(each.kind, each.item.text) for each in found.context] == [
        ("removed", "sealed"),
        ("removed", "since"),
    ]
    assert [(each.kind, each.item) for each in found.labels] == [("removed", "label")]
