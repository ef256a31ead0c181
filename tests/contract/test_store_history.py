"""Branches, snapshots and the log, over every database."""

from __future__ import annotations

import threading

import pytest

from contract.test_store import run
from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.branch.rows import Flushing
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    BranchTaken,
    BranchUnknown,
    InvalidInput,
    KiboError,
    NotFound,
    SnapshotUnknown,
    WrongState,
)


def bodies(history, of, **more):
    return [entry.body.decode() for entry in history.log.read(of, limit=10_000, **more)]


def names(world):
    return world.get("deltas", ())


def test_a_branch_sees_its_own_entries_and_its_ancestors_and_no_siblings(history):
    main = history.create(goal="tests pass")
    history.log.append(main.id, "note", b"before")
    one, two = history.fork(main.id, 2, names=["one", "two"])
    history.log.append(one.id, "note", b"one")
    history.log.append(two.id, "note", b"two")
    deeper = history.fork(one.id)[0]
    history.log.append(deeper.id, "note", b"deeper")
    assert bodies(history, one.id) == ["before", "one"]
    assert bodies(history, two.id) == ["before", "two"]
    assert bodies(history, deeper.id) == ["before", "one", "deeper"]
    assert bodies(history, main.id) == ["before"]
    assert [e.seq for e in history.log.read(deeper.id)] == [1, 2, 3]
    assert (one.name, one.parent, one.tree, one.goal) == ("one", main.id, main.id, "")


def test_entries_of_branches_that_write_in_turns_are_told_apart(history):
    main = history.create()
    sides = history.fork(main.id, 2)
    for turn in range(6):
        for number, side in enumerate(sides):
            history.log.extend(side.id, [("note", f"{number}.{turn}".encode())] * 2)
            if turn % 2:  # a segment whose entries lie apart, each time
                history.snapshot(side.id, {"turn": turn})
    for number, side in enumerate(sides):
        wanted = [f"{number}.{turn}" for turn in range(6) for _ in range(2)]
        assert bodies(history, side.id) == wanted
        for first in range(1, 13):
            newest = history.log.newest(side.id, 5, before=first)
            assert [entry.body.decode() for entry in newest] == wanted[max(0, first - 6) : first - 1]


def test_two_lines_part_at_the_last_entry_that_both_have(history):
    main = history.create()
    sealed = []
    for number in range(300):  # further back than one row knows
        history.log.append(main.id, "note", str(number).encode())
        sealed.append(history.snapshot(main.id, {"n": number}).id)
    one, two = history.fork(main.id, 2)
    history.log.extend(one.id, [("note", b"one")] * 200)
    history.log.append(two.id, "note", b"two")
    parting = history.log.parting
    assert parting(one.id, two.id) == parting(two.id, one.id) == parting(one.id, main.id) == 300
    assert parting(one.id, one.id) == 500
    assert [parting(sealed[number], two.id) for number in (0, 150, 299)] == [1, 151, 300]
    history.record_merge(two.id, {}, (history.get(main.id).head, history.snapshot(two.id, {"t": 1}).id))
    assert bodies(history, main.id)[300:] == ["two"]
    assert parting(main.id, one.id) == 300
    assert parting(history.create().id, main.id) == 0


def test_a_merge_of_many_segments_keeps_their_order(history):
    main = history.create()
    (side,) = history.fork(main.id)
    for number in range(300):  # more than one copy takes at once
        history.log.extend(side.id, [("note", str(number).encode())] * (1 + number % 2))
        history.snapshot(side.id, {"n": number})
    history.log.append(main.id, "note", b"main")
    history.record_merge(side.id, {"n": "both"}, (history.get(main.id).head, history.get(side.id).head))
    wanted = ["main", *(str(number) for number in range(300) for _ in range(1 + number % 2))]
    history.log.append(main.id, "note", b"after")
    assert bodies(history, main.id) == [*wanted, "after"]
    assert [e.body.decode() for e in history.log.newest(main.id, 100, before=300)] == wanted[199:299]


