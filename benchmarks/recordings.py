"""What it costs to record: a request on a kept connection, a large body, and memory, beside the same unrecorded; and
how fast a recording answers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, distribution, middle
from benchmarks.gateway import BODY_BYTES, megabytes, open_door, peak_bytes, requests, serving, through
from benchmarks.scale import Scale
from kibo.effects.forwarder import Forwarder
from kibo.effects.recordings import Recordings
from kibo.effects.taping import RecordingTape, ReplayTape
from kibo.model.asker import Asker

TITLE = "recording and replaying, HTTPS on both sides"
ROUNDS = 20
BODIES = 3


def run(scale: Scale) -> Iterator[Figure]:
    """Yields what is recorded beside what is not, in turns on one gateway."""
    with tempfile.TemporaryDirectory() as place, serving(Path(place) / "server") as (address, trust):
        home = Path(place)
        (home / "trust.pem").write_bytes(trust)
        with Forwarder.start(home / "authority", extra_trust=home / "trust.pem") as gateway:
            recordings, ours = Recordings(home), gateway.certificate()
            tape = RecordingTape(gateway, recordings, "bench")
            plain = open_door(gateway, address, "plain")
            taped = open_door(gateway, address, "taped", Asker(tape=tape.id))
            with through(plain, ours) as without, through(taped, ours) as recorded:
                single: list[float] = []
                copied: list[float] = []
                for _ in range(ROUNDS):
                    single += requests(without, scale.of(2000) // ROUNDS)
                    copied += requests(recorded, scale.of(2000) // ROUNDS)
                yield distribution("a request, not recorded", single)
                yield distribution("a request, recorded", copied)
                added = (middle(copied) - middle(single)) * 1e3
                yield Figure("what recording adds to a request, p50", "ms", added, target=0.5)
                rates = [(megabytes(without), megabytes(recorded)) for _ in range(BODIES)]
                # The first of both has opened the way.
                ratio = sum(each[1] for each in rates[1:]) / sum(each[0] for each in rates[1:])
                name = f"one body of {BODY_BYTES // 10**6} MB, not recorded"
                yield Figure(name, "MB/s", rates[-1][0], higher_is_better=True)
                yield Figure("the same, recorded", "MB/s", rates[-1][1], higher_is_better=True)
                yield Figure("recorded, of the rate without", "", ratio, target=0.5, higher_is_better=True)
                grown = peak_bytes(gateway.pid) / 2**20
                yield Figure("most memory of the gateway while it records", "MiB", grown, target=128.0)
            tape.close()
            replay = ReplayTape(gateway, recordings, "bench")
            door = open_door(gateway, address, "replays", Asker(tape=replay.id))
            with through(door, ours) as connection:
                found = requests(connection, scale.of(1000))
                yield distribution("a request, replayed", found)
                rate = megabytes(connection)
                yield Figure("the same body, replayed", "MB/s", rate, higher_is_better=True)
            replay.close()
