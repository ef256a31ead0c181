"""What is wanted against what is there, from any beginning: decided once, the same in any order, and soon so."""

from __future__ import annotations

from datetime import UTC, datetime
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kibo.model.errors import ManifestInvalid
from kibo.schedule.applying import changes
from kibo.schedule.manifest import read_documents
from kibo.schedule.reconciling import Observed, Wanted, reconcile
from kibo.schedule.request import Request
from kibo.schedule.ticks import Schedule
from kibo.schedule.triggering import due
from kibo.schedule.wanted import Trigger
from kibo.schedule.wanted_rows import WantedRow

NAMES = st.sampled_from(["a", "b", "c"])
WANTED = st.lists(
    st.builds(Wanted, NAMES, st.sampled_from(["d1", "d2"]), st.integers(0, 6)),
    unique_by=lambda one: one.name,
    max_size=3,
)
STATES = st.sampled_from(["starting", "ready", "failed", "stopping"])
THERE = st.lists(
    st.builds(Observed, st.uuids().map(str), NAMES, st.sampled_from(["d1", "d2"]), STATES), max_size=12
)
SEEDS = st.integers(0, 1 << 32)


@given(WANTED, THERE, SEEDS)
def test_what_is_done_does_not_depend_on_any_order(
    wanted: list[Wanted], there: list[Observed], seed: int
) -> None:
    actions = reconcile(wanted, there)
    chance = Random(seed)
    chance.shuffle(wanted)
    chance.shuffle(there)
    assert reconcile(wanted, there) == actions


@given(WANTED, THERE, SEEDS)
def test_whatever_was_there_what_is_wanted_comes_to_be_and_then_nothing_is_done(
    wanted: list[Wanted], there: list[Observed], seed: int
) -> None:
    chance, made = Random(seed), 0
    for _ in range(40):
        actions = reconcile(wanted, there)
        if not actions and all(each.state == "ready" for each in there):
            break
        # Any part of it happens before one looks again; what is under way may end, or fail.
        for action in chance.sample(actions, chance.randint(1, len(actions)) if actions else 0):
            if action.verb == "start":
                made += 1
                there.append(Observed(f"new{made}", action.name, action.target, "starting"))
            else:
                there = [e._replace(state="stopping") if e.id == action.target else e for e in there]
        there = [each for each in there if each.state != "stopping"]
        there = [e._replace(state="ready") if e.state == "starting" else e for e in there]
    assert reconcile(wanted, there) == ()
    assert {(one.name, one.digest): one.count for one in wanted if one.count} == {
        (name, digest): sum((each.name, each.digest) == (name, digest) for each in there)
        for name, digest in {(each.name, each.digest) for each in there}
    }


# -- schedules

CRONS = st.sampled_from(
    ["* * * * *", "*/20 * * * *", "30 2 * * *", "0 2,3 * * *", "15 */2 * * *", "0-59 1-3 * * *", "0 6 * * mon-fri",
     "59 23 L * *", "10-50/10 1-3 29 2-10 *"]
)  # fmt: skip
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/Sao_Paulo", "America/St_Johns", "Asia/Kathmandu"])
#: Around the two days of 2026 on which Berlin sets its clocks.
TIMES = st.one_of(
    st.integers(1774742400 - 9000, 1774742400 + 9000),
    st.integers(1792886400 - 9000, 1792886400 + 9000),
    st.integers(1767225600, 1798761600),
)


@settings(max_examples=300)
@given(CRONS, ZONES, TIMES)
@example("30 2 * * *", "Europe/Berlin", 1792890000)
def test_the_last_tick_is_the_one_that_going_on_comes_to(cron: str, zone: str, at: int) -> None:
    schedule = Schedule(cron, zone)
    last, ticks = schedule.latest(at), []
    tick = schedule.after(at - 86_400)
    while tick is not None and tick <= at:
        ticks.append(tick)
        tick = schedule.after(tick)
    assert ticks == sorted(set(ticks))
    assert last is not None
    assert last <= at
    assert not ticks or last == ticks[-1]
    assert ticks or last <= at - 86_400
    assert tick is None or tick > at


