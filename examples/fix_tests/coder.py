"""The box: a checkout of the repository at /work, and what a programmer does to it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from kibo import Box, action

WORK = Path("/work")

#: Fixes that are well known, by name: the file, the piece to replace, and what to put there.
FIXES = {
    "rounding": ("prices/money.py", "int(float(text) * 100)", 'round(float(text.replace(",", "")) * 100)'),
    "decimals": ("prices/money.py", "{cents % 100}", "{cents % 100:02}"),
    "first line": ("prices/basket.py", "lines[1:]", "lines"),
}


class Coder(Box):
    """Mends a Python package. Run its tests, look at what fails, edit, run them again."""

    @action(effect="read")
    def failures(self) -> int:
        """Run the tests and return how many fail."""
        return len(failing(run_tests(WORK)))

    @action(effect="read")
    def report(self) -> str:
        """Run the tests and return what they print."""
        return run_tests(WORK)

    @action(effect="read")
    def read(self, path: str) -> str:
        """Return a file's text.

        Args:
            path: Relative to the repository.
        """
        return (WORK / path).read_text()

    @action
    def edit(self, path: str, old: str, new: str) -> str:
        """Replace a piece of a file that occurs in it once.

        Args:
            path: Relative to the repository.
            old: The piece to replace.
            new: What to put there.
        """
        return replace_once(WORK / path, old, new)

    @action
    def try_fix(self, hint: str) -> int:
        """Apply one well known fix and return how many tests fail after it.

        Args:
            hint: Which: "rounding", "decimals" or "first line".
        """
        path, old, new = FIXES[hint]
        replace_once(WORK / path, old, new)
        return len(failing(run_tests(WORK)))


def run_tests(work: Path) -> str:
    """Runs the repository's tests and returns what they print."""
    done = subprocess.run(
        # -B: compiled files are no change that anybody wants to keep.
        ["python3", "-B", "-m", "unittest", "discover", "-t", ".", "-s", "tests"],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "\nRan " not in f"\n{done.stderr}":
        raise RuntimeError(f"the tests did not run: {done.stderr or done.stdout}")
    return done.stderr


def failing(report: str) -> list[str]:
    """Returns the tests that failed, of what unittest printed; a file that cannot be imported is one failure."""
    return re.findall(r"^(?:FAIL|ERROR): (\S+)", report, re.MULTILINE)


def replace_once(path: Path, old: str, new: str) -> str:
    """Replaces a piece of a file that occurs in it once, and says so."""
    text = path.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{path.name} has the piece {text.count(old)} times, not once")
    path.write_text(text.replace(old, new))
    return f"edited {path.name}"
