"""Counts what a program leaves on this machine: processes, mounts, control groups and temporary files."""

import ctypes
import os
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


class Traces:
    """What is on the machine because of this process, compared with how it was when this was made.

    Args:
        home: Kibo's state directory. Sealed layers are kept there on purpose; locks and unfinished work are not.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        # Whatever our children leave behind becomes our child, and is counted, rather than vanish among init's.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = self._look()

    def left(self) -> dict[str, set[str]]:
        """Returns what is there now and was not there before, by kind."""
        return {kind: now - self._before[kind] for kind, now in self._look().items()}

    def _look(self) -> dict[str, set[str]]:
        return {
            "processes": _descendants(os.getpid()),
            "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
            # Named after the process that uses Kibo: others on this machine have theirs.
            "control groups": {str(path) for path in Path("/sys/fs/cgroup").glob(f"**/kibo-{os.getpid()}-*")},
            "temporary files": {
                str(path) for place in ("tmp", "run") for path in (self._home / place).glob("*")
            },
        }


def _descendants(root: int) -> set[str]:
    """Lists the processes below `root`, each with its command."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                head, _, tail = (entry / "stat").read_text().rpartition(")")
            except OSError:
                continue  # it ended meanwhile
            state, parent, *_ = tail.split()
            if state not in "ZX":  # one that has ended and is only waiting to be asked how
                parents[int(entry.name)] = int(parent), head.partition("(")[2]
    found, fresh = set(), {root}
    while fresh:
        fresh = {pid for pid, (parent, _) in parents.items() if parent in fresh}
        found |= fresh
    return {f"{parents[pid][1]} ({pid})" for pid in found}
