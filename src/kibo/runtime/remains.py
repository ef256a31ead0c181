"""Removes what a session left whose keeper was killed: control groups and its directory, which the kernel does not.

A session is the directory ``run/<name>`` and the lock ``run/<name>.lock`` beside it, which its keeper holds for as long
as it lives. A session whose lock nobody holds has ended; its processes have ended with its keeper.
"""

from __future__ import annotations

import os
from pathlib import Path

from kibo.runtime.layers.temporary import remove_groups
from kibo.store.locking import try_lock


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
        if not remove_groups(run_directory):
            return False
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