def test_a_commit_shows_all_of_the_child_at_once_and_makes_its_siblings_stale(history):
    main = history.create(world={"n": 0})
    one, two = history.fork(main.id, 2)
    history.log.append(one.id, "note", b"one")
    done = history.commit(one.id, {"n": 1})
    assert done.fast_forward
    assert done.head == history.get(main.id).head == history.get(one.id).result
    assert bodies(history, main.id) == ["one"]
    assert history.get_snapshot(done.head).world == {"n": 1}
    assert (history.get(one.id).status, history.get(two.id).status) == ("committed", "stale")
    with pytest.raises(BranchStale) as refused:
        history.commit(two.id, {"n": 2})
    assert refused.value.details["moved_by"] == one.id
    assert history.get(two.id).status == "stale"
    assert history.get(two.id).head == done.before


def test_what_a_parent_writes_or_seals_makes_its_forks_stale(history):
    main = history.create()
    first, second = history.fork(main.id, 2)
    history.log.append(main.id, "note", b"the parent goes on")
    assert history.get(first.id).status == "stale"
    with pytest.raises(BranchStale):
        history.commit(first.id)
    later = history.fork(main.id)[0]
    assert history.get(second.id).status == "stale"
    assert history.get(later.id).status == "open"
    history.snapshot(main.id, {"x": 1})
    assert history.get(later.id).status == "stale"


def test_nested_branches_commit_into_their_own_parent(history):
    main = history.create()
    outer = history.fork(main.id)[0]
    inner = history.fork(outer.id)[0]
    history.log.append(inner.id, "note", b"inner")
    history.commit(inner.id, {"by": "inner"})
    assert bodies(history, main.id) == []
    assert bodies(history, outer.id) == ["inner"]
    history.commit(outer.id)
    assert bodies(history, main.id) == ["inner"]
    assert history.get_snapshot(history.get(main.id).head).world == {"by": "inner"}


def test_a_turn_that_changed_nothing_makes_no_snapshot(history):
    main = history.create(world={"b": 1, "a": 2})
    assert history.snapshot(main.id, {"a": 2, "b": 1}).id == main.head
    assert history.snapshot(main.id).id == main.head
    history.log.append(main.id, "note", b"x")
    assert history.snapshot(main.id).id != main.head
    assert [one.kind for one in history.snapshots(main.id)] == ["turn", "root"]


def test_closed_branches_can_be_read_and_not_changed(history):
    main = history.create()
    won, lost = history.fork(main.id, 2)
    history.log.append(lost.id, "note", b"lost")
    history.commit(won.id)
    history.abort(lost.id)
    for branch in (won, lost):
        for change in (
            lambda b=branch: history.log.append(b.id, "note", b"late"),
            lambda b=branch: history.snapshot(b.id, {"late": 1}),
            lambda b=branch: history.commit(b.id),
            lambda b=branch: history.fork(b.id),
            lambda b=branch: history.claim(b.id),
        ):
            with pytest.raises(BranchClosed):
                change()
    assert bodies(history, lost.id) == ["lost"]
    assert history.abort(lost.id) == []
    with pytest.raises(BranchClosed):
        history.abort(won.id)


def test_an_abort_ends_everything_below(history):
    main = history.create()
    outer = history.fork(main.id)[0]
    inner = history.fork(outer.id, 2)
    deepest = history.fork(inner[0].id)[0]
    history.commit(inner[0].id)
    assert set(history.abort(outer.id)) == {outer.id, inner[1].id, deepest.id}
    assert history.get(main.id).status == "open"


def test_a_commit_into_a_closed_parent_is_refused(history):
    main = history.create()
    outer = history.fork(main.id)[0]
    inner = history.fork(outer.id)[0]
    history.commit(outer.id)
    assert history.get(inner.id).status == "stale"
    with pytest.raises(BranchClosed) as refused:
        history.commit(inner.id)
    assert refused.value.details["branch"] == outer.id


def test_an_older_writer_changes_nothing_once_another_has_claimed_the_branch(history):
    main = history.create()
    branch = history.fork(main.id)[0]
    old = history.claim(branch.id)
    history.log.append(branch.id, "note", b"mine", epoch=old)
    new = history.claim(branch.id)
    for change in (
        lambda: history.log.append(branch.id, "note", b"late", epoch=old),
        lambda: history.snapshot(branch.id, {"late": 1}, epoch=old),
        lambda: history.commit(branch.id, epoch=old),
        lambda: history.fork(branch.id, epoch=old),
        lambda: history.abort(branch.id, epoch=old),
    ):
        with pytest.raises(BranchTaken):
            change()
    assert bodies(history, branch.id) == ["mine"]
    history.snapshot(branch.id, {"new": 1}, epoch=new)
    history.commit(branch.id, epoch=new)


