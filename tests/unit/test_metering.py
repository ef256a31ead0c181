"""Counts of runs: made of their timelines, exact, and no larger for tenants that are made up."""

from __future__ import annotations

import itertools

import pytest

from kibo.model.histogram import BOUNDS_S, Histogram
from kibo.schedule.metering import OTHER, Names, RunMeter

pytestmark = pytest.mark.unit


def test_times_are_counted_by_how_long_they_are_and_none_is_below_0():
    times = Histogram()
    for seconds in (0.005, 0.006, 1e9, -5.0):
        times.add(seconds)
    assert times.counts == [2, 1] + [0] * (len(BOUNDS_S) - 2) + [1]
    assert times.sum_s == pytest.approx(1e9 + 0.011)
    other = Histogram()
    other.merge(times)
    other.merge(times)
    assert (sum(other.counts), other.sum_s) == (8, 2 * times.sum_s)


def hear(meter: RunMeter, run: str, *events: tuple[str, float], tenant: str = "ada", **told: object) -> None:
    for kind, at_s in events:
        meter.hear(run, tenant, kind, at_s, told if kind == "submit" else {})


def test_a_run_is_counted_by_what_happens_to_it_and_timed_from_one_state_to_the_next():
    meter = RunMeter()
    hear(meter, "1", ("submit", 10), ("ready", 20), ("place", 23), ("begin", 24), after=["0"])
    assert meter.open() == {("ada", "running"): 1}
    hear(meter, "2", ("submit", 30))
    assert meter.oldest_s() == {"ada": 30}
    hear(meter, "1", ("retry", 29), ("requeue", 40), ("place", 41), ("succeed", 42))
    assert meter.open() == {("ada", "queued"): 1}
    assert meter.changes == {
        ("ada", "submit", "waiting"): 1,
        ("ada", "submit", "queued"): 1,
        ("ada", "ready", "queued"): 1,
        ("ada", "place", "starting"): 2,
        ("ada", "begin", "running"): 1,
        ("ada", "retry", "backing_off"): 1,
        ("ada", "requeue", "queued"): 1,
        ("ada", "succeed", "done"): 1,
    }
    times = meter.times["ada"]
    assert (times.queue.sum_s, sum(times.queue.counts)) == (3 + 1, 2)
    assert (times.start.sum_s, sum(times.start.counts)) == (1, 1)
    assert (times.action.sum_s, sum(times.action.counts)) == (5, 1)
    assert (times.total.sum_s, sum(times.total.counts)) == (32, 1)


def test_what_is_no_change_of_a_run_or_cannot_have_happened_is_not_counted():
    meter = RunMeter()
    hear(meter, "1", ("submit", 1), ("progress", 2), ("begin", 3))
    hear(meter, "2", ("place", 3))
    assert meter.changes == {("ada", "submit", "queued"): 1}
    assert meter.open() == {("ada", "queued"): 1}


def test_a_hundred_thousand_tenants_take_no_more_room_than_some_and_no_sum_is_wrong():
    meter = RunMeter(Names(most=20, watched=100))
    for number in range(100_000):
        hear(meter, "run", ("submit", 0), ("cancel", 1), tenant=f"made up {number}")
    for _ in range(3):
        hear(meter, "run", ("submit", 0), ("cancel", 1), tenant="ada")
    assert len({tenant for tenant, _, _ in meter.changes}) == 21
    assert len(meter.names._watched) <= 100
    assert not meter.open()
    assert meter.changes["ada", "submit", "queued"] == 1  # from when it had a name
    assert sum(count for (_, kind, _), count in meter.changes.items() if kind == "cancel") == 100_003
    assert sum(sum(times.total.counts) for times in meter.times.values()) == 100_003


def test_who_comes_often_gets_a_name_and_tenants_that_are_made_up_do_not_take_it_away():
    names = Names(most=2, watched=10)
    lost = []
    made_up = (f"made up {number}" for number in itertools.count())
    for number in range(2000):
        tenant = ("ada", "bob")[number // 2 % 2] if number % 2 else next(made_up)
        lost.append(names.count(tenant))
    assert [names.of(each) for each in ("ada", "bob", "made up 999")] == ["ada", "bob", OTHER]
    assert len([each for each in lost if each]) == 1  # the first that was made up


def test_a_tenant_that_is_called_like_the_others_is_one_of_them():
    names = Names()
    assert names.count(OTHER) is None
    assert names.of(OTHER) == OTHER
    assert not names._named
