"""A user's program that is killed: does one thing with Kibo until it cannot.

Arguments: what to do (build, spawn, action, exec, copy, serve, call, destroy). Says ``ready`` once it is at it,
``lost`` when the runtime is lost, and ends when its input does.
"""

import contextlib
import sys
import threading
import time
from typing import Any

from kibo import Allow, Box, Env, KiboError, MaySpawn, Service, action, me


class Napper(Box):
    """Sleeps."""

    @action
    def nap(self, seconds: float) -> None:
        """Sleep."""
        time.sleep(seconds)


class Served(Napper):
    """Sleeps beside a service, and has a way out."""

    env = Env(services=[Service("waiter", "exec sleep 60")])
    egress = [Allow("shop.example", to="127.0.0.1:9")]


class Caller(Box):
    """Calls out."""

    rights = [MaySpawn(Napper)]

    @action
    def call(self) -> None:
        """Spawn another, and call that."""
        with me.spawn("Napper") as other:
            other.nap(0.01)


def building(name: str) -> Box:
    """A box that takes long to build and was never built."""

    class Slow(Box):
        env = Env(
            run=[
                f"echo {name}; for i in 1 2 3 4 5 6; do sleep 0.25; dd if=/dev/zero of=/work/f$i bs=1M count=3; done"
            ]
        )

    return Slow()


def work(what: str, name: str) -> None:
    """Does it, again and again."""
    box = Napper().spawn()
    if what == "build":
        print("ready", flush=True)
        while True:
            building(f"{name} {time.monotonic_ns()}").spawn().destroy()
    caller = Caller().spawn() if what == "call" else None
    others: list[Any] = [] if what == "copy" else [Napper().spawn() for _ in range(3)]
    if what == "copy":
        # Something runs in it, so that its files are copied for each fork.
        box.exec("dd if=/dev/zero of=big bs=1M count=64")
        others = [box.popen("exec sleep 60")]
    print("ready", flush=True)
    while True:
        if what == "spawn":
            others = [*others[-3:], Napper().spawn()]
        elif what == "action":
            box.nap(0.5)
        elif what == "exec":
            box.exec("sleep 60 & sleep 0.5")
            box.exec("(setsid sleep 60 &) ; sleep 0.2", timeout_s=0.5)
        elif what == "copy":
            box.fork()
        elif what == "serve":
            others = [*others[-3:], Served().spawn()]
            others[-1].exec("sleep 60 &")
        elif caller is not None:
            caller.call()
        elif what == "destroy":
            for other in [box, *others]:
                other.destroy()
            box, others = Napper().spawn(), [Napper().spawn() for _ in range(3)]


def main() -> None:
    """Works in a thread of its own, as users do, and ends with the input."""

    def body() -> None:
        try:
            work(sys.argv[1], sys.argv[2])
        except KiboError as error:
            print("lost", error.code, flush=True)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()


if __name__ == "__main__":
    main()
