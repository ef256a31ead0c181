"""Pairs of worlds before a judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kibo.branch.explore.decisions import (
    Action,
    Answered,
    Ask,
    BudgetSpent,
    Event,
    Failed,
    Finished,
    Fork,
    GiveUp,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.strategy import Strategy

Pair = tuple[int, int]


@dataclass(frozen=True)
class Bracket:
    """What `Tournament` knows.

    Attributes:
        strategies: All that take part.
        out: Attempts that have not come back.
        entered: Who is in the round, or will be in the first; in order of number.
        matches: Of the round, those that are not decided.
        ahead: Who has got through to the next round.
    """

    strategies: tuple[Strategy, ...]
    out: int = 0
    entered: tuple[int, ...] = ()
    matches: tuple[Pair, ...] = ()
    ahead: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tournament:
    """Tries all strategies, then has pairs of their worlds judged, round by round, until one is left.

    Attributes:
        judge: Called with two instances (or branches), the earlier attempt's first; true where the first is better.
            One that raises ends the tournament without a winner.

    Pairs are made in the order of the attempts' numbers; where there is an odd one, the last has a bye. The matches of
    a round are judged at the same time.
    """

    judge: Callable[..., Any]

    def start(self, task: Task) -> Bracket:
        """See `Policy`."""
        return Bracket(task.strategies)

    def step(self, state: Bracket, event: Event) -> tuple[Bracket, list[Action]]:
        """See `Policy`."""
        match event:
            case Started():
                return replace(state, out=len(state.strategies)), [Fork(s) for s in state.strategies]
            case Finished(number):
                return self._round(replace(state, out=state.out - 1, entered=(*state.entered, number)), [])
            case Failed(number):
                return self._round(replace(state, out=state.out - 1), [Stop(number)])
            case Answered((int(first), int(second)), error=None):
                return self._judged(state, (first, second), bool(event.value))
            case Answered(error=error):
                return state, [GiveUp(f"the judge raised {type(error).__name__}: {error}")]
            case BudgetSpent(resource) if resource != "branches" and len(self._left(state)) == 1:
                return state, [Win(self._left(state)[0])]
        return state, []

    def _judged(self, state: Bracket, pair: Pair, first_is_better: bool) -> tuple[Bracket, list[Action]]:
        winner, loser = pair if first_is_better else pair[::-1]
        matches = tuple(match for match in state.matches if match != pair)
        ahead = tuple(sorted((*state.ahead, winner)))
        state = replace(state, matches=matches, ahead=ahead)
        if matches:
            return state, [Stop(loser)]
        return self._round(replace(state, entered=ahead, ahead=()), [Stop(loser)])

    def _round(self, state: Bracket, actions: list[Action]) -> tuple[Bracket, list[Action]]:
        if state.out:
            return state, actions
        entered = tuple(sorted(state.entered))
        if len(entered) < 2:
            end = Win(entered[0]) if entered else GiveUp("every attempt failed")
            return state, [*actions, end]
        matches = tuple(zip(entered[::2], entered[1::2], strict=False))
        bye = entered[-1:] if len(entered) % 2 else ()
        state = replace(state, entered=(), matches=matches, ahead=bye)
        return state, [*actions, *(Ask(match, self.judge) for match in matches)]

    def _left(self, state: Bracket) -> tuple[int, ...]:
        return (*state.entered, *state.ahead, *(number for match in state.matches for number in match))
