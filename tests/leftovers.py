"""Finds what a runtime left behind: processes, control groups, mounts, namespaces and files of one user's process.

Processes, mounts and namespaces are looked for on the whole machine, and each is tied to the runtime under test (by its
ancestry, its state directory, its identity), so that runtimes of others do not count. For that this process adopts
orphans (`adopt_orphans`): whoever outlives a killed user's process becomes our descendant, and is seen.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import kernel_namespaces
from kernel_namespaces import Namespace

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


def parent(pid: int) -> int:
    """Returns the process that started a process or adopted it; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def warden_of(user_pid: int) -> int:
    """Finds the warden of a user's process: other processes that the tests have started may have their own."""
    below = descendants(user_pid).items()
    found = [pid for pid, name in below if name == "kibo-warden" and parent(parent(pid)) == user_pid]
    assert len(found) == 1, found
    return found[0]


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
    """Lists the control groups of a user's process: their names begin with its id, in every hierarchy.

    Ids are used again: a group of another user's is of a process that had the same one before.
    """
    found = []
    for directory, names, _ in os.walk(_GROUPS):
        for name in [name for name in names if name.startswith(f"kibo-{user_pid}-")]:
            names.remove(name)
            try:
                owner = os.stat(f"{directory}/{name}").st_uid
            except FileNotFoundError:
                continue  # it was removed since it was listed
            if owner == os.geteuid():
                found.append(f"{directory}/{name}")
    return found


def mounts_below(home: Path) -> list[str]:
    """Lists the mounts that lie in or come from a state directory, in every mount namespace that a process is in.

    By the directory's name, which is random: a mount's root is told from the top of its own file system.
    """
    found, seen = [], set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            namespace = os.readlink(f"/proc/{entry}/ns/mnt")
            if namespace in seen:
                continue
            lines = Path(f"/proc/{entry}/mountinfo").read_text().splitlines()
        except OSError:
            continue  # it ended while we looked, or is another user's
        seen.add(namespace)
        found += [f"{namespace} {line}" for line in lines if home.name in line]
    return found


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


def leftovers(
    home: Path, user_pid: int, before: set[int], namespaces: Iterable[Namespace] = ()
) -> dict[str, object]:
    """Tells what there is now that should not be; empty when all is clean.

    Args:
        home: The state directory.
        user_pid: The process that used Kibo.
        before: Descendants of this process that were there before.
        namespaces: Those that were seen while it ran, all of which must be gone from the kernel.
    """
    found = {
        "processes": {pid: name for pid, name in descendants(os.getpid()).items() if pid not in before},
        "groups": groups_of(user_pid),
        "mounts": mounts_below(home),
        "files": work_in_progress(home),
        "namespaces": [*held_namespaces(), *kernel_namespaces.alive(namespaces)],
    }
    return {kind: what for kind, what in found.items() if what}


def await_clean(
    home: Path, user_pid: int, before: set[int], within_s: float, namespaces: Iterable[Namespace] = ()
) -> dict[str, object]:
    """Looks until all is clean, for a bounded time. Returns what is left then, empty when nothing is.

    Where namespaces are looked for, dead children are reaped meanwhile: until then they hold theirs.
    """
    deadline = time.monotonic() + within_s
    while left := leftovers(home, user_pid, before, namespaces):
        if namespaces:
            reap_adopted(before)
        if time.monotonic() > deadline:
            return left
        time.sleep(0.01)
    return left
