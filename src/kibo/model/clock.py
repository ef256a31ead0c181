"""What time it is, by a clock that people set, and by one that nobody does."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import NamedTuple


@cache
def boot() -> str:
    """Names the time since this machine was started: another machine, or this one started again, has another name."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Moment(NamedTuple):
    """A point in time.

    Attributes:
        at_s: By the clock that people set: seconds since 1970.
        up_s: By the one that runs from the machine's start on, also while it sleeps (CLOCK_BOOTTIME).
        boot: The start that `up_s` counts from.
    """

    at_s: float
    up_s: float
    boot: str

    def after(self, seconds: float) -> Moment:
        """Returns the moment that comes so much later."""
        return Moment(self.at_s + seconds, self.up_s + seconds, self.boot)

    def since_s(self, earlier: Moment) -> float:
        """Returns the seconds since an earlier moment; less than 0 where a clock that was set is all there is."""
        return self.up_s - earlier.up_s if self.boot == earlier.boot else self.at_s - earlier.at_s

    def left_s(self, within_s: float, now: Moment) -> float:
        """Returns the seconds until this moment, which lay `within_s` ahead when it was set; 0 once it has come.

        To set the clock changes nothing while the machine runs. After another start the clock is all there is: where
        it says that it is earlier than when the moment was set, that is over, too.
        """
        left = self.up_s - now.up_s if self.boot == now.boot else self.at_s - now.at_s
        return 0.0 if left <= 0 or (self.boot != now.boot and left > within_s) else left


def up_s() -> float:
    """Returns the seconds since this machine was started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def moment() -> Moment:
    """Returns this moment."""
    return Moment(time.time(), up_s(), boot())
