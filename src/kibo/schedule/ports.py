"""What the dispatcher works over: the nodes that attempts run in, and a clock.

What goes to a node and what comes from it may be late, lost or repeated; a run and an epoch name one attempt for good.
So each order may be given again, and each report is told until it was heard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from kibo.model.clock import Moment
from kibo.model.ids import RunId
from kibo.schedule.failing import Failure
from kibo.schedule.lifecycle import Note
from kibo.schedule.request import Resources
from kibo.schedule.run import Attempt, Run


class Member(NamedTuple):
    """One node, as it offers itself.

    Attributes:
        id: Its name; its lease is called `NODE` and this (see `kibo.schedule.leases`).
        epoch: Of its lease, which it has taken and renews itself. A node whose lease could not be renewed for
            `LEASE_GIVE_UP_S` ends all that it runs, reports each as lost, and ignores orders until it is renewed; once
            the lease is another's, it takes a new one before it offers itself again.
        room: All that it has; the same for as long as its epoch is.
        labels: What it is labelled with.
        near: Digests of the layers and templates that are there.
        draining: Whether nothing more is to be started there.
    """

    id: str
    epoch: int
    room: Resources
    labels: frozenset[tuple[str, str]] = frozenset()
    near: frozenset[str] = frozenset()
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt that a node is to make.

    Attributes:
        run: The run, as it was when the attempt was placed: its request has the policy, `snapshot` is the last good one
            to go on from (None for the beginning), `variation` what it is told to do otherwise as one of several forks,
            `budget` what a `kibo.schedule.budgets.Meter` of this run and epoch draws on.
        attempt: Which attempt. `kind` says whether it does the work, or undoes what earlier ones did outside, newest
            first; `node_epoch` is that of the node's lease, and a node of another epoch ignores the order.
        work: What is to be done, as it was submitted.
    """

    run: Run
    attempt: Attempt
    work: bytes


class Began(NamedTuple):
    """The action of an attempt has begun: its box is there. From now on its own time counts, and no more that to start.

    Attributes:
        node: Where.
        run: Whose.
        epoch: The attempt's.
    """

    node: str
    run: RunId
    epoch: int


class Noted(NamedTuple):
    """Something has happened in an attempt, between its beginning and its end, that changes nothing about it.

    Attributes:
        node: Where.
        run: Whose.
        epoch: The attempt's.
        what: `hold`: all that it calls waits for effects that its fork holds. `commit`: its fork is committed: what it
            has done can be seen, and what it has asked for may happen.
    """

    node: str
    run: RunId
    epoch: int
    what: Note


class Ended(NamedTuple):
    """An attempt is over, and nothing of it runs any more: no process, no held request.

    Attributes:
        node: Where it was.
        run: Whose.
        epoch: The attempt's.
        result: What it came to, where it ended well; of one that undoes, nothing.
        failure: Why it did not end well; None where it did. With `lost`, the node has given it up: it is placed anew.
            With `final`, no other attempt is made, as where a budget is used up (`BudgetSpent`). Of one that was
            stopped any will do: why it was stopped counts.
        snapshot: The last good one, from which another attempt, or a fork, may go on; None to leave it as it was.
    """

    node: str
    run: RunId
    epoch: int
    result: bytes = b""
    failure: Failure | None = None
    snapshot: str | None = None


Report = Began | Noted | Ended


class Nodes(Protocol):
    """The nodes that this dispatcher can reach. No call waits, and none raises for what becomes of an attempt.

    Whoever makes one gives it `Clock.ring`, and it calls that, from any thread, whenever there is a report more, or a
    member more or less, or one that has changed. The dispatcher makes all calls on one thread.
    """

    def members(self) -> Sequence[Member]:
        """Lists the nodes that take orders now. One that is missing gets none; its attempts live on while its lease
        does.
        """

    def begin(self, order: Order) -> None:
        """Has `order.attempt.node` make an attempt; returns at once.

        The same order may come again, until something was reported of it, and after a dispatcher has died: a node that
        has this attempt, had it, or was told to stop it, does nothing. One that has an older attempt of the same run
        stops that first, and reports its end.
        """

    def stop(self, node: str, run: RunId, epoch: int) -> None:
        """Has an attempt stopped, with all its processes and held requests, within 1 s; returns at once.

        It ends in an `Ended`, as it would have without: with a result, where it was faster. May come again, and for an
        attempt that the node does not have: it reports that one ended, and does not begin it later.
        """

    def reports(self) -> Sequence[Report]:
        """Returns what has happened and was not heard yet, in order for each attempt, up to `MAX_ROUND`. The same ones
        come again until they were heard.
        """

    def heard(self, reports: Iterable[Report]) -> None:
        """Forgets reports: what they say is in the store, or is of an attempt that counts no longer."""


class Clock(Protocol):
    """Time, and waiting. `moment().up_s` is the steady time that all waiting is by."""

    def moment(self) -> Moment:
        """Returns this moment, by the clock that people set and by the one that nobody does."""

    def wait(self, until_s: float | None) -> None:
        """Returns once `up_s` has come, or at once after a ring since the last return; None waits for a ring alone.
        May return early.
        """

    def ring(self) -> None:
        """Ends the wait that is under way, or else the next. From any thread; never waits."""
