"""A user's program whose boxes pay, on a state directory that it fills and makes room in: fails where that shows."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kibo
from kibo import Allow
from kibo.model.errors import HostDiskFull
from kibo.wiring import runtime
from patience import eventually
from payer_boxes import Payer
from running_till import Till, running_till
from small_disks import NO_ROOM, full

CURL = ["curl", "-sS", "-d", "card=1", "http://shop.example/curl"]


def pay(shop: Till, home: Path, calls: ThreadPoolExecutor) -> None:
    class Customer(Payer):
        """Pays at the shop."""

        egress = [Allow("shop.example", to=shop.address)]

    with kibo.branch() as main:
        box = main.spawn(Customer())
        one, two = main.fork(2)
        with full(home):
            for branch in (main, one):
                assert NO_ROOM in branch[box].exec(CURL).stdout
            assert main[box].look() == "looked"
        assert shop.paid == []
        assert [*main.effects(), *one.effects()] == []
        paying = calls.submit(one[box].pay)
        with two[box].popen(CURL):
            eventually(lambda: one.waits_at_boundary() and two.waits_at_boundary())
            with full(home):
                try:
                    one.commit()
                    raise AssertionError("it was committed, and nothing can have been written")
                except HostDiskFull:
                    pass
                assert shop.paid == []
                assert [each.state for each in one.effects()] == ["held"]
            one.commit()
        assert paying.result(20) == "receipt 1 for /pay"
        assert main[box].pay("/more") == "receipt 2 for /more"
        assert shop.paid == ["/pay", "/more"]


def main() -> None:
    with running_till() as shop, ThreadPoolExecutor() as calls:
        pay(shop, Path(os.environ["KIBO_HOME"]), calls)
    runtime().close()


if __name__ == "__main__":
    main()
