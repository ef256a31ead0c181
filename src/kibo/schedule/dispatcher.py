"""Who dispatches: one of all that would, while it holds the lease; the others stand by. See decision 0033.

Nothing is known here that is not in the store: where the store did not answer, all of it is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kibo.model.clock import Moment
from kibo.model.errors import HostDiskFull, PlaceTaken, StoreUnavailable
from kibo.model.limits import LEASE_BEAT_S, STORE_AGAIN_S
from kibo.schedule.leases import DISPATCHER, Holding, Leases, Watch
from kibo.schedule.ports import Clock, Nodes
from kibo.schedule.register import Register
from kibo.schedule.submitting import Submission
from kibo.schedule.tenure import Tenure
from kibo.store import crash
from kibo.store.database import Store


class Dispatcher:
    """Dispatches the runs of one store, or stands by while another does. All on one thread.

    Args:
        store: The store.
        nodes: What attempts run in.
        clock: Time, and waiting. Whoever changes runs rings it.
        holder: Who this is, for people: such as a host and a process.
        troubled: Told of each error because of which it begins anew; the store's, all of which pass.
    """

    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        clock: Clock,
        holder: str,
        troubled: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._register: Final = Register(store)
        self._submission: Final = Submission(store, clock.moment)
        self._leases: Final = Leases(store)
        self._nodes: Final = nodes
        self._clock: Final = clock
        self._holder: Final = holder
        self._troubled: Final = troubled
        self._watch: Final = Watch()
        self._lease: Holding | None = None
        self._beat_s = float("-inf")
        self._tenure: Tenure | None = None
        self._over = False

    # -- from outside

    def run(self) -> None:
        """Dispatches until `end` is called, from any thread; then it gives its lease back.

        Raises:
            StoreDamaged: The store holds what cannot be. All that runs goes on running.
        """
        try:
            while not self._over:
                self._clock.wait(self.step())
        finally:
            self.give_back()

    def end(self) -> None:
        """Has `run` return. What runs goes on; whoever dispatches next takes it over."""
        self._over = True
        self._clock.ring()

    @property
    def leading(self) -> bool:
        """Whether this one dispatches, rather than stand by."""
        return self._lease is not None

    def step(self) -> float:
        """Does what there is to do now. Returns until when there is nothing more, by the steady clock."""
        now = self._clock.moment()
        try:
            if not self._lead(now) or self._lease is None:
                return self._beat_s
            if self._tenure is None:
                tenure = Tenure(
                    self._register, self._submission, self._leases, self._nodes, self._lease.epoch
                )
                tenure.load(now)
                crash.point("dispatch.loaded")
                self._tenure = tenure
            return min(self._beat_s, self._tenure.step(now))
        except PlaceTaken:  # another dispatches: what is known here is worth nothing
            self._lease = self._tenure = None
            return now.up_s + LEASE_BEAT_S
        except (StoreUnavailable, HostDiskFull) as error:
            self._troubled(error)
            self._tenure = None  # nobody knows what of the last write has happened
            return self._clock.moment().up_s + STORE_AGAIN_S

    def give_back(self) -> None:
        """Gives the lease back: the next dispatcher need not wait."""
        lease, self._lease, self._tenure = self._lease, None, None
        try:
            if lease is not None:
                lease.end()
        except (StoreUnavailable, HostDiskFull) as error:
            self._troubled(error)  # the next one waits

    # -- the lease

    def _lead(self, now: Moment) -> bool:
        """Renews the dispatcher's lease, or takes it where it is free; looks at all leases a few times in `LEASE_S`."""
        if now.up_s < self._beat_s:
            return self._lease is not None
        if self._lease is not None:
            self._lease.renew(now.up_s)
        rows = self._leases.all()
        silent = self._watch.look(rows, now.up_s)
        if self._lease is None:
            row = next((each for each in rows if each.name == DISPATCHER), None)
            if row is None or not row.holder or row in silent:
                lease = Holding(self._leases, DISPATCHER, self._holder)
                lease.take(row, now.up_s)
                self._lease = lease
        if self._tenure is not None:
            self._tenure.beat(rows, silent)
        self._beat_s = now.up_s + LEASE_BEAT_S
        return self._lease is not None
