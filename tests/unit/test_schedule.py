"""Runs, decided purely: states, policies, requests, dependencies, placement, wanted state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kibo.model.clock import Moment
from kibo.model.errors import RunCycle, RunInvalid, StoreDamaged, WrongState
from kibo.model.ids import RunId
from kibo.model.limits import MAX_RATE_S, MAX_RUN_RESULT_BYTES
from kibo.schedule import advance, lifecycle
from kibo.schedule.encoding import packed_request, read_request
from kibo.schedule.failing import Failure, Progress, next_step, policy_of_fork
from kibo.schedule.graph import in_order
from kibo.schedule.leases import LeaseRow, Watch
from kibo.schedule.placement import Demand, Node
from kibo.schedule.policy import Abandon, AskPerson, Compensate, Fork, Policy, Retry
from kibo.schedule.queue import Queue
from kibo.schedule.reconciling import Failures, Observed, Wanted, reconcile
from kibo.schedule.request import Allowance, Rate, Request, Resources
from kibo.schedule.run import Attempt, Run
from run_queues import item, limit, node, rate

FAILURE = Failure("action.raised", "it broke")


def at(seconds: float) -> Moment:
    return Moment(1000.0 + seconds, seconds, "boot")


def run(state: lifecycle.State = "queued", policy: Policy | None = None, **told: Any) -> Run:
    made = RunId.new()
    live = None
    if state in ("starting", "running", "stopping", "cancelling"):
        live = Attempt(made, 1, "work", "n1", 1, at(0))
    values: dict[str, Any] = {
        "id": made, "position": 1, "tree": made, "parent": None, "depth": 0, "fork": 0,
        "request": Request(b"", policy or Policy()), "state": state, "version": 1, "epoch": 1,
        "progress": Progress(), "failure": None, "snapshot": None, "variation": "", "budget": None,
        "rollback": False, "created": at(0), "entered": at(0), "live": live,
    }  # fmt: skip
    return Run(**(values | told))


# -- states


def test_what_was_cancelled_becomes_nothing_else() -> None:
    reached = {"cancelling", "rolling_back"}
    for _ in lifecycle.STATES:
        reached |= {then for state in reached for then in lifecycle.MOVES[state].values()}  # type: ignore[index]
    assert reached == {"cancelling", "rolling_back", "cancelled"}


def test_every_state_is_reached_and_every_open_one_can_be_cancelled_and_ends() -> None:
    reached: set[str] = {"waiting"}
    for _ in lifecycle.STATES:
        reached |= {then for state in reached for then in lifecycle.MOVES[state].values()}  # type: ignore[index]
    assert reached == set(lifecycle.STATES)
    for state, moves in lifecycle.MOVES.items():
        if state not in lifecycle.ENDED | lifecycle.CANCELLED:
            assert moves["cancel"] in lifecycle.CANCELLED


@pytest.mark.parametrize("state", lifecycle.STATES)
def test_a_cancellation_counts_once_in_every_state_and_a_late_success_changes_nothing(
    state: lifecycle.State,
) -> None:
    change = advance.cancelled(run(state), at(1), rollback=False, why="test")
    if state in lifecycle.ENDED | lifecycle.CANCELLED:
        assert change is None
        return
    assert change is not None
    assert change.after.cancelled
    assert advance.cancelled(change.after, at(2), rollback=False, why="again") is None
    if change.after.live is not None:
        assert advance.succeeded(change.after, at(2), b"late", None).after.state == "cancelled"
        assert advance.failed(change.after, at(2), FAILURE).after.state == "cancelled"


def test_what_was_rolled_back_is_undone_before_it_is_cancelled() -> None:
    change = advance.cancelled(run("running"), at(1), rollback=True, why="test")
    assert change is not None
    stopped = advance.failed(change.after, at(2), FAILURE, outcome="stopped").after
    assert stopped.state == "rolling_back"
    undoing = advance.placed(stopped, "n2", 1, at(3), {}).after
    assert (undoing.live and undoing.live.kind, undoing.epoch) == ("undo", 2)
    lost = advance.failed(undoing, at(4), Failure("run.lost", "", lost=True), outcome="lost").after
    assert (lost.state, lost.live) == ("rolling_back", None)
    again = advance.placed(lost, "n1", 1, at(5), {}).after
    assert advance.succeeded(again, at(6), b"", None).after.state == "cancelled"


def test_what_cannot_happen_is_refused() -> None:
    with pytest.raises(WrongState):
        lifecycle.after("done", "cancel")


def test_a_result_that_is_too_large_is_a_failure_and_never_cut_short() -> None:
    change = advance.succeeded(run("running"), at(1), bytes(MAX_RUN_RESULT_BYTES + 1), None)
    assert (change.after.state, change.result) == ("failed", None)


def test_a_timeout_is_what_counts_of_an_attempt_that_was_stopped_for_it() -> None:
    stopping = advance.stopping(run("running"), at(1), Failure("run.action_timeout", "300 s")).after
    change = advance.failed(stopping, at(2), Failure("x", "killed"), outcome="stopped")
    assert (change.after.state, change.after.failure and change.after.failure.code) == (
        "failed", "run.action_timeout",
    )  # fmt: skip


def test_four_times_are_told_apart_and_setting_the_clock_changes_none() -> None:
    policy = Policy(timeout_s=5, start_timeout_s=7, queue_timeout_s=9, total_timeout_s=100)
    assert advance.deadline(run("queued", policy), at(1)) == (8, "queue")
    started = run("starting", policy)
    assert advance.deadline(started, at(1)) == (6, "start")
    begun = advance.begun(started, at(2))
    assert begun is not None
    assert advance.deadline(begun.after, at(3)) == (4, "action")
    assert advance.deadline(begun.after, at(3)._replace(at_s=-1e6)) == (4, "action")
    assert advance.deadline(begun.after, at(99)) == (0, "action")
    assert advance.deadline(run("forked", policy), at(60)) == (40, "total")
    assert advance.deadline(run("done", policy), at(1)) is None


# -- policies


def story(policy: Policy, failure: Failure = FAILURE, **told: Any) -> list[str]:
    """What happens to a run that fails again and again."""
    progress, found = Progress(), []
    while not found or found[-1] not in ("fail", "abandon"):
        step = next_step(policy, progress, failure, **told)
        found.append(step.event)
        progress = step.progress
        assert len(found) < 100
    return found


def test_steps_are_tried_from_left_to_right() -> None:
    policy = Policy(retry=Retry(2), on_failure=Fork(3) | Compensate() | AskPerson("?") | Abandon())
    assert story(policy) == ["retry", "retry", "fork", "compensate", "ask", "abandon"]
    assert story(Policy()) == ["fail"]
    assert story(Policy(on_failure=Compensate() | Retry(1))) == ["compensate", "retry", "fail"]


def test_what_would_fail_the_same_way_is_not_tried_again() -> None:
    policy = Policy(retry=Retry(5), on_failure=Abandon())
    step = next_step(policy, Progress(), Failure("action.arguments", "", "never"))
    assert step.event == "abandon"
    assert step.passed == ("Retry: it would fail the same way",)


def test_where_there_is_no_time_left_only_what_clears_up_is_done() -> None:
    policy = Policy(retry=Retry(5), on_failure=Fork(2) | AskPerson() | Compensate())
    assert story(policy, FAILURE._replace(final=True)) == ["compensate", "fail"]
    assert story(policy, FAILURE._replace(final=True), attempted=False) == ["fail"]


def test_a_lost_node_is_no_failure_until_it_is_too_often() -> None:
    lost = Failure("run.lost", "", lost=True)
    assert story(Policy(losses=2), lost) == ["requeue", "requeue", "fail"]


def test_forks_are_as_many_as_there_are_branches_for() -> None:
    policy = Policy(on_failure=Fork(3, vary=("a", "b", "c")))
    step = next_step(policy, Progress(), FAILURE, branches=2)
    assert (step.forks, step.vary) == (2, ("a", "b"))
    assert next_step(policy, Progress(), FAILURE, branches=0).event == "fail"


def test_forks_of_forks_end() -> None:
    policy, depth = Policy(retry=Retry(1), on_failure=Fork(2, depth=3)), 0
    while any(isinstance(step, Fork) for step in policy.steps):
        number = next(n for n, step in enumerate(policy.steps) if isinstance(step, Fork))
        policy, depth = policy_of_fork(policy, number), depth + 1
    assert depth == 3
    assert policy.steps == (Retry(1), Abandon())


def test_pauses_grow_to_a_bound() -> None:
    retry = Retry(1000, backoff_s=1, factor=2, max_backoff_s=10, jitter=0.5)
    assert [retry.pause_s(n, 0) for n in (0, 1, 2, 3, 4, 999)] == [1, 2, 4, 8, 10, 10]
    assert retry.pause_s(0, 1) == 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Abandon() | Retry(1),
        lambda: Retry(0),
        lambda: Retry(True),
        lambda: Retry(1, backoff_s=float("nan")),
        lambda: Fork(65),
        lambda: Fork(2, vary=("a", "b", "c")),
        lambda: Fork(2, vary="ab"),  # type: ignore[arg-type]
        lambda: Policy(timeout_s=0),
        lambda: Policy(on_failure=Abandon() | Abandon()),
        lambda: Policy(on_failure="retry"),  # type: ignore[arg-type]
        lambda: AskPerson("\ud800"),
        lambda: Request("text"),  # type: ignore[arg-type]
        lambda: Request(b"", tenant=""),
        lambda: Request(b"", priority=101),
        lambda: Request(b"", limits={"x": 0}),
        lambda: Request(b"", rates={"x": 1}),  # type: ignore[dict-item]
        lambda: Request(b"", double="maybe"),  # type: ignore[arg-type]
        lambda: Request(b"", after=tuple("x" * 65)),
        lambda: Request(b"", Policy(on_failure=Fork(depth=None))),
        lambda: Request(b"", parent="run_0", budget=Allowance()),
        lambda: Rate(1, 0),
        lambda: Allowance(tokens=-1),
        lambda: Resources(millicpus=-1),
    ],
)
def test_what_is_not_well_formed_is_refused_with_a_remedy(make: Any) -> None:
    with pytest.raises(RunInvalid) as error:
        make()
    assert error.value.hint


def test_a_request_is_read_as_it_was_written() -> None:
    request = Request(
        b"",
        Policy(retry=Retry(2), on_failure=Fork(2, vary=("a",)) | AskPerson("?") | Abandon()),
        tenant="ada", limits={"shop": 2}, rates={"shop": Rate(3, 60)}, labels={"gpu": "yes"}, near=("b2:1",),
        budget=Allowance(tokens=5),
    )  # fmt: skip
    again = read_request("run_1", packed_request(request))
    assert again.policy.steps == request.policy.steps
    assert packed_request(again) == packed_request(request)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff", b'{"policy": {"steps": [["Bad", {}]]}}', b"[" * 10000]
)
def test_a_damaged_request_is_told(content: bytes) -> None:
    with pytest.raises(StoreDamaged):
        read_request("run_1", content)


# -- dependencies


def test_runs_are_in_order_of_what_they_wait_for() -> None:
    assert in_order({"c": ["b", "there"], "b": ["a"], "a": []}) == ["a", "b", "c"]
    assert len(in_order({str(n): [str(n + 1)] for n in range(10_000)})) == 10_000


def test_a_circle_is_named() -> None:
    with pytest.raises(RunCycle) as error:
        in_order({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]})
    assert error.value.details["cycle"] == ["a", "b", "c", "a"]
    with pytest.raises(RunCycle):
        in_order({"a": ["a"]})


# -- placement and order


def test_a_tenant_that_floods_the_queue_does_not_keep_another_waiting() -> None:
    queue = Queue()
    queue.join(node("n1", boxes=4))
    for n in range(100):
        queue.add(item(f"a{n}", tenant="a", number=n))
    queue.add(item("b", tenant="b", at_s=1000, number=100))
    assert "b" in {start.run for start in queue.decide(0, 4)}


def test_weights_say_how_much_of_a_node_each_tenant_has() -> None:
    queue = Queue()
    queue.join(node("n1", boxes=9))
    queue.weigh("a", 2.0)
    for n in range(20):
        queue.add(item(f"a{n}", tenant="a", number=n))
        queue.add(item(f"b{n}", tenant="b", number=n))
    started = [start.run[0] for start in queue.decide(0, 9)]
    assert (started.count("a"), started.count("b")) == (6, 3)


def test_who_waits_long_enough_comes_before_a_higher_priority() -> None:
    queue = Queue()
    queue.join(node("n1", boxes=1))
    queue.add(item("old", at_s=0, priority=0, number=1))
    queue.add(item("new", at_s=599, priority=600, number=2))
    assert queue.decide(0, 1)[0].run == "new"
    queue.release("new", 0)
    queue.add(item("newer", at_s=601, priority=600, number=3))
    assert queue.decide(0, 1)[0].run == "old"


def test_a_large_run_gets_a_node_though_small_ones_never_end_coming() -> None:
    queue, now_s, number = Queue(), 0.0, 0
    queue.join(node("n1", cpu=4000))
    running: list[str] = []
    for _ in range(4):
        number += 1
        queue.add(item(f"s{number}", cpu=1000, number=number))
    running = [start.run for start in queue.decide(0, 9)]
    queue.add(item("large", tenant="b", cpu=4000, number=0, since_s=0.0))
    for _ in range(200):
        now_s += 1
        number += 1
        queue.add(item(f"s{number}", cpu=1000, number=number, since_s=now_s))
        if running:
            queue.release(running.pop(0), now_s)
        started = [start.run for start in queue.decide(now_s, 9)]
        if "large" in started:
            return
        running += started
    pytest.fail("it was never started")


def test_what_was_kept_free_for_a_run_that_was_started_elsewhere_is_free_again() -> None:
    queue = Queue()
    queue.join(node("n1", cpu=4000))
    for n in range(4):
        queue.add(item(f"s{n}", cpu=1000, number=n))
    assert len(queue.decide(0, 9)) == 4
    queue.add(item("large", tenant="b", cpu=4000, number=4))
    assert queue.decide(1, 9) == []
    assert queue.decide(32, 9) == []
    assert queue.nodes["n1"].kept is not None
    queue.join(node("n2", cpu=4000))
    assert [(start.run, start.node) for start in queue.decide(33, 9)] == [("large", "n2")]
    queue.release("s0", 33)
    queue.add(item("late", cpu=1000, number=5, since_s=33))
    assert [(start.run, start.node) for start in queue.decide(33, 9)] == [("late", "n1")]


def test_a_run_that_is_held_twice_is_counted_once_and_at_its_node_once_that_is_there() -> None:
    queue = Queue()
    one = item("r", cpu=1000, bars=(limit("shop", 2),))
    queue.hold(one, "n1")
    queue.join(node("n1", cpu=1500))
    queue.hold(one, "n1")
    queue.hold(one, "n1")
    assert queue.nodes["n1"].free.millicpus == 500
    queue.add(item("second", cpu=500, bars=(limit("shop", 2),), number=1))
    assert len(queue.decide(0, 9)) == 1
    queue.release("r", 1)
    assert queue.nodes["n1"].free.millicpus == 1000


def test_a_rate_counts_the_starts_of_runs_that_asked_for_a_shorter_span() -> None:
    queue = Queue()
    queue.join(node("n1"))
    queue.add(item("short", bars=(rate("shop", 1, 1.0),)))
    assert queue.decide(0, 9)
    queue.release("short", 1)
    assert queue.decide(2, 9) == []  # what the short one asked for is over
    queue.add(item("long", bars=(rate("shop", 1, 60.0),), number=1))
    assert queue.decide(2, 9) == []
    assert queue.next_s() == 60
    assert [start.run for start in queue.decide(60, 9)] == ["long"]


def test_a_key_is_forgotten_once_no_rate_can_count_its_starts() -> None:
    queue = Queue()
    queue.join(node("n1"))
    for n in range(20):
        queue.add(item(f"r{n}", bars=(rate(f"key {n}", 1, 1.0), limit(f"key {n}")), number=n))
    for start in queue.decide(0, 99):
        queue.release(start.run, 0)
    queue.decide(MAX_RATE_S - 1, 9)
    assert len(queue._gates) == 20
    queue.decide(MAX_RATE_S, 9)
    assert not queue._gates
    assert not queue._fading


def test_a_run_is_placed_where_its_layers_are_and_says_why() -> None:
    queue = Queue()
    queue.join(node("n1"))
    queue.join(node("n2", near=frozenset({"b2:1"})))
    queue.add(item("r", near=("b2:1", "b2:2")))
    (start,) = queue.decide(0, 1)
    assert start.node == "n2"
    assert {reason.what: reason.points for reason in start.reasons}["near"] == 50


def test_a_run_that_waits_says_what_keeps_it() -> None:
    queue = Queue()
    queue.add(item("r"))
    assert [reason.what for reason in queue.explain("r", 0)] == ["nodes"]
    queue.join(node("n1", cpu=1000))
    queue.add(item("first", bars=(limit("shop"),)))
    queue.add(item("second", bars=(limit("shop"),), number=1))
    queue.add(item("gpu", labels=(("gpu", "yes"),)))
    queue.add(item("large", cpu=2000))
    queue.decide(0, 10)
    told = {run: [(reason.what, reason.about) for reason in queue.explain(run, 0)] for run in queue.items}
    assert told == {"second": [("limit", "shop")], "gpu": [("labels", "n1")], "large": [("room", "n1")]}
    assert queue.explain("second", 0)[0].detail == "1 of 1 are at work: first"
    assert queue.explain("nobody", 0) == ()


def test_a_run_that_waits_says_who_comes_first_and_which_tenant_has_less() -> None:
    queue = Queue()
    queue.join(node("n1", boxes=3))
    for n in range(3):
        queue.add(item(f"a{n}", tenant="a", number=n))
    queue.decide(0, 9)
    for n in range(3, 6):
        queue.add(item(f"a{n}", tenant="a", priority=n, number=n))
    queue.add(item("b", tenant="b", at_s=5, number=6))
    queue.decide(1, 9)
    assert [(reason.what, reason.detail) for reason in queue.explain("a3", 1)] == [
        ("room", "1 boxes are wanted, 0 of 3 are free"),
        ("turn", "2 runs of its tenant, older or of a higher priority, first"),
        ("share", "its tenant has 100% of the nodes for its weight, and these have less: 'b'"),
    ]
    assert [reason.what for reason in queue.explain("b", 1)] == ["room"]


def test_a_rate_says_when_the_next_may_start() -> None:
    queue = Queue()
    queue.join(node("n1"))
    queue.add(item("first", bars=(rate("shop", 1, 60.0),)))
    queue.add(item("second", bars=(rate("shop", 1, 60.0),), number=1))
    queue.decide(0, 9)
    assert [reason[:3] for reason in queue.explain("second", 20)] == [
        ("rate", "shop", "1 were started within 60 s; the next in 40 s")
    ]


def test_what_undoes_comes_first_and_keeps_what_it_holds() -> None:
    queue = Queue()
    queue.join(node("n1", boxes=1))
    queue.add(item("work", bars=(limit("shop"),)))
    queue.decide(0, 1)
    queue.leave("work")
    queue.add(item("next", bars=(limit("shop"),), number=1))
    queue.add(item("work")._replace(rank=(0, 9e9, 9)))
    assert [start.run for start in queue.decide(0, 9)] == ["work"]
    queue.release("work", 0)
    assert [start.run for start in queue.decide(0, 9)] == ["next"]


# -- leases, and what is wanted


def test_a_silent_holder_is_found_by_the_watchers_own_clock_alone() -> None:
    watch, row = Watch(), LeaseRow("node/1", "x", 1, 0)
    assert [bool(watch.look([row], now)) for now in (100, 105, 110, 114.9, 115)] == [False] * 4 + [True]
    assert not watch.look([row._replace(beat=1)], 120)


def test_a_watcher_that_slept_has_seen_no_silence() -> None:
    watch, row = Watch(), LeaseRow("node/1", "x", 1, 0)
    watch.look([row], 100)
    assert watch.look([row], 1000) == []
    assert watch.look([row], 1005) == []


def apply(wanted: list[Wanted], there: list[Observed]) -> list[Observed]:
    actions = reconcile(wanted, there)
    stopped = {action.target for action in actions if action.verb == "stop"}
    left = [each._replace(state="ready") for each in there if each.id not in stopped]
    count = len(there)
    started = [action for action in actions if action.verb == "start"]
    return left + [
        Observed(f"i{count + n}-{a.target}", a.name, a.target, "starting") for n, a in enumerate(started)
    ]


def test_what_is_wanted_comes_to_be_there_and_then_nothing_is_done() -> None:
    wanted = [Wanted("pool", "d2", 6), Wanted("shop", "s1")]
    there = [Observed(f"o{n}", "pool", "d1", "ready") for n in range(6)]
    there += [Observed("gone", "unwanted", "x", "ready"), Observed("bad", "shop", "s1", "failed")]
    for _ in range(20):
        there = apply(wanted, there)
        assert sum(each.name == "pool" and each.state == "ready" for each in there) >= 2
    assert reconcile(wanted, there) == ()
    assert sorted((each.name, each.digest) for each in there) == [("pool", "d2")] * 6 + [("shop", "s1")]


def test_what_serves_is_stopped_only_once_what_replaces_it_is_ready() -> None:
    wanted = [Wanted("shop", "new", 2)]
    old = [Observed(f"o{n}", "shop", "old", "ready") for n in range(2)]
    assert [a.verb for a in reconcile(wanted, old)] == ["start", "start"]
    half = [*old, Observed("n1", "shop", "new", "ready"), Observed("n2", "shop", "new", "starting")]
    assert [(a.verb, a.target) for a in reconcile(wanted, half)] == [("stop", "o1")]


def test_what_fails_again_and_again_is_started_ever_more_rarely() -> None:
    wanted = [Wanted("shop", "s", backoff_s=1, max_backoff_s=60)]
    assert reconcile(wanted, [], {"shop": Failures(3, ago_s=3.9)}) == ()
    assert len(reconcile(wanted, [], {"shop": Failures(3, ago_s=4.0)})) == 1
    assert len(reconcile(wanted, [], {"shop": Failures(10_000, ago_s=60)})) == 1


def test_a_fork_that_counts_ends_the_run_and_none_goes_on_with_its_policy() -> None:
    forked = run("forked", Policy(on_failure=Fork(2) | Abandon()), progress=Progress(0, 1), failure=FAILURE)
    assert advance.joined(forked, at(1), ["failed", "running"], "") is None
    done = advance.joined(forked, at(1), ["running", "done"], "run_w")
    assert done is not None
    assert done.after.state == "done"
    none = advance.joined(forked, at(1), ["failed", "abandoned"], "")
    assert none is not None
    assert none.after.state == "abandoned"


def test_a_person_may_say_to_try_again_and_is_asked_again() -> None:
    asking = run("asking", Policy(on_failure=AskPerson("?")), progress=Progress(0, 1), failure=FAILURE)
    again = advance.answered(asking, at(1), "retry", "ada").after
    assert (again.state, advance.deadline(again, at(1))) == ("backing_off", (0, "pause"))
    running = replace(run("running", asking.request.policy), progress=again.progress)
    assert advance.failed(running, at(2), FAILURE).after.state == "asking"


def test_whoever_was_found_no_room_is_tried_on_the_nodes_that_have_changed_alone() -> None:
    tried: list[str] = []

    class Watched(Node):
        def fits(self, demand: Demand, tenant: str) -> bool:
            tried.append(self.id)
            return super().fits(demand, tenant)

    queue = Queue()
    for number in range(50):
        queue.join(Watched(f"n{number}", 1, Resources(1000, 0, 100)))
    for number in range(60):
        queue.add(item(f"r{number}", cpu=1000, number=number))
    there = {start.run: start.node for start in queue.decide(0.0, 100)}
    assert len(there) == 50
    tried.clear()
    queue.release("r7", 1.0)
    assert [start.node for start in queue.decide(1.0, 100)] == [there["r7"]]
    assert set(tried) == {there["r7"]}
