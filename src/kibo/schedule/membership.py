"""Which nodes are there: those that offer themselves and hold their lease. A silent one is given up for all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kibo.model.errors import PlaceTaken
from kibo.schedule.leases import NODE, LeaseRow, Leases
from kibo.schedule.placement import Node
from kibo.schedule.ports import Member
from kibo.schedule.queue import Queue
from kibo.schedule.run import Run


class Membership:
    """The nodes of one queue.

    Args:
        leases: Theirs.
        queue: Where nodes that are there have their runs.
    """

    def __init__(self, leases: Leases, queue: Queue) -> None:
        self._leases: Final = leases
        self._queue: Final = queue
        self._epochs: dict[str, int] = {}
        self._members: dict[str, Member] = {}

    def look(self, rows: Iterable[LeaseRow], silent: Iterable[LeaseRow]) -> None:
        """Takes in all leases as they are, and takes those of silent nodes away.

        Args:
            rows: All leases.
            silent: Those that were not renewed for `LEASE_S`.
        """
        taken = {row.name for row in silent if row.name.startswith(NODE) and self._take(row)}
        self._epochs = {
            row.name.removeprefix(NODE): row.epoch + (row.name in taken)
            for row in rows
            if row.name.startswith(NODE)
        }
        for node in list(self._queue.nodes.values()):
            if self._epochs.get(node.id) != node.epoch:
                self._queue.part(node.id)

    def offer(self, members: Iterable[Member]) -> list[str]:
        """Takes in who offers itself now. Returns those that have joined: runs may be at work there already."""
        offered = {each.id: each for each in members}
        if offered == self._members:
            return []
        self._members, before = offered, self._members
        joined = []
        for name, member in list(offered.items()):
            if before.get(name) != member and self._join(member):
                joined.append(name)
        for name in sorted(before.keys() - offered.keys()):
            if name in self._queue.nodes:
                self._queue.describe(name, draining=True)
        return joined

    def lost(self, run: Run) -> bool:
        """Whether the attempt of a run is at a node whose lease is another's now."""
        return run.live is not None and self._epochs.get(run.live.node) != run.live.node_epoch

    def _take(self, row: LeaseRow) -> bool:
        try:
            self._leases.take(row.name, "", row)
        except PlaceTaken:
            return False  # it was renewed, or given back, at the last moment
        return True

    def _join(self, member: Member) -> bool:
        there = self._queue.nodes.get(member.id)
        if there is not None and there.epoch == member.epoch:
            self._queue.describe(member.id, near=member.near, draining=member.draining)
            return False
        row = self._leases.look(NODE + member.id)
        if row is None or not row.holder or row.epoch != member.epoch:
            del self._members[member.id]  # its lease is lost, and it has not noticed yet: it is tried again
            return False
        if there is not None:
            self._queue.part(member.id)
        self._epochs[member.id] = row.epoch
        self._queue.join(
            Node(member.id, member.epoch, member.room, member.labels, member.near, member.draining)
        )
        return True
