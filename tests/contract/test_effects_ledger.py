"""The ledger of effects and what commits and aborts do to it, over every database."""

from __future__ import annotations

import threading

import pytest

from effect_drafts import draft
from kibo.branch.history import History
from kibo.branch.rows import Flushing
from kibo.effects.ledger import Ledger
from kibo.effects.records import Outcome, key_digest
from kibo.model.errors import BranchStale, EffectUnknown, WrongState
from kibo.store.database import Store

pytestmark = pytest.mark.contract

DONE = Outcome(201, [(b"location", b"/orders/1")], b"paid \x00\xff", True)


@pytest.fixture
def ledger(history: History) -> Ledger:
    return Ledger(history.store)


def states(ledger: Ledger, branch: str | None = None) -> list[str]:
    return [effect.state for effect in ledger.listed(branch)]


def test_what_is_recorded_can_be_read_to_the_byte(ledger: Ledger) -> None:
    body = bytes(range(256)) * 4096
    made = ledger.begin(draft(body=body, key=b"k\xff"), "gw_1")
    assert ledger.answer(made.id, DONE)
    found = ledger.get(made.id)
    assert (found.payload, found.body, found.whole, found.outcome) == (
        draft().payload, body, True, DONE,
    )  # fmt: skip
    assert found.effect.url == "https://shop.example/pay?x=1"
    assert (found.effect.state, found.effect.status, found.effect.digest) == ("done", 201, made.digest)
    assert ledger.get(made.id[:12]).effect == found.effect
    assert made.digest != ledger.begin(draft(body=body + b"."), "gw_1").digest


def test_a_reference_that_names_none_or_several_says_so(ledger: Ledger) -> None:
    one, two = ledger.begin(draft(), "gw_1"), ledger.begin(draft(), "gw_1")
    with pytest.raises(EffectUnknown) as error:
        ledger.get("eff_")
    assert sorted(error.value.details["candidates"]) == sorted([one.id, two.id])
    for ref in ("eff_0" if one.id[4] != "0" != two.id[4] else "eff_x", "", "inst_1", "%", "eff_%"):
        with pytest.raises(EffectUnknown):
            ledger.get(ref)


def test_a_commit_into_a_root_releases_what_its_branch_holds_in_order_and_nothing_of_its_siblings(
    history: History, ledger: Ledger
) -> None:
    main = history.create()
    one, two = history.fork(main.id, 2)
    held = [ledger.hold(draft(branch.id), "gw_1") for branch in (one, two, one)]
    assert states(ledger) == ["held"] * 3
    done = history.commit(one.id)
    assert states(ledger) == ["released", "held", "released"]
    assert list(done.effects) == ledger.listed(main.id)
    assert [each.id for each in ledger.unsent("gw_1") if each.state == "released"] == [held[0].id, held[2].id]
    assert [each.id for each in ledger.listed(main.id)] == [held[0].id, held[2].id]
    assert [each.id for each in ledger.listed(one.id)] == [held[0].id, held[2].id]
    with pytest.raises(BranchStale):
        history.commit(two.id)
    assert states(ledger, two.id) == ["held"]
    history.abort(two.id)
    assert states(ledger, two.id) == ["dropped"]


def test_a_commit_into_a_fork_moves_what_is_held_and_the_forks_own_commit_releases_it(
    history: History, ledger: Ledger
) -> None:
    main = history.create()
    (outer,) = history.fork(main.id)
    (inner,) = history.fork(outer.id)
    ledger.hold(draft(inner.id), "gw_1")
    assert list(history.commit(inner.id).effects) == ledger.listed(outer.id)
    assert [(each.state, each.branch, each.origin) for each in ledger.listed()] == [
        ("held", outer.id, inner.id)
    ]
    history.commit(outer.id)
    assert [(each.state, each.branch, each.origin) for each in ledger.listed()] == [
        ("released", main.id, inner.id)
    ]


