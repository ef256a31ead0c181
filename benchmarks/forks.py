"""Forks of running instances, with state of several sizes, and a plain ``os.fork`` of as much beside them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.boxes import Stateful
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale

TITLE = "forks of running instances"
#: Megabytes of Python objects, with what is promised of the first result in the fork: median and p99, in ms.
SIZES = ((0, None, None), (100, 4.0, 10.0), (1000, 25.0, None))


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures."""
    for megabytes, target, target_p99 in SIZES:
        with Stateful(megabytes=megabytes).spawn() as box:
            box.turn()
            first, pause = [], []
            for _ in range(scale.of(100)):
                start = time.perf_counter()
                (fork,) = box.fork(live="require")
                fork.turn()
                first.append(time.perf_counter() - start)
                fork.destroy()
                start = time.perf_counter()
                box.turn()
                pause.append(time.perf_counter() - start)
            yield distribution(
                f"{megabytes} MB: fork to first result", first, target=target, target_p99=target_p99
            )
            yield distribution("  the origin's next action after it", pause)
            if megabytes == 100:
                yield from _hundred(box, scale)
    yield distribution("os.fork of 100 MB, for comparison", _plain(scale))


def _hundred(box: Any, scale: Scale) -> Iterator[Figure]:
    seconds = []
    for _ in range(scale.of(10)):
        start = time.perf_counter()
        forks = box.fork(100, live="require")
        for fork in forks:
            fork.turn()
        seconds.append(time.perf_counter() - start)
        for fork in forks:
            fork.destroy()
        box.turn()
    yield distribution("  100 forks of it, all answering", seconds, target=250.0)


def _plain(scale: Scale) -> list[float]:
    """The floor: no isolation, a byte over a pipe."""
    data = [bytes(1000) + str(number).encode() for number in range(100_000)]
    seconds = []
    for _ in range(scale.of(50)):
        read, write = os.pipe()
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.write(write, data[0][:1])
            os._exit(0)
        os.read(read, 1)
        seconds.append(time.perf_counter() - start)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
    return seconds
