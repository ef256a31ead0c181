"""What explore needs of a branch."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

from kibo.model.errors import InvalidInput

#: What tells a branch from an instance: both can be forked, and only a branch can be committed.
_MARKS = ("fork", "commit", "abort", "__getitem__")


class World(Protocol):
    """A branch, as explore needs it. Its methods may be called from several threads at once."""

    @property
    def id(self) -> str:
        """Which branch it is."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    @property
    def status(self) -> str:
        """One of ``open``, ``committed``, ``aborted`` and ``stale``."""

    def fork(self, n: int, *, names: Sequence[str] = ()) -> Sequence[World]:
        """Makes ``n`` branches of it as it is now, or none.

        Forks of a branch in which nothing ran in between have the same base, whichever call made them: one of
        them can be committed, whatever was forked after it.

        Raises:
            BranchClosed: It is not open.
        """

    def __getitem__(self, instance: Any) -> Any:
        """Returns the same instance in this branch."""

    def commit(self) -> Any:
        """Makes its parent what it is. Its siblings become stale and stop.

        Raises:
            Conflict: The parent has moved; the branch stays open.
            BranchClosed: It is not open.
        """

    def abort(self) -> object:
        """Ends it and what was forked from it. A call that runs in it raises at once. Nothing, where it has ended."""

    def waits_at_boundary(self) -> bool:
        """Says whether an effect of it is held until it is committed."""


def is_async(branch: Any) -> bool:
    """Tells whether a branch's calls are coroutines."""
    return inspect.iscoroutinefunction(type(branch).fork)


def world_of(subject: Any) -> tuple[World, bool]:
    """Finds the branch to explore from.

    Args:
        subject: An instance, or a branch.

    Returns:
        The branch, and whether the subject is an instance in it.

    Raises:
        InvalidInput: It is neither.
    """
    # The type is asked: an instance takes every unknown name for one of its actions.
    if all(hasattr(type(subject), mark) for mark in _MARKS):
        return subject, False
    branch = getattr(subject, "branch", None)
    if all(hasattr(type(branch), mark) for mark in _MARKS):
        return branch, True  # type: ignore[return-value]  # as its marks say
    raise InvalidInput(
        f"{subject!r} is neither a branch nor an instance of one",
        hint="Make a branch with kibo.branch(), and spawn the instance in it.",
    )