def test_a_stale_branch_can_be_refused_a_snapshot_in_the_same_transaction(history):
    main = history.create()
    one, two = history.fork(main.id, 2)
    assert history.snapshot(two.id, {"x": 1}, if_fresh=True).world == {"x": 1}
    history.commit(one.id, {"y": 1})
    with pytest.raises(BranchStale):
        history.snapshot(two.id, {"x": 2}, if_fresh=True)
    assert history.snapshot(two.id, {"x": 2}).world == {"x": 2}  # to be merged


def test_a_merge_puts_theirs_after_ours_marked_with_their_origin(history):
    main = history.create()
    history.log.append(main.id, "note", b"base")
    one, two = history.fork(main.id, 2)
    nested = history.fork(two.id)[0]
    history.log.append(one.id, "note", b"one")
    history.log.append(nested.id, "note", b"nested")
    history.log.append(two.id, "note", b"two")
    history.record_merge(nested.id, {"m": 1}, (history.get(two.id).head, history.get(nested.id).head))
    history.commit(one.id)
    ours, theirs = history.get(main.id).head, history.get(two.id).head
    done = history.record_merge(two.id, {"merged": True}, (ours, theirs))
    found = history.log.read(main.id)
    assert [(e.seq, e.body, e.origin) for e in found] == [
        (1, b"base", None),
        (2, b"one", None),
        (3, b"two", two.id),
        (4, b"nested", nested.id),
    ]
    merged = history.get_snapshot(done.head)
    assert (merged.kind, merged.parent, merged.other, merged.world) == (
        "merge",
        ours,
        theirs,
        {"merged": True},
    )
    assert history.get(two.id).status == "committed"
    assert [e.body for e in history.log.newest(main.id, 2)] == [b"two", b"nested"]


def test_a_merge_computed_from_older_heads_is_refused(history):
    main = history.create()
    branch = history.fork(main.id)[0]
    ours, theirs = history.get(main.id).head, branch.head
    history.snapshot(main.id, {"moved": 1})
    with pytest.raises(BranchStale):
        history.record_merge(branch.id, {}, (ours, theirs))
    assert history.get(branch.id).status == "stale"


def test_overwriting_leaves_what_was_there_named(history):
    main = history.create()
    one, two = history.fork(main.id, 2)
    history.log.append(one.id, "note", b"one")
    history.commit(one.id, {"n": 1})
    history.log.append(main.id, "note", b"unsealed")
    history.log.append(two.id, "note", b"two")
    done = history.commit(two.id, {"n": 2}, overwrite=True)
    assert not done.fast_forward
    assert bodies(history, main.id) == ["two"]
    assert history.get_snapshot(done.head).world == {"n": 2}
    assert history.get_snapshot(done.head).other == done.before
    assert bodies(history, done.before) == ["one", "unsealed"]
    history.log.append(main.id, "note", b"on")
    assert bodies(history, main.id) == ["two", "on"]


def test_overwriting_a_parent_that_has_not_moved_is_a_plain_commit(history):
    main = history.create()
    branch = history.fork(main.id)[0]
    done = history.commit(branch.id, {"n": 1}, overwrite=True)
    assert done.fast_forward
    assert history.get_snapshot(done.head).kind == "turn"


def test_any_snapshot_can_be_checked_out(history):
    main = history.create()
    history.log.append(main.id, "note", b"1")
    first = history.snapshot(main.id, {"n": 1})
    history.log.append(main.id, "note", b"2")
    history.snapshot(main.id, {"n": 2})
    branch = history.at(first.id, name="again")
    assert (branch.parent, branch.status, branch.head) == (main.id, "stale", first.id)
    assert bodies(history, branch.id) == ["1"]
    assert [b.status for b in history.fork(main.id, 2, at=first.id)] == ["stale", "stale"]
    newest = history.at(history.get(main.id).head)
    assert newest.status == "open"
    history.finish(main.id)
    assert history.at(first.id).parent is None
    other = history.create()
    with pytest.raises(SnapshotUnknown):
        history.fork(other.id, at=first.id)


