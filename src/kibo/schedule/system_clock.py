"""The clock of this machine, and waiting that another thread may end."""

from __future__ import annotations

import threading

from kibo.model.clock import Moment, moment, up_s

#: The longest single wait: what the operating system takes, and far beyond a beat of any lease.
_LONGEST_S = 3600.0


class SystemClock:
    """See `kibo.schedule.ports.Clock`. Any thread may ring; one waits."""

    def __init__(self) -> None:
        self._rung = threading.Event()

    def moment(self) -> Moment:
        """See `Clock.moment`."""
        return moment()

    def wait(self, until_s: float | None) -> None:
        """See `Clock.wait`."""
        left = _LONGEST_S if until_s is None else min(_LONGEST_S, until_s - up_s())
        if left > 0:
            self._rung.wait(left)
        self._rung.clear()

    def ring(self) -> None:
        """See `Clock.ring`."""
        self._rung.set()
