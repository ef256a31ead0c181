"""Beam search: level by level, the best few of each kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kibo.branch.explore.decisions import (
    Action,
    Answered,
    Ask,
    BudgetSpent,
    Event,
    Failed,
    Finished,
    GiveUp,
    Score,
    Scored,
    Started,
    Stop,
    Task,
    Win,
)
from kibo.branch.explore.policies.moves import Move, Setting, answered, every
from kibo.branch.explore.strategy import Strategy

Ranked = tuple[float, int]


@dataclass(frozen=True)
class Level:
    """What a beam search knows.

    Attributes:
        strategies: Of the task.
        depth: Of the worlds that are made now.
        asked: How many worlds of the level above have not said what can be tried from them.
        out: Attempts of this level that are not scored.
        made: Attempts in all.
        scored: Of this level: score and number.
        best: Of all levels.
    """

    strategies: tuple[Strategy, ...]
    depth: int = 0
    asked: int = 0
    out: int = 0
    made: int = 0
    scored: tuple[Ranked, ...] = ()
    best: Ranked | None = None


def rank(one: Ranked) -> tuple[float, int]:
    """Orders by score, the best first, and the earlier attempt first where two are equal."""
    return -one[0], one[1]


def start(task: Task) -> Level:
    """See `Policy`."""
    return Level(task.strategies)


def step(setting: Setting, state: Level, event: Event) -> tuple[Level, list[Action]]:
    """See `Policy`."""
    match event:
        case Started():
            return _next(setting, state, (None,), [])
        case Answered((parent,)):
            state = replace(state, asked=state.asked - 1)
            moves = () if event.error else answered(state.strategies, event.value)
            return _settled(setting, *_try(state, parent, moves, []))
        case Finished(number) if setting.wins(event):
            return state, [Win(number)]
        case Finished(number):
            return state, [Score(number, setting.score)]
        case Scored(number, score):
            best = min(filter(None, (state.best, (score, number))), key=rank)
            state = replace(state, out=state.out - 1, scored=(*state.scored, (score, number)), best=best)
            return _settled(setting, state, [])
        case Failed(number):
            return _settled(setting, replace(state, out=state.out - 1), [Stop(number)])
        case BudgetSpent(resource) if resource != "branches":
            return state, [end(setting, state.best)]
    return state, []


def end(setting: Setting, best: Ranked | None) -> Action:
    """Returns how a search ends that found nothing acceptable on its way."""
    if setting.accept is not None:
        return GiveUp("no world was accepted")
    return GiveUp("no world could be scored") if best is None else Win(best[1])


def _next(
    setting: Setting, state: Level, parents: tuple[int | None, ...], actions: list[Action]
) -> tuple[Level, list[Action]]:
    state = replace(state, depth=state.depth + 1, scored=())
    if setting.expand is not None:
        asks = [Ask((parent,), setting.expand) for parent in parents]
        return replace(state, asked=len(asks)), [*actions, *asks]
    for parent in parents:
        state, actions = _try(state, parent, every(state.strategies), actions)
    return _settled(setting, state, actions)


def _try(
    state: Level, parent: int | None, moves: tuple[Move, ...], actions: list[Action]
) -> tuple[Level, list[Action]]:
    forks = [move.fork(parent) for move in moves]
    count = len(forks)
    return replace(state, out=state.out + count, made=state.made + count), [*actions, *forks]


def _settled(setting: Setting, state: Level, actions: list[Action]) -> tuple[Level, list[Action]]:
    """Goes on to the next level once this one is over."""
    if state.out or state.asked:
        return state, actions
    ranked = [number for _, number in sorted(state.scored, key=rank)]
    kept = ranked[: setting.width]
    if not kept or state.depth >= setting.depth:
        return state, [*actions, end(setting, state.best)]
    pruned = [Stop(number) for number in ranked[len(kept) :]]
    return _next(setting, state, tuple(kept), [*actions, *pruned])
