"""A program that submits a run, or waits for one, in a process that may be killed at a named point.

Arguments: the shop's address; `submit` or the id of a run.
"""

from __future__ import annotations

import sys

import kibo
from kibo import Allow, Policy, Retry
from run_boxes import Clerk


class Paying(Clerk):
    """Pays at the shop that the test has."""

    egress = [Allow("shop.example", to=sys.argv[1])]


if __name__ == "__main__":
    policy = Policy(retry=Retry(2, backoff_s=0.05))
    if sys.argv[2] == "submit":
        run = kibo.submit(Paying(), "pay", "/pay", policy=policy)
        print(run.id, flush=True)
    else:
        from kibo.wiring import definitions

        definitions.note(Paying())
        run = kibo.get_run(sys.argv[2])
    try:
        print("result", run.result(40).text, flush=True)
    except kibo.KiboError as error:
        print("failed", error.details.get("failure", error.code), flush=True)
