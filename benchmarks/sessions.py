"""What it costs to lease a session's profile, to load it into a box, and to save it from there."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import kibo
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale
from kibo import Box

TITLE = "sessions: a profile of 50 files, 1 MB"
FILES = 50
FILE_BYTES = 20_000
PLACE = "/tmp/profile"


def run(scale: Scale) -> Iterator[Figure]:
    """Yields each step's time, of one box that changes one file between two saves."""
    profile = kibo.session("benchmark")
    took: dict[str, list[float]] = {}

    def measured(what: str, since: float) -> None:
        took.setdefault(what, []).append(time.perf_counter() - since)

    with Box().spawn() as box:
        with profile.lease() as lease:
            lease.load(box, PLACE)
            for number in range(FILES):
                box.files.write(
                    f"{PLACE}/dir{number % 5}/{number}", random.Random(number).randbytes(FILE_BYTES)
                )
            start = time.perf_counter()
            lease.save(box, PLACE)
            measured("first save", start)
        for number in range(scale.of(100)):
            start = time.perf_counter()
            lease = profile.lease()
            measured("lease", start)
            loading = time.perf_counter()
            lease.load(box, PLACE)
            measured("load", loading)
            box.files.write(f"{PLACE}/cookies", b"%d" % number)
            saving = time.perf_counter()
            lease.save(box, PLACE)
            measured("save, one file changed", saving)
            ending = time.perf_counter()
            lease.end()
            measured("end of a lease", ending)
    for what, times in took.items():
        yield distribution(what, times)
