"""Three strategies mend one repository at the same time, each in a branch of its own; what worked is applied.

`python -m examples.fix_tests.demo` makes the repository in a temporary directory; `--repo DIR` takes one that
`python -m examples.fix_tests.repository DIR` made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import kibo
from examples.fix_tests.coder import Coder
from examples.fix_tests.repository import make_repository
from examples.fix_tests.strategies import STRATEGIES
from kibo.cli.tree_view import TreeView


def main() -> int:
    """Runs the example; returns the program's exit status."""
    parser = argparse.ArgumentParser(description="Three strategies mend one repository.")
    parser.add_argument("--repo", type=Path, help="a repository that is there already")
    parser.add_argument("--seconds", type=float, default=60, help="how long they may take")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        repository = options.repo or make_repository(Path(place) / "prices")
        return mend(repository, options.seconds)


def mend(repository: Path, seconds: float) -> int:
    """Explores, and applies the winner to the repository."""
    with kibo.branch(goal="make the tests pass") as main_branch, TreeView() as view:
        began = time.monotonic()
        coder = main_branch.spawn(Coder(), workspace=repository)
        print(f"spawned    {time.monotonic() - began:6.3f} s  {coder.failures()} tests fail", flush=True)
        found = kibo.explore(
            coder,
            STRATEGIES,
            policy=kibo.FirstSuccess(),
            budget=kibo.Budget(seconds=seconds, branches=8),
            workers=len(STRATEGIES),
            progress=view,
        )
        if not found:
            print(f"nobody could mend it: {found.reason}")
            return 1
        print(
            f"explored   {found.spent.seconds:6.3f} s  {found.winner.name} won; {coder.failures()} tests fail"
        )
        for change in main_branch.diff():
            print(f"           {change.kind:9} {change.path}")
        print(f"host       {git(repository, 'status', '--porcelain') or 'untouched so far'}")
        began = time.monotonic()
        main_branch.apply()
        print(f"applied    {time.monotonic() - began:6.3f} s", flush=True)
    print(git(repository, "diff"))
    return 0


def git(repository: Path, *arguments: str) -> str:
    """Returns what git says of the repository."""
    return subprocess.run(
        ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
