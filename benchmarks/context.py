"""What an agent knows: prompts of long histories, appends, forks, searches, and what stays of a prompt's beginning."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator

from benchmarks.figures import Figure, distribution, flatness
from benchmarks.scale import Scale
from kibo.branch.history import History
from kibo.context.context import Context, Place
from kibo.context.prompt import Prompt
from kibo.context.writing import Writer
from kibo.store.database import Store

TITLE = "context, on SQLite"
LONG = 100_000
BUDGET = 8000
#: What a common entry is: some 100 tokens.
WORDS = "the checkout of the shop answers with an error after half a minute, and nobody knows why " * 4


def run(scale: Scale) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as place:
        history = History(Store.open(f"sqlite:///{place}/history.db"))
        short, long = filled(history, 200), filled(history, LONG)
        count = scale.of(300)
        near, far = alternating(prompting(history, short), prompting(history, long), count)
        yield distribution(
            f"prompt of {BUDGET:,} tokens, of {LONG:,} entries",
            far,
            target=50.0,
            note=f"of 200: {min(near) * 1e3:.1f} ms",
        )
        yield distribution(
            "append to a context",
            [timed(lambda: of(history, long).user(WORDS)) for _ in range(count)],
            target=1.0,
        )
        near, far = alternating(forking(history, short), forking(history, long), count)
        yield from flatness("fork of a context", "200 entries", near, f"{LONG:,} entries", far)
        yield Figure(
            "share of an ancestor's bytes kept within a generation",
            "%",
            kept(history, scale),
            target=100.0,
            higher_is_better=True,
        )
        start = time.perf_counter()
        of(history, long).search("checkout")
        yield Figure(
            "first search, for each entry that it indexes", "us", (time.perf_counter() - start) / LONG * 1e6
        )
        yield distribution(
            "search among them for a rare word",
            [timed(lambda: of(history, long).search("entry77777")) for _ in range(scale.of(100))],
        )
        yield beside(place, scale)
        history.store.close()


def of(history: History, branch: str) -> Context:
    return Context(Place(history.log, branch, Writer(history.log, branch, None, lambda: None)))


def filled(history: History, count: int) -> str:
    """Makes a branch with that many entries, instructions and a pin at their beginning."""
    branch = history.create().id
    known = of(history, branch)
    known.system("Mend the shop.")
    known.pin(known.user("The till must stay open."))
    for start in range(0, count, 10_000):
        known.import_([message(number) for number in range(start, min(start + 10_000, count))], "openai")
    return branch


def message(number: int) -> dict[str, str]:
    return {"role": "assistant" if number % 2 else "user", "content": f"entry{number}: {WORDS}"}


def alternating(
    one: Callable[[], float], two: Callable[[], float], count: int
) -> tuple[list[float], list[float]]:
    pairs = [(one(), two()) for _ in range(count)]
    return [near for near, _ in pairs], [far for _, far in pairs]


def timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def prompting(history: History, branch: str) -> Callable[[], float]:
    return lambda: timed(lambda: of(history, branch).prompt(BUDGET))


def forking(history: History, branch: str) -> Callable[[], float]:
    history.fork(branch)  # which seals what was written
    return lambda: timed(lambda: history.fork(branch))


def kept(history: History, scale: Scale) -> float:
    """Goes on in forks of forks, and tells the least share of a prompt's bytes that later ones begin with."""
    branch = history.create().id
    last: Prompt | None = None
    least = 100.0
    for number in range(scale.of(600)):
        of(history, branch).user(message(number)["content"])
        made = of(history, branch).prompt(BUDGET)
        if last is not None and last.generation == made.generation:
            both = enumerate(zip(last.rendered, made.rendered, strict=False))
            common = next((at for at, (a, b) in both if a != b), min(len(last.rendered), len(made.rendered)))
            least = min(least, 100.0 * common / len(last.rendered))
        last = made
        if number % 20 == 0:
            branch = history.fork(branch)[0].id
    return least


def beside(place: str, scale: Scale) -> Figure:
    """Tells how far appends are from what the disk takes for as many bytes."""
    with open(os.path.join(place, "floor"), "ab", buffering=0) as file:
        taken = []
        for _ in range(scale.of(300)):
            start = time.perf_counter()
            file.write(WORDS.encode())
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return distribution("a file, appended to and flushed, beside it", taken)
