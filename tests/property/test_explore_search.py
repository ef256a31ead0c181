"""Whatever happens, in whatever order: one winner at most, the rest stopped, no branch too many, and an end."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kibo.branch.explore.decisions import Failed, Finished, Fork, Started, Stop, Task
from kibo.branch.explore.policies.best_of import BestOf
from kibo.branch.explore.policies.cascade import Cascade
from kibo.branch.explore.policies.first_success import FirstSuccess
from kibo.branch.explore.policies.reflexion import Reflexion
from kibo.branch.explore.policies.tournament import Tournament
from kibo.branch.explore.policies.tree_search import TreeSearch
from kibo.branch.explore.search import Abort, Launch, Order, Question, Search
from kibo.branch.explore.strategy import Strategy


class ForksForEver:
    """A policy with no end: every attempt that comes to nothing is tried twice more."""

    def start(self, task: Task) -> Task:
        return task

    def step(self, state: Task, event: Any) -> tuple[Task, list[Any]]:
        match event:
            case Started():
                return state, [Fork(one) for one in state.strategies]
            case Finished(number) | Failed(number):
                return state, [Stop(number), Fork(state.strategies[0]), Fork(state.strategies[0])]
        return state, []


def ask(*_: Any) -> Any: ...


POLICIES = [
    FirstSuccess(),
    BestOf(ask),
    BestOf(ask, n=7),
    Cascade(),
    Cascade(stages=(2, 3)),
    Reflexion(ask, tries=2),
    Reflexion(ask, again_from="attempt"),
    Tournament(ask),
    TreeSearch(None, ask, width=2, depth=3),
    TreeSearch(ask, ask, width=2, depth=2),
    TreeSearch(None, ask, width=2, depth=3, least=0.4),
    TreeSearch(ask, ask, width=2, depth=2, least=0.4, accept=bool),
    TreeSearch(None, ask, depth=2, explore_constant=1.4, rollouts=9),
    TreeSearch(ask, ask, depth=3, explore_constant=1.4, rollouts=9, at_once=4),
]


class Model:
    """Worlds as numbers: what is forked, what runs, what was aborted."""

    def __init__(self, policy: Any, count: int, workers: int, branches: int) -> None:
        self.left = branches
        self.workers = workers
        self.search = Search(
            policy, Task(tuple(Strategy(f"s{n}", print) for n in range(count))), workers, self.grant
        )
        self.open: set[int] = set()
        self.running: set[int] = set()
        self.parents: dict[int, int | None] = {}
        self.asked: dict[int, Question] = {}
        self.made = 0

    def grant(self, wanted: int) -> int:
        got = min(wanted, self.left)
        self.left -= got
        return got

    def perform(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Abort(numbers):
                    assert len(set(numbers)) == len(numbers)
                    for number in numbers:
                        assert number in self.open, "a world was aborted twice, or never made"
                        self.open.discard(number)
                        self.running.discard(number)
                        children = [child for child, parent in self.parents.items() if parent == number]
                        assert all(child not in self.open or child in numbers for child in children)
                    self.asked = {
                        key: one for key, one in self.asked.items() if not set(one.attempts) & set(numbers)
                    }
                case Launch(parent, numbers):
                    assert parent is None or parent in self.open, "forked from a world that is gone"
                    for number in numbers:
                        self.made += 1
                        self.open.add(number)
                        self.running.add(number)
                        self.parents[number] = parent
                        self.perform(self.search.forked(number))
                case Question():
                    assert all(number is None or number in self.open for number in order.attempts)
                    self.asked[order.key] = order
        if self.search.outcome is None:
            assert len(self.running) + len(self.asked) <= self.workers

    def happen(self, data: st.DataObject) -> None:
        search = self.search
        spent = data.draw(st.sampled_from([""] * 30 + ["seconds", "tokens", "money"]), label="spent")
        if spent:
            self.perform(search.spent(spent))
            return
        choices = [("run", number) for number in sorted(self.running)]
        choices += [("ask", key) for key in sorted(self.asked)]
        kind, key = data.draw(st.sampled_from(choices), label="next")
        fails = data.draw(st.integers(0, 3), label="fails") == 0
        if kind == "run":
            self.running.discard(key)
            if fails:
                orders = search.raised(key, ValueError("made up"))
            else:
                orders = search.returned(key, data.draw(st.booleans(), label="value"))
        else:
            question = self.asked.pop(key)
            if fails:
                orders = search.unanswered(key, ValueError("made up"))
            elif question.score:
                orders = search.answered(key, data.draw(st.floats(0, 1), label="score"))
            else:
                orders = search.answered(
                    key, data.draw(st.sampled_from([[], ["x"], ["x", "y"]]), label="answer")
                )
        self.perform(orders)


@settings(max_examples=400)
@given(st.data())
def test_any_order_of_events_ends_with_one_winner_at_most_and_everything_else_stopped(data):
    branches = data.draw(st.integers(0, 12), label="branches")
    model = Model(
        data.draw(st.sampled_from([*POLICIES, ForksForEver()]), label="policy"),
        data.draw(st.integers(0, 5), label="strategies"),
        data.draw(st.integers(1, 4), label="workers"),
        branches,
    )
    model.perform(model.search.begin())
    for _ in range(400):
        if model.search.outcome is not None:
            break
        assert model.running or model.asked, "nothing runs, and it has not ended"
        model.happen(data)
    outcome = model.search.outcome
    assert outcome is not None, "it did not end"
    assert model.made <= branches
    # Only the winner and what it was forked from are left.
    assert model.open == set(model.search.line(outcome.winner))
    if outcome.winner is not None:
        assert model.search.rows[outcome.winner].state == "finished"
    states = {row.state for row in model.search.rows}
    assert states <= {"finished", "failed", "stopped"}
    # Late reports change nothing.
    for row in model.search.rows:
        assert model.search.returned(row.number, True) == []
        assert model.search.raised(row.number, ValueError()) == []
    assert model.search.outcome == outcome


@settings(max_examples=100)
@given(st.data())
def test_the_same_events_in_the_same_order_give_the_same_actions(data):
    policy = data.draw(st.sampled_from(POLICIES))
    seed = data.draw(st.randoms(use_true_random=False))
    state = seed.getstate()

    def played() -> list[Any]:
        seed.setstate(state)
        search = Search(
            policy, Task(tuple(Strategy(f"s{n}", print) for n in range(4))), 3, lambda wanted: wanted
        )
        log: list[Any] = []
        running: list[int] = []
        asked: list[Question] = []
        orders = search.begin()
        while search.outcome is None:
            log.extend(orders)
            for order in orders:
                match order:
                    case Launch(_, numbers):
                        running.extend(numbers)
                        for number in numbers:
                            search.forked(number)
                    case Question():
                        asked.append(order)
                    case Abort(numbers):
                        running = [number for number in running if number not in numbers]
                        asked = [one for one in asked if not set(one.attempts) & set(numbers)]
            pick = seed.randrange(len(running) + len(asked))
            if pick < len(running):
                orders = search.returned(running.pop(pick), seed.random() < 0.2)
            else:
                question = asked.pop(pick - len(running))
                answer = seed.random() if question.score else [seed.random() < 0.5]
                orders = search.answered(question.key, answer)
        return [*log, *orders, search.outcome]

    assert played() == played()
