"""Many agents that search at once, each through branches of its own: the shape of BranchBench's tree search.

Ten workers take a hundred steps each. A step chooses one of the worker's nodes, as Monte Carlo tree search does, forks
it, edits a file in the fork, evaluates it, and commits it where that is better than the node, or aborts it. In the end
each worker commits its best node, and the best worker is committed.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import kibo
from benchmarks.boxes import Writer
from benchmarks.figures import Figure, distribution, missing
from benchmarks.scale import Scale
from kibo.branch.branch import Branch

TITLE = "a tree search: 10 workers"
WORKERS: Final = 10
STEPS: Final = 100
#: Nodes that a worker chooses among.
NODES: Final = 4
LINES: Final = 40
#: How much a node that was seldom tried counts.
CURIOSITY: Final = 3.0


@dataclass(slots=True, eq=False)
class Node:
    """A branch that may be gone on from."""

    branch: Branch
    score: int
    visits: int = 0


def run(scale: Scale) -> Iterator[Figure]:
    """Yields what came of the steps. In a program of its own: what is left is counted once that has ended."""
    steps = scale.of(STEPS)
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"KIBO_HOME": home}
        command = [sys.executable, "-m", "benchmarks.search", str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            yield missing(
                "steps that finished", (done.stderr.splitlines() or ["it ended without a word"])[-1]
            )
            return
        found = json.loads(done.stdout)
        wanted = WORKERS * steps
        note = f"{found['committed']} committed, {found['aborted']} aborted, best score {found['score']} of {LINES}"
        yield Figure(
            "steps that finished", "", len(found["steps"]), target=wanted, higher_is_better=True, note=note
        )
        yield Figure("steps", "/s", len(found["steps"]) / found["seconds"])
        yield distribution("a step: fork, edit, evaluate, commit or abort", found["steps"])
        yield Figure("layers of branches on disk, when it has ended", "", float(count_layers(home)))
        gc = [sys.executable, "-m", "kibo.cli", "gc", "--closed", "0s", "--json"]
        start = time.perf_counter()
        subprocess.run(gc, capture_output=True, env=environment, check=True)
        yield Figure("  `kibo gc`", "s", time.perf_counter() - start)
        left = count_layers(home)
        yield Figure("  layers left by it", "", float(left), target=0.0)


def count_layers(home: str) -> int:
    """Counts the layers that branches wrote, and temporary trees."""
    return sum(1 for part in ("deltas", "tmp") for _ in (Path(home) / part).iterdir())


def choose(nodes: list[Node]) -> Node:
    """Chooses the node with the best upper bound (UCB1); one that was never tried comes first."""
    tries = sum(node.visits for node in nodes)

    def bound(node: Node) -> float:
        if not node.visits:
            return math.inf
        return node.score + CURIOSITY * math.sqrt(math.log(tries) / node.visits)

    return max(nodes, key=bound)


def work(root: Branch, box: Any, seed: int, steps: int) -> tuple[list[float], int, int]:
    """Takes a worker's steps. Returns the seconds of each, how many were committed, and the score of its best node."""
    dice = random.Random(seed)
    score = root[box].evaluate()
    nodes = [Node(branch, score) for branch in root.fork(NODES)]
    seconds, committed = [], 0
    for _ in range(steps):
        start = time.perf_counter()
        node = choose(nodes)
        node.visits += 1
        (attempt,) = node.branch.fork()
        line = dice.randrange(LINES)
        attempt[box].edit(line, (line + dice.randrange(3)) % 10)
        found = attempt[box].evaluate()
        if found > node.score:
            attempt.commit()
            node.score = found
            committed += 1
        else:
            attempt.abort()
        seconds.append(time.perf_counter() - start)
    best = max(nodes, key=lambda node: node.score)
    best.branch.commit()
    assert root[box].evaluate() == best.score
    return seconds, committed, best.score


def main() -> None:
    """Searches, and prints what came of it as JSON."""
    steps = int(sys.argv[1])
    with kibo.branch(goal="the right program") as main:
        box = main.spawn(Writer(megabytes=0))
        box.write("program.txt", "0\n" * LINES)
        roots = main.fork(WORKERS)
        start = time.perf_counter()
        with ThreadPoolExecutor(WORKERS) as pool:
            done = list(pool.map(lambda each: work(each[1], box, each[0], steps), enumerate(roots)))
        seconds = time.perf_counter() - start
        scores = [score for _, _, score in done]
        roots[scores.index(max(scores))].commit()
        assert box.evaluate() == max(scores)
    taken = [each for some, _, _ in done for each in some]
    committed = sum(number for _, number, _ in done)
    facts = {"steps": taken, "seconds": seconds, "committed": committed, "aborted": len(taken) - committed}
    print(json.dumps(facts | {"score": max(scores)}))


if __name__ == "__main__":
    main()
