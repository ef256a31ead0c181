"""A program that has one instance delegate to another, and says the branch's id, and that the action is at it.

Arguments: the action, and where to be killed: the name of a point, or nothing.
"""

from __future__ import annotations

import os
import signal
import sys

import kibo
from kibo.store.crash import install
from letter_boxes import Plain, Stepper


def main(action: str, at: str) -> None:
    root = kibo.branch()
    print(root.id, flush=True)
    boss, stepper = root.spawn(Plain(), name="boss"), root.spawn(Stepper(), name="stepper")
    install(lambda passed: os.kill(os.getpid(), signal.SIGKILL) if passed == at else None)
    made = boss.delegate(stepper, action, *{"walk": (1_000_000_000,), "add": (1, 2)}[action])
    for event in made.events():
        if event.kind == "progress":
            print("progress", flush=True)
            sys.stdin.read()  # until it is killed


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
