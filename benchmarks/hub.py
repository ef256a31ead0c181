"""What a durable message costs from one box to another, how many a second, and whether a kill loses any."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kibo
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale
from kibo import Box
from kibo.branch.history import History
from kibo.hub.post import Post
from kibo.store.database import Store

TITLE = "hub: durable messages between boxes"
#: Threads that send at once, as agents do.
SENDERS = 8
QUEUED = 100_000


class Sink(Box):
    """Counts what it gets."""

    def launch(self) -> None:
        """Begin at nothing."""
        self.count = 0

    @kibo.on_message
    def take(self) -> None:
        """Count one."""
        self.count += 1


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the time from send to consumed, the rate, and what a kill has lost or doubled."""
    with kibo.branch("benchmark") as main:
        one, two = main.spawn(Sink(), name="one"), main.spawn(Sink(), name="two")
        times = []
        for number in range(scale.of(1000)):
            start = time.perf_counter()
            one.send_message(two, number).wait(timeout_s=10)
            times.append(time.perf_counter() - start)
        yield distribution("send to consumed, box to box", times, target=10.0, target_p99=30.0)
        yield Figure(
            f"sustained, {SENDERS} senders, two boxes that handle them",
            "/s",
            _rate(main, [one, two], scale.of(10_000)),
            target=2000.0,
            higher_is_better=True,
        )
    yield from _killed(scale.of(QUEUED))


def _rate(main: Any, boxes: list[Any], count: int) -> float:
    each = count // SENDERS
    last: list[Any] = []

    def send(who: int) -> None:
        sender, other = boxes[who % 2], boxes[1 - who % 2]
        for number in range(each):
            receipt = sender.send_message(other, number)
        last.append(receipt)

    start = time.perf_counter()
    threads = [threading.Thread(target=send, args=(who,)) for who in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for receipt in last:
        receipt.wait(timeout_s=60)
    return SENDERS * each / (time.perf_counter() - start)


def _killed(count: int) -> Iterator[Figure]:
    """Queues messages, kills whoever handles them in the middle, and counts what the next one finds."""
    with tempfile.TemporaryDirectory() as home:
        with Store.open(f"sqlite:///{home}/history.db") as store:
            history = History(store)
            branch = history.create().id
            post = Post(history.log, branch)
            start = time.perf_counter()
            for number in range(count):
                post.send("one", [("two", "")], number)
            yield Figure("queued, one sender", "/s", count / (time.perf_counter() - start))
        child = subprocess.Popen([sys.executable, "-m", "benchmarks.hub", home, branch])
        settled = Path(home, "settled")
        while not settled.exists() or settled.stat().st_size < 4 * count:
            time.sleep(0.01)
        child.kill()
        child.wait()
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "benchmarks.hub", home, branch], check=True)
        yield Figure("handled after the kill, in one process", "s", time.perf_counter() - start)
        found = [int(line) for line in settled.read_text().split()]
        yield Figure("lost of those queued", "messages", float(count - len(set(found))), target=0.0)
        yield Figure("out of order", "messages", float(_disorder(found)), target=0.0)


def _disorder(found: list[int]) -> int:
    """Counts those that were handled for the first time after a later one."""
    newest, count = -1, 0
    for number in dict.fromkeys(found):
        count += number < newest
        newest = max(newest, number)
    return count


def handle(home: str, branch: str) -> None:
    """Handles all that waits: writes each down, then says that it is handled."""
    with Store.open(f"sqlite:///{home}/history.db") as store, open(Path(home, "settled"), "ab") as out:
        post = Post(History(store).log, branch)
        while taken := post.take(("two", "")):
            out.write("".join(f"{message.body}\n" for _, message in taken).encode())
            out.flush()
            post.settle([letter for letter, _ in taken])


if __name__ == "__main__":
    handle(sys.argv[1], sys.argv[2])
    os._exit(0)
