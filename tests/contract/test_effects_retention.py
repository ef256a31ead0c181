"""What of the ledger is let go of, and what never is, over every database."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import select

from effect_drafts import call, draft
from kibo.branch.history import History
from kibo.branch.reach import Retention
from kibo.effects import retention
from kibo.effects.calls import Calls, Found
from kibo.effects.ledger import Ledger
from kibo.effects.lifecycle import ENDED, STATES
from kibo.effects.records import PACK, Draft, Effect, Outcome
from kibo.model.errors import EffectUnknown
from kibo.model.limits import KEY_STANDS_S
from kibo.store.database import Store
from kibo.store.prepared import Prepared
from kibo.store.schema import call_keys

pytestmark = pytest.mark.contract

DAY = 86_400.0
_KEYS = Prepared(select(call_keys.c.name))


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store)


@pytest.fixture
def calls(store: Store) -> Calls:
    return Calls(store)


def sent(ledger: Ledger, given: Draft) -> Effect:
    made = ledger.begin(given, "gw_1")
    assert ledger.answer(made.id, Outcome(200, [], b"receipt", True))
    return made


def called(calls: Calls, given: Draft) -> Effect:
    made = calls.begin(given, "call_1")
    assert isinstance(made, Effect)
    calls.returned(made.id, PACK.encode("ok"))
    return made


def keys(store: Store) -> int:
    return len(store.read(lambda tx: tx.rows(_KEYS)))


def collect(store: Store, later_s: float = DAY, ended_s: float = 0.0) -> int:
    """Collects at a time to come, and has foreseen just that."""
    now = time.time() + later_s
    planned = retention.foreseen(store, ended_s, (), now=now)
    assert retention.collect(store, ended_s, now=now) == planned
    return planned


def one_of_each(ledger: Ledger, calls: Calls, branch: str) -> dict[str, str]:
    """Records an effect in each state that there is, in a branch that is no root."""
    made: dict[str, str] = {"held": ledger.hold(draft(branch), "gw_1").id}
    made["asking"] = ledger.hold(draft(approve_within_s=60.0), "gw_1").id
    made["released"] = ledger.hold(draft(), "gw_1").id
    made["sending"] = ledger.begin(draft(), "gw_1").id
    made["done"] = sent(ledger, draft()).id
    made["dropped"] = ledger.hold(draft(branch), "gw_1").id
    ledger.drop(made["dropped"], "no")
    made["failed"] = ledger.hold(draft(), "gw_1").id
    ledger.fail(made["failed"], "no")
    for state in ("in_doubt", "not_done"):
        made[state] = ledger.begin(draft(), "gw_1").id
        ledger.lose(made[state], "who knows")
    ledger.resolve(made["not_done"], done=False, by="ada")
    made["replayed"] = ledger.replayed(draft(), "gw_1", Outcome(200, [], b"", True)).id
    for state in ("not_undone", "undoing", "undone"):
        made[state] = called(calls, call(branch)).id
    calls.owe([branch], "it is over")
    for state in ("undoing", "undone"):
        assert calls.undo(made[state], "call_1")
    calls.undone(made["undone"], "free() did")
    assert {state: ledger.get(effect).effect.state for state, effect in made.items()} == {
        state: state for state in STATES
    }
    return made


def test_what_has_ended_goes_and_what_anybody_has_to_do_something_about_stays(
    store: Store, ledger: Ledger, calls: Calls
) -> None:
    made = one_of_each(ledger, calls, "br_gone")
    assert collect(store, 1000 * DAY, ended_s=2000 * DAY) == 0, "nothing has ended so long ago"
    assert collect(store, 1000 * DAY) == len(ENDED)
    left = {effect.id for effect in ledger.listed()}
    assert left == {effect for state, effect in made.items() if state not in ENDED}
    assert collect(store, 1000 * DAY) == 0
    with pytest.raises(EffectUnknown):
        ledger.get(made["done"])


def test_what_a_branch_has_stays_as_long_as_it_is_there(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    store = history.store
    main = history.create()
    won, lost = history.fork(main.id, 2)
    paid = sent(ledger, draft(main.id))
    taken = called(calls, call(won.id))
    given_up = ledger.hold(draft(lost.id), "gw_1")
    history.commit(won.id)
    history.abort(lost.id)
    history.collect(Retention(closed_s=100 * DAY), names=lambda _world: ())
    assert collect(store) == 0
    planned = history.foreseen(Retention(closed_s=-1.0), names=lambda _world: ()).branches
    assert retention.foreseen(store, 0.0, planned, now=time.time() + DAY) == 1
    assert set(history.collect(Retention(closed_s=-1.0), names=lambda _world: ()).branches) == set(planned)
    assert collect(store) == 1, "what the aborted one asked for"
    assert [effect.id for effect in ledger.listed()] == [paid.id, taken.id]
    assert given_up.id not in {effect.id for effect in ledger.listed()}
    history.finish(main.id)
    history.collect(Retention(closed_s=-1.0), names=lambda _world: ())
    assert collect(store) == 2


def test_a_key_of_a_tree_stands_as_long_as_anything_of_that_tree_is_there(
    history: History, ledger: Ledger, calls: Calls
) -> None:
    store = history.store
    main = history.create()
    (lost,) = history.fork(main.id)
    given = call(lost.id, key="k", scope=main.id)
    called(calls, given)
    request = sent(ledger, draft(lost.id, key=b"r", scope=main.id))
    history.label(history.get(main.id).head, "here")
    history.abort(lost.id)
    assert calls.undo(given.id, "call_1")
    calls.undone(given.id, "free() did")
    for end in (lambda: None, lambda: history.finish(main.id)):
        end()
        history.collect(Retention(closed_s=-1.0), names=lambda _world: ())
        assert collect(store, 1000 * DAY) == 0
    found = ledger.sent_with(main.id, str(draft(key=b"r").key))
    assert found is not None
    assert found.effect.id == request.id
    history.unlabel(main.tree, "here")
    history.collect(Retention(closed_s=-1.0), names=lambda _world: ())
    assert keys(store) == 1
    assert collect(store) == 2
    assert keys(store) == 0


def test_outside_of_branches_a_key_stands_for_its_time_and_then_names_something_new(
    store: Store, ledger: Ledger, calls: Calls
) -> None:
    first = called(calls, call(key="k"))
    sent(ledger, draft(key=b"k", scope="inst_1"))
    sent(ledger, draft(scope="inst_1"))
    assert collect(store, KEY_STANDS_S - DAY) == 1, "that without a key"
    found = calls.begin(call(key="k"), "call_2")
    assert isinstance(found, Found)
    assert found.exact.effect.id == first.id
    assert collect(store, KEY_STANDS_S + DAY) == 2
    assert keys(store) == 0
    called(calls, call(key="k"))
    assert keys(store) == 1


def test_a_key_that_a_second_call_has_stays_when_the_first_goes(store: Store, calls: Calls) -> None:
    first = calls.begin(call(key="k"), "call_1")
    assert isinstance(first, Effect)
    calls.raised(first.id, "no")
    assert isinstance(calls.begin(call(key="k"), "call_1"), Effect)
    assert collect(store, KEY_STANDS_S + DAY) == 1
    assert keys(store) == 1


def test_the_requests_of_a_call_go_after_it_and_stay_with_it(
    store: Store, ledger: Ledger, calls: Calls
) -> None:
    going, kept = called(calls, call()), calls.begin(call(key="k"), "call_1")
    assert isinstance(kept, Effect)
    for each in (going, kept):
        sent(ledger, draft(within=each.id))
    assert collect(store) == 2
    assert [effect.within for effect in ledger.listed()] == [None, kept.id]


def test_many_go_in_several_transactions_and_none_is_forgotten(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_BATCH_BYTES", 3000)
    kept = [ledger.begin(draft(), "gw_1").id]
    for number in range(8):
        sent(ledger, draft(body=b"x" * (1000 if number % 2 else 4000)))
    kept.append(ledger.begin(draft(), "gw_1").id)
    assert collect(store) == 8
    assert [effect.id for effect in ledger.listed()] == kept
