"""Removes what a session left whose keeper was killed: control groups and its directory, which the kernel does not.

A session is the directory ``run/<name>`` and the lock ``run/<name>.lock`` beside it, which its keeper holds for as long
as it lives. A session whose lock nobody holds has ended; its processes have ended with its keeper.
"""

from __future__ import annotations

import json
import os
import select
import time
from pathlib import Path
from typing import Final

from kibo.runtime.cgroups import PLACES_FILE, remove_places
from kibo.runtime.layers.locking import try_lock

#: The kernel counts a killed process out of its group within milliseconds; one that writes to a slow disk takes longer.
PATIENCE_S: Final = 5.0


def lock_path(run_directory: Path) -> Path:
    """Names the lock of a session's directory."""
    return run_directory.with_name(run_directory.name + ".lock")


def remove_remains(run_directory: Path) -> bool:
    """Removes what is left of one ended session. Returns whether all is gone; the next call tries again."""
    lock = lock_path(run_directory)
    if not lock.exists() and not run_directory.exists():
        return True
    held = try_lock(lock)
    if held is None:
        return False
    try:
        record = run_directory / PLACES_FILE
        places = json.loads(record.read_text()) if record.exists() else ()
        deadline = time.monotonic() + PATIENCE_S
        while not remove_places(places):
            if time.monotonic() > deadline:
                return False
            select.select([], [], [], 0.01)
        import shutil  # late: it brings three compression libraries along, which every fork would pay for

        shutil.rmtree(run_directory, ignore_errors=True)
        lock.unlink(missing_ok=True)
        return True
    finally:
        os.close(held)


def sweep_sessions(home: Path) -> list[str]:
    """Removes the remains of every ended session of a state directory. Returns their names."""
    swept = []
    for lock in sorted((home / "run").glob("*.lock")):
        if remove_remains(lock.with_suffix("")):
            swept.append(lock.stem)
    return swept
