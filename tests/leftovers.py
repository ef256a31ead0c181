"""Finds what a runtime left behind: processes, control groups, mounts, namespaces and files of one user's process.

All of it is tied to this process, so that runtimes of others on the machine do not count. For that this process adopts
orphans (`adopt_orphans`): whoever outlives a killed user's process becomes our descendant, and is seen.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def adopt_orphans() -> Iterator[None]:
    """Makes this process the parent of its descendants' orphans (prctl(2)), instead of the machine's first process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants(of: int) -> dict[int, str]:
    """Lists the living descendants of a process, with their names. Reaps those that this process adopted dead."""
    children: dict[int, list[int]] = {}
    names, dead = {}, set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            head, _, tail = Path(f"/proc/{entry}/stat").read_text().rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        fields = tail.split()
        children.setdefault(int(fields[1]), []).append(int(entry))
        names[int(entry)] = head.partition("(")[2]
        if fields[0] in "ZX":
            dead.add(int(entry))
    found, ahead = {}, [of]
    while ahead:
        for pid in children.get(ahead.pop(), ()):
            ahead.append(pid)
            if pid not in dead:
                found[pid] = names[pid]
    return found


def reap_adopted(keep: set[int]) -> None:
    """Reaps every dead child that is not in ``keep``, whose statuses others wait for."""
    for entry in os.listdir("/proc/self/task"):
        for word in Path(f"/proc/self/task/{entry}/children").read_text().split():
            if int(word) not in keep:
                try:
                    os.waitpid(int(word), os.WNOHANG)
                except ChildProcessError:
                    continue  # whoever started it was faster


def groups_of(user_pid: int) -> list[str]:
    """Lists the control groups of a user's process: their names begin with its id, in every hierarchy."""
    found = []
    for directory, names, _ in os.walk(_GROUPS):
        for name in list(names):
            if name.startswith(f"kibo-{user_pid}-"):
                found.append(f"{directory}/{name}")
                names.remove(name)
    return found


def mounts_below(home: Path) -> list[str]:
    """Lists this machine's mounts that lie in or come from a state directory."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(home) in line]


def work_in_progress(home: Path) -> list[str]:
    """Lists what lies in a state directory's places for things that live no longer than a process."""
    return [str(path) for part in ("run", "tmp") for path in (home / part).glob("*")]


def held_namespaces() -> list[str]:
    """Lists the descriptors of this process that keep a namespace or a process alive."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{entry}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.split(":")[0] in ("mnt", "pid", "user", "net", "ipc", "uts", "cgroup") or "pidfd" in target:
            found.append(target)
    return found


def leftovers(home: Path, user_pid: int, before: set[int]) -> dict[str, object]:
    """Tells what there is now that should not be; empty when all is clean.

    Args:
        home: The state directory.
        user_pid: The process that used Kibo.
        before: Descendants of this process that were there before.
    """
    found = {
        "processes": {pid: name for pid, name in descendants(os.getpid()).items() if pid not in before},
        "groups": groups_of(user_pid),
        "mounts": mounts_below(home),
        "files": work_in_progress(home),
        "namespaces": held_namespaces(),
    }
    return {kind: what for kind, what in found.items() if what}


def await_clean(home: Path, user_pid: int, before: set[int], within_s: float) -> dict[str, object]:
    """Looks until all is clean, for a bounded time. Returns what is left then, empty when nothing is."""
    deadline = time.monotonic() + within_s
    while left := leftovers(home, user_pid, before):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return left
