"""On which node a run is started, and why; or why on none. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from kibo.schedule.request import Resources

#: What it counts that a node has all that a run would find there best: making it anew costs more than a full node.
NEAR_POINTS: Final = 100.0
#: What it counts that a node would still be empty.
FREE_POINTS: Final = 10.0


class Demand(NamedTuple):
    """What a run must find on its node: two runs of one demand can be started on the same nodes."""

    resources: Resources
    labels: tuple[tuple[str, str], ...] = ()


class Reason(NamedTuple):
    """One reason for a decision, or against one.

    Attributes:
        what: A word. For a node: `free`, `near`. Against one: `labels`, `draining`, `room`, `kept`. Why a run waits
            besides: `nodes`, `limit`, `rate`, `turn`, `share`; see `kibo.schedule.explaining` for the others.
        about: What it is about: a node, a key, a tenant, a run.
        detail: In words.
        points: How much it counts.
    """

    what: str
    about: str
    detail: str
    points: float = 0.0


@dataclass(eq=False)
class Node:
    """A machine, as placement sees it.

    Attributes:
        id: Its name.
        epoch: Of its lease.
        room: All that it has.
        labels: What it is labelled with.
        near: Digests of what is there.
        draining: Whether nothing more is to be started there.
        free: What nobody has of its room.
        kept: The tenant and the demand that it is kept free for.
        runs: What runs there.
    """

    id: str
    epoch: int
    room: Resources
    labels: frozenset[tuple[str, str]] = frozenset()
    near: frozenset[str] = frozenset()
    draining: bool = False

    def __post_init__(self) -> None:
        self.free = self.room
        self.kept: tuple[str, Demand] | None = None
        self.runs: set[str] = set()

    def could(self, demand: Demand) -> bool:
        """Whether it could take such a run if it were empty."""
        return (
            not self.draining and self.room.holds(demand.resources) and self.labels.issuperset(demand.labels)
        )

    def fits(self, demand: Demand, tenant: str) -> bool:
        """Whether it can take such a run of a tenant's now."""
        return (
            self.free.holds(demand.resources)
            and not self.draining
            and (self.kept is None or self.kept == (tenant, demand))
            and self.labels.issuperset(demand.labels)
        )

    def left(self, resources: Resources) -> float:
        """Returns the share of it that would be free beside such a run: of what is scarcest."""
        free, room = self.free, self.room
        least = (free.boxes - resources.boxes) / (room.boxes or 1)
        if room.millicpus:
            least = min(least, (free.millicpus - resources.millicpus) / room.millicpus)
        if room.memory_bytes:
            least = min(least, (free.memory_bytes - resources.memory_bytes) / room.memory_bytes)
        return least

    def score(self, demand: Demand, near: tuple[str, ...]) -> float:
        """Returns how good a place it is."""
        score = FREE_POINTS * self.left(demand.resources)
        if near:
            score += NEAR_POINTS * sum(each in self.near for each in near) / len(near)
        return score


def choose(nodes: Iterable[Node], tenant: str, demand: Demand, near: tuple[str, ...]) -> Node | None:
    """Returns the best node that can take a run now; of equal ones the first. About 1 us for each node."""
    best, most = None, float("-inf")
    for node in nodes:
        if node.fits(demand, tenant) and (score := node.score(demand, near)) > most:
            best, most = node, score
    return best


def why_here(node: Node, demand: Demand, near: tuple[str, ...]) -> tuple[Reason, ...]:
    """Says why a node was chosen, before the run is counted there."""
    left = node.left(demand.resources)
    found = [Reason("free", node.id, f"{left:.0%} of it would still be free", FREE_POINTS * left)]
    if near:
        there = sum(each in node.near for each in near)
        points = NEAR_POINTS * there / len(near)
        found.append(Reason("near", node.id, f"it has {there} of {len(near)} layers and templates", points))
    return tuple(found)


def why_not(node: Node, demand: Demand, tenant: str) -> Reason:
    """Says why a node cannot take a run now."""
    missing = [f"{key}={value}" for key, value in demand.labels if (key, value) not in node.labels]
    if missing:
        return Reason("labels", node.id, f"it is not labelled {', '.join(missing)}")
    if node.draining:
        return Reason("draining", node.id, "nothing more is started there")
    for name in ("millicpus", "memory_bytes", "boxes"):
        wanted, free = getattr(demand.resources, name), getattr(node.free, name)
        if wanted > free:
            all_of_it = getattr(node.room, name)
            return Reason(
                "room", node.id, f"{wanted:,} {name} are wanted, {free:,} of {all_of_it:,} are free"
            )
    if node.kept is not None and node.kept != (tenant, demand):
        return Reason("kept", node.id, f"it is kept free for a run of {node.kept[0]!r} that waits longer")
    return Reason("room", node.id, "it can take it")
