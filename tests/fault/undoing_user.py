"""A user's program whose forks take rooms, which are undone: arguments are the inn's address, and what to do.

``abort``: a fork takes two rooms and is aborted. ``commit``: another takes one and is committed, which undoes that.
``order``: something is ordered with a key, in a tree of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

import kibo
from inn_boxes import Inn, Ledgers
from kibo import Allow
from kibo.effects.forwarder import Forwarder
from kibo.model.errors import KiboError
from kibo.wiring import runtime


class Guest(Inn):
    """Takes rooms at the inn."""

    egress = [Allow("inn.example", to=sys.argv[1])]


class Customer(Ledgers):
    """Orders at the inn."""

    egress = [Allow("inn.example", to=sys.argv[1])]


def abort() -> None:
    with kibo.branch(name="main") as main:
        box = main.spawn(Guest())
        (fork,) = main.fork(names=["0"])
        with contextlib.suppress(KiboError):
            fork[box].take("1")
            fork[box].take("2")
        fork.abort()


def commit() -> None:
    with kibo.branch(name="main") as main:
        box = main.spawn(Guest())
        one, two = main.fork(2, names=["0", "1"])
        with contextlib.suppress(KiboError):
            one[box].take("1")
            two[box].take("2")
        two.commit()


def order() -> None:
    with contextlib.suppress(KiboError), Customer().spawn() as box:
        print(box.order("1"), flush=True)


def interrupted() -> None:
    """Aborts, and gets Ctrl-C in the middle of what gives the first room back."""
    with kibo.branch(name="main") as main:
        box = main.spawn(Guest())
        (fork,) = main.fork(names=["0"])
        fork[box].take("1")
        fork[box].take("endless")

        def press() -> None:
            ledger = runtime().records().ledger
            while not any("/free/" in each.url and each.state == "done" for each in ledger.listed()):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press, daemon=True).start()
        fork.abort()


def gateway_dies() -> None:
    """Aborts once the gateway is dead."""
    with kibo.branch(name="main") as main:
        box = main.spawn(Guest())
        (fork,) = main.fork(names=["0"])
        fork[box].take("1")
        gateway = runtime().egress._forwarding
        assert isinstance(gateway, Forwarder)
        os.kill(gateway.pid, signal.SIGKILL)
        assert len(fork.abort().left) == 1


if __name__ == "__main__":
    {each.__name__: each for each in (abort, commit, order, interrupted, gateway_dies)}[sys.argv[2]]()
