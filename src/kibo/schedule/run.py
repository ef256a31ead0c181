"""Runs and attempts as values: what the store holds of one, and what is decided from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kibo.model.clock import Moment
from kibo.model.ids import BudgetId, RunId
from kibo.schedule.failing import Failure, Progress
from kibo.schedule.lifecycle import CANCELLED, ENDED, State
from kibo.schedule.request import Request

Kind = Literal["work", "undo"]
#: What became of an attempt.
Outcome = Literal["succeeded", "failed", "lost", "stopped"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run, at one place.

    Attributes:
        run: Whose.
        epoch: The run's, which is this attempt's alone.
        kind: Whether it does the work, or undoes it.
        node: Where.
        node_epoch: The epoch of the node's lease when it was placed.
        placed: When.
        begun: When its action began; None before that.
    """

    run: RunId
    epoch: int
    kind: Kind
    node: str
    node_epoch: int
    placed: Moment
    begun: Moment | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One scheduled execution.

    Attributes:
        id: Its name.
        position: Its place in the order of submission.
        tree: The first of those that belong together; itself, if it has no parent.
        parent: The run that it is part of.
        depth: How many are above it.
        fork: As one of several that its parent goes on as, the parent's epoch then; else 0.
        request: What was asked for; without `work`, which is read when it is placed.
        state: See `kibo.schedule.lifecycle`.
        version: Grows with every change.
        epoch: Grows with every attempt; 0 before the first.
        progress: How far it is in its policy.
        failure: The newest.
        snapshot: The last good one, as its attempts have named it.
        variation: What it is told to do otherwise, as one of several forks.
        budget: Which it uses.
        rollback: Whether what it did is undone once it is stopped.
        created: When it was submitted.
        entered: When it came into its state.
        pause_s: How long it stays there by itself, where that is bounded by its policy.
        live: Its attempt that has not ended.
    """

    id: RunId
    position: int
    tree: RunId
    parent: RunId | None
    depth: int
    fork: int
    request: Request
    state: State
    version: int
    epoch: int
    progress: Progress
    failure: Failure | None
    snapshot: str | None
    variation: str
    budget: BudgetId | None
    rollback: bool
    created: Moment
    entered: Moment
    pause_s: float = 0.0
    live: Attempt | None = None

    def age_s(self, now: Moment) -> float:
        """Returns for how many seconds it has been in its state."""
        return max(0.0, now.since_s(self.entered))

    @property
    def ended(self) -> bool:
        """Whether nothing becomes of it any more."""
        return self.state in ENDED

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, or is being so."""
        return self.state in CANCELLED
