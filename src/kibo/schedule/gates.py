"""What keeps runs of one key back: how many may be at work at once, and how often they may be started."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from kibo.model.limits import MAX_RATE, MAX_RATE_S
from kibo.schedule.ranking import Ranked
from kibo.schedule.request import Request

if TYPE_CHECKING:
    from kibo.schedule.queue import Lane


class Bar(NamedTuple):
    """One bound that a run has put on a key.

    Attributes:
        kind: `limit` or `rate`.
        key: It.
        most: Runs at work at once, or starts in a span.
        per_s: The span of a rate; 0 for a limit.
    """

    kind: str
    key: str
    most: int
    per_s: float = 0.0


def bars_of(request: Request) -> tuple[Bar, ...]:
    """Returns what a run must pass, those of limits first, by key."""
    limits = (Bar("limit", key, most) for key, most in sorted(request.limits.items()))
    rates = (Bar("rate", key, rate.starts, rate.per_s) for key, rate in sorted(request.rates.items()))
    return (*limits, *rates)


class Gate:
    """One key: what has passed, and what stands before it.

    Where a bound lets one pass again, the first lane of one tenant goes on, and of another the next time; only once
    that lane is through, or is kept back by something else, the next. So an opening costs what passes.

    Starts are kept for the longest span that a rate may have, and as many as one may count: a run that comes later may
    ask for a longer span than any before it. A key of a rate costs about 1 KB for a day after its last start.
    """

    __slots__ = ("_lanes", "_turn", "parked", "times", "working")

    def __init__(self) -> None:
        self.working = 0
        self.times: Final[deque[float]] = deque(maxlen=MAX_RATE)
        #: By bound, the tenants that have lanes before it, whoever had a turn longer ago first.
        self.parked: Final[dict[Bar, Ranked[str]]] = {}
        self._lanes: Final[dict[tuple[Bar, str], Ranked[Lane]]] = {}
        self._turn = 0

    def open_at(self, bar: Bar, now_s: float) -> float | None:
        """Says when the next run may pass as far as this bound goes: now, later, or None for when another has ended."""
        if bar.kind == "limit":
            return now_s if self.working < bar.most else None
        if len(self.times) < bar.most:
            return now_s
        return max(now_s, self.times[-bar.most] + bar.per_s)

    def started(self, at_s: float) -> None:
        """Counts a start, as a rate does."""
        while self.times and self.times[0] + MAX_RATE_S <= at_s:
            self.times.popleft()
        self.times.append(at_s)

    def park(self, bar: Bar, tenant: str, lane: Lane) -> None:
        """Has a lane wait here, or wait at another rank."""
        lanes = self._lanes.setdefault((bar, tenant), Ranked())
        lanes.put(lane, lane.rank())
        tenants = self.parked.setdefault(bar, Ranked())
        if tenant not in tenants:
            self._rotate(tenants, tenant)

    def leave(self, bar: Bar, tenant: str, lane: Lane) -> None:
        """Has a lane wait here no longer."""
        lanes = self._lanes[bar, tenant]
        lanes.discard(lane)
        if not lanes:
            del self._lanes[bar, tenant]
            self.parked[bar].discard(tenant)
            if not self.parked[bar]:
                del self.parked[bar]

    def next(self, bar: Bar) -> Lane | None:
        """Takes the lane away that goes on next; None where none waits."""
        tenants = self.parked.get(bar)
        tenant = None if tenants is None else tenants.first()
        if tenants is None or tenant is None:
            return None
        lane = self._lanes[bar, tenant].first()
        if lane is not None:
            self._rotate(tenants, tenant)
            self.leave(bar, tenant, lane)
        return lane

    def idle(self, now_s: float) -> bool:
        """Whether nothing is forgotten with it."""
        return self.idle_at() <= now_s and not self.working and not self.parked

    def idle_at(self) -> float:
        """Says when its starts count no longer, whatever is asked for."""
        return self.times[-1] + MAX_RATE_S if self.times else float("-inf")

    def _rotate(self, tenants: Ranked[str], tenant: str) -> None:
        self._turn += 1
        tenants.put(tenant, self._turn)
