"""Directories of the host: frozen, changed in branches and applied; and the same by git worktrees and by cp."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import kibo
from benchmarks.boxes import Writer
from benchmarks.figures import Figure, distribution, flatness, middle, missing
from benchmarks.scale import Scale
from kibo.branch.branch import Branch

TITLE = "directories of the host"
FEW: Final = 10
VERY_MANY: Final = 100_000
#: For what copies a tree each time.
MANY: Final = 10_000
#: Files in one directory.
FOLDER: Final = 100
ROUNDS: Final = 20
#: Attempts side by side in a small tree and in a large one, where a copy takes seconds.
ATTEMPTS: Final = 10, 2
GIT: Final = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@shop.example", "-c", "gc.auto=0")


def run(scale: Scale) -> Iterator[Figure]:
    """Yields the figures."""
    with tempfile.TemporaryDirectory() as place:
        yield from applies(Path(place), scale)
        for count, rounds in zip((FEW, scale.of(MANY)), ATTEMPTS, strict=True):
            yield from beside(Path(place), count, rounds)


def make_tree(tree: Path, count: int) -> Path:
    """Makes a directory with some small files."""
    for number in range(count):
        if number % FOLDER == 0:
            (tree / str(number // FOLDER)).mkdir(parents=True)
        (tree / str(number // FOLDER) / f"{number}.txt").write_text(f"line of file {number}\n")
    return tree


def applies(place: Path, scale: Scale) -> Iterator[Figure]:
    """Yields what it costs to apply a small edit in a small tree and in a large one, and to freeze both."""
    with Writer(megabytes=0).spawn() as box:
        box.turn()  # what a process's first box costs is no workspace's
    counts = FEW, scale.of(VERY_MANY)
    trees = [make_tree(place / f"tree-{count}", count) for count in counts]
    with ExitStack() as held:
        roots: list[tuple[Branch, Any]] = []
        for count, tree in zip(counts, trees, strict=True):
            for how in ("first time", "again"):
                root = held.enter_context(kibo.branch())
                start = time.perf_counter()
                box = root.spawn(Writer(megabytes=0), workspace=tree)
                yield Figure(
                    f"spawn with a workspace of {count:,} files, {how}",
                    "ms",
                    (time.perf_counter() - start) * 1e3,
                )
            roots.append((root, box))
        applied: tuple[list[float], ...] = ([], [])
        looked: tuple[list[float], ...] = ([], [])
        for number in range(ROUNDS):
            for (root, box), tree, ours, theirs in zip(roots, trees, applied, looked, strict=True):
                box.write("0/0.txt", f"{number:010}")
                start = time.perf_counter()
                changes = root.diff()
                theirs.append(time.perf_counter() - start)
                assert [change.path for change in changes] == ["/work/0/0.txt"]
                start = time.perf_counter()
                root.apply()
                ours.append(time.perf_counter() - start)
                assert (tree / "0/0.txt").read_text() == f"{number:010}"
    names = [f"in {count:,} files" for count in counts]
    yield from flatness("apply of a 10-byte edit", names[0], applied[0], names[1], applied[1])
    yield from flatness("diff of a 10-byte edit", names[0], looked[0], names[1], looked[1])


def beside(place: Path, count: int, rounds: int) -> Iterator[Figure]:
    """Yields an attempt at one edit that is kept, by three means in turns: a branch, a worktree, a copy."""
    tree = make_tree(place / f"repository-{count}", count)
    attempts: dict[str, Callable[[int], tuple[float, float]]] = {}
    with ExitStack() as held:
        main = held.enter_context(kibo.branch())
        box = main.spawn(Writer(megabytes=0), workspace=tree)
        attempts["branch: fork, edit, commit"] = lambda number: in_branch(main, box, number)
        if shutil.which("git") is None:
            yield missing("git worktree", "git is not installed")
        else:
            git(tree, "init", "--quiet", "--initial-branch=main")
            git(tree, "add", ".")
            git(tree, "commit", "--quiet", "--message=all")
            git(tree, "repack", "-adq")
            git(tree, "prune-packed", "--quiet")
            attempts["git: worktree add, edit, merge, remove"] = lambda number: in_worktree(tree, number)
        attempts["cp -a --reflink=auto, edit, remove"] = lambda number: in_copy(tree, number)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in attempts}
        for number in range(rounds):
            for name, attempt in attempts.items():
                found[name].append(attempt(number))
    ours = middle(seconds for _, seconds in next(iter(found.values())))
    for name, pairs in found.items():
        yield distribution(f"{name}: {count:,} files", (whole for _, whole in pairs))
        short, _, _ = name.replace(":", ",").partition(",")
        yield distribution(f"  {short}, until the edit: {count:,} files", (first for first, _ in pairs))
        if pairs is not found["branch: fork, edit, commit"]:
            times = middle(whole for _, whole in pairs) / ours
            yield Figure(f"  {short} / branch: {count:,} files", "x", times)


def in_branch(main: Branch, box: Any, number: int) -> tuple[float, float]:
    """Edits a file in a fork and commits it. Returns the seconds until the edit could begin, and of all."""
    start = time.perf_counter()
    (fork,) = main.fork()
    forked = time.perf_counter()
    fork[box].write("0/1.txt", f"attempt {number}\n")
    fork.commit()
    return forked - start, time.perf_counter() - start


def in_worktree(tree: Path, number: int) -> tuple[float, float]:
    """The same in a worktree of its own that is merged and removed."""
    where = tree.parent / "worktree"
    start = time.perf_counter()
    git(tree, "worktree", "add", "--quiet", "-b", "attempt", str(where))
    forked = time.perf_counter()
    (where / "0/1.txt").write_text(f"attempt {number}\n")
    git(where, "commit", "--quiet", "--all", "--message=edit")
    git(tree, "merge", "--quiet", "attempt")
    git(tree, "worktree", "remove", "--force", str(where))
    git(tree, "branch", "--quiet", "--delete", "attempt")
    seconds = time.perf_counter() - start
    assert (tree / "0/1.txt").read_text() == f"attempt {number}\n"
    return forked - start, seconds


def in_copy(tree: Path, number: int) -> tuple[float, float]:
    """The same in a copy whose one file is copied back, by somebody who knows which it is."""
    where = tree.parent / "copy"
    start = time.perf_counter()
    subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(where)], check=True)
    forked = time.perf_counter()
    (where / "0/1.txt").write_text(f"attempt {number}\n")
    shutil.copy2(where / "0/1.txt", tree / "0/1.txt")
    shutil.rmtree(where)
    return forked - start, time.perf_counter() - start


def git(where: Path, *words: str) -> None:
    """Runs git."""
    subprocess.run([*GIT, *words], cwd=where, check=True, capture_output=True)
