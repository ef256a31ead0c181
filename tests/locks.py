"""The locks that the kernel knows of."""

from __future__ import annotations

import os
from pathlib import Path


def own_locks(place: Path) -> list[str]:
    """Lists the locks that this process has on the files of a directory, each as kind and range, proc_locks(5)."""
    inodes = {str(path.stat().st_ino) for path in place.iterdir()}
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, how, holder, file, *where = line.split()
        if holder == str(os.getpid()) and file.rpartition(":")[2] in inodes:
            found.append(" ".join([kind, how, *where]))
    return sorted(found)
