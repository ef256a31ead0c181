"""What is wanted, in every database: applied whole or not at all; one run for each tick and each message."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import update

import letters
from kibo.branch.history import History
from kibo.hub.entries import Sent, encoded
from kibo.model.clock import Moment
from kibo.model.errors import ManifestInvalid
from kibo.model.ids import MessageId
from kibo.model.limits import CLOCK_LOOK_S, MAX_HEARD, MAX_RUN_BYTES, MAX_WANTED
from kibo.schedule.applying import Wants
from kibo.schedule.register import Register
from kibo.schedule.request import Request
from kibo.schedule.submitting import Submission
from kibo.schedule.triggering import Triggers
from kibo.schedule.wanted import Trigger
from kibo.schedule.work import Work, read_work
from kibo.store import crash
from kibo.store.database import Store
from kibo.store.log import append_in, settle
from kibo.store.prepared import Prepared
from kibo.store.schema import wanted

WORK = Work("digest", (), (), "do", [], {}).packed()
DAY_S = 86_400
#: 2026-06-01, at noon.
NOON_S = 1_780_315_200


class House:
    """A store with what starts runs in it, at a time that the test sets."""

    def __init__(self, store: Store) -> None:
        self.store, self.now_s = store, float(NOON_S)
        self.runs = Submission(store, self.now)
        self.wants = Wants(store, self.now)
        self.triggers = Triggers(store, self.runs, self.now)

    def now(self) -> Moment:
        return Moment(self.now_s, self.now_s, "boot")

    def other(self) -> Triggers:
        """As another process has them."""
        return Triggers(self.store, self.runs, self.now)

    def started(self, name: str = "") -> list[str]:
        """Tells what has been started, the oldest first, by what it is called."""
        found = [each.request.name for each in self.runs.listed(1000)][::-1]
        return (
            [each.removeprefix(f"{name} ") for each in found if each.startswith(f"{name} ")]
            if name
            else found
        )

    def look(self) -> None:
        """Looks until nothing more is to be done."""
        while self.triggers.step() == 0:
            pass


@pytest.fixture
def house(store: Store) -> House:
    return House(store)


def daily(name: str = "daily", work: bytes = WORK, **options: object) -> Trigger:
    return Trigger(name, Request(work, tenant=f"of-{name}"), "0 12 * * *", **options)  # type: ignore[arg-type]


def on(topic: str = "order.*", name: str = "order", **options: object) -> Trigger:
    return Trigger(name, Request(WORK, tenant=f"of-{name}"), topic=topic, **options)  # type: ignore[arg-type]


@contextmanager
def failing_at(point: str) -> Iterator[None]:
    """Has whatever passes a point fail there, as if the process had ended."""

    def hook(passed: str) -> None:
        if passed == point:
            raise InterruptedError(point)

    crash.install(hook)
    try:
        with pytest.raises(InterruptedError):
            yield
    finally:
        crash.install(None)


# -- applying


def test_what_is_applied_is_there_and_what_is_applied_again_changes_nothing(house: House) -> None:
    told = [(e.name, e.what) for e in house.wants.apply([daily("b"), daily("a")], dry_run=True)]
    assert told == [("a", "created"), ("b", "created")]
    assert house.wants.standing() == []
    assert [e.what for e in house.wants.apply([daily("b"), daily("a")])] == ["created"] * 2
    assert [e.what for e in house.wants.apply([daily("a"), daily("b")])] == ["unchanged"] * 2
    assert [(e.name, e.what) for e in house.wants.apply([daily("a", work=b"x")])] == [("a", "configured")]
    assert [(e.name, e.what) for e in house.wants.apply([daily("a", work=b"x")], prune=True)] == [
        ("a", "unchanged"), ("b", "pruned"),
    ]  # fmt: skip
    assert [each.trigger.name for each in house.wants.standing()] == ["a"]


@pytest.mark.parametrize("point", ["wanted.before_next", "wanted.before_commit"])
def test_nothing_is_half_applied(house: House, point: str) -> None:
    house.wants.apply([daily("old")])
    with failing_at(point):
        house.wants.apply([daily("a"), on(name="b")], prune=True)
    assert [each.trigger.name for each in house.wants.standing()] == ["old"]
    with pytest.raises(ManifestInvalid, match="wanted twice"):
        house.wants.apply([daily("a"), daily("a")])
    with pytest.raises(ManifestInvalid, match="would be wanted"):
        house.wants.apply([daily(f"t{n}") for n in range(MAX_WANTED)])
    assert [each.trigger.name for each in house.wants.standing()] == ["old"]


# -- times


def test_a_tick_starts_one_run_however_many_processes_there_are(house: House) -> None:
    house.wants.apply([daily(), daily("other")])
    house.look()
    assert house.started() == []  # noon was when it was applied: it begins with what comes then
    house.now_s += DAY_S + 1
    gate = threading.Barrier(4)

    def look() -> None:
        other = house.other()
        gate.wait()
        other.step()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(house.started()) == ["daily 2026-06-02T12:00Z", "other 2026-06-02T12:00Z"]
    house.look()
    assert len(house.started()) == 2
    assert {each.state for each in house.wants.standing()} == {"queued"}


def test_of_ticks_that_nobody_was_there_for_one_starts_a_run_unless_it_is_too_late(house: House) -> None:
    house.wants.apply([daily(), daily("hasty", late_s=3600.0)])
    house.now_s += 30 * DAY_S + 7200
    house.look()
    assert house.started() == ["daily 2026-07-01T12:00Z"]
    house.now_s += DAY_S - 7200
    house.look()
    assert sorted(house.started()) == [
        f"{n} 2026-07-0{d}T12:00Z" for n, d in (("daily", 1), ("daily", 2), ("hasty", 2))
    ]


def test_a_clock_that_is_set_back_starts_nothing_twice_and_one_that_was_set_forward_holds_nothing_up(
    house: House,
) -> None:
    house.wants.apply([daily()])
    house.now_s += DAY_S
    house.look()
    house.now_s -= 2 * 3600  # and it is noon again
    for _ in range(8):
        house.now_s += 1800
        house.look()
    assert house.started() == ["daily 2026-06-02T12:00Z"]
    house.now_s += 1000 * DAY_S
    house.look()
    house.now_s -= 1000 * DAY_S
    for _ in range(3):
        house.look()
        house.now_s += DAY_S
    assert house.started()[2:] == ["daily 2026-06-03T12:00Z", "daily 2026-06-04T12:00Z"]


def test_the_next_look_is_when_the_next_tick_is_also_where_looking_takes_time(house: House) -> None:
    house.wants.apply([daily()])
    house.now_s += DAY_S - 0.003
    waited = []
    # The clock goes on with each look at it: noon comes between two of them.
    house.triggers = Triggers(house.store, house.runs, lambda: Moment(_tick(house), 0.0, "boot"))
    for _ in range(3):
        waited.append(house.triggers.step())
    assert house.started() == ["daily 2026-06-02T12:00Z"]
    assert waited[0] == 0.0
    assert waited[-1] == CLOCK_LOOK_S


def _tick(house: House) -> float:
    house.now_s += 0.002
    return house.now_s


def test_a_trigger_that_is_due_at_other_times_begins_anew_and_one_that_does_something_else_does_not(
    house: House,
) -> None:
    house.wants.apply([daily("a"), daily("b")])
    house.now_s += DAY_S + 60
    again = Trigger("b", Request(WORK, tenant="of-b"), "0 11 * * *")
    house.wants.apply([daily("a", work=b"other"), again])
    house.look()
    assert house.started() == ["a 2026-06-02T12:00Z"]
    assert house.runs.listed(1)[0].request.near == ()


def test_where_there_is_no_room_a_tick_waits_for_it(house: House) -> None:
    house.runs.set_tenant("of-daily", most_queued=1)
    house.wants.apply([daily()])
    (blocker,) = house.runs.submit_all([Request(WORK, tenant="of-daily")])
    house.now_s += DAY_S
    assert house.triggers.step() < CLOCK_LOOK_S
    assert "wait" in house.wants.standing()[0].problem
    house.runs.cancel(blocker)
    house.now_s += 60
    house.look()
    assert house.started("daily") == ["2026-06-02T12:00Z"]
    assert house.wants.standing()[0].problem == ""


def test_a_tick_and_its_run_are_written_together(house: House) -> None:
    house.wants.apply([daily()])
    house.now_s += DAY_S
    with failing_at("trigger.before_commit"):
        house.other().step()
    assert house.started() == []
    house.look()
    assert house.started() == ["daily 2026-06-02T12:00Z"]


def test_a_damaged_trigger_holds_no_other_up(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.wants.apply([daily("a"), daily("b")])
    damage = Prepared(update(wanted).where(wanted.c.name == "a").values(spec=b"{}"))
    house.store.write(lambda tx: tx.run(damage))
    house.now_s += DAY_S
    house.look()
    assert house.started() == ["b 2026-06-02T12:00Z"]
    assert "damaged" in caplog.text
    assert [each.what for each in house.wants.apply([daily("a")])] == ["configured"]
    house.now_s += DAY_S
    house.look()
    assert house.started("a") == ["2026-06-03T12:00Z"]


# -- topics


def test_an_event_starts_one_run_in_whatever_branch_it_comes_to_be_said(house: House) -> None:
    history = History(house.store)
    root = history.create(name="shop")
    post = letters.post(history, root.id)
    post.send("till", [], 0, event="order.paid")
    house.wants.apply([on(message="order"), on("order.paid", "elsewhere", branch="another")])
    house.look()
    assert house.started() == []  # it was said before anybody wanted to hear of it
    said = [
        post.send("till", [], {"number": 1}, event="order.paid"),
        post.send("till", [], b"\xff", event="order.sent"),
    ]
    post.send("till", [], 2, event="order.paid.late")
    post.send("till", [("till", "")], 3)
    for _ in range(2):
        house.look()
        assert house.started() == [f"order {each}" for each in said]
    works = [read_work("", found) for found in _works(house)]
    assert [each.named["order"] for each in works] == [{"number": 1}, b"\xff"]
    (fork,) = history.fork(root.id)
    committed = letters.post(history, fork.id).send("till", [], 4, event="order.paid")
    (lost,) = history.fork(root.id)
    letters.post(history, lost.id).send("till", [], 5, event="order.paid")
    house.look()
    assert len(house.started()) == 2
    history.commit(fork.id)
    history.abort(lost.id)
    history.finish(root.id)
    house.look()
    assert house.started() == [f"order {each}" for each in (*said, committed)]


def _works(house: House) -> list[bytes]:
    runs = [each.id for each in house.runs.listed(100)][::-1]
    found = Register(house.store).work(runs)
    return [found[each] for each in runs]


def test_what_a_commit_overwrites_was_heard_and_what_it_brings_is(house: House) -> None:
    history = History(house.store)
    root = history.create()
    post = letters.post(history, root.id)
    house.wants.apply([on()])
    before = post.send("till", [], 1, event="order.paid")
    (fork,) = history.fork(root.id)
    ours = [post.send("till", [], n, event="order.paid") for n in (2, 3)]
    theirs = letters.post(history, fork.id).send("till", [], 4, event="order.paid")
    house.look()
    history.commit(fork.id, overwrite=True)
    house.look()
    house.look()
    assert house.started("order") == [before, *ours, theirs]


@pytest.mark.security
def test_what_was_said_elsewhere_and_is_brought_here_starts_nothing(house: House) -> None:
    history = History(house.store)
    house.wants.apply([on()])
    root = history.create()
    heard = letters.post(history, root.id).send("till", [], 1, event="order.paid")
    house.look()
    sealed = history.snapshot(root.id)
    brought = history.import_snapshot(list(history.export(sealed.id)))
    house.look()
    assert house.started("order") == [heard]
    new = letters.post(history, brought.id).send("till", [], 2, event="order.paid")
    house.look()
    assert house.started("order") == [heard, new]


@pytest.mark.security
def test_what_no_kibo_has_written_into_a_log_starts_nothing_and_holds_nothing_up(house: House) -> None:
    root = History(house.store).create()
    house.wants.apply([on()])
    last = str(MessageId.new())
    forged = [
        b"{}", b"\xff", b"[" * 9000, b'{"id":"../x","sender":"a","to":[],"event":"order.paid"}',
        encoded(Sent(last, "till", [], "order.paid", 1)),
    ]  # fmt: skip
    house.store.write(lambda tx: append_in(tx, root.id, settle([("hub.sent", body) for body in forged])))
    house.look()
    assert house.started("order") == [last]


def test_many_events_are_heard_in_order_and_wait_for_room(house: House) -> None:
    history = History(house.store)
    post = letters.post(history)
    house.wants.apply([on()])
    house.runs.set_tenant("of-order", most_queued=MAX_HEARD + 7)
    said = [post.send("till", [], n, event="order.paid") for n in range(MAX_HEARD + 10)]
    house.look()
    assert house.started("order") == said[: MAX_HEARD + 7]
    assert "wait" in house.wants.standing()[0].problem
    house.runs.set_tenant("of-order", most_queued=1000)
    with failing_at("hearing.before_commit"):
        house.other().step()
    house.look()
    assert house.started("order") == said
    assert house.wants.standing()[0].problem == ""


def test_an_event_that_no_run_can_hold_is_told_and_holds_no_other_up(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    post = letters.post(History(house.store))
    house.wants.apply([on(message="order")])
    large = post.send("till", [], "x" * (MAX_RUN_BYTES - 10), event="order.paid")
    house.look()
    assert large in house.wants.standing()[0].problem
    small = post.send("till", [], "x", event="order.paid")
    house.look()
    assert house.started("order") == [small]


def test_what_was_pruned_and_is_wanted_again_is_what_it_is_now(house: House) -> None:
    rung: list[int] = []
    house.runs = Submission(house.store, house.now, lambda: rung.append(1))
    house.triggers = house.other()
    post = letters.post(History(house.store))
    house.wants.apply([daily(), on("order.*")])
    house.look()
    house.wants.apply([daily()], prune=True)
    house.wants.apply([on("bill.*")])
    post.send("till", [], 1, event="order.paid")
    said = post.send("till", [], 1, event="bill.paid")
    house.look()
    assert house.started("order") == [said]
    assert rung  # the dispatcher does not have to find out by itself


def test_nothing_is_heard_of_while_no_topic_is_wanted(house: House) -> None:
    post = letters.post(History(house.store))
    house.wants.apply([on()])
    house.wants.apply([daily()], prune=True)
    post.send("till", [], 1, event="order.paid")
    house.look()
    house.wants.apply([on()])
    house.look()
    assert house.started() == []
    then = post.send("till", [], 2, event="order.paid")
    house.look()
    assert house.started("order") == [then]
