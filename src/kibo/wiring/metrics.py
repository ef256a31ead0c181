"""What this process and its state directory have come to, as Prometheus reads it. Loaded where metrics are asked for.

Of runs and effects the store is the truth: what is counted here is counted from it, so that a restart loses nothing and
all processes of a state directory are in it. Of caches, what this process has asked of its own.

Labels are tenants, of which some are told by name and all others together, and words of Kibo's own. Nothing that a run
was given, has asked for or came to is in any.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from kibo.effects.metering import StoredEffects
from kibo.model.errors import RuntimeLost
from kibo.model.histogram import BOUNDS_S, Histogram
from kibo.schedule.metering_store import StoredRuns
from kibo.serve.scrapes import Scrapes

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from kibo.wiring import Runtime

_TIMES: Final = {
    "queue": "Time from when a run could start until a node was found for it.",
    "start": "Time from then until its action began: its box is made.",
    "action": "Time for which the actions of runs ran, each attempt for itself.",
    "total": "Time from when a run was submitted until it ended.",
}


class Metrics(Collector):
    """All of it, read anew for each scrape. Thread-safe.

    Args:
        home: Of which runtime.
    """

    def __init__(self, home: Runtime) -> None:
        store = home.records().store
        self._home: Final = home
        self._runs: Final = StoredRuns(store)
        self._effects: Final = StoredEffects(store)
        self._guard: Final = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics.

        Raises:
            StoreUnavailable: Retry later.
        """
        with self._guard:
            self._runs.catch_up()
            self._effects.catch_up()
            found = [*self._of_runs(), *self._of_effects(), *self._of_caches()]
        yield from found

    def _of_runs(self) -> Iterator[Metric]:
        meter = self._runs.meter
        changes = CounterMetricFamily(
            "kibo_run_events",
            "What has happened to runs, the dispatcher's decisions among it, by the state that it led to.",
            labels=("event", "state", "tenant"),
        )
        for (tenant, event, state), count in sorted(meter.changes.items()):
            changes.add_metric((event, state, tenant), count)
        yield changes
        there = GaugeMetricFamily(
            "kibo_runs", "Runs that have not ended, by state.", labels=("state", "tenant")
        )
        for (tenant, state), count in sorted(meter.open().items()):
            there.add_metric((state, tenant), count)
        yield there
        age = GaugeMetricFamily(
            "kibo_run_queue_age_seconds",
            "For how long the one has been queued that has been longest.",
            labels=("tenant",),
        )
        now_s = time.time()
        for tenant, since_s in sorted(meter.oldest_s().items()):
            age.add_metric((tenant,), max(0.0, now_s - since_s))
        yield age
        for name, told in _TIMES.items():
            times = HistogramMetricFamily(f"kibo_run_{name}_seconds", told, labels=("tenant",))
            for tenant, each in sorted(meter.times.items()):
                _add(times, tenant, getattr(each, name))
            yield times

    def _of_effects(self) -> Iterator[Metric]:
        there = GaugeMetricFamily(
            "kibo_effects", "Effects in the ledger, by how they stand.", labels=("kind", "class", "state")
        )
        for kind, effect, state, count in sorted(self._effects.counts):
            there.add_metric((kind, effect, state), count)
        yield there
        held = HistogramMetricFamily(
            "kibo_effect_held_seconds",
            "Time for which effects were held until they were released or approved.",
            labels=("class",),
        )
        for effect, times in sorted(self._effects.held.items()):
            _add(held, effect, times)
        yield held

    def _of_caches(self) -> Iterator[Metric]:
        asked = CounterMetricFamily(
            "kibo_spawn_cache_requests",
            "What spawns of this process asked its caches for: launched states, forks made ahead, instances of pools.",
            labels=("cache", "result"),
        )
        counts = {"pool": self._home.pooled()}
        states = self._home.running()
        if states is not None:
            counts["state"] = (states.hits, states.misses)
            try:
                forks, ahead = states.forks()
                counts["ahead"] = (ahead, forks - ahead)
            except (RuntimeLost, TimeoutError):
                pass  # it ends, or is busy for long: no number is better than a wrong one
        for cache, (hits, misses) in sorted(counts.items()):
            asked.add_metric((cache, "hit"), hits)
            asked.add_metric((cache, "miss"), misses)
        yield asked


def serve(home: Runtime, host: str, port: int) -> Scrapes:
    """Serves metrics over HTTP until what is returned is closed.

    Args:
        home: Of which runtime.
        host: The address of an interface.
        port: 0 for any that is free.

    Raises:
        InvalidInput: It cannot listen there.
        StoreUnavailable: The store cannot be opened.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Metrics(home))
    return Scrapes(host, port, make_wsgi_app(registry))


def _add(family: HistogramMetricFamily, label: str, times: Histogram) -> None:
    bounds = [*map(repr, BOUNDS_S), "+Inf"]
    family.add_metric((label,), list(zip(bounds, accumulate(times.counts), strict=True)), times.sum_s)
