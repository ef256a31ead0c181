"""File systems of a test's own, and users' programs that are run on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import leftovers


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
