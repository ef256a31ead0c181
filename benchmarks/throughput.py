"""How many boxes a second can be spawned, used and destroyed, one after the other, without end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from benchmarks.boxes import ECHO
from benchmarks.figures import Figure
from benchmarks.prototype import Prototype
from benchmarks.scale import Scale

TITLE = "sustained spawn, act, destroy"
WARM = 30


def run(scale: Scale) -> Iterator[Figure]:
    """Yields rates for several ways to use two processors, then the best of them."""
    seconds = scale.seconds(4.0)
    rates: list[float] = []
    for threads in (1, 2, 4):
        rates.append(rate(seconds, threads))
        yield Figure(f"one process, {threads} thread{'s' if threads > 1 else ''}", "/s", rates[-1])
    for threads in (1, 2, 4):
        rates.append(rate_of_processes(seconds, 2, threads))
        yield Figure(f"two processes, {threads} thread{'s' if threads > 1 else ''} each", "/s", rates[-1])
    yield Figure("best of these", "/s", max(rates), target=500.0, higher_is_better=True)
    floor = rate_of_prototypes(seconds, 2)
    yield Figure("two bare prototypes", "/s", floor)
    yield Figure("best of ours / prototypes", "x", max(rates) / floor)


def rate(seconds: float, threads: int) -> float:
    """Returns the cycles a second of ``threads`` threads of this process."""
    for _ in range(WARM):
        cycle()
    counts = [0] * threads
    failures: list[BaseException] = []
    begin = threading.Barrier(threads + 1)

    def work(index: int) -> None:
        begin.wait()
        until = time.perf_counter() + seconds
        try:
            while time.perf_counter() < until:
                cycle()
                counts[index] += 1
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that asked
            failures.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = time.perf_counter()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - start)


def cycle() -> None:
    """Spawns, acts, and destroys: returns when the box's last process is gone."""
    with ECHO.spawn() as box:
        assert box.echo("hello") == "hello"


def rate_of_processes(seconds: float, processes: int, threads: int) -> float:
    """Returns the cycles a second of several processes, each with a runtime of its own."""
    command = [sys.executable, "-m", "benchmarks.throughput", str(seconds), str(threads)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running)


def rate_of_prototypes(seconds: float, processes: int) -> float:
    """Returns the cycles a second of several bare prototypes, at the same time."""
    with ExitStack() as stack, ThreadPoolExecutor(processes) as threads:
        prototypes = [stack.enter_context(Prototype()) for _ in range(processes)]
        return sum(threads.map(lambda prototype: prototype.rate(seconds), prototypes))


def main() -> None:
    """One of several processes: gets ready, waits for its start, prints its rate."""
    for _ in range(WARM):
        cycle()
    print("ready", flush=True)
    sys.stdin.readline()
    print(rate(float(sys.argv[1]), int(sys.argv[2])))


if __name__ == "__main__":
    main()
