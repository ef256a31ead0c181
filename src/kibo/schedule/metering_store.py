"""The events of all runs in the store, read in order for whoever counts them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import bindparam, select

from kibo.model.limits import METER_PAGE
from kibo.schedule.encoding import unpacked
from kibo.schedule.metering import RunMeter
from kibo.store.database import Store
from kibo.store.positions import Reader
from kibo.store.prepared import Prepared
from kibo.store.schema import run_events as events
from kibo.store.schema import runs

_EVENTS: Final = Prepared(
    select(events.c.position, events.c.run, runs.c.tenant, events.c.kind, events.c.at, events.c.body)
    .select_from(events.join(runs, runs.c.id == events.c.run))
    .where(events.c.position > bindparam("since"))
    .order_by(events.c.position)
    .limit(bindparam("most"))
)


class StoredRuns:
    """What a store's runs have come to, counted. For one thread at a time.

    Args:
        store: The store.

    Attributes:
        meter: The counts, as of the last `catch_up`.
    """

    def __init__(self, store: Store) -> None:
        self.meter: Final = RunMeter()
        self._reader: Final = Reader(
            lambda since: store.read(lambda tx: tx.rows(_EVENTS, since=since, most=METER_PAGE))
        )

    def catch_up(self) -> None:
        """Takes in what has happened since the last time; the first time, all that the store holds.

        Raises:
            StoreUnavailable: Retry later; what was taken in counts.
        """
        for _, run, tenant, kind, at_s, body in self._reader.unread():
            told = unpacked(f"an event of {run}", body, dict) if kind == "submit" else {}
            self.meter.hear(run, tenant, kind, at_s, told)
