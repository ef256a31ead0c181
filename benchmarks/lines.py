"""A long line of rounds in one process: fork, act, commit. ``python -m benchmarks.lines 1000`` for so many.

What must not grow with the rounds: the time of one, processes, and the warden's memory. What does, and is told: layers,
of which the history names one for each commit. One fork in some thirty is cold; see decision 0024.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

import kibo
from benchmarks.boxes import Writer
from benchmarks.figures import Figure, flatness
from benchmarks.idle import guest_pids
from benchmarks.soak import resident, warden_pid
from kibo.branch.worlds import names
from kibo.wiring import runtime

ROUNDS = 1000
#: More than one line: what is compared has cold forks in it on both sides.
WINDOW = 64


def line(rounds: int) -> Iterator[Figure]:
    """Yields what the first and the last rounds take, how many were live, and what is there afterwards."""
    seconds: list[float] = []
    live = 0
    with tempfile.TemporaryDirectory() as place, kibo.branch("a long line") as main:
        (Path(place) / "file").write_text("begun")
        box = main.spawn(Writer(megabytes=0), workspace=place)
        before, most = 0, 0
        for number in range(rounds):
            start = time.perf_counter()
            (fork,) = main.fork()
            fork[box].write("/work/file", str(number))
            fork.commit()
            seconds.append(time.perf_counter() - start)
            live += fork.live
            most = max(most, len(guest_pids()))
            if number == WINDOW:
                before = resident(warden_pid())
        assert box.files.read("/work/file") == str(rounds - 1).encode()
        yield from flatness(
            "a round", f"the first {WINDOW}", seconds[:WINDOW], f"the last {WINDOW}", seconds[-WINDOW:]
        )
        yield Figure("rounds whose fork was live", "%", 100 * live / rounds)
        yield Figure("guests at once, at most", "", most)
        grown = max(0, resident(warden_pid()) - before) / (rounds - WINDOW)
        yield Figure("the warden's memory, each round", "bytes", grown)
        home = runtime().home
        named = {name for _, world in runtime().records().history.worlds() for name in names(world)}
        layers = set(os.listdir(home / "deltas"))
        yield Figure("layers that the history names, each round", "", len(layers & named) / rounds)
        yield Figure("layers that go with the process, each round", "", len(layers - named) / rounds)


def main() -> int:
    """Prints the figures for as many rounds as the argument says."""
    console = Console()
    for figure in line(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS):
        console.print(f"{figure.name:60} {figure.value or 0:10.2f} {figure.unit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