def test_an_abort_drops_what_is_held_in_all_that_ends_with_it(history: History, ledger: Ledger) -> None:
    main = history.create()
    (outer,) = history.fork(main.id)
    (inner,) = history.fork(outer.id)
    for branch in (outer, inner):
        ledger.hold(draft(branch.id), "gw_1")
    history.abort(outer.id)
    assert states(ledger) == ["dropped", "dropped"]
    assert {each.reason for each in ledger.listed()} == {"its branch was aborted"}


@pytest.mark.parametrize("end", ["merge", "overwrite"])
def test_every_way_to_commit_releases(history: History, ledger: Ledger, end: str) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    ledger.hold(draft(fork.id), "gw_1")
    history.snapshot(main.id, {"moved": 1})
    theirs = history.snapshot(fork.id, {"theirs": 1})
    if end == "merge":
        history.record_merge(fork.id, {"both": 1}, (history.get(main.id).head, theirs.id))
    else:
        history.commit(fork.id, overwrite=True)
    assert states(ledger) == ["released"]


def test_what_comes_after_the_end_of_its_branch_shares_its_fate(history: History, ledger: Ledger) -> None:
    main = history.create()
    outer, other = history.fork(main.id, 2)
    inner, gone = history.fork(outer.id, 2)
    history.commit(inner.id)
    history.abort(gone.id)
    assert ledger.hold(draft(inner.id), "gw_1").branch == outer.id
    assert ledger.hold(draft(gone.id), "gw_1").state == "dropped"
    history.commit(outer.id)
    late = ledger.hold(draft(inner.id), "gw_1")
    assert (late.state, late.branch) == ("released", main.id)
    assert ledger.hold(draft(other.id), "gw_1").state == "held"


