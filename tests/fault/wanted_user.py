"""A program that has things wanted, or starts what is due, in a process that may be killed at a named point.

Arguments: the store's URL; `apply`, or the time to start what is due at, in seconds since 1970.
"""

from __future__ import annotations

import sys

from kibo.model.clock import Moment
from kibo.schedule.applying import Wants
from kibo.schedule.request import Request
from kibo.schedule.submitting import Submission
from kibo.schedule.triggering import Triggers
from kibo.schedule.wanted import Trigger
from kibo.schedule.work import Work
from kibo.store.database import Store

BEGUN_S = 1_780_315_200  # 2026-06-01, at noon
WORK = Work("digest", (), (), "do", [], {}).packed()

if __name__ == "__main__":
    with Store.open(sys.argv[1]) as store:
        if sys.argv[2] == "apply":
            wanted = [
                Trigger("daily", Request(WORK), "0 12 * * *"),
                Trigger("order", Request(WORK), topic="order.*"),
            ]
            Wants(store, lambda: Moment(BEGUN_S, 0.0, "boot")).apply(wanted)
        else:
            now_s = float(sys.argv[2])
            Triggers(store, Submission(store), lambda: Moment(now_s, 0.0, "boot")).step()
