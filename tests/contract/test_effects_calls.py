"""Calls of actions in the ledger, and what commits, aborts and deaths do to them, over every database."""

from __future__ import annotations

import threading

import pytest

from effect_drafts import call, draft
from kibo.branch.history import History
from kibo.branch.rows import Flushing
from kibo.effects.calls import Calls, Found
from kibo.effects.ledger import Ledger
from kibo.effects.records import PACK, Effect, Outcome
from kibo.model.errors import BranchClosed, WrongState
from kibo.store.database import Store

pytestmark = pytest.mark.contract


@pytest.fixture
def ledger(history: History) -> Ledger:
    return Ledger(history.store)


@pytest.fixture
def calls(history: History) -> Calls:
    return Calls(history.store)


def begun(calls: Calls, *args: str, **more: str | None) -> Effect:
    made = calls.begin(call(*args, **more), "call_1")  # type: ignore[arg-type]
    assert isinstance(made, Effect)
    return made


def done(calls: Calls, *args: str, **more: str | None) -> Effect:
    made = begun(calls, *args, **more)
    calls.returned(made.id, PACK.encode("ok"))
    return made


def states(ledger: Ledger) -> list[str]:
    return [effect.state for effect in ledger.listed()]


def test_a_call_is_recorded_with_its_arguments_and_what_it_returned(ledger: Ledger, calls: Calls) -> None:
    made = done(calls, room="7")
    exact = ledger.get(made.id)
    assert (exact.effect.state, exact.effect.method, exact.effect.url) == ("done", "CALL", "Inn.take")
    assert (exact.payload, exact.body) == (call().payload, PACK.encode({"room": "7"}))
    assert exact.outcome == Outcome(0, [], PACK.encode("ok"), True)
    assert exact.effect.status is None
    assert made.digest != begun(calls, room="8").digest


