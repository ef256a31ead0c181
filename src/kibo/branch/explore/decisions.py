"""The words between a policy and what carries it out: events go in, actions come out.

A policy is data and two pure functions. `start` makes its state, `step` takes an event and gives the next state and
what is to be done. It never waits, never touches a world and never draws a random number, so that the same events in
the same order always give the same actions. Questions that only a world can answer (how good is it? what could be
tried from here?) are actions too: `Score` and `Ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from kibo.branch.explore.strategy import Strategy


@dataclass(frozen=True)
class Task:
    """What is to be explored.

    Attributes:
        strategies: In the order given.
    """

    strategies: tuple[Strategy, ...]


@dataclass(frozen=True)
class Started:
    """The exploration begins. Always the first event, and once."""


@dataclass(frozen=True)
class Finished:
    """A strategy returned.

    Attributes:
        attempt: The attempt's number: attempts are counted from 0 in the order of their `Fork`.
        value: What it returned.
        held: It has not returned: it waits for an effect that happens when it is committed. It may be judged, and won.
    """

    attempt: int
    value: Any = None
    held: bool = False


@dataclass(frozen=True)
class Failed:
    """An attempt came to nothing: the strategy raised, or the world could not be forked or scored.

    Attributes:
        attempt: The attempt's number.
        error: What was raised.
        world: Whether its world is there, to be asked or forked.
    """

    attempt: int
    error: BaseException = field(compare=False)
    world: bool = True


@dataclass(frozen=True)
class Scored:
    """A world was scored; the answer to `Score`."""

    attempt: int
    score: float


@dataclass(frozen=True)
class Answered:
    """The answer to `Ask`.

    Attributes:
        attempts: Whom was asked about.
        value: The answer; None where there is none.
        error: What the question raised instead.
    """

    attempts: tuple[int | None, ...]
    value: Any = None
    error: BaseException | None = field(default=None, compare=False)


@dataclass(frozen=True)
class BudgetSpent:
    """A budget is used up.

    Attributes:
        resource: ``branches``: what runs goes on, and every further `Fork` comes back as `Failed`. ``seconds``,
            ``tokens`` or ``money``: everything was stopped, and this is the last event; a `Win` is still heard.
    """

    resource: str


Event = Started | Finished | Failed | Scored | Answered | BudgetSpent


@dataclass(frozen=True)
class Fork:
    """Try a strategy in a new world. Leads to one `Finished` or `Failed`, unless the attempt is stopped before.

    Attributes:
        strategy: What to try.
        parent: The attempt whose world to fork, finished or failed; None forks the world that is explored.
        hint: Given to the strategy, where it takes one.
    """

    strategy: Strategy
    parent: int | None = None
    hint: Any = None


@dataclass(frozen=True)
class Score:
    """Find out how good an attempt's world is. Leads to `Scored`, or to `Failed` where `by` raises.

    Attributes:
        attempt: A finished attempt.
        by: Called with the instance (or the branch) there, and with ``value`` where it has such a parameter.
    """

    attempt: int
    by: Callable[..., Any]


@dataclass(frozen=True)
class Ask:
    """Ask something of the worlds of one or more attempts. Leads to `Answered`.

    Attributes:
        attempts: Attempts that have finished or failed; None among them is the world that is explored.
        by: Called with the instance (or the branch) in each, in order; and with ``value``, ``error`` and ``hint`` of
            the first where it has such parameters.
    """

    attempts: tuple[int | None, ...]
    by: Callable[..., Any]


@dataclass(frozen=True)
class Win:
    """The exploration is over, and this attempt, which finished, is its winner. Everything else is stopped."""

    attempt: int


@dataclass(frozen=True)
class Stop:
    """An attempt is not needed any more: its world ends, and those that were forked from it. No event follows."""

    attempt: int


@dataclass(frozen=True)
class GiveUp:
    """The exploration is over without a winner."""

    reason: str


Action = Fork | Score | Ask | Win | Stop | GiveUp

State = TypeVar("State")


class Policy(Protocol[State]):
    """How to explore: what to try next, what to stop, what has won."""

    def start(self, task: Task) -> State:
        """Makes the state to begin with. Does nothing else: the first event is `Started`."""

    def step(self, state: State, event: Event) -> tuple[State, Sequence[Action]]:
        """Decides. Pure: the state that it is given stays as it is."""
