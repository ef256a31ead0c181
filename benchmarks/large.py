"""A workspace of very many files: ``python -m benchmarks.large 1000000`` for a million, 100,000 among the others.

What must be proportional to the tree: reading it the first time (a copy of every file), and looking at every path when
it is read again. What must not: forks, edits, commits, diffs, applies, and memory. Beside the first stands `cp -a` of
the same tree to the same disk, beside the second a bare walk: what no program that reads so many files can do without.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rich.console import Console

import kibo
from benchmarks.boxes import Writer
from benchmarks.figures import Figure, distribution
from benchmarks.scale import Scale
from benchmarks.workspaces import make_tree
from kibo.branch.watching import Room, used_room
from kibo.runtime.layers.temporary import remove_tree
from kibo.wiring import runtime

TITLE = "a workspace of very many files"
FILES: Final = 100_000
ROUNDS: Final = 10
#: What the process may take above what it had, in MiB, however many files there are.
MEMORY: Final = 200.0


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures."""
    yield from large(scale.of(FILES))


def large(count: int) -> Iterator[Figure]:
    """Yields what each step costs in a workspace of this many files, in seconds and in memory."""
    with tempfile.TemporaryDirectory() as place, Writer(megabytes=0).spawn() as first:
        first.turn()  # what a process's first box costs is no workspace's
        tree = make_tree(Path(place) / "tree", count)
        steps = Steps(count)
        with kibo.branch() as main:
            told: list[int] = []
            box = steps.once(
                "spawn, the first time",
                lambda: main.spawn(
                    Writer(megabytes=0), workspace=tree, progress=lambda event: told.append(event.entries)
                ),
            )
            steps.once(
                "cp -a", lambda: subprocess.run(["cp", "-a", tree, runtime().home / "tmp"], check=True)
            )
            steps.beside("spawn, the first time", "cp -a")
            remove_tree(runtime().home / "tmp" / tree.name)
            steps.found.append(Figure(f"progress told, {count:,} files", "times", len(told)))
            steps.inodes()
            yield from steps.once_done()
            other = steps.once("spawn, again", lambda: main.spawn(Writer(megabytes=0), workspace=tree))
            other.destroy()
            steps.once("walk of all entries", lambda: walk(tree))
            steps.beside("spawn, again", "walk of all entries")
            yield from steps.once_done()
            for number in range(ROUNDS):
                (fork,) = steps.many("fork", main.fork)
                text = f"{number:010}"
                steps.many("edit", lambda fork=fork, text=text: fork[box].write("0/0.txt", text))
                steps.many("commit", fork.commit)
                changes = steps.many("diff", main.diff)
                assert [change.path for change in changes] == ["/work/0/0.txt"]
                steps.many("apply", main.apply)
                assert (tree / "0/0.txt").read_text() == text
        yield from steps.figures()


def walk(tree: Path) -> int:
    """Looks at every entry below a directory. Returns how many there are."""
    found, pending = 0, [os.fspath(tree)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                found += 1
                if stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode):
                    pending.append(entry.path)
    return found


class Steps:
    """Takes time and memory of steps, each a figure."""

    def __init__(self, count: int) -> None:
        self._of = f"{count:,} files"
        self._count = count
        self._seconds: dict[str, list[float]] = {}
        self._once: dict[str, float] = {}
        self._start = resident()
        self._highest = 0
        self.found: list[Figure] = []

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """Does a step that costs the tree."""
        seconds, done = self._take(work)
        self._once[name] = seconds
        self.found.append(Figure(f"{name}, {self._of}", "s", seconds))
        per_file = seconds / self._count * 1e6
        self.found.append(Figure(f"  {name}, each file", "us", per_file))
        return done

    def beside(self, name: str, floor: str) -> None:
        """Compares a step with what it cannot do without."""
        ratio = self._once[name] / self._once[floor]
        self.found.append(Figure(f"  {name}, times {floor}", "times", ratio))

    def many(self, name: str, work: Callable[[], Any]) -> Any:
        """Does a step that does not."""
        seconds, done = self._take(work)
        self._seconds.setdefault(name, []).append(seconds)
        return done

    def _take(self, work: Callable[[], Any]) -> tuple[float, Any]:
        forget_peak()
        start = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - start
        self._highest = max(self._highest, peak())
        return seconds, done

    def once_done(self) -> Iterator[Figure]:
        """Yields what was found since the last time."""
        found, self.found = self.found, []
        yield from found

    def inodes(self) -> None:
        """Counts what the frozen tree takes on the disk of the state directory."""
        home = runtime().home
        used = used_room(os.fspath(home / "deltas"), Room(1 << 60, 1 << 60))
        self.found.append(Figure(f"inodes of its layer, each of {self._of}", "", used.files / self._count))

    def figures(self) -> Iterator[Figure]:
        """Yields what the steps that do not cost the tree took, and the memory of all."""
        for name, seconds in self._seconds.items():
            yield distribution(f"{name}, {self._of}", seconds)
        above = max(0, self._highest - self._start) / (1 << 20)
        yield Figure(f"memory above the start, at most, {self._of}", "MiB", above, target=MEMORY)


def resident() -> int:
    """Returns this process's resident memory, in bytes."""
    return _status("VmRSS")


def peak() -> int:
    """Returns the most that it has had since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Begins to look for the most anew. Source: proc_pid_clear_refs(5)."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def main() -> int:
    """Prints the figures for as many files as the argument says."""
    console = Console()
    for figure in large(int(sys.argv[1]) if len(sys.argv) > 1 else FILES):
        spread = f"  p99 {figure.p99:.2f}" if figure.p99 is not None else ""
        console.print(f"{figure.name:60} {figure.value or 0:10.2f} {figure.unit}{spread}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
