"""A program whose instances have mail, killed after a snapshot; and one that goes on with its branch.

Arguments: ``begin`` and where to be killed, the name of a point, or nothing for when it has said ``ready``; or
``again`` and the branch. What its function hears outside it appends to a file first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import kibo
from kibo.store.crash import install
from letter_boxes import Clerk, Plain, Taker
from patience import until

COUNT = 10


def heard_file() -> Path:
    return Path(os.environ["KIBO_HOME"], os.environ["HEARD"])


def heard() -> list[str]:
    return heard_file().read_text().split() if heard_file().exists() else []


def hear(message: kibo.Message) -> None:
    with heard_file().open("a") as file:
        file.write(f"{message.body}\n")


def begin(at: str) -> None:
    root = kibo.branch()
    desk, hand = root.spawn(Clerk(), name="desk"), root.spawn(Taker(), name="hand")
    out = root.spawn(Plain(), name="out")
    out.on_message(hear)
    out.send_message(desk, [0, ""])
    until(lambda: desk.kept() == [0])
    root.snapshot()
    print(root.id, flush=True)
    out.send_message(out, "direct")
    until(lambda: "direct" in heard())
    out.send_message(hand, 1)
    out.send_message(hand, 2)
    assert hand.take(1) == [1]
    desk.tell("hand", "undone")
    install(lambda passed: os.kill(os.getpid(), signal.SIGKILL) if passed == at else None)
    for number in range(1, COUNT + 1):
        out.send_message(desk, [number, "out"])
    until(lambda: len(desk.kept()) == COUNT + 1 and len(heard()) == COUNT + 1)
    print("ready", flush=True)
    sys.stdin.read()


def again(branch: str) -> None:
    with kibo.checkout(branch, Clerk(), Taker(), Plain()) as here:
        here["out"].on_message(hear)
        until(lambda: len(here["desk"].kept()) == COUNT + 1)
        until(lambda: heard()[-COUNT:] == [str(n + 1) for n in range(COUNT)])
        told = {
            "kept": here["desk"].kept(),
            "taken": here["hand"].take(10),
            "dead": [each.why for each in here.mail.dead()],
        }
        here.commit()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    {"begin": begin, "again": again}[sys.argv[1]](sys.argv[2])
