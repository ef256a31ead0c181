"""A user's program whose state directory's disk fills up while branches run: tells what came of each verb, as JSON.

Argument: the host directory. The branches' disk is that of ``KIBO_HOME``, which is full while the verbs are tried.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import kibo
from kibo.branch.branch import Branch
from value_boxes import Values

WORK = Path(sys.argv[1])
FILLING = Path(os.environ["KIBO_HOME"]).parent / "filling"


def fill() -> None:
    """Leaves no block free."""
    with open(FILLING, "ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def tell(verb: str, call: Callable[[], object]) -> None:
    try:
        call()
    except kibo.KiboError as error:
        print(json.dumps({"verb": verb, **error.to_dict()}), flush=True)
    else:
        print(json.dumps({"verb": verb, "code": "ok"}), flush=True)


def verbs(main: Branch, one: Branch, two: Branch, box: Values) -> None:
    tell("snapshot", lambda: two.snapshot("sealed"))
    tell("fork", lambda: two.fork(2))
    tell("commit", two.commit)
    tell("merge", one.merge)
    tell("apply", main.apply)
    tell("spawn", lambda: main.spawn(Values(), workspace=WORK / "other"))


def ends(main: Branch, fork: Branch) -> None:
    tell("abort", fork.abort)
    tell("close", main.close)


def main() -> None:
    with kibo.branch() as main:
        box = main.spawn(Values(), workspace=WORK)
        box.put("main", 1)
        one, two = main.fork(2)
        one[box].exec("mkdir dir; for n in $(seq 300); do echo $n > dir/$n; done; echo one > one")
        two[box].exec("echo two > two")
        fill()
        verbs(main, one, two, box)
        values = [branch[box].get("main") for branch in (main, one, two)]
        status = [branch.status for branch in (main, one, two)]
        print(json.dumps({"verb": "then", "values": values, "status": status}), flush=True)
        FILLING.unlink()
        verbs(main, one, two, box)
        (three,) = main.fork()
        three[box].put("three", 1)
        box.put("main", 2)
        fill()
        ends(main, three)
        FILLING.unlink()
        ends(main, three)
        print(json.dumps({"verb": "then", "status": [main.status, three.status]}), flush=True)
    with kibo.checkout(main.id, Values()) as again:
        print(json.dumps({"verb": "again", "main": again[box._member].exec("cat main").stdout}), flush=True)
    kibo.wiring.runtime().close()


if __name__ == "__main__":
    main()
