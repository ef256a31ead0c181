"""Cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from kibo.branch.explore.decisions import (
    Action,
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
from kibo.branch.explore.policies.first_success import accepts
from kibo.branch.explore.strategy import Strategy
from kibo.model.errors import InvalidInput


@dataclass(frozen=True)
class Stages:
    """What `Cascade` knows: the stages to come, and how many of the present one are out."""

    coming: tuple[tuple[Strategy, ...], ...]
    out: int = 0


@dataclass(frozen=True)
class Cascade:
    """Tries cheap strategies first, and dearer ones only when all before them have failed.

    Attributes:
        stages: How many strategies to try at once, stage by stage, such as ``(3, 1)``; what is left over makes a last
            stage. One at a time where it is None.
        accept: As for `FirstSuccess`.

    Strategies are sorted by their ``cost``; those of equal cost keep the order in which they were given.
    """

    stages: Sequence[int] | None = None
    accept: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Checks the stages."""
        if self.stages is not None and any(size < 1 for size in self.stages):
            raise InvalidInput(f"stages of {list(self.stages)} strategies", hint="Each needs 1 or more.")

    def start(self, task: Task) -> Stages:
        """See `Policy`."""
        ordered = sorted(task.strategies, key=lambda strategy: strategy.cost)
        sizes = [1] * len(ordered) if self.stages is None else [*self.stages, len(ordered)]
        ends = list(accumulate(sizes))
        stages = (tuple(ordered[end - size : end]) for size, end in zip(sizes, ends, strict=True))
        return Stages(tuple(stage for stage in stages if stage))

    def step(self, state: Stages, event: Event) -> tuple[Stages, list[Action]]:
        """See `Policy`."""
        match event:
            case Started():
                return self._next(state, [])
            case Finished(number) if accepts(self.accept, event):
                return state, [Win(number)]
            case Finished(number) | Failed(number):
                state = replace(state, out=state.out - 1)
                return self._next(state, [Stop(number)]) if not state.out else (state, [Stop(number)])
        return state, []

    def _next(self, state: Stages, actions: list[Action]) -> tuple[Stages, list[Action]]:
        if not state.coming:
            return state, [*actions, GiveUp("every stage failed")]
        stage, *coming = state.coming
        return Stages(tuple(coming), len(stage)), [*actions, *(Fork(strategy) for strategy in stage)]
