"""Runs in the store, over every database: submitted once, changed by one, fenced, cancelled for good, paid for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

import databases
from kibo.model.clock import Moment, moment
from kibo.model.errors import (
    BudgetSpent,
    PlaceTaken,
    QueueFull,
    RunCycle,
    RunInvalid,
    RunRepeated,
    RunTaken,
    RunUnknown,
    WrongState,
)
from kibo.model.ids import RunId
from kibo.schedule import advance, roster
from kibo.schedule.budgets import Meter
from kibo.schedule.failing import Failure
from kibo.schedule.leases import DISPATCHER, NODE, Holding, Leases
from kibo.schedule.placement import Demand, Node
from kibo.schedule.policy import Abandon, AskPerson, Fork, Policy
from kibo.schedule.register import Register
from kibo.schedule.request import Allowance, Rate, Request, Resources
from kibo.schedule.run import Run
from kibo.schedule.submitting import Submission
from kibo.schedule.survey import Surveyor
from kibo.store import crash
from kibo.store.database import Store

FAILURE = Failure("action.raised", "it broke")


class House:
    """A store with a dispatcher's lease, and what tests do with both."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runs = Submission(store)
        self.register = Register(store)
        leases = Leases(store)
        self.lease = Holding(leases, DISPATCHER, "test")
        self.lease.take(leases.look(DISPATCHER), 0.0)

    def now(self) -> Moment:
        return moment()

    def write(self, *changes: advance.Change) -> frozenset[RunId]:
        return self.register.write(changes, self.lease.epoch, self.now()).refused

    def start(self, run: str) -> Run:
        change = advance.placed(self.runs.get(run), "n1", 1, self.now(), {})
        assert not self.write(change)
        return self.runs.get(run)

    def fail(self, run: str, branches: int | None = None) -> Run:
        assert not self.write(advance.failed(self.runs.get(run), self.now(), FAILURE, branches=branches))
        return self.runs.get(run)

    def succeed(self, run: str, result: bytes = b"42") -> Run:
        assert not self.write(advance.succeeded(self.runs.get(run), self.now(), result, "snap"))
        return self.runs.get(run)


@pytest.fixture(scope="module")
def shared(database_server: str) -> Iterator[Store]:
    with Store.open(databases.new_store(database_server)) as store:
        yield store


@pytest.fixture
def house(shared: Store) -> House:
    return House(shared)


def tenant(request: pytest.FixtureRequest) -> str:
    return request.node.name[:100]


def test_a_run_is_stored_and_has_a_timeline(house: House) -> None:
    run = house.runs.submit(Request(b"work", name="first", limits={"shop": 1}))
    assert house.register.work([run]) == {run: b"work"}
    started = house.start(run)
    assert (started.state, started.epoch, started.live and started.live.node) == ("starting", 1, "n1")
    begun = advance.begun(started, house.now())
    assert begun is not None
    house.write(begun)
    house.succeed(run)
    assert house.runs.outcome(run) == ("done", b"42", None)
    assert [each.kind for each in house.runs.events(run)] == ["submit", "place", "begin", "succeed"]
    assert run not in {each.id for each in house.register.open_runs()}


def test_what_is_noted_of_an_attempt_changes_nothing_and_is_refused_once_that_has_gone_on(
    house: House,
) -> None:
    started = house.start(house.runs.submit(Request(b"")))
    assert not house.write(advance.noted(started, "hold"))
    assert house.write(advance.noted(started, "commit")) == {started.id}
    held = house.runs.get(started.id)
    assert (held.state, held.epoch, held.live) == (started.state, started.epoch, started.live)
    house.succeed(started.id)
    assert [each.kind for each in house.runs.events(started.id)] == ["submit", "place", "hold", "succeed"]


def test_nodes_are_noted_as_they_are_and_only_by_who_dispatches(house: House) -> None:
    kept = Node("n1", 3, Resources(4000, 1 << 40, 8), frozenset({("gpu", "yes")}), frozenset({"b2:1"}), True)
    kept.kept = "ada", Demand(Resources(500), (("gpu", "yes"),))
    there = {"n1": kept, "n2": Node("n2", 1, Resources())}

    def noted() -> list[tuple[Node, ...]]:
        found = house.store.read(lambda tx: roster.noted(tx, house.lease.epoch))
        return [
            (each.id, each.epoch, each.room, each.labels, each.near, each.draining, each.kept)
            for each in found
        ]

    house.register.note_nodes(there, None, house.lease.epoch)
    assert noted() == [
        (each.id, each.epoch, each.room, each.labels, each.near, each.draining, each.kept)
        for each in there.values()
    ]
    del there["n2"]
    kept.kept = None
    house.register.note_nodes(there, {"n1", "n2"}, house.lease.epoch)
    assert [(each[0], each[-1]) for each in noted()] == [("n1", None)]
    with pytest.raises(PlaceTaken):
        house.register.note_nodes({}, None, house.lease.epoch - 1)
    assert [each[0] for each in noted()] == ["n1"]
    house.register.note_nodes({}, None, house.lease.epoch)
    assert noted() == []


