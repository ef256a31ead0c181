"""What a run costs with its box: from the submission of a user's program to what its action has returned."""

from __future__ import annotations

import time
from collections.abc import Iterator

import kibo
from benchmarks.boxes import Timed
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale

TITLE = "runs, one after the other, with their boxes"
#: Before it is measured, the box's state is made, and the next fork of it waits.
WARM = 3
#: That are submitted without waiting for any.
AT_ONCE = 100


def run(scale: Scale) -> Iterator[Figure]:
    """Yields what `kibo.submit` costs, and how long it takes until the action begins and until its result is there."""
    box = Timed()
    for _ in range(WARM):
        kibo.submit(box, "begun").result()
    submits: list[float] = []
    starts: list[float] = []
    results: list[float] = []
    for _ in range(scale.of(200)):
        submits.append(-time.monotonic())
        made = kibo.submit(box, "begun")
        submitted = time.monotonic()
        submits[-1] += submitted
        starts.append(made.result() - submitted)
        results.append(time.monotonic() - submitted)
    yield distribution("kibo.submit, durable", submits, target=2.0)
    yield distribution("queue to its action at work", starts, target=10.0)
    yield distribution("queue to its result", results)
    results = []
    for number in range(scale.of(100)):
        made = kibo.submit(box, "write", str(number))
        submitted = time.monotonic()
        made.result()
        results.append(time.monotonic() - submitted)
    yield distribution("queue to its result, one file written, on the disk", results)
    count = scale.of(AT_ONCE)
    began = time.monotonic()
    for each in [kibo.submit(box, "begun") for _ in range(count)]:
        each.result()
    yield Figure(
        "runs, all submitted at once", "/s", count / (time.monotonic() - began), higher_is_better=True
    )
