"""Search of a tree of worlds: beam search, tree of thoughts and Monte Carlo tree search are its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kibo.branch.explore.decisions import Action, Event, Task
from kibo.branch.explore.policies import beam, thoughts, uct
from kibo.branch.explore.policies.moves import Setting
from kibo.model.errors import InvalidInput

State = beam.Level | thoughts.Line | uct.Tree


@dataclass(frozen=True)
class TreeSearch:
    """Forks worlds from worlds: what one strategy left, the next one goes on from.

    Three settings of it are well known:

    - *Beam search*, ``TreeSearch(expand, score, width=3, depth=4)``: level by level; from each world kept, all that
      can be tried; of a level, the `width` best scores are kept. After the last level the best world of all wins.
    - *Tree of thoughts*, with ``least``: depth first, the best child first, at most `width` of them; a world that
      scores below `least` is not gone on from, and the search goes back. The first world at `depth` wins. (Its
      breadth-first form is the beam search, with an `expand` that has a model propose.)
    - *Monte Carlo tree search*, with ``explore_constant`` and ``rollouts``: each rollout goes down by the bound UCT and
      tries one new move. Scores should lie between 0 and 1. After the last rollout the best world of all wins.

    Attributes:
        expand: Called with the instance (or the branch) in a world, the explored one first; returns what can be tried
            from there: strategies, or hints for the strategies given to `explore`. None tries every strategy
            everywhere. One that raises makes its world the end of a line.
        score: As for `BestOf`.
        width: See above; for Monte Carlo the number of moves of a world, or None for all.
        depth: How many strategies a line may have.
        explore_constant: How much a seldom tried world is preferred; the square root of 2 is usual.
        rollouts: How many.
        least: The lowest score to go on from.
        accept: Called with what a strategy returned: where it is true, that attempt wins at once, and without one that
            is accepted there is no winner.
        at_once: Rollouts at the same time. More than one looks at other worlds meanwhile.
    """

    expand: Callable[..., Any] | None
    score: Callable[..., Any]
    width: int | None = None
    depth: int = 3
    explore_constant: float | None = None
    rollouts: int | None = None
    least: float | None = None
    accept: Callable[[Any], Any] | None = None
    at_once: int = 1

    def __post_init__(self) -> None:
        """Checks that the settings go together."""
        if (self.explore_constant is None) != (self.rollouts is None):
            raise InvalidInput(
                "explore_constant and rollouts go together",
                hint="Give both for Monte Carlo tree search, or none.",
            )
        if self.rollouts is not None and self.least is not None:
            raise InvalidInput(
                "least is for tree of thoughts, rollouts for Monte Carlo", hint="Give one of them."
            )
        if self.at_once != 1 and self.rollouts is None:
            raise InvalidInput(
                "at_once is for rollouts", hint="Levels are always tried at once; see workers."
            )
        for name in ("width", "depth", "rollouts", "at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInput(f"{name}={value}", hint="Give 1 or more.")

    def start(self, task: Task) -> State:
        """See `Policy`."""
        if self.rollouts is not None:
            return uct.start(task)
        return beam.start(task) if self.least is None else thoughts.start(task)

    def step(self, state: State, event: Event) -> tuple[State, list[Action]]:
        """See `Policy`."""
        setting = Setting(self.expand, self.score, self.width, self.depth, self.accept)
        match state:
            case beam.Level():
                return beam.step(setting, state, event)
            case thoughts.Line():
                return thoughts.step(setting, self.least or 0.0, state, event)
            case uct.Tree():
                constant, rollouts = self.explore_constant or 0.0, self.rollouts or 1
                return uct.step(setting, uct.Uct(constant, rollouts, self.at_once), state, event)
