"""What both faces of a branch have: all that nobody waits for."""

from __future__ import annotations

from typing import Generic, Literal, Self, TypeVar

from kibo.branch.running import RunningBranch
from kibo.model.ids import BranchId

InstanceT = TypeVar("InstanceT")

#: What a commit may ask of the parent; see `Branch.commit`.
Onto = Literal["unmoved", "validated"]
#: Every path: what a branch has read where its user does not say.
EVERYTHING = ("**",)


class BranchFace(Generic[InstanceT]):
    """A branch, as its user holds it.

    Attributes:
        id: Its name for ever.
        name: What people call it.
        goal: What it is for; of a root.
    """

    def __init__(self, running: RunningBranch) -> None:
        self._running = running
        self.id: BranchId = running.id
        self.name, self.goal = running.name, running.goal

    @property
    def live(self) -> bool:
        """Whether its instances have the live state of those that they were forked from."""
        return self._running.live

    @property
    def reasons(self) -> tuple[str, ...]:
        """What stood in the way of that; empty where nothing did."""
        return self._running.reasons

    @property
    def parent(self) -> Self | None:
        """The branch that it commits into; None for a root."""
        above = self._running.parent
        return None if above is None else above.face

    @property
    def instances(self) -> dict[str, InstanceT]:
        """Its instances, by the names that they have in every branch."""
        return self._running.faces()

    def __getitem__(self, instance: InstanceT | str) -> InstanceT:
        """Returns the same instance in this branch.

        Args:
            instance: The instance as another branch of the tree has it, or its name.

        Raises:
            InstanceUnknown: It is not in this branch.
        """
        found: InstanceT = self._running[instance]
        return found

    def waits_at_boundary(self) -> bool:
        """Says whether all that is called in it waits for effects that are held until it is committed."""
        return self._running.waits_at_boundary()
