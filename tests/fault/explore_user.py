"""A user's program that explores in real boxes, again and again, each time until Ctrl-C.

Argument: how many times. Says ``ready`` before each, and what is left after it: open forks, instances besides the one
that is explored, threads; and whether that one still answers.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import kibo
from kibo.runtime.attached import list_cells
from kibo.wiring import runtime
from value_boxes import Values


def blocks(box: Any) -> None:
    box.put("who", "blocks")
    box.block()


def runs(box: Any) -> None:
    box.exec("echo begun > /work/log; sleep 600")


def nested(box: Any) -> None:
    kibo.explore(box, [blocks, runs], workers=2)


def left(main: Any) -> str:
    records = runtime().records()
    forks = [
        each for each in records.history.tree(main.id) if each.parent and each.status in ("open", "stale")
    ]
    cells = [cell for cell in list_cells(records.home) if cell.is_instance and cell.state == "live"]
    threads = [each for each in threading.enumerate() if each.name == "kibo-explore"]
    return f"forks {len(forks)}, instances {len(cells) - 1}, threads {len(threads)}"


def main() -> None:
    with kibo.branch() as main_branch:
        box = main_branch.spawn(Values())
        for number in range(int(sys.argv[1])):
            try:
                print("ready", flush=True)
                kibo.explore(box, [blocks, nested, runs], workers=3)
                print("ended", flush=True)
            except KeyboardInterrupt:
                pass
            box.put("round", number)
            made = len(runtime().records().history.tree(main_branch.id)) - 1
            print(f"{left(main_branch)}, answers {box.get('round')}, made {made}", flush=True)


if __name__ == "__main__":
    main()
