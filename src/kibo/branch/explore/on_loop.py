"""Branches of coroutines, as explore needs them: it calls branches from threads, and their calls run on the loop."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from anyio import from_thread


class OnLoop:
    """A branch whose calls are coroutines, for the threads that anyio started on behalf of their event loop.

    Attributes:
        branch: The branch itself, as strategies get it.
    """

    def __init__(self, branch: Any) -> None:
        self.branch = branch

    @property
    def id(self) -> str:
        """See `World.id`."""
        return str(self.branch.id)

    @property
    def name(self) -> str:
        """See `World.name`."""
        return str(self.branch.name)

    @property
    def status(self) -> str:
        """See `World.status`."""
        return str(from_thread.run(self.branch.status))

    def fork(self, n: int, *, names: Sequence[str] = ()) -> list[OnLoop]:
        """See `World.fork`."""
        return [OnLoop(child) for child in from_thread.run(partial(self.branch.fork, n, names=names))]

    def __getitem__(self, instance: Any) -> Any:
        """See `World.__getitem__`."""
        return self.branch[instance]

    def commit(self) -> Any:
        """See `World.commit`."""
        return from_thread.run(self.branch.commit)

    def abort(self) -> None:
        """See `World.abort`."""
        from_thread.run(self.branch.abort)

    def waits_at_boundary(self) -> bool:
        """See `World.waits_at_boundary`."""
        return bool(self.branch.waits_at_boundary())


def face_of(world: Any) -> Any:
    """Returns a branch as its user knows it."""
    return world.branch if isinstance(world, OnLoop) else world
