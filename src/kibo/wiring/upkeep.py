"""Has what is wanted happen, as long as this process lives: a thread that looks whenever something may have changed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from kibo.model.clock import up_s
from kibo.model.errors import HostDiskFull, StoreDamaged, StoreUnavailable
from kibo.model.limits import CLOCK_LOOK_S, STORE_AGAIN_S
from kibo.schedule.following import Bell
from kibo.schedule.submitting import Submission
from kibo.schedule.system_clock import SystemClock
from kibo.schedule.triggering import Triggers
from kibo.store.database import Store
from kibo.store.wakeups import DirectoryBus

_log: Final = logging.getLogger(__name__)


class Upkeep:
    """One process's part in what is wanted.

    Args:
        store: Where that is.
        runs: Where runs are submitted.
        bells: Directories that are rung in where something else is wanted, and where mail was written.
    """

    def __init__(self, store: Store, runs: Submission, *bells: Path) -> None:
        self._triggers: Final = Triggers(store, runs)
        self._clock: Final = SystemClock()
        self._over = False
        self._ended: Final = threading.Event()
        self._error: BaseException | None = None
        self._buses: Final = [DirectoryBus(each) for each in bells]
        for bus, bell in zip(self._buses, bells, strict=True):
            bus.listen(self._clock.ring)
            Bell(bell).ring()  # whoever writes rings where there is a bell
        self._thread: Final = threading.Thread(target=self._run, name="kibo-upkeep", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over:
                self._clock.wait(up_s() + self._step())
        except BaseException as error:  # noqa: BLE001 - whoever waits is told, and ends with it
            self._error = error
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Waits for its end. What has ended it other than `close` is raised: a fault of Kibo's own, never retried."""
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def _step(self) -> float:
        try:
            return self._triggers.step()
        except StoreDamaged as error:
            _log.error("what is wanted cannot be read: %s", error.message)
            return CLOCK_LOOK_S
        except (StoreUnavailable, HostDiskFull) as error:
            _log.warning("what is wanted waits for the store: %s", error.message)
            return STORE_AGAIN_S

    def close(self) -> None:
        """Ends it. What it has begun is in the store."""
        self._over = True
        for bus in self._buses:
            bus.close()
        self._clock.ring()
        self._thread.join()
