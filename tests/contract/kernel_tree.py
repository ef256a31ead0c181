"""The unified hierarchy in memory, as the kernel documents it: it refuses what the kernel refuses.

A verified fake: `test_cgroups.py` runs one suite over this tree and over the machine's own.
"""

from __future__ import annotations

import errno
import os
import posixpath
from dataclasses import dataclass, field

POINT = "/sys/fs/cgroup"
PAGE = 4096


def refuse(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)


@dataclass
class Group:
    controllers: frozenset[str]
    handed_on: set[str] = field(default_factory=set)
    processes: set[int] = field(default_factory=set)
    values: dict[str, str] = field(default_factory=dict)


class KernelTree:
    """A tree whose process ids are made up; `own` is the group that the caller is in."""

    def __init__(
        self,
        own: str = "/",
        *,
        controllers: str = "cpu memory pids io",
        writable: str = "/",
        swap: bool = True,
    ) -> None:
        self.own = own
        self.swap = swap
        self._writable = writable
        self.tree: dict[str, Group] = {POINT: Group(frozenset(controllers.split()))}
        self.fds: list[int] = []
        path = POINT
        for part in own.strip("/").split("/"):
            if part:
                path = f"{path}/{part}"
                self._add(path)
        self.tree[path].processes.add(1)

    def _add(self, path: str) -> None:
        parent = self.tree[posixpath.dirname(path)]
        self.tree[path] = Group(frozenset(parent.handed_on))

    def _split(self, path: str) -> tuple[Group, str]:
        group, name = posixpath.split(path)
        if group not in self.tree:
            raise refuse(errno.ENOENT, path)
        if name not in self._names(group):
            raise refuse(errno.ENOENT, path)
        return self.tree[group], name

    def _names(self, path: str) -> set[str]:
        """The files that a group has: the core's, and those of the controllers that it was handed."""
        names = {"cgroup.procs", "cgroup.controllers", "cgroup.subtree_control"}
        if path == POINT:
            return names
        names |= {"cgroup.kill", "cgroup.events"}
        by_controller = {
            "memory": ["memory.max", "memory.current", "memory.events"] + ["memory.swap.max"] * self.swap,
            "pids": ["pids.max", "pids.events"],
            "cpu": ["cpu.max"],
            "io": [],
        }
        return names.union(*(by_controller[name] for name in self.tree[path].controllers))

    # The port.

    def read(self, path: str) -> str:
        if path == "/proc/self/mountinfo":
            return f"30 25 0:26 / {POINT} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
        if path == "/proc/self/cgroup":
            return f"0::{self.own}\n"
        group, name = self._split(path)
        match name:
            case "cgroup.procs":
                return "".join(f"{pid}\n" for pid in sorted(group.processes))
            case "cgroup.controllers":
                return " ".join(sorted(group.controllers)) + "\n"
            case "cgroup.subtree_control":
                return " ".join(sorted(group.handed_on)) + "\n"
            case "memory.events":
                return group.values.get(name, "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
            case "pids.events":
                return group.values.get(name, "max 0\n")
            case "memory.current":
                return group.values.get(name, "0\n")
        return group.values.get(name, "max\n")

    def write(self, path: str, value: str) -> None:
        group, name = self._split(path)
        if not self.writable(path):
            raise refuse(errno.EACCES, path)
        match name:
            case "cgroup.subtree_control":
                self._hand_on(path, group, value)
            case "cgroup.procs":
                self._move(path, group, int(value))
            case "cgroup.kill":
                if value != "1":
                    raise refuse(errno.EINVAL, path)
                group.processes.clear()
            case "memory.max" | "memory.swap.max":
                if value != "max" and int(value) < 0:
                    raise refuse(errno.EINVAL, path)
                group.values[name] = value if value == "max" else str(int(value) // PAGE * PAGE)
            case "pids.max":
                if value != "max" and not 0 <= int(value) <= 4_194_304:
                    raise refuse(errno.EINVAL, path)
                group.values[name] = value
            case "cpu.max":
                quota, period = value.split()
                if not 1000 <= int(period) <= 1_000_000 or (quota != "max" and int(quota) < 1000):
                    raise refuse(errno.EINVAL, path)
                group.values[name] = value
            case _:
                raise refuse(errno.EACCES, path)

    def _hand_on(self, path: str, group: Group, value: str) -> None:
        folder = posixpath.dirname(path)
        for word in value.split():
            sign, controller = word[0], word[1:]
            if sign not in "+-":
                raise refuse(errno.EINVAL, path)
            if controller not in group.controllers:
                raise refuse(errno.ENOENT, path)
            if sign == "+" and group.processes and folder != POINT:
                raise refuse(errno.EBUSY, path)
            (group.handed_on.add if sign == "+" else group.handed_on.discard)(controller)
            for child, entry in self.tree.items():
                if posixpath.dirname(child) == folder:
                    entry.controllers = frozenset(group.handed_on)

    def _move(self, path: str, group: Group, pid: int) -> None:
        if group.handed_on and posixpath.dirname(path) != POINT:
            raise refuse(errno.EBUSY, path)  # no internal processes
        for other in self.tree.values():
            other.processes.discard(pid or 1)
        group.processes.add(pid or 1)

    def make(self, path: str) -> None:
        if path in self.tree:
            raise refuse(errno.EEXIST, path)
        parent = posixpath.dirname(path)
        if parent not in self.tree:
            raise refuse(errno.ENOENT, path)
        if not self.writable(parent):
            raise refuse(errno.EACCES, path)
        self._add(path)

    def remove(self, path: str) -> None:
        if path not in self.tree:
            raise refuse(errno.ENOENT, path)
        if self.tree[path].processes or self.groups(path):
            raise refuse(errno.EBUSY, path)
        del self.tree[path]

    def groups(self, path: str) -> list[str]:
        if path not in self.tree:
            raise refuse(errno.ENOENT, path)
        return sorted(posixpath.basename(child) for child in self.tree if posixpath.dirname(child) == path)

    def exists(self, path: str) -> bool:
        folder, name = posixpath.split(path)
        return path in self.tree or (folder in self.tree and name in self._names(folder))

    def writable(self, path: str) -> bool:
        inside = path.removeprefix(POINT) or "/"
        return self.exists(path) and (inside + "/").startswith(self._writable.rstrip("/") + "/")

    def open_file(self, path: str) -> int:
        self._split(path)
        return self._open()

    def open_folder(self, path: str) -> int:
        if path not in self.tree:
            raise refuse(errno.ENOENT, path)
        return self._open()

    def _open(self) -> int:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.fds.append(fd)
        return fd
