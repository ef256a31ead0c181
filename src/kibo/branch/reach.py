"""What of one tree is still wanted: a pure decision over its rows, which retention and its tests share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kibo.store.fencing import OPEN, BranchRow


@dataclass(frozen=True, slots=True)
class Retention:
    """What the collector leaves.

    Attributes:
        closed_s: How long a committed or aborted branch can still be read, in seconds from its end.
        worlds: How many snapshots of each living branch, its head and what is before it, can be started from; None for
            all. The log of the rest stays, their files go. Labels, pins, heads and the places where living branches
            were forked are kept besides.
    """

    closed_s: float = 7 * 86_400.0
    worlds: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A snapshot as the decision sees it."""

    parent: str | None
    state: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one tree.

    Attributes:
        branches: Closed long enough, children before their parents.
        snapshots: That nothing reaches.
        worlds: Of snapshots that stay, to be thinned.
        reached: Snapshots that stay.
    """

    branches: list[str]
    snapshots: set[str]
    worlds: set[str]
    reached: set[str]


def decide(
    branches: Iterable[BranchRow],
    nodes: Mapping[str, Node],
    marked: Iterable[str],
    undecided: Iterable[str],
    keep: Retention,
    now: float,
) -> Decision:
    """Decides what of one tree goes.

    Args:
        branches: All of the tree.
        nodes: All its snapshots.
        marked: Those that labels and pins name.
        undecided: Those whose files are not on the disk yet: whether the commit that made them counts is open.
        keep: The policy.
        now: In seconds since 1970.
    """
    rows = {row.id: row for row in branches}
    going = _expired(rows, set(undecided), now - keep.closed_s)
    living = [row for row in rows.values() if row.id not in going]
    ends = {*marked, *(row.head for row in living), *(row.base for row in living if row.base is not None)}
    reached: set[str] = set()
    for end in ends:
        reached.update(_line(end, nodes, reached))
    startable = ends if keep.worlds is not None else reached
    for row in living:
        startable = startable | set(_newest(row.head, nodes, keep.worlds or 0))
    thinned = {name for name in reached - startable if nodes[name].state in ("whole", "lost")}
    return Decision(_deepest_first(going, rows), nodes.keys() - reached, thinned, reached)


def _expired(rows: Mapping[str, BranchRow], undecided: set[str], before: float) -> set[str]:
    """Closed branches whose time is over, and which no branch that stays descends from."""
    going = {
        row.id
        for row in rows.values()
        if row.status != OPEN and (row.closed or 0.0) < before and row.result not in undecided
    }
    stay: set[str] = set()
    for row in [row for row in rows.values() if row.id not in going]:
        ancestor = row.parent
        while ancestor is not None and ancestor in rows and ancestor not in stay:
            stay.add(ancestor)
            ancestor = rows[ancestor].parent
    return going - stay


def _line(end: str, nodes: Mapping[str, Node], known: set[str]) -> Iterable[str]:
    """Walks from a snapshot to its root, or to what is known already."""
    at: str | None = end
    while at is not None and at in nodes and at not in known:
        yield at
        at = nodes[at].parent


def _newest(head: str, nodes: Mapping[str, Node], count: int) -> Iterable[str]:
    at: str | None = head
    while count > 0 and at is not None and at in nodes:
        yield at
        at, count = nodes[at].parent, count - 1


def _deepest_first(names: set[str], rows: Mapping[str, BranchRow]) -> list[str]:
    def depth(name: str) -> int:
        steps, at = 0, rows[name].parent
        # Damaged ones may lead back to where they began.
        while at is not None and at in rows and steps < len(rows):
            steps, at = steps + 1, rows[at].parent
        return steps

    return sorted(names, key=lambda name: (-depth(name), name))
