"""All of them; the best score wins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kibo.branch.explore.decisions import (
    Action,
    BudgetSpent,
    Event,
    Failed,
    Finished,
    Fork,
    GiveUp,
    Score,
    Scored,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.strategy import Strategy
from kibo.model.errors import InvalidInput


@dataclass(frozen=True)
class Best:
    """What `BestOf` knows: what is out, and the best so far."""

    tries: tuple[Strategy, ...]
    out: int = 0
    best: int | None = None
    score: float = field(default=float("-inf"))


@dataclass(frozen=True)
class BestOf:
    """Tries all strategies and scores their worlds; the highest score wins, the earlier attempt where two are equal.

    Attributes:
        score: Called with the instance (or the branch) as the strategy left it; more is better. With a parameter named
            ``value`` it is given what the strategy returned. One that raises makes the attempt a failed one.
        n: How many attempts to make, going round the strategies; one of each where it is None.
    """

    score: Callable[..., Any]
    n: int | None = None

    def __post_init__(self) -> None:
        """Checks the number."""
        if self.n is not None and self.n < 1:
            raise InvalidInput(f"the best of {self.n}", hint="Give 1 or more.")

    def start(self, task: Task) -> Best:
        """See `Policy`."""
        given = task.strategies
        if self.n is None or not given:
            return Best(given)
        return Best(tuple(given[index % len(given)] for index in range(self.n)))

    def step(self, state: Best, event: Event) -> tuple[Best, list[Action]]:
        """See `Policy`."""
        match event:
            case Started():
                return replace(state, out=len(state.tries)), [Fork(strategy) for strategy in state.tries]
            case Finished(number):
                return state, [Score(number, self.score)]
            case Failed(number):
                return self._settled(replace(state, out=state.out - 1), [Stop(number)])
            case Scored(number, score):
                state = replace(state, out=state.out - 1)
                if state.best is None:
                    return self._settled(replace(state, best=number, score=score), [])
                better = (score, -number) > (state.score, -state.best)
                loser = state.best if better else number
                state = replace(state, best=number, score=score) if better else state
                return self._settled(state, [Stop(loser)])
            case BudgetSpent(resource) if resource != "branches":
                return self._settled(replace(state, out=0), [])
        return state, []

    def _settled(self, state: Best, actions: list[Action]) -> tuple[Best, list[Action]]:
        if state.out:
            return state, actions
        end = GiveUp("no attempt could be scored") if state.best is None else Win(state.best)
        return state, [*actions, end]
