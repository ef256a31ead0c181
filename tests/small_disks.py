"""File systems of a test's own, and users' programs that are run on them."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import leftovers

#: What a program in a box is told whose request there was no room to record.
NO_ROOM = "has no room on its disk at the moment. It was not sent: ask again once there is some."


@contextmanager
def mounted(kind: str, options: str) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="kibo-disks-"))
    # Boxes' ids, which are nobody's here, pass through to the layers.
    place.chmod(0o755)
    subprocess.run(["mount", "-t", kind, "-o", options, "none", place], check=True)
    try:
        place.chmod(0o755)
        yield place / "home"
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def fill(home: Path, leave_bytes: int) -> Path:
    """Fills the file system that a state directory is on, but for a little."""
    path = home.parent / "filling"
    with open(path, "wb", buffering=0) as file:
        while (free := os.statvfs(home.parent)).f_bavail * free.f_bsize > leave_bytes:
            file.write(bytes(min(1 << 20, free.f_bavail * free.f_bsize - leave_bytes)))
    return path


@contextmanager
def full(home: Path) -> Iterator[None]:
    """Fills the file system of a state directory for a block, and its history's own files: nothing can be recorded."""
    with closing(sqlite3.connect(home / "history.db", isolation_level=None)) as history:
        history.execute("PRAGMA wal_autocheckpoint=0")
        filling = fill(home, 0)
        # What was written before and is not needed any more is room, too: a page at a time, until there is none.
        with pytest.raises(sqlite3.OperationalError, match="full"):
            for number in itertools.count():
                history.execute(f"PRAGMA user_version={number % 2 + 1}")
        try:
            yield
        finally:
            filling.unlink()
            history.execute("PRAGMA user_version=0")


def use(program: Path, home: Path, *words: str) -> list[dict[str, Any]]:
    """Runs a user's program, looks at what it left, and returns what it was told."""
    before = set(leftovers.descendants(os.getpid()))
    with leftovers.adopt_orphans():
        process = subprocess.Popen(
            [sys.executable, program, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KIBO_HOME": str(home),
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        out, complaint = process.communicate(timeout=120)
        left = leftovers.await_clean(home, process.pid, before, within_s=10)
        left.pop("mounts", None)  # the file system itself bears the directory's name
        assert left == {}
    assert process.returncode == 0, complaint
    return [json.loads(line) for line in out.splitlines()]
