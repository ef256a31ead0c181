"""A user's program whose forks race to pay: arguments are the shop's address, and what to do.

``race``: three forks pay, and the second is committed. It, or its gateway, is killed at a point on the way; what it is
told then it does not mind. ``ask`` and ``ask-fork``: it pays what a person has to approve, in the root or in a fork
that is committed, and is that person itself. ``heir``: the next program of the state directory, which has a box with a
way out.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from functools import partial

import kibo
from kibo import Allow
from kibo.model.errors import KiboError
from kibo.wiring import runtime
from payer_boxes import Payer


class Customer(Payer):
    """Pays at the shop."""

    egress = [Allow("shop.example", to=sys.argv[1])]


def pay(box: Customer, path: str) -> None:
    with contextlib.suppress(KiboError):
        box.pay(path)


def race() -> None:
    with kibo.branch(name="main") as main:
        box = main.spawn(Customer())
        forks = main.fork(3, names=["0", "1", "2"])
        calls = [threading.Thread(target=pay, args=(fork[box], f"/{fork.name}")) for fork in forks]
        for call in calls:
            call.start()
        while not all(fork.waits_at_boundary() for fork in forks) and all(call.is_alive() for call in calls):
            time.sleep(0.01)
        done = forks[1].commit()
        print(json.dumps([effect.state for effect in done.effects]), flush=True)
        calls[1].join()


class Careful(Payer):
    """Pays at the shop what a person approves."""

    egress = [Allow("shop.example", to=sys.argv[1], approve=True)]


def ask(*, forked: bool) -> None:
    with kibo.branch(name="main") as main:
        box = main.spawn(Careful())
        where = main.fork(names=["1"])[0] if forked else main
        call = threading.Thread(target=pay, args=(where[box], "/1"))
        call.start()
        if forked:
            while not where.waits_at_boundary() and call.is_alive():
                time.sleep(0.01)
            where.commit()
        while call.is_alive():
            for effect in main.effects():
                if effect.state == "asking":
                    kibo.approve(effect.id, digest=effect.digest)
            call.join(0.01)


def heir() -> None:
    with Customer().spawn() as box:
        box.look()
        ledger = runtime().records().ledger
        while any(effect.state in ("held", "asking", "released", "sending") for effect in ledger.listed()):
            time.sleep(0.01)


if __name__ == "__main__":
    {"race": race, "ask": partial(ask, forked=False), "ask-fork": partial(ask, forked=True), "heir": heir}[
        sys.argv[2]
    ]()