def message(name, *, inside=False):
    return "hub.sent", {"id": name, "sender": "a", "to": [["b", ""]], "inside": inside}


def test_a_branch_that_its_process_has_left_goes_back_to_its_head_with_what_it_was_sent(history):
    main = history.create(world={"deltas": ["base"]})
    history.log.append(main.id, "context.user", b"sealed")
    head = history.snapshot(main.id, {"deltas": ["head"]})
    (fork,) = history.fork(main.id)
    drafts = [message("m1"), ("context.user", b"lost"), message("m2", inside=True), message("m3")]
    history.log.extend(main.id, drafts)
    epoch = history.get(main.id).epoch
    made = history.rewind(main.id)
    assert made.parent == head.id
    assert made.world == {"deltas": ["head"]}
    assert [(e.seq, e.value["id"]) for e in history.log.read(main.id, after=1)] == [(2, "m1"), (3, "m3")]
    assert history.unflushed() == [made.id]
    found = history.get(main.id)
    assert (found.head, found.unsealed) == (made.id, 0)
    with pytest.raises(BranchTaken):  # whoever had it before, should it not be gone
        history.log.append(main.id, "note", b"late", epoch=epoch)
    (undone,) = [each for each in history.children(main.id) if each.id != fork.id]
    assert (undone.name, undone.status, undone.base) == ("unsealed", "aborted", head.id)
    assert bodies(history, undone.id, after=1)[1] == "lost"
    assert [e.seq for e in history.log.read(undone.id)] == [1, 2, 3, 4, 5]
    again = history.at(made.id, ref=main.id)
    history.log.append(again.id, "note", b"on")
    history.commit(again.id)
    assert bodies(history, main.id)[-1] == "on"
    assert history.rewind(main.id) is None
    history.collect(Retention(closed_s=0), names=names)
    with pytest.raises(BranchUnknown):
        history.get(undone.id)
    assert len(history.log.everything()) == len(history.log.read(main.id))


def test_forks_can_be_committed_again_once_their_parent_is_back_where_they_began(history):
    main = history.create(world={"deltas": ["base"]})
    (fork,) = history.fork(main.id)
    history.log.append(main.id, *message("m1", inside=True))
    assert history.get(fork.id).status == "stale"
    assert history.rewind(main.id) is None
    assert history.get(fork.id).status == "open"
    history.commit(fork.id)


def test_of_a_branch_without_instances_all_stands(history):
    main = history.create()
    history.log.extend(main.id, [("context.user", b"said"), message("m1", inside=True)])
    made = history.rewind(main.id)
    assert (made.entries, history.get(main.id).unsealed) == (2, 0)
    assert history.children(main.id) == []


def test_labels_are_unique_in_their_tree_and_move(history):
    main, other = history.create(), history.create()
    first = history.snapshot(main.id, {"n": 1}, "validated")
    assert first.labels == ("validated",)
    second = history.snapshot(main.id, {"n": 2}, "validated")
    history.label(second.id, "Validated")
    history.label(other.head, "validated")
    assert history.labels(main.id) == {"validated": second.id, "Validated": second.id}
    assert history.get_snapshot(first.id).labels == ()
    assert history.find_snapshot("validated", tree=main.id).id == second.id
    with pytest.raises(SnapshotUnknown, match="several"):
        history.find_snapshot("validated")
    history.unlabel(other.id, "validated")
    assert history.find_snapshot("validated").id == second.id
    with pytest.raises(NotFound):
        history.unlabel(other.id, "validated")
    for bad in ("snap_12", "x" * 201, "new\nline"):
        with pytest.raises(InvalidInput):
            history.label(first.id, bad)