def test_an_abort_owes_what_can_be_undone_and_forgets_what_was_held(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    (outer,) = history.fork(main.id)
    (inner,) = history.fork(outer.id)
    done(calls, main.id)
    first, second = done(calls, outer.id), done(calls, inner.id)
    begun(calls, inner.id)
    done(calls, inner.id, undo=None)
    begun(calls, outer.id, undo=None)
    history.abort(outer.id)
    assert states(ledger) == ["done", "not_undone", "not_undone", "sending", "dropped", "dropped"]
    listed = [each.effect for each in calls.to_undo([outer.id, inner.id])]
    assert [each.id for each in listed if each.state == "not_undone"] == [second.id, first.id]
    assert calls.undo(second.id, "call_1")
    assert not calls.undo(second.id, "call_2")
    calls.undone(second.id, "free() did")
    assert calls.undo(first.id, "call_1")
    calls.stick(first.id, "free() raised")
    assert states(ledger)[1:3] == ["not_undone", "undone"]
    assert ledger.settle_undone(first.id, by="ada").state == "undone"
    with pytest.raises(WrongState):
        ledger.settle_undone(first.id, by="eve")


def test_what_a_call_returns_after_its_branch_was_aborted_is_to_be_undone_and_no_call_begins(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    late, lost = begun(calls, fork.id), begun(calls, fork.id)
    history.abort(fork.id)
    calls.returned(late.id, None)
    calls.lost(lost.id, "it died")
    assert states(ledger) == ["not_undone", "in_doubt"]
    with pytest.raises(BranchClosed):
        begun(calls, fork.id)
    assert ledger.resolve(lost.id, done=True, by="ada").state == "not_undone"


@pytest.mark.parametrize("end", ["commit", "merge", "overwrite"])
def test_every_way_to_commit_hands_what_was_done_to_the_parent_and_moves_its_head(
    history: History, ledger: Ledger, calls: Calls, end: str
) -> None:
    main = history.create()
    (outer,) = history.fork(main.id)
    inner, other = history.fork(outer.id, 2)
    done(calls, inner.id)
    begun(calls, inner.id, undo=None)
    ledger.begin(draft(inner.id), "gw_1")
    before = history.get(outer.id).head
    if end == "merge":
        theirs = history.snapshot(inner.id, {"theirs": 1})
        finished = history.record_merge(inner.id, {"both": 1}, (before, theirs.id))
    else:
        finished = history.commit(inner.id, overwrite=end == "overwrite")
    assert finished.effects == ()
    assert {each.branch for each in ledger.listed()} == {outer.id}
    assert history.get(outer.id).head != before
    assert history.get(other.id).status == "stale"
    history.abort(outer.id)
    assert states(ledger) == ["not_undone", "dropped", "sending"]


def test_a_key_is_seen_by_its_branch_and_those_below_it_and_not_by_siblings(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    one, two = history.fork(main.id, 2)
    first = done(calls, one.id, key="k", scope=main.id)
    (below,) = history.fork(one.id)
    for branch in (one, below):
        found = calls.begin(call(branch.id, key="k", scope=main.id), "call_1")
        assert isinstance(found, Found)
        assert (found.exact.effect.id, found.owner) == (first.id, "call_1")
    begun(calls, two.id, key="k", scope=main.id)
    begun(calls, main.id, key="k", scope=main.id)
    begun(calls, one.id, key="other", scope=main.id)
    begun(calls, key="k")
    assert isinstance(calls.begin(call(key="k"), "call_2"), Found)
    history.abort(one.id)
    assert states(ledger)[0] == "not_undone"


def test_one_of_many_who_begin_with_one_key_does(calls: Calls) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(calls.begin(call(key="k"), "call_1"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert sum(isinstance(each, Effect) for each in found) == 1


def test_what_raised_has_not_happened_unless_a_request_of_it_may_have(ledger: Ledger, calls: Calls) -> None:
    for status, state in ((None, "in_doubt"), (200, "in_doubt"), (503, "in_doubt"), (402, "failed")):
        made = begun(calls)
        part = ledger.begin(draft(within=made.id), "gw_1")
        if status is not None:
            ledger.answer(part.id, Outcome(status, [], b"", True))
        calls.raised(made.id, "it broke")
        assert ledger.get(made.id).effect.state == state
    made = begun(calls)
    calls.raised(made.id, "it broke")
    assert ledger.get(made.id).effect.state == "failed"


def test_what_a_call_that_is_over_was_waiting_with_is_dropped_before_a_commit_could_release_it(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    raised, lost = (begun(calls, fork.id, undo=None) for _ in range(2))
    for each in (raised, lost):
        ledger.hold(draft(fork.id, within=each.id), "gw_1")
    calls.raised(raised.id, "it broke")
    calls.lost(lost.id, "it died")
    assert states(ledger) == ["failed", "dropped", "dropped", "dropped"]
    assert history.commit(fork.id).effects == ()
    released = begun(calls, main.id)
    (other,) = history.fork(main.id)
    ledger.hold(draft(other.id, within=released.id), "gw_1")
    history.commit(other.id)
    calls.raised(released.id, "it broke")
    assert states(ledger)[-2:] == ["in_doubt", "released"]


def test_what_is_lost_in_a_fork_and_cannot_be_undone_was_held_and_has_not_happened(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    one, two = history.fork(main.id, 2)
    inside, committed, rooted = (begun(calls, each.id, undo=None) for each in (one, two, main))
    history.commit(two.id)
    for each in (inside, committed, rooted):
        calls.lost(each.id, "it died")
    assert states(ledger) == ["dropped", "in_doubt", "in_doubt"]


def test_what_a_dead_process_left_is_in_doubt_or_to_be_undone_and_what_is_kept_or_in_a_root_stays(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    main = history.create()
    one, kept, aborted = history.fork(main.id, 3)
    for branch in (main, one, kept, aborted):
        done(calls, branch.id)
    begun(calls, one.id)
    begun(calls)
    history.abort(aborted.id)
    assert calls.undo(ledger.listed(aborted.id)[0].id, "call_1")
    calls.keep(kept.id)
    for _ in range(2):
        calls.bury("call_1")
        assert states(ledger) == ["done", "not_undone", "done", "not_undone", "in_doubt", "in_doubt"]
    assert "may be undone" in ledger.listed(aborted.id)[0].reason


def test_what_a_power_cut_takes_a_commit_of_is_its_branchs_again(store: Store) -> None:
    before, after = (History(store, Flushing("here", boot)) for boot in ("boot-1", "boot-2"))
    ledger, calls = Ledger(store), Calls(store)
    main = before.create(world={"n": 0})
    (outer,) = before.fork(main.id)
    (inner,) = before.fork(outer.id)
    done(calls, inner.id)
    done(calls, outer.id)
    before.commit(inner.id, {"n": 1})
    before.commit(outer.id, {"n": 2}, flushed=False)
    assert {each.branch for each in ledger.listed()} == {main.id}
    assert after.recover().reopened == (outer.id,)
    assert {each.branch for each in ledger.listed()} == {outer.id}
    calls.bury("call_1")
    assert states(ledger) == ["not_undone", "not_undone"]


@pytest.mark.parametrize("who", ["verify", "a person"])
@pytest.mark.parametrize("happened", [True, False])
def test_what_is_found_out_about_a_call_is_found_out_about_its_requests_in_doubt(
    ledger: Ledger, calls: Calls, who: str, happened: bool
) -> None:
    made = begun(calls, undo=None)
    for answered in (True, False):
        part = ledger.begin(draft(within=made.id), "gw_1")
        if answered:
            ledger.answer(part.id, Outcome(200, [], b"", True))
    alone = ledger.begin(draft(), "gw_1")
    ledger.bury("gw_1")
    calls.bury("call_1")
    assert states(ledger) == ["in_doubt", "done", "in_doubt", "in_doubt"]
    if who == "a person":
        ledger.resolve(made.id, done=happened, by="ada")
    elif happened:
        calls.confirm(made.id, PACK.encode("receipt"), "find() says so")
    else:
        calls.deny(made.id, "find() says so")
    found = "done" if happened else "not_done"
    assert states(ledger) == [found, "done", found, "in_doubt"]
    assert ledger.get(alone.id).effect.reason != ledger.get(made.id).effect.reason
    outcome = ledger.get(made.id).outcome
    assert (outcome is not None) == (happened and who == "verify")


def test_a_call_of_which_a_request_is_on_its_way_has_not_failed_to_happen_yet(
    ledger: Ledger, calls: Calls
) -> None:
    made = begun(calls, undo=None)
    part = ledger.begin(draft(within=made.id), "gw_1")
    calls.lost(made.id, "it ran out of time")
    assert not calls.deny(made.id, "find() says so")
    with pytest.raises(WrongState, match="is still on its way"):
        ledger.resolve(made.id, done=False, by="ada")
    assert states(ledger) == ["in_doubt", "sending"]
    ledger.answer(part.id, Outcome(503, [], b"", True))
    assert calls.deny(made.id, "find() says so")
    assert states(ledger) == ["not_done", "done"]


@pytest.mark.parametrize("end", ["lose", "bury"])
@pytest.mark.parametrize("found_out", [True, False])
def test_what_is_lost_after_its_call_was_found_out_is_what_that_is(
    ledger: Ledger, calls: Calls, end: str, found_out: bool
) -> None:
    made = begun(calls, undo=None)
    part = ledger.begin(draft(within=made.id), "gw_1")
    if found_out:
        calls.lost(made.id, "it ran out of time")
        calls.confirm(made.id, None, "find() says so")
    else:
        calls.returned(made.id, PACK.encode("what the program made of no answer"))
    if end == "lose":
        assert ledger.lose(part.id, "no answer")
    else:
        ledger.bury("gw_1")
    assert states(ledger) == ["done", "done" if found_out else "in_doubt"]
