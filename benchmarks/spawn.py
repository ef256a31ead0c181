"""Spawn from the cache to the first action's result, beside the bare prototype, in turns."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Iterator

import kibo
from benchmarks.boxes import ECHO, Echo
from benchmarks.counters import Counters
from benchmarks.figures import Figure, distribution, middle, missing, percentile
from benchmarks.prototype import Prototype
from benchmarks.scale import Scale

TITLE = "spawn from cache to first result"
#: Boxes in a turn: many enough to be warm, few enough that both sides meet the same moments of a busy machine.
TURN = 25


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures: in whole, by phase, and as a ratio to the floor."""
    ours: list[tuple[float, float, float]] = []
    bare: list[float] = []
    ratios: list[float] = []
    warm(20)
    with Prototype() as prototype:
        for _ in range(scale.of(1000) // TURN):
            floor = prototype.measure(TURN)
            turn = [cycle() for _ in range(TURN)]
            bare += floor
            ours += turn
            ratios.append(middle(usable + first for usable, first, _ in turn) / middle(floor))
    yield distribution("spawn to first result", (a + b for a, b, _ in ours), target=2.5, target_p99=8.0)
    yield distribution("  of it: order sent to ready (usable)", (a for a, _, _ in ours))
    yield distribution("  of it: ready to first result", (b for _, b, _ in ours))
    yield distribution("  and after it: destroy, to the last process gone", (c for _, _, c in ours))
    yield distribution(
        "the second of two at once, for which none waits", (second() for _ in range(scale.of(200)))
    )
    yield distribution("bare prototype to first result", bare)
    ordered = sorted(ratios)
    spread = f"median of {len(ratios)} pairs of turns, {ordered[0]:.2f} to {ordered[-1]:.2f}"
    yield Figure("ours / prototype", "x", middle(ratios), target=1.6, count=len(ratios), note=spread)
    yield distribution("a definition made anew, and its digest", (definition() for _ in range(scale.of(200))))
    yield from pooled(scale)
    yield from costs(scale)


def definition() -> float:
    """Makes a definition and takes its digest. Returns the seconds."""
    start = time.perf_counter()
    same = Echo().digest == ECHO.digest
    seconds = time.perf_counter() - start
    assert same
    return seconds


def warm(count: int) -> None:
    """Builds the state and goes the whole way a few times."""
    for _ in range(count):
        cycle()
    gc.collect()


def cycle() -> tuple[float, float, float]:
    """Spawns, acts and destroys once. Returns the seconds of each."""
    start = time.perf_counter()
    box = ECHO.spawn()
    usable = time.perf_counter()
    answer = box.echo("hello")
    first = time.perf_counter()
    box.destroy()
    end = time.perf_counter()
    assert answer == "hello"
    return usable - start, first - usable, end - first


def second() -> float:
    """Spawns a box and at once another. Returns the seconds to the other's first result: the whole way of a fork."""
    with ECHO.spawn():
        start = time.perf_counter()
        with ECHO.spawn() as box:
            box.echo("hello")
            return time.perf_counter() - start


def pooled(scale: Scale) -> Iterator[Figure]:
    """Yields the same from a warm pool."""
    name = "spawn to first result, warm pool"
    if not hasattr(kibo, "pool"):
        yield missing(name, "kibo.pool does not exist yet")
        return
    seconds: list[float] = []
    with kibo.pool(ECHO, min=8, max=8):
        for _ in range(scale.of(200)):
            time.sleep(0.02)  # a pool is for callers who leave it time to refill
            usable, first, _ = cycle()
            seconds.append(usable + first)
    yield distribution(name, seconds, target=0.5)


def costs(scale: Scale) -> Iterator[Figure]:
    """Yields what a cycle costs by the kernel's account, which a busy machine moves less than the clock.

    In a program of its own: what is counted is what descends from whoever opens the counters.
    """
    names = ("processor time of a cycle, without its end", "page faults of a cycle")
    command = [sys.executable, "-m", "benchmarks.spawn", str(scale.of(400))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        why = (process.stderr.splitlines() or ["it ended without a word"])[-1]
        yield from (missing(name, why) for name in names)
        return
    counted = [(float(clock), float(faults)) for clock, faults in json.loads(process.stdout)]
    yield distribution(names[0], (clock for clock, _ in counted))
    faults = sorted(faults for _, faults in counted)
    yield Figure(names[1], "", middle(faults), low=faults[0], p99=percentile(faults, 0.99), count=len(faults))


def main() -> None:
    """Counts cycles, as many as the first argument says, and prints what each took."""
    with Counters() as counters:
        warm(20)
        counted = []
        for _ in range(int(sys.argv[1])):
            before = counters.read()
            cycle()
            after = counters.read()
            counted.append((after[0] - before[0], after[1] - before[1]))
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
