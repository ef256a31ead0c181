"""Tree of thoughts, depth first: the most promising world first, and back where a line is not good enough.

Source: Yao et al., Tree of Thoughts, 2023, algorithm 2.
"""

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
from kibo.branch.explore.policies.beam import Ranked, end, rank
from kibo.branch.explore.policies.moves import Move, Setting, answered, every
from kibo.branch.explore.strategy import Strategy


@dataclass(frozen=True)
class Line:
    """What the search knows.

    Attributes:
        strategies: Of the task.
        visiting: The depth of the world that is gone on from now.
        out: Children of it that are not scored.
        scored: Those that are: score and number.
        stack: Worlds to visit, the next one last, each with its depth.
        best: Of all.
    """

    strategies: tuple[Strategy, ...]
    visiting: int = 0
    out: int = 0
    scored: tuple[Ranked, ...] = ()
    stack: tuple[tuple[int, int], ...] = ()
    best: Ranked | None = None


def start(task: Task) -> Line:
    """See `Policy`."""
    return Line(task.strategies)


def step(setting: Setting, least: float, state: Line, event: Event) -> tuple[Line, list[Action]]:
    """See `Policy`."""
    match event:
        case Started():
            return _visit(setting, least, state, None, [])
        case Answered((parent,)):
            moves = () if event.error else answered(state.strategies, event.value)
            return _try(setting, least, state, parent, moves, [])
        case Finished(number) if setting.wins(event):
            return state, [Win(number)]
        case Finished(number):
            return state, [Score(number, setting.score)]
        case Scored(number, score):
            best = min(filter(None, (state.best, (score, number))), key=rank)
            state = replace(state, out=state.out - 1, scored=(*state.scored, (score, number)), best=best)
            return _settled(setting, least, state, [])
        case Failed(number):
            return _settled(setting, least, replace(state, out=state.out - 1), [Stop(number)])
        case BudgetSpent(resource) if resource != "branches":
            return state, [end(setting, state.best)]
    return state, []


def _visit(
    setting: Setting, least: float, state: Line, number: int | None, actions: list[Action]
) -> tuple[Line, list[Action]]:
    state = replace(state, scored=())
    if setting.expand is not None:
        return state, [*actions, Ask((number,), setting.expand)]
    return _try(setting, least, state, number, every(state.strategies), actions)


def _try(
    setting: Setting,
    least: float,
    state: Line,
    parent: int | None,
    moves: tuple[Move, ...],
    actions: list[Action],
) -> tuple[Line, list[Action]]:
    forks = [move.fork(parent) for move in moves]
    return _settled(setting, least, replace(state, out=len(forks)), [*actions, *forks])


def _settled(setting: Setting, least: float, state: Line, actions: list[Action]) -> tuple[Line, list[Action]]:
    """Visits the next world once all children of this one are scored."""
    if state.out:
        return state, actions
    depth = state.visiting + 1
    good = [one for one in sorted(state.scored, key=rank) if one[0] >= least][: setting.width]
    pruned = [Stop(number) for _, number in state.scored if number not in {n for _, n in good}]
    actions = [*actions, *pruned]
    if depth >= setting.depth:
        if good and setting.accept is None:
            return state, [*actions, Win(good[0][1])]
    else:
        state = replace(state, stack=(*state.stack, *((number, depth) for _, number in reversed(good))))
    if not state.stack:
        return state, [*actions, GiveUp("every line came to nothing")]
    *stack, (number, visiting) = state.stack
    return _visit(setting, least, replace(state, stack=tuple(stack), visiting=visiting), number, actions)