def test_branches_and_snapshots_are_found_by_what_people_call_them(history):
    main = history.create()
    branch = history.fork(main.id, names=["fix ✓ ünïcode"])[0]
    assert history.get(branch.id) == history.get(branch.id[:20]) == history.get(branch.id[3:20])
    assert history.get("fix ✓ ünïcode").id == branch.id
    assert history.find_snapshot(main.head[:20]).id == history.find_snapshot(main.id).id == main.head
    history.fork(main.id, names=["twice"])
    history.fork(main.id, names=["twice"])
    with pytest.raises(BranchUnknown, match="several") as refused:
        history.get("twice")
    assert len(refused.value.details["candidates"]) == 2
    for unknown in ("", "br_", "nobody", "Twice", "br_ffffffffffffffffffffffff", "%"):
        with pytest.raises(BranchUnknown):
            history.get(unknown)
    with pytest.raises(SnapshotUnknown):
        history.find_snapshot("nothing")
    assert [b.id for b in history.tree(branch.id)][:2] == [main.id, branch.id]


def test_a_root_is_finished_and_not_committed(history):
    main = history.create()
    with pytest.raises(WrongState, match="root"):
        history.commit(main.id)
    branch = history.fork(main.id)[0]
    with pytest.raises(WrongState, match="parent"):
        history.finish(branch.id)
    history.finish(main.id)
    assert history.get(main.id).status == "committed"


def test_bad_input_is_refused_before_anything_happens(history):
    main = history.create()
    for bad in (
        lambda: history.fork(main.id, 0),
        lambda: history.fork(main.id, 10_001),
        lambda: history.fork(main.id, names=["a\0b"]),
        lambda: history.snapshot(main.id, {"x": float("nan")}),
        lambda: history.snapshot(main.id, {"x": object()}),
        lambda: history.snapshot(main.id, {"x": "y" * (1 << 20)}),
        lambda: history.log.append(main.id, "Bad Kind", b""),
        lambda: history.log.append(main.id, "x" * 65, b""),
        lambda: history.log.append(main.id, "note", {"x": {1, 2}}),
        lambda: history.log.append(main.id, "note", bytes((4 << 20) + 1)),
        lambda: history.log.newest(main.id, 0),
    ):
        with pytest.raises(InvalidInput):
            bad()
    assert history.get(main.id) == main
    assert history.children(main.id) == []
    with pytest.raises(BranchUnknown):
        history.log.newest("br_ffffffffffffffffffffffff")
    with pytest.raises(SnapshotUnknown):
        history.log.read("snap_ffffffffffffffffffffffff")


def test_entries_keep_bytes_values_kinds_and_order(history):
    main = history.create()
    drafts = [
        ("context.user", {"text": "ä\0€"}),
        ("context.tool_call", [1, None]),
        ("files", bytes(range(256))),
    ]
    drafts += [("contextual", b""), ("context", b"top")]
    assert history.log.extend(main.id, drafts) == range(1, 6)
    assert history.log.extend(main.id, []) == range(6, 6)
    found = history.log.read(main.id)
    assert [(e.kind, e.value) for e in found[:2]] == drafts[:2]
    assert found[2].body == bytes(range(256))
    assert [e.seq for e in history.log.newest(main.id, kinds=["context"])] == [1, 2, 5]
    assert [e.seq for e in history.log.read(main.id, kinds=["context.tool_call", "files"])] == [2, 3]
    assert [e.seq for e in history.log.newest(main.id, 2, before=4)] == [2, 3]
    assert history.log.length(main.id) == 5
    history.log.append(main.id, "large", bytes(4 << 20))
    assert len(history.log.newest(main.id, 1)[0].body) == 4 << 20
    assert [e.seq for e in history.log.everything(after=found[2].position, limit=2)] == [4, 5]


def test_a_deep_lineage_is_read_from_either_end(history):
    main = history.create()
    history.log.append(main.id, "rare", b"0")
    branch, expected = main, ["0"]
    for number in range(1, 300):  # more than one list of segments holds
        if number % 3 == 0:
            branch = history.fork(branch.id)[0]
        if number % 7 != 0:
            history.log.append(branch.id, "note", str(number).encode())
            expected.append(str(number))
        history.snapshot(branch.id, {"n": number})
    assert bodies(history, branch.id) == expected
    assert [e.body.decode() for e in history.log.newest(branch.id, 100)] == expected[-100:]
    assert [e.body.decode() for e in history.log.newest(branch.id, 40, before=60)] == expected[19:59]
    assert [e.body for e in history.log.newest(branch.id, 1, kinds=["rare"])] == [b"0"]
    read, after = [], 0
    while page := history.log.read(branch.id, after=after, limit=37):
        read += [e.body.decode() for e in page]
        after = page[-1].seq
    assert read == expected
    half = history.snapshots(branch.id)[50]
    assert bodies(history, half.id) == expected[: half.seq]