TRIGGERS = st.lists(
    st.tuples(
        st.builds(
            lambda name, cron, zone, late: Trigger(name, Request(b"x"), cron, zone, late),
            st.sampled_from([f"t{n}" for n in range(6)]), CRONS, ZONES, st.none() | st.integers(0, 7200).map(float),
        ),
        TIMES,
    ),
    unique_by=lambda each: each[0].name,
    max_size=4,
)  # fmt: skip


@given(TRIGGERS, TIMES, SEEDS)
def test_each_trigger_is_due_once_whatever_others_there_are(
    triggers: list[tuple[Trigger, int]], now_s: int, seed: int
) -> None:
    found = due(triggers, now_s)
    Random(seed).shuffle(triggers)
    assert due(triggers, now_s) == found
    assert found == tuple(
        each for one in sorted(triggers, key=lambda t: t[0].name) for each in due([one], now_s)
    )
    noted = {each.name: each.done for each in found}
    settled = [(one, noted.get(one.name, done)) for one, done in triggers]
    again = due(settled, now_s)
    # One whose clock was wrong begins anew: at what is due now it is, too, settled by then.
    assert (
        due([(one, {e.name: e.done for e in again}.get(one.name, done)) for one, done in settled], now_s)
        == ()
    )
    for one, done in triggers:
        ticks = [e.tick for e in found if e.name == one.name and e.tick is not None]
        assert all(done < tick <= now_s for tick in ticks)
        assert one.late_s is None or all(now_s - tick <= one.late_s for tick in ticks)


# -- files


def _row(one: Trigger) -> WantedRow:
    return WantedRow(one.kind, one.name, one.spec(), one.request.work, 0.0, 0, None, "")


SOME = st.lists(
    st.builds(
        lambda name, cron, work: Trigger(name, Request(work), cron),
        st.sampled_from("abcd"), CRONS, st.sampled_from([b"1", b"2"]),
    ),
    unique_by=lambda one: one.name,
    max_size=4,
)  # fmt: skip


@given(SOME, SOME, st.booleans(), SEEDS)
def test_what_is_applied_twice_changes_nothing_the_second_time(
    given_: list[Trigger], before: list[Trigger], prune: bool, seed: int
) -> None:
    stored = {one.name: _row(one) for one in before}
    found = changes(given_, stored.values(), prune=prune)
    chance = Random(seed)
    shuffled = chance.sample(given_, len(given_))
    assert changes(shuffled, chance.sample(list(stored.values()), len(stored)), prune=prune) == found
    after = {} if prune else dict(stored)
    after |= {one.name: _row(one) for one in given_}
    assert {each.what for each in changes(given_, after.values(), prune=prune)} <= {"unchanged"}
    assert {each.name for each in found if each.what == "pruned"} == (
        set(stored) - set(after) if prune else set()
    )


@settings(max_examples=300)
@given(
    st.one_of(
        st.text(max_size=60),
        st.lists(
            st.sampled_from(
                [*"a[]{}'\"|,\n", ": ", "  ", "- ", "*x", "&x ", "!!int ", "1e999", "---"]
            ),
            max_size=25,
        ).map("".join),
    )
)  # fmt: skip
def test_whatever_a_file_holds_it_is_read_or_refused_with_a_place(text: str) -> None:
    try:
        found = read_documents(text, "x.yaml")
    except ManifestInvalid as error:
        refused, found = error, []
    else:
        refused = None
    assert all(isinstance(each.value, dict) for each in found)
    if refused is not None:
        place = refused.details["line"], refused.details["column"]
        assert refused.hint
        assert 1 <= place[0] <= 2 + sum(map(text.count, "\n\r\x85\u2028\u2029"))
        assert refused.message.startswith(f"x.yaml:{place[0]}:{place[1]}: ")


def test_moments_are_told_where_the_schedule_is() -> None:
    tick = int(datetime(2026, 7, 1, 4, tzinfo=UTC).timestamp())
    assert f"{Schedule('0 6 * * *', 'Europe/Berlin').moment(tick):%H:%M %Z}" == "06:00 CEST"
