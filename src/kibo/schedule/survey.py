"""All that has not ended, and who carries it out, as the store has it at one moment; read from any process.

A queue that is made of it is the dispatcher's: of the same runs and the same nodes, by the same code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from kibo.model.clock import Moment
from kibo.model.ids import RunId
from kibo.schedule import roster, rows
from kibo.schedule.gates import Bar
from kibo.schedule.leases import DISPATCHER, NODE, LeaseRow, read_leases
from kibo.schedule.open_runs import OpenRuns
from kibo.schedule.placement import Node
from kibo.schedule.queue import Queue, Start
from kibo.schedule.run import Run
from kibo.store.database import Store, Transaction


@dataclass(frozen=True)
class Survey:
    """What there is at one moment.

    Attributes:
        at: When.
        runs: All that have not ended, in order of submission.
        nodes: Those that are there, as the dispatcher has noted them; none, where nobody dispatches.
        dispatcher: Who dispatches, for people; empty where nobody does.
        weights: By tenant, how much it counts; 1 where nothing is said.
        recent: What rates may still count; see `kibo.schedule.register.Register.recent`.
    """

    at: Moment
    runs: Mapping[RunId, Run]
    nodes: tuple[Node, ...]
    dispatcher: str
    weights: Mapping[str, float]
    recent: tuple[tuple[float, tuple[Bar, ...]], ...]

    def queue(self) -> Queue:
        """Makes the queue that its dispatcher has. About 0.1 ms for each run."""
        queue = Queue()
        for node in self.nodes:
            made = Node(node.id, node.epoch, node.room, node.labels, node.near, node.draining)
            made.kept = node.kept
            queue.join(made)
        OpenRuns(queue).load(self.weights, self.recent, self.runs.values(), self.at)
        return queue

    def decided(self) -> tuple[Queue, dict[str, Start]]:
        """Decides who may start now, as the dispatcher does. Returns the queue after that, and the starts by run.

        Of tenants with equal shares, the one that was served longer ago is first; that, the dispatcher alone knows.
        """
        queue = self.queue()
        starts = queue.decide(self.at.up_s, len(queue) + 1)
        return queue, {start.run: start for start in starts}


class Surveyor:
    """Reads surveys. What has not changed since the last one is not read again.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store: Final = store
        self._known: dict[RunId, Run] = {}

    def look(self, now: Moment, dead: Collection[str] = ()) -> Survey:
        """Reads one, in one transaction; see `survey`."""
        return self._store.read(lambda tx: self.survey(tx, now, dead))

    def survey(self, tx: Transaction, now: Moment, dead: Collection[str] = ()) -> Survey:
        """Reads one: about 0.1 ms for each run that has changed, 1 us for others; and all attempts of a day, where some
        run has a rate.

        Args:
            tx: To read in.
            now: The time.
            dead: Names of processes that are known to have died: their leases count no longer.

        Raises:
            StoreDamaged: A row is none.
        """
        found: dict[RunId, Run] = {}
        for run, version in rows.versions(tx):
            known = self._known.get(run)
            found[run] = known if known is not None and known.version == version else rows.find(tx, run)
        self._known = found
        leases = {row.name: row for row in read_leases(tx) if not _died(row, dead)}
        dispatcher = leases.get(DISPATCHER)
        nodes = () if dispatcher is None else roster.noted(tx, dispatcher.epoch)
        rated = any(run.request.rates for run in found.values())
        return Survey(
            now,
            found,
            tuple(node for node in nodes if _holds(leases.get(NODE + node.id), node)),
            "" if dispatcher is None else dispatcher.holder,
            rows.weights(tx),
            tuple(rows.recent(tx, now)) if rated else (),
        )


def _died(row: LeaseRow, dead: Collection[str]) -> bool:
    return not row.holder or any(row.is_of(name) for name in dead)


def _holds(row: LeaseRow | None, node: Node) -> bool:
    return row is not None and row.epoch == node.epoch