def test_of_many_threads_exactly_one_sibling_wins(history):
    main = history.create()
    siblings = history.fork(main.id, 16)
    results: list[str] = []
    ready = threading.Barrier(len(siblings))

    def commit(branch):
        ready.wait()
        try:
            history.commit(branch.id, {"by": branch.id})
            results.append(branch.id)
        except BranchStale:
            results.append("")

    threads = [threading.Thread(target=commit, args=(branch,)) for branch in siblings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 16
    (winner,) = filter(None, results)
    assert history.get_snapshot(history.get(main.id).head).world == {"by": winner}
    statuses = [branch.status for branch in history.children(main.id)]
    assert (statuses.count("committed"), statuses.count("stale")) == (1, 15)


def test_of_many_processes_exactly_one_sibling_wins_each_round(history, url):
    main = history.create()
    program = f"""
from kibo.branch.history import History
from kibo.store.database import Store
from kibo.model.errors import BranchStale
history, won = History(Store.open(url)), 0
for _ in range(20):
    branch = history.fork({main.id!r})[0]
    try:
        history.log.append(branch.id, "note", b"x")
        history.commit(branch.id)
        won += 1
    except BranchStale:
        history.abort(branch.id)
print(won)
"""
    won = sum(map(int, run(url, program, count=4)))
    assert 1 <= won <= 80
    assert history.log.length(main.id) == won
    statuses = [branch.status for branch in history.children(main.id)]
    assert statuses.count("committed") == won
    assert len(history.snapshots(main.id)) == won + 1


def test_appends_of_several_processes_to_one_branch_keep_their_order(history, url):
    main = history.create()
    program = f"""
import os
from kibo.branch.history import History
from kibo.store.database import Store
log = History(Store.open(url)).log
for number in range(30):
    log.append({main.id!r}, "note", [os.getpid(), number])
"""
    run(url, program, count=4)
    found = history.log.read(main.id)
    assert [e.seq for e in found] == list(range(1, 121))
    for process in {e.value[0] for e in found}:
        assert [e.value[1] for e in found if e.value[0] == process] == list(range(30))


def test_ten_thousand_siblings(history):
    main = history.create()
    siblings = history.fork(main.id, 10_000)
    assert len({branch.id for branch in siblings}) == 10_000
    history.commit(siblings[5000].id, {"n": 1})
    found = history.children(main.id)
    assert sum(branch.status == "stale" for branch in found) == 9_999
    assert len(history.abort(main.id)) == 10_000


def test_what_nothing_reaches_is_collected_and_its_resources_named_until_they_are_gone(history):
    main = history.create(world={"deltas": ["base"]})
    won, lost, kept, pinned = history.fork(main.id, 4)
    for branch in (won, lost, kept, pinned):
        history.log.append(branch.id, "note", branch.id.encode())
    history.snapshot(lost.id, {"deltas": ["base", "lost"]})
    history.log.append(lost.id, "note", b"unsealed")
    kept_at = history.snapshot(kept.id, {"deltas": ["base", "kept"]}, "keep this")
    pinned_at = history.snapshot(pinned.id, {"deltas": ["base", "pinned"]})
    history.pin(pinned_at.id, "a test")
    history.commit(won.id, {"deltas": ["base", "won"]})
    for branch in (lost, kept, pinned):
        history.abort(branch.id)
    assert history.collect(names=names).branches == ()  # the week is not over
    now = Retention(closed_s=0)
    assert {world["deltas"][-1] for _, world in history.reachable()} == {
        "base",
        "won",
        "lost",
        "kept",
        "pinned",
    }
    done = history.collect(now, names=names)
    assert set(done.branches) == {won.id, lost.id, kept.id, pinned.id}
    assert (done.snapshots, done.entries, done.resources) == (1, 2, ("lost",))
    assert history.collect(now, names=names).resources == ("lost",)
    history.released(done.resources)
    assert history.collect(now, names=names).resources == ()
    assert {world["deltas"][-1] for _, world in history.reachable()} == {"base", "won", "kept", "pinned"}
    assert bodies(history, main.id) == [won.id]
    assert bodies(history, kept_at.id) == [kept.id]
    with pytest.raises(BranchUnknown):
        history.get(lost.id)
    history.unpin(pinned_at.id, "a test")
    history.unlabel(main.id, "keep this")
    assert history.collect(now, names=names).resources == ("kept", "pinned")
    assert [e.body.decode() for e in history.log.everything()] == [won.id]


def test_a_pin_ends_by_itself_and_a_closed_parent_stays_for_its_children(history):
    main = history.create()
    outer = history.fork(main.id)[0]
    inner = history.fork(outer.id)[0]
    history.abort(inner.id)
    again = history.fork(outer.id)[0]
    history.commit(outer.id, {"deltas": ["outer"]})
    now = Retention(closed_s=0)
    assert history.collect(now, names=names).branches == (inner.id,)
    assert history.get(again.id).status == "stale"
    history.pin(history.snapshot(again.id, {"deltas": ["again"]}).id, "briefly", ttl_s=-1)
    history.abort(again.id)
    done = history.collect(now, names=names)
    assert (set(done.branches), done.resources) == ({again.id, outer.id}, ("again",))


def test_thinning_lets_files_go_and_keeps_the_log(history):
    main = history.create(world={"deltas": ["d0"]})
    for number in range(1, 10):
        history.log.append(main.id, "note", str(number).encode())
        history.snapshot(main.id, {"deltas": [f"d{number}"]}, "five" if number == 5 else "")
    branch = history.fork(main.id)[0]
    history.snapshot(main.id, {"deltas": ["d10"]})
    done = history.collect(Retention(worlds=1), names=names)
    assert done.snapshots == 0
    assert set(done.resources) == {f"d{n}" for n in range(9)} - {"d5"}
    assert bodies(history, main.id) == [str(n) for n in range(1, 10)]
    thinned = history.snapshots(main.id)[-1]
    assert (thinned.state, thinned.world) == ("thinned", None)
    with pytest.raises(WrongState, match="retention"):
        history.at(thinned.id)
    history.commit(branch.id, {"deltas": ["d11"]}, overwrite=True)


def test_nothing_starts_from_a_snapshot_while_it_is_collected(history):
    main = history.create()
    for _ in range(5):
        branch = history.fork(main.id)[0]
        doomed = history.snapshot(branch.id, {"deltas": [branch.id]})
        history.abort(branch.id)
        outcomes: list[object] = []

        def start(snapshot=doomed, outcomes=outcomes):
            try:
                outcomes.append(history.at(snapshot.id))
            except SnapshotUnknown as error:
                outcomes.append(error)

        thread = threading.Thread(target=start)
        thread.start()
        done = history.collect(Retention(closed_s=0), names=names)
        thread.join()
        if isinstance(outcomes[0], KiboError):
            assert done.resources == (branch.id,)
        else:  # it was first: its files are still named
            assert done.resources == ()
            assert history.get_snapshot(outcomes[0].head).world == {"deltas": [branch.id]}
            history.abort(outcomes[0].id)
            done = history.collect(Retention(closed_s=0), names=names)
        history.released(done.resources)


def test_a_power_cut_moves_heads_back_over_whole_commits_and_a_killed_process_does_not(store):
    before, after = (History(store, Flushing("here", boot)) for boot in ("boot-1", "boot-2"))
    elsewhere = History(store, Flushing("there", "boot-9"))
    main = before.create(world={"n": 0})
    safe = before.snapshot(main.id, {"n": 1})
    won, other = before.fork(main.id, 2)
    before.snapshot(won.id, {"n": 2})  # flushed, but half of what is committed
    before.log.append(won.id, "note", b"won")
    before.commit(won.id, {"n": 3}, flushed=False)
    lost = before.snapshot(other.id, {"m": 1}, "lost", flushed=False)
    kept = before.snapshot(other.id, {"m": 2}, flushed=False)
    before.mark_flushed(kept.id)
    far = elsewhere.create()
    elsewhere.snapshot(far.id, {"far": 1}, flushed=False)
    assert before.recover().lost == ()  # the same boot: a process was killed, its files are in memory still
    assert before.get(main.id).seq == 1
    done = after.recover()
    assert set(done.moved) == {main.id, won.id}
    assert done.reopened == (won.id,)
    assert done.labels == (f"{main.id}/lost",)
    assert after.get(main.id).head == safe.id
    assert (after.get(won.id).status, after.get_snapshot(after.get(won.id).head).world) == ("open", {"n": 2})
    assert bodies(after, main.id) == bodies(after, won.id) == []
    assert after.get(other.id).head == kept.id
    assert after.get_snapshot(lost.id).state == "lost"
    with pytest.raises(WrongState, match="power cut"):
        after.at(lost.id)
    assert after.get_snapshot(after.get(far.id).head).world == {"far": 1}
    assert after.recover().lost == ()
    after.log.append(won.id, "note", b"again")
    after.commit(won.id, {"n": 3})
    assert bodies(after, main.id) == ["again"]


def test_a_merge_or_an_overwrite_whose_files_were_lost_has_not_happened(store):
    before, after = (History(store, Flushing("here", boot)) for boot in ("boot-1", "boot-2"))
    for overwrite in (False, True):
        main = before.create(world={"n": 0})
        one, two = before.fork(main.id, 2)
        before.log.append(one.id, "note", b"one")
        ours = before.commit(one.id, {"n": 1}).head
        before.log.append(two.id, "note", b"two")
        theirs = before.snapshot(two.id, {"n": 2})
        if overwrite:
            before.commit(two.id, overwrite=True, flushed=False)
        else:
            before.record_merge(two.id, {"n": 3}, (ours, theirs.id), flushed=False)
        assert "two" in bodies(before, main.id)
        assert after.recover().reopened == (two.id,)
        assert after.get(main.id).head == ours
        assert bodies(after, main.id) == ["one"]
        assert after.get(two.id).status == "stale"
        assert bodies(after, two.id) == ["two"]


def test_an_exported_snapshot_becomes_a_tree_of_its_own(history):
    main = history.create(world={"deltas": ["a"]})
    history.log.extend(main.id, [("note", f"ü{number}") for number in range(1100)])
    branch = history.fork(main.id)[0]
    history.log.append(branch.id, "files", bytes(range(256)))
    head = history.snapshot(branch.id, {"deltas": ["a", "b"]})
    lines = list(history.export(head.id))
    there = history.import_snapshot(lines, goal="go on", name="copy")
    assert (there.parent, there.name, there.goal, there.status) == (None, "copy", "go on", "open")
    assert history.get_snapshot(there.head).world == {"deltas": ["a", "b"]}
    ours = [(e.seq, e.kind, e.body, e.at_s) for e in history.log.read(head.id, limit=2000)]
    assert [(e.seq, e.kind, e.body, e.at_s) for e in history.log.read(there.id, limit=2000)] == ours
    renamed = history.import_snapshot((line + "\n" for line in lines), world={"deltas": ["z"]})
    assert history.get_snapshot(renamed.head).world == {"deltas": ["z"]}
    history.log.append(there.id, "note", b"on")
    assert history.log.length(there.id) == 1102


def test_a_torn_or_changed_export_is_refused_entirely(history):
    main = history.create()
    history.log.extend(main.id, [("note", b"a"), ("note", b"b")])
    lines = list(history.export(history.snapshot(main.id).id))
    for bad in (
        [],
        lines[:-1],
        lines[1:],
        [lines[0], lines[2], lines[1], lines[3]],
        [lines[0], lines[1], lines[3]],
        [lines[0], lines[1].replace("note", "lies"), *lines[2:]],
        ["{", *lines[1:]],
        ["[]", *lines[1:]],
    ):
        with pytest.raises(InvalidInput, match="not a whole"):
            history.import_snapshot(bad)
    assert len(history.roots()) == 1
    assert len(history.log.everything()) == 2
