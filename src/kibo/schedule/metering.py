"""Counts and times of runs, made of the events of their timelines, one after the other. Pure.

What is kept grows with the runs that are open, and with nothing else: tenants beyond some are counted together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from kibo.model.histogram import Histogram
from kibo.model.limits import MAX_METERED_TENANTS, MAX_WATCHED_TENANTS
from kibo.schedule.lifecycle import ENDED, EVENTS, MOVES, State
from kibo.schedule.ranking import Ranked

#: What tenants are called that have no name of their own here. One that is called so is one of them.
OTHER: Final = "other"


class Names:
    """Which tenants are told by name: those that submit most, as far as a bounded memory knows.

    The first to come have names. Another gets one where it has surely submitted more than twice as many runs as the
    least of these, which then has none: so tenants that are made up, each for a run or two, take nobody's name away.
    What has no name is counted by the space-saving algorithm (Metwally, Agrawal, El Abbadi 2005).
    """

    def __init__(self, most: int = MAX_METERED_TENANTS, watched: int = MAX_WATCHED_TENANTS) -> None:
        self._most: Final = most
        self._most_watched: Final = watched
        self._named: Final[dict[str, int]] = {}
        #: By rank: how often each was seen at most, and by how much that may be too many.
        self._watched: Final[Ranked[str]] = Ranked()

    def of(self, tenant: str) -> str:
        """Returns what a tenant is called."""
        return tenant if tenant in self._named else OTHER

    def count(self, tenant: str) -> str | None:
        """Counts a run. Returns the tenant that has lost its name by that, if one has."""
        if tenant in self._named:
            self._named[tenant] += 1
            return None
        if tenant == OTHER:
            return None
        if len(self._named) < self._most:
            self._named[tenant] = 1
            return None
        seen = self._watch(tenant)
        least = min(self._named, key=self._named.__getitem__)
        if seen <= 2 * self._named[least]:
            return None
        self._watched.discard(tenant)
        self._named[tenant] = seen
        del self._named[least]
        return least

    def _watch(self, tenant: str) -> int:
        """Counts one without a name. Returns how many of its runs it has surely seen."""
        watched = self._watched
        if tenant in watched:
            count, error = watched.rank(tenant)
        elif len(watched) < self._most_watched:
            count, error = 0, 0
        else:
            least = watched.first()
            assert least is not None
            count = error = watched.rank(least)[0]
            watched.discard(least)
        watched.put(tenant, (count + 1, error))
        return int(count + 1 - error)


@dataclass(slots=True)
class _Open:
    """A run that has not ended: its tenant and state, and when it was submitted and came into that."""

    tenant: str
    state: State
    created_s: float
    entered_s: float


@dataclass(slots=True)
class Times:
    """What the runs of one tenant took, by what they took it for.

    Attributes:
        queue: From being ready to start until a node was found.
        start: From then until the action began.
        action: From then until the attempt left it.
        total: From submission to the end.
    """

    queue: Histogram = field(default_factory=Histogram)
    start: Histogram = field(default_factory=Histogram)
    action: Histogram = field(default_factory=Histogram)
    total: Histogram = field(default_factory=Histogram)

    def merge(self, other: Times) -> None:
        """Counts what another has counted."""
        for each in fields(self):
            getattr(self, each.name).merge(getattr(other, each.name))


class RunMeter:
    """The counts.

    Args:
        names: Which tenants are told by name.

    Attributes:
        changes: How often what happened to runs, by tenant, event and the state that it led to.
        times: What they took, by tenant.
    """

    def __init__(self, names: Names | None = None) -> None:
        self.names: Final = names if names is not None else Names()
        self.changes: Final[Counter[tuple[str, str, State]]] = Counter()
        self.times: Final[dict[str, Times]] = {}
        self._open: Final[dict[str, _Open]] = {}

    def hear(self, run: str, tenant: str, kind: str, at_s: float, told: Mapping[str, object]) -> None:
        """Takes in one event of a run's timeline; of each run, in the order in which they happened.

        Args:
            run: The run.
            tenant: Whose it is.
            kind: What happened.
            at_s: When, in seconds since 1970.
            told: What the timeline says of it besides.
        """
        if kind == "submit":
            self._forget_name(self.names.count(tenant))
            state: State = "waiting" if told.get("after") else "queued"
            self._open[run] = _Open(tenant, state, at_s, at_s)
            self.changes[self.names.of(tenant), kind, state] += 1
            return
        known = self._open.get(run)
        then = None if known is None or kind not in EVENTS else MOVES[known.state].get(kind)
        if known is None or then is None:
            return  # nothing that becomes of a run, such as a word about its progress
        name = self.names.of(tenant)
        self.changes[name, kind, then] += 1
        self._time(self.times.setdefault(name, Times()), known, then, at_s)
        if then in ENDED:
            del self._open[run]
        elif then != known.state:
            known.state, known.entered_s = then, at_s

    def _time(self, times: Times, known: _Open, then: State, at_s: float) -> None:
        took_s = at_s - known.entered_s
        if then == "starting":
            times.queue.add(took_s)
        elif then == "running":
            times.start.add(took_s)
        elif known.state == "running":
            times.action.add(took_s)
        if then in ENDED:
            times.total.add(at_s - known.created_s)

    def _forget_name(self, tenant: str | None) -> None:
        """Counts what was counted for a tenant that has no name any more with the others': no sum changes by that."""
        if tenant is None:
            return
        for key in [key for key in self.changes if key[0] == tenant]:
            self.changes[OTHER, key[1], key[2]] += self.changes.pop(key)
        if (lost := self.times.pop(tenant, None)) is not None:
            self.times.setdefault(OTHER, Times()).merge(lost)

    def open(self) -> Counter[tuple[str, State]]:
        """Returns how many runs are in each state, by tenant. Takes some microseconds for ten open runs."""
        return Counter((self.names.of(each.tenant), each.state) for each in self._open.values())

    def oldest_s(self) -> dict[str, float]:
        """Returns since when the longest has been queued of each tenant that has any, in seconds since 1970."""
        oldest: dict[str, float] = {}
        for each in self._open.values():
            if each.state == "queued":
                name = self.names.of(each.tenant)
                oldest[name] = min(each.entered_s, oldest.get(name, each.entered_s))
        return oldest
