"""Looks for what must not be on the disk."""

from __future__ import annotations

import subprocess
from pathlib import Path


def files_with(value: str, *, below: Path, named: str) -> list[str]:
    """Names the files of a directory that have a text in them.

    Another process reads them: if this one opened and closed a file that SQLite has open in it, it would lose all of
    its locks on it, and others would write over what it writes.
    """
    files = [str(path) for path in below.glob(named) if path.is_file()]
    assert files, f"nothing to look at: {below / named}"
    command = ["grep", "--files-with-matches", "--fixed-strings", "--text", "--regexp", value, *files]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    return found.stdout.splitlines()
