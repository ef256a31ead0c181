"""Try, look at what went wrong, try again knowing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kibo.branch.explore.decisions import (
    Action,
    Answered,
    Ask,
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
class Chain:
    """One strategy's tries so far."""

    strategy: Strategy
    tries: int = 1


@dataclass(frozen=True)
class Chains:
    """What `Reflexion` knows: which chain each attempt under way belongs to, and how many attempts there were."""

    strategies: tuple[Strategy, ...]
    going: Mapping[int, Chain] = field(default_factory=dict)
    made: int = 0


@dataclass(frozen=True)
class Reflexion:
    """Tries each strategy; after a failure, asks for a critique and tries again with it as the hint.

    Attributes:
        critique: Called with the instance (or the branch) as the failed try left it, and with ``value``, ``error`` and
            ``hint`` of that try where it has such parameters. What it returns is the next try's hint: the strategy gets
            it in its parameter ``hint``. One that raises ends that strategy's tries.
        tries: How many for each strategy, the first included.
        again_from: ``origin``: each try starts from the explored world. ``attempt``: from what the failed try left.
        accept: As for `FirstSuccess`.

    Several strategies have their tries beside each other; the first success of all wins.
    Source: Shinn et al., Reflexion, 2023.
    """

    critique: Callable[..., Any]
    tries: int = 3
    again_from: Literal["origin", "attempt"] = "origin"
    accept: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.tries < 1:
            raise InvalidInput(f"{self.tries} tries", hint="Give 1 or more.")
        if self.again_from not in ("origin", "attempt"):
            raise InvalidInput(f"again_from={self.again_from!r}", hint='Either "origin" or "attempt".')

    def start(self, task: Task) -> Chains:
        """See `Policy`."""
        return Chains(task.strategies)

    def step(self, state: Chains, event: Event) -> tuple[Chains, list[Action]]:
        """See `Policy`."""
        match event:
            case Started():
                going = {number: Chain(strategy) for number, strategy in enumerate(state.strategies)}
                return replace(state, going=going, made=len(going)), [Fork(s) for s in state.strategies]
            case Finished(number) if accepts(self.accept, event):
                return state, [Win(number)]
            case Failed(number, world=False):
                return self._over(state, number)
            case Finished(number) | Failed(number):
                if state.going[number].tries >= self.tries:
                    return self._over(state, number)
                return state, [Ask((number,), self.critique)]
            case Answered((int(number),), error=None):
                return self._again(state, number, event.value)
            case Answered((int(number),)):
                return self._over(state, number)
        return state, []

    def _again(self, state: Chains, number: int, hint: Any) -> tuple[Chains, list[Action]]:
        chain = state.going[number]
        going = {key: one for key, one in state.going.items() if key != number}
        going[state.made] = replace(chain, tries=chain.tries + 1)
        state = replace(state, going=going, made=state.made + 1)
        if self.again_from == "attempt":
            return state, [Fork(chain.strategy, parent=number, hint=hint)]
        return state, [Fork(chain.strategy, hint=hint), Stop(number)]

    def _over(self, state: Chains, number: int) -> tuple[Chains, list[Action]]:
        going = {key: one for key, one in state.going.items() if key != number}
        end: list[Action] = [] if going else [GiveUp("every strategy's tries failed")]
        return replace(state, going=going), [Stop(number), *end]
