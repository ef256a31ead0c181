"""What can be tried from a world, as the policies that search a tree see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kibo.branch.explore.decisions import Finished, Fork
from kibo.branch.explore.policies.first_success import accepts
from kibo.branch.explore.strategy import Strategy, strategy_of


@dataclass(frozen=True)
class Move:
    """One way on from a world."""

    strategy: Strategy
    hint: Any = None

    def fork(self, parent: int | None) -> Fork:
        """Returns the action that tries it."""
        return Fork(self.strategy, parent, self.hint)


@dataclass(frozen=True)
class Setting:
    """What the searches of a tree have in common; see `TreeSearch`."""

    expand: Callable[..., Any] | None
    score: Callable[..., Any]
    width: int | None
    depth: int
    accept: Callable[[Any], Any] | None

    def wins(self, event: Finished) -> bool:
        """Says whether what a strategy returned ends the search."""
        return self.accept is not None and accepts(self.accept, event)


def every(strategies: Iterable[Strategy]) -> tuple[Move, ...]:
    """Returns the moves of a search that tries every strategy everywhere."""
    return tuple(Move(strategy) for strategy in strategies)


def answered(strategies: tuple[Strategy, ...], answer: Any) -> tuple[Move, ...]:
    """Reads what `expand` returned: strategies, or hints for those of the task.

    Args:
        strategies: Those of the task: each is tried with each hint.
        answer: Strategies as users write them, or anything else, which is a hint.
    """
    found: list[Move] = []
    for one in answer or ():
        if isinstance(one, Strategy) or callable(one):
            found.append(Move(strategy_of(one)))
        else:
            found.extend(Move(strategy, one) for strategy in strategies)
    return tuple(found)