def test_the_same_key_is_the_same_run_also_at_once(house: House, request: pytest.FixtureRequest) -> None:
    asked = Request(b"work", tenant=tenant(request), key="order 7")
    found: list[RunId] = []
    threads = [threading.Thread(target=lambda: found.append(house.runs.submit(asked))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1
    with pytest.raises(RunRepeated):
        house.runs.submit(Request(b"other", tenant=tenant(request), key="order 7"))
    assert house.runs.submit(Request(b"other", tenant="another", key="order 7")) != found[0]


def test_a_queue_is_full_at_its_bound_and_takes_more_once_one_has_left(
    house: House, request: pytest.FixtureRequest
) -> None:
    name = tenant(request)
    house.runs.set_tenant(name, most_queued=2)
    one, _ = house.runs.submit_all([Request(b"", tenant=name)] * 2)
    with pytest.raises(QueueFull):
        house.runs.submit(Request(b"", tenant=name))
    house.start(one)
    house.runs.submit(Request(b"", tenant=name))
    with pytest.raises(QueueFull):
        house.runs.submit_all([Request(b"", tenant="another"), Request(b"", tenant=name)])
    assert house.runs.cancel(one)  # it runs: that makes no room
    with pytest.raises(QueueFull):
        house.runs.submit(Request(b"", tenant=name))


def test_runs_wait_for_each_other_and_circles_are_refused_whole(house: House) -> None:
    before = len(house.register.open_runs())
    with pytest.raises(RunCycle):
        house.runs.submit_all([Request(b"", name="a", after=("b",)), Request(b"", name="b", after=("a",))])
    with pytest.raises(RunUnknown):
        house.runs.submit(Request(b"", after=(RunId.new(),)))
    with pytest.raises(RunUnknown):
        house.runs.get("\udcff")
    assert len(house.register.open_runs()) == before
    second, first = house.runs.submit_all(
        [Request(b"", name="second", after=("first",)), Request(b"", name="first")]
    )
    assert house.runs.get(second).state == "waiting"
    assert [(each.dependency, each.how) for each in house.register.waits(second)] == [(first, "done")]
    with pytest.raises(RunCycle):
        house.runs.submit(Request(b"", parent=first, after=(first,)))


@pytest.mark.parametrize("double", ["enqueue", "reject", "interrupt", "rollback"])
def test_what_becomes_of_the_first_run_of_a_subject(
    house: House, request: pytest.FixtureRequest, double: str
) -> None:
    name = tenant(request)
    first = house.runs.submit(Request(b"", tenant=name, subject="cart"))
    house.start(first)
    asked = Request(b"", tenant=name, subject="cart", double=double)  # type: ignore[arg-type]
    if double == "reject":
        with pytest.raises(RunRepeated):
            house.runs.submit(asked)
        return
    second = house.runs.submit(asked)
    assert [(each.dependency, each.how) for each in house.register.waits(second)] == [(first, "ended")]
    then = house.runs.get(first)
    assert (then.state, then.rollback) == {
        "enqueue": ("starting", False),
        "interrupt": ("cancelling", False),
        "rollback": ("cancelling", True),
    }[double]


def test_of_two_that_decide_about_one_run_one_is_refused(house: House) -> None:
    run = house.runs.submit(Request(b""))
    seen = house.runs.get(run)
    assert not house.write(advance.placed(seen, "n1", 1, house.now(), {}))
    assert house.write(advance.placed(seen, "n2", 1, house.now(), {})) == {run}
    assert house.runs.get(run).epoch == 1
    stale = house.runs.get(run)
    house.runs.cancel(run)
    assert house.write(advance.succeeded(stale, house.now(), b"late", None)) == {run}
    assert house.runs.get(run).state == "cancelling"


def test_a_dispatcher_that_was_given_up_writes_nothing(house: House) -> None:
    run = house.runs.submit(Request(b""))
    leases = Leases(house.store)
    other = Holding(leases, DISPATCHER, "other")
    other.take(leases.look(DISPATCHER), 0.0)
    with pytest.raises(PlaceTaken):
        house.start(run)
    with pytest.raises(PlaceTaken):
        house.lease.renew(1.0)
    assert house.runs.get(run).epoch == 0
    with pytest.raises(PlaceTaken):
        leases.take(DISPATCHER, "third", None)
    other.renew(5.0)
    assert (other.overdue(14.9), other.overdue(15.0)) == (False, True)


def test_a_cancellation_reaches_all_that_is_below_and_counts_once(house: House) -> None:
    first = house.runs.submit(Request(b""))
    part = house.runs.submit(Request(b"", parent=first))
    deeper = house.runs.submit(Request(b"", parent=part))
    beside = house.runs.submit(Request(b""))
    house.start(part)
    assert house.runs.cancel(first) == [first, part, deeper]
    assert [house.runs.get(each).state for each in (first, part, deeper, beside)] == [
        "cancelled", "cancelling", "cancelled", "queued",
    ]  # fmt: skip
    assert house.runs.cancel(first) == []
    with pytest.raises(WrongState):
        house.runs.submit(Request(b"", parent=part))
    house.succeed(part)
    assert house.runs.get(part).state == "cancelled"


def test_a_failed_run_goes_on_as_forks_within_its_budget(house: House) -> None:
    policy = Policy(on_failure=Fork(3, vary=("a", "b", "c")) | Abandon())
    run = house.runs.submit(Request(b"work", policy, budget=Allowance(branches=2)))
    house.start(run)
    forked = house.fail(run, branches=3)  # decided from more than there are
    found = house.register.forks(forked)
    assert (forked.state, len(found)) == ("forked", 2)
    forks = house.register.runs(each for each, _ in found)
    assert [each.variation for each in forks] == ["a", "b"]
    assert {each.tree for each in forks} == {run}
    assert house.register.work([forks[0].id]) == {forks[0].id: b"work"}
    assert forks[0].budget is not None
    assert house.register.budget(forks[0].budget).branches_left == 0


def test_a_person_is_asked_and_answers_once(house: House) -> None:
    run = house.runs.submit(Request(b"", Policy(on_failure=AskPerson("again?"))))
    house.start(run)
    assert house.fail(run).state == "asking"
    house.runs.answer(run, "retry", "ada")
    assert house.runs.get(run).state == "backing_off"
    with pytest.raises(WrongState):
        house.runs.answer(run, "abandon", "ada")
    with pytest.raises(RunInvalid):
        house.runs.answer(run, "maybe", "ada")  # type: ignore[arg-type]


def test_a_budget_is_overspent_by_one_step_at_most(house: House) -> None:
    first = house.runs.submit(Request(b"", budget=Allowance(tokens=100)))
    second = house.runs.submit(Request(b"", parent=first))
    one, two = (Meter(house.store, each, house.start(each).epoch) for each in (first, second))
    one.reserve(tokens=60)
    with pytest.raises(BudgetSpent):
        two.reserve(tokens=60)
    two.reserve(tokens=40)
    one.settle(tokens=50)
    two.settle(tokens=40)
    one.reserve(tokens=60)  # more than there is, but alone
    with pytest.raises(BudgetSpent):
        two.reserve(tokens=1)
    one.settle(tokens=60)
    with pytest.raises(BudgetSpent):
        one.reserve(tokens=0)
    budget = house.runs.get(first).budget
    assert budget is not None
    found = house.register.budget(budget)
    assert (found.used_tokens, found.reserved_tokens, found.spent()) == (150, 0, "tokens")


def test_what_an_ended_attempt_had_reserved_counts_and_it_reserves_no_more(house: House) -> None:
    run = house.runs.submit(Request(b"", budget=Allowance(tokens=100, money=10)))
    meter = Meter(house.store, run, house.start(run).epoch)
    meter.reserve(tokens=70, money=3)
    lost = Failure("run.lost", "", lost=True)
    house.write(advance.failed(house.runs.get(run), house.now(), lost, outcome="lost"))
    house.start(run)
    for late in (meter.reserve, meter.settle):
        with pytest.raises(RunTaken):
            late(tokens=1)
    budget = house.runs.get(run).budget
    assert budget is not None
    found = house.register.budget(budget)
    assert (found.used_tokens, found.used_money, found.reserved_tokens) == (70, 3, 0)


def test_rates_are_known_again_after_a_restart(house: House) -> None:
    run = house.runs.submit(Request(b'"rates":{}', rates={"rare": Rate(1, 60)}, labels={"x": '"rates":{}'}))
    house.start(run)
    house.start(house.runs.submit(Request(b"")))
    now = house.now()
    set_forward = now._replace(at_s=now.at_s + 3 * 86400)
    for late in (now, set_forward, now._replace(boot="another")):
        recent = house.register.recent(late)
        assert [bar.key for _, bars in recent for bar in bars] == ["rare"]
        assert 0 <= recent[0][0] < 60
    assert house.register.recent(now._replace(up_s=now.up_s + 86401)) == []
    assert house.register.recent(set_forward._replace(boot="another")) == []


def test_what_others_change_is_rung_for_until_it_was_heard(house: House) -> None:
    numbers, _ = house.register.rung()
    house.register.heard(numbers)
    run = house.runs.submit(Request(b""))
    numbers, found = house.register.rung()
    assert [each.id for each in found] == [run]
    house.register.heard(numbers)
    assert house.register.rung() == ([], [])


@pytest.mark.parametrize(
    ("point", "there"),
    [
        ("submit.before_write", False),
        ("submit.before_commit", False),
        ("submit.written", True),
        ("cancel.before_commit", True),
        ("cancel.written", True),
        ("runs.before_write", True),
        ("runs.before_commit", True),
        ("runs.written", True),
        ("budget.before_reserve", True),
        ("budget.reserved", True),
        ("lease.before_take", True),
        ("lease.taken", True),
    ],
)
def test_a_step_that_is_killed_has_happened_entirely_or_not_at_all(
    shared: Store, request: pytest.FixtureRequest, point: str, there: bool
) -> None:
    asked = Request(b"", tenant=point, key=request.node.name[:150], budget=Allowance(tokens=10))
    first = not point.startswith("submit")
    run = House(shared).runs.submit(asked) if first else ""
    pid = os.fork()
    if pid == 0:
        try:
            crash.install(lambda passed: os.kill(os.getpid(), signal.SIGKILL) if passed == point else None)
            house = House(shared)
            run = run or house.runs.submit(asked)
            if point.startswith("cancel"):
                house.runs.cancel(run)
            Meter(shared, run, house.start(run).epoch).reserve(tokens=5)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    house = House(shared)
    mine = [each for each in house.register.open_runs() if each.request.tenant == point]
    if point == "cancel.written":
        assert mine == []
        return
    assert len(mine) == there
    again = house.runs.submit(asked)
    assert not run or again == run
    found = house.runs.get(again)
    started = found.epoch == 1
    assert started == point.startswith(("runs.written", "budget."))
    assert (found.state, found.live is not None) == (("starting", True) if started else ("queued", False))
    assert [each.kind for each in house.runs.events(again)] == (
        ["submit", "place"] if started else ["submit"]
    )
    house.runs.set_tenant(point, most_queued=0 if started else 1)
    with pytest.raises(QueueFull):  # counted exactly: nothing of a killed step
        house.runs.submit(Request(b"", tenant=point))


def test_a_survey_has_all_that_is_open_as_it_is_now(house: House) -> None:
    surveyor, now = Surveyor(house.store), house.now()
    first = house.runs.submit(Request(b"", limits={"shop": 1}, rates={"web": Rate(2, 60)}))
    assert surveyor.look(now).runs[first] == house.runs.get(first)
    house.start(first)
    second = house.runs.submit(Request(b"", limits={"shop": 1}))
    node = Node("n1", 1, Resources(boxes=9999))
    leases = Leases(house.store)
    if (row := leases.look(NODE + "n1")) is None:
        leases.take(NODE + "n1", "process 7 on host (node_7)", row)
    house.register.note_nodes({"n1": node}, None, house.lease.epoch)
    survey = surveyor.look(now)
    assert survey.dispatcher == "test"
    assert [survey.runs[each] for each in (first, second)] == house.register.runs([first, second])
    assert [[bar.key for bar in bars] for _, bars in survey.recent][-1] == ["web"]
    queue, starts = survey.decided()
    assert second not in starts
    assert queue.explain(second, now.up_s)[0][:2] == ("limit", "shop")
    assert queue.nodes["n1"].runs >= {first}
    assert surveyor.look(now, dead={"node_7"}).nodes == ()
    house.succeed(first)
    assert first not in surveyor.look(now).runs
    assert second in surveyor.look(now).decided()[1]
    house.register.note_nodes({}, None, house.lease.epoch)
