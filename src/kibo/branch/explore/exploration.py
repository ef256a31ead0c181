"""What an exploration came to: its attempts, and the winner among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from kibo.branch.explore.budget import Spent
from kibo.branch.explore.port import World
from kibo.model.errors import ExplorationFailed, KiboError

AttemptState = Literal["queued", "starting", "running", "held", "finished", "failed", "stopped", "won"]


@dataclass(frozen=True)
class Attempt:
    """One strategy in one world.

    Attributes:
        number: Its place in the order of the policy's forks, from 0.
        name: The strategy's name, with the attempt's number.
        strategy: The strategy's name.
        parent: The attempt whose world was forked; None where it was the explored one.
        depth: 1 for a fork of the explored world.
        hint: What the policy gave it.
        state: ``queued`` (waits for a worker), ``starting``, ``running``, ``held`` (waits for an effect at its
            boundary), ``finished``, ``failed``, ``stopped`` (before it had finished) or ``won``.
        value: What the strategy returned.
        score: What the policy's score said of it; None where it was not scored.
        error: Why it failed.
        seconds: How long the strategy ran.
        cost: What it used, explorations inside it included; ``cost.branches`` are theirs.
        branch: The branch it ran in; None where there never was one. Ended ones can be read, and nothing else.
        branch_id: The branch's id, or empty.
        lingering: Whether its thread was still in code that no branch can interrupt when the exploration returned.
    """

    number: int
    name: str
    strategy: str
    parent: int | None
    depth: int
    hint: Any = None
    state: AttemptState = "queued"
    value: Any = None
    score: float | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    cost: Spent = field(default_factory=Spent)
    branch: World | None = None
    branch_id: str = ""
    lingering: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Describes it as values that JSON can hold; what the strategy returned is left to the caller."""
        if isinstance(self.error, KiboError):
            error: Any = self.error.to_dict()
        else:
            error = None if self.error is None else {"code": "", "message": one_line(self.error)}
        return {
            "number": self.number,
            "name": self.name,
            "strategy": self.strategy,
            "branch": self.branch_id,
            "parent": self.parent,
            "depth": self.depth,
            "state": self.state,
            "score": self.score,
            "seconds": round(self.seconds, 4),
            "tokens": self.cost.tokens,
            "money": self.cost.money,
            "error": error,
        }


@dataclass(frozen=True)
class Exploration:
    """What an exploration came to. True where there is a winner.

    Attributes:
        winner: The attempt that won, or None.
        attempts: All of them, in the order of their numbers.
        spent: What it used, explorations inside it included.
        reason: Why it ended: ``won``, ``budget: seconds`` (or another resource), ``nothing left to try``, or what the
            policy said. A budget that ended it may leave a winner: the best so far.
        committed: Whether the winner's branch was committed.
    """

    winner: Attempt | None
    attempts: tuple[Attempt, ...]
    spent: Spent
    reason: str
    committed: bool = False

    def __bool__(self) -> bool:
        return self.winner is not None

    def children(self, parent: int | None) -> list[Attempt]:
        """Returns the attempts that were forked from one, or from the explored world, in order."""
        return [attempt for attempt in self.attempts if attempt.parent == parent]

    def required(self) -> Attempt:
        """Returns the winner.

        Raises:
            ExplorationFailed: There is none; the message lists every attempt and why it failed.
        """
        if self.winner is None:
            raise failed(self)
        return self.winner


#: Attempts that an error's message lists; its details have them all.
_LISTED = 20


def failed(exploration: Exploration) -> ExplorationFailed:
    """Makes the error for an exploration without a winner."""
    lines = [f"no strategy succeeded ({exploration.reason})"]
    for attempt in exploration.attempts[:_LISTED]:
        why = f": {one_line(attempt.error)}" if attempt.error is not None else ""
        lines.append(f"  {attempt.name} {attempt.state} after {attempt.seconds:.2f} s{why}")
    if len(exploration.attempts) > _LISTED:
        lines.append(f"  and {len(exploration.attempts) - _LISTED} more")
    return ExplorationFailed(
        "\n".join(lines),
        hint="Look at each attempt's error; then give other strategies, or a larger budget.",
        details={"reason": exploration.reason, "attempts": [a.to_dict() for a in exploration.attempts]},
    )


def one_line(error: BaseException) -> str:
    """Says an error in a line."""
    text = error.message if isinstance(error, KiboError) else f"{type(error).__name__}: {error}"
    return text.strip().partition("\n")[0]


@dataclass(frozen=True)
class ExploreEvent:
    """Something that a watcher of an exploration is told, in order, on the thread that explores.

    Attributes:
        kind: ``began``; of an attempt: ``queued``, ``started``, ``log`` (it said something), ``held``, ``scored``,
            ``finished``, ``failed``, ``stopped``, ``won``; and ``ended``.
        attempt: The attempt as it is now; None for ``began`` and ``ended``.
        text: A line of its log; why it ended, for ``ended``.
        seconds: Since the exploration began.
        exploration: What it came to, for ``ended``.
    """

    kind: Literal[
        "began", "queued", "started", "log", "held", "scored", "finished", "failed", "stopped", "won", "ended"
    ]
    attempt: Attempt | None = None
    text: str = ""
    seconds: float = 0.0
    exploration: Exploration | None = None


Progress = Callable[[ExploreEvent], object]
