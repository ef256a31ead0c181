"""Explorations carried out: threads, tasks, budgets, nesting and bad luck, over branches in memory."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import anyio
import pytest

import kibo
from fake_worlds import FakeInstance, FakeWorld
from kibo import aio
from kibo.branch.explore.decisions import Failed, Finished, Fork, GiveUp, Started, Task, Win
from kibo.branch.explore.inside import stopped
from kibo.model.errors import (
    BranchClosed,
    BranchStale,
    BudgetSpent,
    ExplorationFailed,
    InvalidInput,
)


@pytest.fixture
def box() -> Iterator[FakeInstance]:
    """An instance; at the end no fork is open and no thread runs."""
    main = FakeWorld()
    yield main.spawn()
    assert not left_open(main)
    assert not [thread.name for thread in threading.enumerate() if thread.name == "kibo-explore"]


def left_open(main: FakeWorld) -> list[FakeWorld]:
    return [world for world in main.family if world is not main and not world.closed]


def block(box: FakeInstance) -> None:
    box.block()


def yes(box: FakeInstance) -> str:
    box.put("by", "yes")
    return "yes"


def no(box: FakeInstance) -> None:
    box.put("by", "no")


def breaks(box: FakeInstance) -> None:
    raise ValueError("broken")


# What is explored, and what strategies may be.


def test_a_branch_can_be_explored_and_its_strategies_get_branches(box):
    def strategy(branch: FakeWorld) -> bool:
        branch[box].put("name", branch.name)
        return True

    found = kibo.explore(box.branch, [("first", strategy)])
    assert box.get("name") == "first"
    assert found.winner.branch_id == found.winner.branch.id


def test_strategies_are_callables_pairs_and_strategies(box):
    found = kibo.explore(
        box, [no, ("named", no), kibo.Strategy("third", no), ("named", no), lambda one: one.get("x")]
    )
    assert [attempt.name for attempt in found.attempts] == ["no", "named", "third", "named-2", "strategy"]
    assert not found
    assert (found.reason, box.get("by")) == ("nothing left to try", None)


@pytest.mark.parametrize("wrong", ["text", 7, ("name", "no callable")])
def test_what_is_no_strategy_is_refused(box, wrong):
    with pytest.raises(InvalidInput):
        kibo.explore(box, [wrong])


def test_what_is_no_branch_is_refused():
    with pytest.raises(InvalidInput, match="neither a branch nor an instance"):
        kibo.explore(object(), [yes])


def test_no_strategies_are_no_winner(box):
    assert kibo.explore(box, []).reason == "nothing left to try"


# Outcomes.


def test_the_first_success_wins_and_the_others_are_interrupted_at_once(box):
    begin = time.monotonic()
    found = kibo.explore(box, [block, block, breaks, yes], workers=4)
    assert time.monotonic() - begin < 5
    assert [attempt.state for attempt in found.attempts] == ["stopped", "stopped", "failed", "won"]
    assert (found.winner.value, found.reason, found.committed) == ("yes", "won", True)
    assert box.get("by") == "yes"
    assert isinstance(found.attempts[2].error, ValueError)


def test_losers_do_nothing_after_the_outcome(box):
    beats = []

    def busy(one: FakeInstance) -> None:
        while True:
            one.put("beat", time.monotonic())
            beats.append(time.monotonic())
            time.sleep(0.001)

    def wins(one: FakeInstance) -> bool:
        one.work(0.05)
        return True

    ended = []

    def watch(event: Any) -> None:
        if event.kind == "won":
            ended.append(time.monotonic())

    kibo.explore(box, [busy, busy, wins], workers=3, progress=watch)
    assert beats
    assert max(beats) < ended[0] + 0.1


def test_without_a_winner_every_error_is_told(box):
    with pytest.raises(ExplorationFailed) as caught:
        kibo.explore(box, [breaks, no], require=True)
    assert "breaks failed after" in str(caught.value)
    assert "ValueError: broken" in str(caught.value)
    assert [one["state"] for one in caught.value.details["attempts"]] == ["failed", "finished"]


def test_a_winner_that_is_not_committed_stays_open_with_its_line():
    main = FakeWorld()
    box = main.spawn()

    def step(one: FakeInstance) -> None:
        one.put("n", one.get("n", 0) + 1)

    found = kibo.explore(
        box, [step], policy=kibo.TreeSearch(None, lambda one: one.get("n"), depth=2), commit=False
    )
    assert box.get("n") is None
    assert left_open(main) == [found.attempts[0].branch, found.winner.branch]
    found.winner.branch.commit()
    found.attempts[0].branch.commit()
    assert box.get("n") == 2


def test_a_parent_that_moved_keeps_the_winner_and_names_it():
    main = FakeWorld()
    box = main.spawn()

    def wins(one: FakeInstance) -> bool:
        one.put("a", 1)
        box.put("a", 2)  # somebody else, in the parent
        return True

    with pytest.raises(BranchStale) as caught:
        kibo.explore(box, [wins, no])
    (kept,) = left_open(main)
    assert kept.id in caught.value.__notes__[0]
    assert kept[box].get("a") == 1


def test_an_attempt_that_waits_at_its_boundary_wins_and_goes_on_after_the_commit(box):
    def buys(one: FakeInstance) -> str:
        receipt = one.buy()
        return f"{receipt}!"

    found = kibo.explore(box, [buys, block], workers=2)
    assert (found.winner.strategy, found.winner.value, found.committed) == ("buys", "bought!", True)


def test_sys_exit_in_a_strategy_is_a_failed_attempt(box):
    def leaves(_: Any) -> None:
        raise SystemExit(3)

    found = kibo.explore(box, [leaves, yes], workers=1)
    assert found
    assert isinstance(found.attempts[0].error, SystemExit)


def test_a_fork_that_fails_is_the_attempts_error():
    main = FakeWorld()
    box = main.spawn()
    main.abort()
    found = kibo.explore(box, [yes, no])
    assert [type(attempt.error) for attempt in found.attempts] == [BranchClosed, BranchClosed]
    assert found.spent.branches == 0
    assert found.attempts[0].branch is None


def test_a_strategy_that_nobody_can_interrupt_is_left_and_said_to_linger():
    box = FakeWorld().spawn()
    free = threading.Event()

    def stubborn(_: Any) -> None:
        free.wait(30)

    found = kibo.explore(box, [stubborn, yes], workers=2, grace_s=0.05)
    assert [attempt.lingering for attempt in found.attempts] == [True, False]
    free.set()


def test_a_loop_that_calls_no_branch_can_ask_whether_it_was_stopped(box):
    def polite(_: Any) -> str:
        while not stopped():
            time.sleep(0.001)
        return "late"

    found = kibo.explore(box, [polite, yes], workers=2)
    assert [(attempt.state, attempt.value) for attempt in found.attempts] == [
        ("stopped", None),
        ("won", "yes"),
    ]


def test_no_more_than_so_many_run_at_once(box):
    guard = threading.Lock()
    now, most = 0, 0

    def counted(one: FakeInstance) -> None:
        nonlocal now, most
        with guard:
            now += 1
            most = max(most, now)
        one.work(0.01)
        with guard:
            now -= 1

    kibo.explore(box, [counted] * 12, workers=3)
    assert most == 3


# Policies at work.


def test_the_best_score_wins(box):
    def sets(number: int) -> Any:
        return (f"set{number}", lambda one: one.put("n", number))

    found = kibo.explore(
        box, [sets(3), sets(9), sets(5), breaks], policy=kibo.BestOf(lambda one: one.get("n", 0))
    )
    assert box.get("n") == 9
    assert [attempt.score for attempt in found.attempts] == [3, 9, 5, None]


@pytest.mark.parametrize("answer", ["much", None, float("nan")])
def test_a_score_that_is_no_number_fails_its_attempt(box, answer):
    found = kibo.explore(box, [yes], policy=kibo.BestOf(lambda _: answer))
    assert found.attempts[0].state == "failed"
    assert isinstance(found.attempts[0].error, TypeError | ValueError)


def test_a_score_may_look_at_the_value(box):
    policy = kibo.BestOf(lambda one, value: len(value))
    found = kibo.explore(box, [("short", lambda _: "a"), ("long", lambda _: "aaa")], policy=policy)
    assert found.winner.strategy == "long"


def test_reflexion_tries_again_with_the_critique(box):
    hints = []

    def tries(one: FakeInstance, hint: str | None) -> bool:
        hints.append(hint)
        one.put("tries", one.get("tries", 0) + 1)
        if hint is None:
            raise ValueError("imports")
        return hint == "tests"

    def critique(one: FakeInstance, value: Any, error: Any, hint: Any) -> str:
        assert one.get("tries") == (1 if hint is None else 2)
        return str(error) if error else "tests"

    found = kibo.explore(box, [tries], policy=kibo.Reflexion(critique, again_from="attempt"))
    assert hints == [None, "imports", "tests"]
    assert (found.winner.depth, box.get("tries")) == (3, 3)


def test_a_tournament_is_judged_between_worlds(box):
    entrants = [(f"e{n}", lambda one, n=n: one.put("n", n)) for n in (4, 8, 1, 9, 3)]
    kibo.explore(
        box, entrants, policy=kibo.Tournament(lambda first, second: first.get("n") > second.get("n"))
    )
    assert box.get("n") == 9


def test_a_cascade_does_not_try_what_is_dear_after_a_success(box):
    found = kibo.explore(box, [kibo.Strategy("dear", block, 9), no, yes], policy=kibo.Cascade(), workers=4)
    assert [attempt.strategy for attempt in found.attempts] == ["no", "yes"]


def moves24(box: FakeInstance) -> list[str]:
    numbers = box.get("numbers")
    return [
        f"{i}{op}{j}"
        for i, j in product(range(len(numbers)), repeat=2)
        if i != j
        for op in "+-*/"
        if not (op in "+*" and i > j) and not (op == "/" and numbers[j] == 0)
    ]


def move24(box: FakeInstance, hint: str) -> bool:
    """Joins two of the numbers by an operation; true where 24 is all that is left."""
    numbers = list(box.get("numbers"))
    i, op, j = int(hint[0]), hint[1], int(hint[2])
    a, b = numbers[i], numbers[j]
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0}[op]
    rest = [number for place, number in enumerate(numbers) if place not in (i, j)]
    box.put("numbers", [*rest, result])
    return not rest and abs(result - 24) < 1e-9


def hope24(box: FakeInstance) -> float:
    """How near 24 the nearest of sums and products of what is left comes."""
    numbers = box.get("numbers")
    if len(numbers) == 1:
        return -abs(numbers[0] - 24)
    return max(-min(abs(a * b - 24), abs(a + b - 24), abs(a - b - 24)) for a, b in product(numbers, repeat=2))


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 12},
        {"width": 12, "least": -20.0},
        {"explore_constant": 20.0, "rollouts": 600, "at_once": 4},
    ],
    ids=["beam", "thoughts", "mcts"],
)
def test_the_game_of_24_is_won_by_each_setting(box, settings):
    box.put("numbers", [4, 6, 1, 1])
    policy = kibo.TreeSearch(moves24, hope24, depth=3, accept=bool, **settings)
    found = kibo.explore(box, [move24], policy=policy, workers=4)
    assert found, found.reason
    assert box.get("numbers") == [pytest.approx(24)]
    assert found.winner.depth == 3


MAZE = ["S.#", ".##", "..G"]


def go(box: FakeInstance, hint: str) -> bool:
    row, column = box.get("at", (0, 0))
    row += {"up": -1, "down": 1}.get(hint, 0)
    column += {"left": -1, "right": 1}.get(hint, 0)
    box.put("at", (row, column))
    return MAZE[row][column] == "G"


def ways(box: FakeInstance) -> list[str]:
    row, column = box.get("at", (0, 0))
    steps = {"right": (0, 1), "down": (1, 0), "left": (0, -1), "up": (-1, 0)}
    return [
        name
        for name, (r, c) in steps.items()
        if 0 <= row + r < 3 and 0 <= column + c < 3 and MAZE[row + r][column + c] != "#"
    ]


def test_thoughts_walk_a_maze_in_the_textbooks_order(box):
    policy = kibo.TreeSearch(ways, lambda one: sum(one.get("at")), width=2, depth=4, least=1.0, accept=bool)
    found = kibo.explore(box, [go], policy=policy, workers=1)
    # From the start right and down are as good; right is the first, and a dead end but for the way back, which is not
    # good enough. Then down, down, right, right.
    assert [(attempt.parent, attempt.hint) for attempt in found.attempts][:4] == [
        (None, "right"),
        (None, "down"),
        (0, "left"),
        (1, "down"),
    ]
    assert box.get("at") == (2, 2)
    assert found.winner.depth == 4


class Alternate:
    """A policy of a user: one strategy after the other, each twice, until one returns something even."""

    def start(self, task: Task) -> tuple[Any, ...]:
        return tuple(one for one in task.strategies for _ in range(2))

    def step(self, state: tuple[Any, ...], event: Any) -> tuple[tuple[Any, ...], list[Any]]:
        match event:
            case Finished(number, int(value)) if value % 2 == 0:
                return state, [Win(number)]
            case Started() | Finished() | Failed():
                return (state[1:], [Fork(state[0])]) if state else (state, [GiveUp("all were odd")])
        return state, []


def test_a_users_policy_decides(box):
    numbers = iter([1, 3, 5, 8])
    found = kibo.explore(
        box, [("a", lambda _: next(numbers)), ("b", lambda _: next(numbers))], policy=Alternate()
    )
    assert [attempt.strategy for attempt in found.attempts] == ["a", "a", "b", "b"]
    assert found.winner.value == 8
    assert kibo.explore(box, [("a", lambda _: 1)], policy=Alternate()).reason == "all were odd"


def test_the_policy_that_the_how_to_shows_works_as_it_stands_there(box):
    page = (Path(__file__).parents[2] / "docs/howto/explore.md").read_text()
    (block,) = [one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class OneByOne" in one]
    space: dict[str, Any] = {"__name__": __name__}
    exec(block, space)
    found = kibo.explore(box, [no, breaks, yes, yes], policy=space["OneByOne"]())
    assert [attempt.strategy for attempt in found.attempts] == ["no", "breaks", "yes"]
    assert kibo.explore(box, [no], policy=space["OneByOne"]()).reason == "none returned anything"


@pytest.mark.parametrize("action", [Win(0), Win(7), Fork(kibo.Strategy("x", no), parent=0), "fork"])
def test_a_policy_that_breaks_the_rules_is_an_error_that_leaves_nothing(box, action):
    class Wrong:
        def start(self, task: Task) -> None: ...

        def step(self, state: None, event: Any) -> tuple[None, list[Any]]:
            return None, [Fork(kibo.Strategy("blocks", block)), action]

    with pytest.raises(InvalidInput):
        kibo.explore(box, [], policy=Wrong())


# Budgets.


def test_seconds_stop_everything_and_partial_results_return(box):
    begin = time.monotonic()
    found = kibo.explore(
        box,
        [yes, block, block],
        policy=kibo.BestOf(lambda _: 1.0),
        budget=kibo.Budget(seconds=0.2),
        workers=3,
    )
    assert time.monotonic() - begin < 5
    assert found.reason == "budget: seconds"
    assert found.winner.strategy == "yes"
    assert [attempt.state for attempt in found.attempts] == ["won", "stopped", "stopped"]
    again = kibo.explore(box, [block], budget=kibo.Budget(seconds=0.05))
    assert (again.winner, again.reason) == (None, "budget: seconds")


def test_branches_are_never_exceeded(box):
    found = kibo.explore(box, [no] * 10, budget=kibo.Budget(branches=4))
    assert found.reason == "budget: branches"
    assert found.spent.branches == 4
    assert len(box.branch.family) == 5
    assert [isinstance(attempt.error, BudgetSpent) for attempt in found.attempts] == [False] * 4 + [True] * 6


def test_a_budget_is_shared_by_explorations_one_after_the_other(box):
    budget = kibo.Budget(branches=3)
    assert kibo.explore(box, [no, yes], budget=budget, workers=1)
    assert kibo.explore(box, [no, yes], budget=budget).reason == "budget: branches"


@pytest.mark.parametrize(("resource", "limit"), [("tokens", 100), ("money", 1.0)])
def test_what_strategies_spend_ends_the_exploration(box, resource, limit):
    budget = kibo.Budget(**{resource: limit})

    def spends(one: FakeInstance) -> None:
        while True:
            budget.spend(**{resource: limit / 4})
            one.work(0.001)

    found = kibo.explore(box, [spends, block, spends], budget=budget, workers=3)
    assert found.reason == f"budget: {resource}"
    assert getattr(found.spent, resource) >= limit
    costs = [getattr(attempt.cost, resource) for attempt in found.attempts]
    assert sum(costs) == pytest.approx(getattr(found.spent, resource))
    assert costs[1] == 0


def test_a_budget_that_is_spent_already_forks_nothing(box):
    budget = kibo.Budget(tokens=1)
    with pytest.raises(BudgetSpent):
        budget.spend(tokens=2)
    found = kibo.explore(box, [yes], budget=budget)
    assert (found.reason, found.attempts, len(box.branch.family)) == ("budget: tokens", (), 1)
    assert kibo.explore(box, [yes], budget=kibo.Budget(seconds=0)).reason == "budget: seconds"


def test_what_makes_no_sense_is_refused(box):
    for wrong in ({"seconds": -1}, {"branches": -1}, {"money": float("nan")}):
        with pytest.raises(InvalidInput):
            kibo.Budget(**wrong)
    with pytest.raises(InvalidInput):
        kibo.Budget().spend(tokens=-1)
    with pytest.raises(InvalidInput):
        kibo.explore(box, [yes], workers=0)


def test_spending_from_many_threads_loses_nothing():
    budget = kibo.Budget()
    threads = [
        threading.Thread(target=lambda: [budget.spend(tokens=1, money=0.5) for _ in range(500)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.spent.tokens, budget.spent.money) == (4000, 2000.0)


# Explorations inside of explorations.


def test_an_exploration_inside_a_strategy_shares_the_budget(box):
    def nested(one: FakeInstance) -> bool:
        return bool(kibo.explore(one, [no, no, no], workers=1))

    found = kibo.explore(box, [nested, nested], budget=kibo.Budget(branches=5), workers=1)
    assert not found
    assert found.spent.branches == 5
    assert len(box.branch.family) == 6
    assert [attempt.cost.branches for attempt in found.attempts] == [3, 0]


def test_an_exploration_inside_commits_into_its_strategys_branch(box):
    def nested(one: FakeInstance) -> bool:
        return bool(kibo.explore(one, [no, yes], workers=1))

    assert kibo.explore(box, [nested])
    assert box.get("by") == "yes"


def test_stopping_a_strategy_stops_what_it_explores(box):
    inner_began = threading.Event()
    errors = []

    def inner(one: FakeInstance) -> None:
        inner_began.set()
        one.block()

    def nested(one: FakeInstance) -> None:
        try:
            kibo.explore(one, [inner, inner], workers=2)
        except BranchClosed as error:
            errors.append(error)
            raise

    def wins(_: Any) -> bool:
        return inner_began.wait(10)

    assert kibo.explore(box, [nested, wins], workers=2)
    assert len(errors) == 1


def test_seconds_of_the_outer_budget_end_the_inner_exploration(box):
    reasons = []

    def nested(one: FakeInstance) -> None:
        reasons.append(kibo.explore(one, [block], budget=kibo.Budget(seconds=60)).reason)

    begin = time.monotonic()
    found = kibo.explore(box, [nested], budget=kibo.Budget(seconds=0.2))
    assert time.monotonic() - begin < 5
    assert found.reason == "budget: seconds"


def test_tokens_spent_inside_count_outside(box):
    outer, inner = kibo.Budget(tokens=10), kibo.Budget(tokens=1000)

    def spends(_: Any) -> None:
        inner.spend(tokens=11)

    def nested(one: FakeInstance) -> None:
        kibo.explore(one, [spends], budget=inner)

    found = kibo.explore(box, [nested], budget=outer)
    assert found.reason == "budget: tokens"
    assert (outer.spent.tokens, inner.spent.tokens, found.attempts[0].cost.tokens) == (11, 11, 11)


# Progress.


def test_progress_is_told_in_order_on_the_calling_thread(box):
    events = []

    def talks(one: FakeInstance) -> bool:
        kibo.note("looking\naround")
        return True

    def watch(event: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        events.append((event.kind, event.attempt and event.attempt.name, event.text))

    kibo.explore(box, [talks], progress=watch)
    assert events == [
        ("began", None, ""),
        ("queued", "talks", ""),
        ("started", "talks", ""),
        ("log", "talks", "around"),
        ("finished", "talks", ""),
        ("won", "talks", ""),
        ("ended", None, "won"),
    ]


def test_a_watcher_that_raises_ends_the_exploration_and_leaves_nothing(box):
    def watch(event: Any) -> None:
        if event.kind == "started":
            raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        kibo.explore(box, [block, block], progress=watch)


def test_notes_outside_of_an_exploration_go_nowhere():
    kibo.note("nobody listens")


# Coroutines.


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_coroutines_explore_too(box):
    async def sleeps(one: FakeInstance) -> None:
        await anyio.sleep(3600)

    async def wins(one: FakeInstance) -> bool:
        one.put("by", "wins")
        await anyio.sleep(0.01)
        return True

    async def score(one: FakeInstance) -> float:
        return 1.0

    found = await aio.explore(box, [sleeps, wins, sleeps])
    assert [attempt.state for attempt in found.attempts] == ["stopped", "won", "stopped"]
    assert box.get("by") == "wins"
    best = await aio.explore(box, [wins, no], policy=kibo.BestOf(score))
    assert best.winner.score == 1.0


@pytest.mark.anyio
async def test_cancelling_an_exploration_leaves_nothing(box):
    began = anyio.Event()

    async def sleeps(one: FakeInstance) -> None:
        began.set()
        await anyio.sleep(3600)

    async with anyio.create_task_group() as group:
        group.start_soon(aio.explore, box, [sleeps] * 3)
        await began.wait()
        group.cancel_scope.cancel()
    assert not left_open(box.branch)


@pytest.mark.anyio
async def test_errors_of_an_exploration_are_not_wrapped(box):
    with pytest.raises(ExplorationFailed):
        await aio.explore(box, [no], require=True)

    def watch(event: Any) -> None:
        raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        await aio.explore(box, [no], progress=watch)


@pytest.mark.anyio
async def test_budgets_end_coroutines(box):
    budget = kibo.Budget(tokens=10)

    async def spends(_: Any) -> None:
        await anyio.to_thread.run_sync(lambda: budget.spend(tokens=11))

    async def sleeps(_: Any) -> None:
        await anyio.sleep(3600)

    assert (await aio.explore(box, [sleeps, spends], budget=budget)).reason == "budget: tokens"
    assert (await aio.explore(box, [sleeps], budget=kibo.Budget(seconds=0.05))).reason == "budget: seconds"


def test_a_coroutine_for_plain_explore_is_refused_with_the_way_out(box):
    async def strategy(_: Any) -> None: ...

    with pytest.raises(InvalidInput, match=r"kibo\.aio\.explore"):
        kibo.explore(box, [strategy])