def test_a_released_effect_is_sent_by_one_of_many_who_try(history: History, ledger: Ledger) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    made = ledger.hold(draft(fork.id), "gw_1")
    assert not ledger.send(made.id, made.digest)
    history.commit(fork.id)
    sent: list[bool] = []
    threads = [
        threading.Thread(target=lambda: sent.append(ledger.send(made.id, made.digest))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == [False] * 7 + [True]


def test_a_drop_and_a_commit_that_meet_leave_one_of_them(history: History, ledger: Ledger) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    made = [ledger.hold(draft(fork.id), "gw_1") for _ in range(20)]
    dropped: list[bool] = []
    thread = threading.Thread(target=lambda: dropped.extend(ledger.drop(each.id, "gone") for each in made))
    thread.start()
    history.commit(fork.id)
    thread.join()
    assert [each.state == "dropped" for each in ledger.listed()] == dropped
    assert set(states(ledger)) <= {"dropped", "released"}


def test_what_a_dead_gateway_left_is_dropped_in_doubt_or_left_to_its_heir(
    history: History, ledger: Ledger
) -> None:
    main = history.create()
    held, committed = history.fork(main.id, 2)
    ledger.hold(draft(held.id), "gw_1")
    first, second = (ledger.hold(draft(committed.id), "gw_1") for _ in range(2))
    ledger.begin(draft(), "gw_1")
    ledger.begin(draft(), "gw_2")
    history.commit(committed.id)
    ledger.bury("gw_1")
    assert states(ledger) == ["dropped", "released", "released", "in_doubt", "sending"]
    ledger.bury("gw_1", "gw_3")
    assert [each.id for each in ledger.unsent("gw_3")] == [first.id, second.id]
    assert ledger.unsent("gw_1") == []


def test_what_a_commit_released_that_a_power_cut_took_is_sent_by_nobody(store: Store) -> None:
    before, after = (History(store, Flushing("here", boot)) for boot in ("boot-1", "boot-2"))
    ledger = Ledger(store)
    main = before.create(world={"n": 0})
    (first,) = before.fork(main.id)
    ledger.hold(draft(first.id), "gw_1")
    before.commit(first.id, {"n": 1})
    (outer,) = before.fork(main.id)
    (inner,) = before.fork(outer.id)
    for branch in (inner, outer, outer):
        ledger.hold(draft(branch.id), "gw_1")
    before.commit(inner.id, {"n": 2})
    before.commit(outer.id, {"n": 3}, flushed=False)
    last = ledger.listed()[-1]
    assert ledger.send(last.id, last.digest)
    assert after.recover().reopened == (outer.id,)
    assert states(ledger) == ["released", "failed", "failed", "sending"]
    assert "power cut" in ledger.listed()[1].reason


def test_a_key_stands_for_what_was_sent_with_it_first_in_its_scope(history: History, ledger: Ledger) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    key = key_digest(b"k")
    for _ in range(2):
        ledger.hold(draft(fork.id, key=b"k", scope=main.id), "gw_1")
    ledger.begin(draft(key=b"other", scope=main.id), "gw_1")
    ledger.begin(draft(key=b"k", scope="elsewhere"), "gw_1")
    assert ledger.sent_with(main.id, key) is None  # those that wait have not been sent
    first = ledger.begin(draft(key=b"k", scope=main.id), "gw_1")
    for settle in (lambda: None, lambda: ledger.lose(first.id, "no answer")):
        settle()
        found = ledger.sent_with(main.id, key)
        assert found is not None
        assert found.effect.id == first.id
        with pytest.raises(WrongState):
            ledger.begin(draft(key=b"k", scope=main.id), "gw_2")
    ledger.resolve(first.id, done=False, by="somebody")
    assert ledger.sent_with(main.id, key) is None
    second = ledger.begin(draft(key=b"k", scope=main.id), "gw_2")
    found = ledger.sent_with(main.id, key)
    assert found is not None
    assert found.effect.id == second.id


def test_of_many_gateways_that_send_with_one_key_one_does(history: History, ledger: Ledger) -> None:
    """Each has looked before, and found nothing that was sent with it."""
    main = history.create()
    made = []
    for number in range(6):
        (fork,) = history.fork(main.id)
        made.append(ledger.hold(draft(fork.id, key=b"order-1"), f"gw_{number}"))
        history.commit(fork.id, overwrite=True)
    assert ledger.sent_with("scope", key_digest(b"order-1")) is None
    sent: list[bool] = []
    threads = [
        threading.Thread(target=lambda each=each: sent.append(ledger.send(each.id, each.digest)))
        for each in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sent) == [False] * 5 + [True]
    assert sorted(states(ledger)) == ["released"] * 5 + ["sending"]
    with pytest.raises(WrongState):
        ledger.begin(draft(key=b"order-1"), "gw_7")
    ledger.begin(draft(key=b"order-1", scope="another"), "gw_7")


def test_only_a_person_leads_out_of_doubt_and_only_once(ledger: Ledger) -> None:
    one, two = (ledger.begin(draft(), "gw_1") for _ in range(2))
    with pytest.raises(WrongState, match="sending cannot confirm"):
        ledger.resolve(one.id, done=True, by="ada")
    for each in (one, two):
        assert ledger.lose(each.id, "gone")
    assert not ledger.answer(one.id, DONE)
    assert not ledger.send(one.id, one.digest)
    found = ledger.resolve(one.id, done=True, by="ada")
    assert (found.state, found.reason) == ("done", "ada found that it has happened")
    assert ledger.resolve(two.id, done=False, by="ada").state == "not_done"
    with pytest.raises(WrongState):
        ledger.resolve(one.id, done=False, by="eve")


def test_an_instance_holds_while_one_of_its_requests_is_held(history: History, ledger: Ledger) -> None:
    main = history.create()
    (fork,) = history.fork(main.id)
    assert ledger.waiting(fork.id) == set()
    made = ledger.hold(draft(fork.id), "gw_1")
    assert ledger.waiting(fork.id) == {"inst_1"}
    assert ledger.waiting(main.id) == set()
    ledger.drop(made.id, "gone")
    assert ledger.waiting(fork.id) == set()
