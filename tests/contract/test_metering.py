"""Runs and effects counted from the store, over every database: each once, whoever has written it and whenever."""

from __future__ import annotations

import threading

import pytest

from contract.test_schedule_store import House
from effect_drafts import call, draft
from kibo.branch.history import History
from kibo.effects.ledger import Ledger
from kibo.effects.metering import Count, StoredEffects
from kibo.effects.records import Outcome
from kibo.model.errors import StoreUnavailable
from kibo.schedule import rows
from kibo.schedule.metering_store import StoredRuns
from kibo.schedule.request import Request
from kibo.store.database import Store, Transaction
from kibo.store.positions import OVERLAP, Reader
from kibo.store.prepared import Row

pytestmark = pytest.mark.contract


def test_runs_are_counted_once_and_again_by_whoever_begins_anew(store: Store) -> None:
    house, runs = House(store), StoredRuns(store)
    first = house.runs.submit(Request(b"work", tenant="ada"))
    runs.catch_up()
    then = house.runs.submit(Request(b"work", tenant="bob", after=(first,)))
    house.start(first)
    house.succeed(first)
    for _ in range(3):
        runs.catch_up()
    assert runs.meter.changes == {
        ("ada", "submit", "queued"): 1,
        ("ada", "place", "starting"): 1,
        ("ada", "succeed", "done"): 1,
        ("bob", "submit", "waiting"): 1,
    }
    assert runs.meter.open() == {("bob", "waiting"): 1}
    house.runs.cancel(then)
    runs.catch_up()
    anew = StoredRuns(store)
    anew.catch_up()
    assert anew.meter.changes == runs.meter.changes
    assert [sum(each.total.counts) for each in anew.meter.times.values()] == [1, 1]


@pytest.mark.parametrize("database_server", ["postgresql", "mariadb"], indirect=True)
def test_what_is_written_late_below_what_was_read_is_counted_too(store: Store) -> None:
    """Where several write at once, as on all but SQLite, a position can appear after a higher one."""
    house, runs = House(store), StoredRuns(store)
    ids = [house.runs.submit(Request(b"work", tenant=tenant)) for tenant in ("ada", "bob")]
    written, go_on = threading.Event(), threading.Event()

    def late(tx: Transaction) -> None:
        rows.write_event(tx, ids[0], "cancel", 0.0, {})
        written.set()
        assert go_on.wait(20)

    thread = threading.Thread(target=lambda: store.write(late))
    thread.start()
    assert written.wait(20)
    house.runs.cancel(ids[1])
    runs.catch_up()
    assert [key for key in runs.meter.changes if key[1] == "cancel"] == [("bob", "cancel", "cancelled")]
    go_on.set()
    thread.join()
    runs.catch_up()
    assert runs.meter.changes["ada", "cancel", "cancelled"] == 1
    assert runs.meter.changes["bob", "cancel", "cancelled"] == 1


def test_a_reader_goes_on_where_it_failed_and_remembers_no_more_than_it_must() -> None:
    table: list[Row] = [(n,) for n in range(1, 5001)]
    failing = [True]

    def page(since: int) -> list[Row]:
        if since == 2000 and failing:
            failing.clear()
            raise StoreUnavailable("gone")
        return [row for row in table if row[0] > since][:500]

    reader, read = Reader(page), []
    with pytest.raises(StoreUnavailable):
        read.extend(reader.unread())
    seen = [*read, *reader.unread()]
    assert [row[0] for row in seen][-1] == 5000
    assert len(reader._recent) <= OVERLAP
    table.append((5001,))
    assert list(reader.unread()) == [(5001,)]


def test_effects_are_counted_as_they_stand_and_timed_while_they_are_held(
    store: Store, history: History
) -> None:
    now = [0.0]
    effects, ledger = StoredEffects(store, lambda: now[0]), Ledger(store)
    effects.catch_up()
    assert effects.counts == []
    main = history.create()
    one, two = history.fork(main.id, 2)
    for branch in (one, one, two):
        ledger.hold(draft(branch.id), "gw_1")
    ledger.answer(ledger.begin(draft(), "gw_1").id, Outcome(200, [], b"", True))
    ledger.begin(call(), "gw_1")
    now[0] += 1000.0
    effects.catch_up()
    assert effects.held == {}
    assert sorted(effects.counts) == [
        Count("call", "reversible", "sending", 1),
        Count("request", "irreversible", "done", 1),
        Count("request", "irreversible", "held", 3),
    ]
    history.commit(one.id)
    history.abort(two.id)
    now[0] += 1000.0
    for _ in range(2):
        effects.catch_up()
    assert sum(effects.held["irreversible"].counts) == 2
    assert effects.held["irreversible"].sum_s > 0
    assert {(each.state, each.number) for each in effects.counts} == {
        ("sending", 1), ("released", 2), ("dropped", 1), ("done", 1),
    }  # fmt: skip
    assert effects._waiting == {}


def test_a_long_ledger_is_not_counted_all_the_time(store: Store) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # to count takes a second
        return now[0]

    effects, ledger = StoredEffects(store, clock), Ledger(store)
    effects.catch_up()
    ledger.hold(draft(History(store).create().id), "gw_1")
    effects.catch_up()
    assert effects.counts == []
    now[0] += 100.0
    effects.catch_up()
    assert [each.number for each in effects.counts] == [1]
