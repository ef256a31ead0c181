"""Control groups of the second version: one hierarchy, controllers handed down from group to group.

A group that hands controllers on may hold no processes itself (except the root), so Kibo's groups cannot
always be made below the group the process is in: they go below the nearest one above it that this user may
write and that hands on what is needed. Source: Documentation/admin-guide/cgroup-v2.rst, "Delegation" and "No
Internal Processes".
"""

from __future__ import annotations

import errno
import os
from typing import Final

from kibo.model.errors import HostUnsupported
from kibo.runtime.cgroups.files import (
    Files,
    hierarchies,
    make_group,
    parse_counters,
    remove_group,
    remove_tree,
)
from kibo.runtime.cgroups.port import PERIOD_US, CgroupLimits, quota_us, require

_CONTROLLERS: Final = {"memory": "memory", "pids": "pids", "cpus": "cpu"}

_REMEDY: Final = (
    "start Kibo in a delegated group (systemd-run --user --scope -p Delegate=yes kibo ...), "
    "or as root in a group whose parent has '{missing}' in cgroup.subtree_control"
)


class V2Handle:
    """One box's group."""

    def __init__(self, name: str, path: str, attach_fd: int, clone_fd: int, files: Files) -> None:
        self.name = name
        self.attach_fds: tuple[int, ...] = (attach_fd,)
        self.clone_fd: int | None = clone_fd
        self.oom_file = f"{path}/memory.events" if files.exists(f"{path}/memory.events") else ""
        self._path = path
        self._files = files

    def attach(self, pid: int) -> None:
        """Moves a process in, from outside."""
        self._files.write(f"{self._path}/cgroup.procs", str(pid))

    def oom_events(self) -> int:
        """Counts processes that the kernel killed here for want of memory."""
        return self._counter("memory.events", "oom_kill")

    def pids_refused(self) -> int:
        """Counts forks that failed for the process limit."""
        return self._counter("pids.events", "max")

    def memory_bytes(self) -> int:
        """Tells the memory in use, file pages included; 0 without the controller."""
        file = f"{self._path}/memory.current"
        return int(self._files.read(file)) if self._files.exists(file) else 0

    def kill(self) -> None:
        """Kills every process inside at once, also those being forked (Linux 5.14)."""
        self._files.write(f"{self._path}/cgroup.kill", "1")

    def remove(self) -> bool:
        """Removes the group and closes its files. Returns False while a process is inside."""
        for fd in self.attach_fds:
            os.close(fd)
        self.attach_fds = ()
        if self.clone_fd is not None:
            os.close(self.clone_fd)
        self.clone_fd = None
        return remove_group(self._files, self._path)

    def _counter(self, file: str, key: str) -> int:
        path = f"{self._path}/{file}"
        return parse_counters(self._files.read(path)).get(key, 0) if self._files.exists(path) else 0


class V2Cgroups:
    """A session's groups below the nearest group that hands on memory, cpu and pids."""

    version = 2

    def __init__(self, session: str, parent: str | None, controllers: frozenset[str], files: Files) -> None:
        """Takes the group to make groups in, and the controllers it can hand on."""
        self._files = files
        self._parent = parent
        self._session = f"{parent}/kibo-{session}"
        self._controllers = controllers
        self._prepared = False
        self._available = {name: controller in controllers for name, controller in _CONTROLLERS.items()}
        # Memory's controller counts swap as well wherever the kernel has swap at all.
        self._available["swap"] = self._available["memory"]
        missing = [name for name in _CONTROLLERS.values() if name not in controllers]
        self.remedy = _REMEDY.format(missing=" ".join(missing)) if missing else ""

    @classmethod
    def find(cls, session: str, files: Files) -> V2Cgroups | None:
        """Looks for the nearest group that can hand most on; None where the host has no unified hierarchy."""
        unified = hierarchies(files).get("")
        if unified is None:
            return None
        best: tuple[str | None, frozenset[str]] = (None, frozenset())
        group = unified.own
        while True:
            offered = _handed_on(files, group, is_root=group == unified.point)
            if len(offered) > len(best[1]):
                best = (group, offered)
            if group == unified.point:
                return cls(session, *best, files)
            group = os.path.dirname(group)

    def available(self) -> dict[str, bool]:
        """Tells which limits can be set."""
        return dict(self._available)

    def create(self, name: str, limits: CgroupLimits) -> V2Handle:
        """Makes a group with limits.

        Raises:
            HostUnsupported: A limit that was asked for cannot be set here.
            FileExistsError: The session has a group of that name.
        """
        require(limits, self._available, self.remedy)
        if self._parent is None:
            raise HostUnsupported("this user may make no control groups here", hint=self.remedy)
        self._prepare(self._parent)
        path = f"{self._session}/{name}"
        make_group(self._files, path)
        attach_fd: int | None = None
        try:
            for file, value in self._values(limits, path):
                self._files.write(f"{path}/{file}", value)
            attach_fd = self._files.open_file(f"{path}/cgroup.procs")
            return V2Handle(name, path, attach_fd, self._files.open_folder(path), self._files)
        except BaseException:
            if attach_fd is not None:
                os.close(attach_fd)
            remove_group(self._files, path)
            raise

    def places(self) -> tuple[str, ...]:
        """Names the session's folder."""
        return () if self._parent is None else (self._session,)

    def remove_session(self) -> bool:
        """Removes the session's empty groups."""
        self._prepared = False
        return remove_tree(self._files, self._session)

    def _prepare(self, parent: str) -> None:
        """Makes the session's group and hands the controllers down to it and through it."""
        if self._prepared and self._files.exists(self._session):
            return
        _hand_on(self._files, parent, self._controllers)
        try:
            self._files.make(self._session)
        except FileExistsError:
            pass  # Another process of the session was quicker.
        _hand_on(self._files, self._session, self._controllers)
        self._prepared = True

    def _values(self, limits: CgroupLimits, path: str) -> list[tuple[str, str]]:
        values: list[tuple[str, str]] = []
        if limits.memory_bytes is not None:
            values.append(("memory.max", str(limits.memory_bytes)))
            # The limit is for both together: none is left for swap. A kernel without swap has no such file.
            if self._files.exists(f"{path}/memory.swap.max"):
                values.append(("memory.swap.max", "0"))
        if limits.pids is not None:
            values.append(("pids.max", str(limits.pids)))
        if limits.cpus is not None:
            values.append(("cpu.max", f"{quota_us(limits.cpus)} {PERIOD_US}"))
        return values


def _handed_on(files: Files, group: str, *, is_root: bool) -> frozenset[str]:
    """Says which of the three controllers groups made in this one would have."""
    # The common ancestor's cgroup.procs must be writable too, or no process could be moved between its
    # children.
    if not (files.writable(group) and files.writable(f"{group}/cgroup.procs")):
        return frozenset()
    wanted = frozenset(_CONTROLLERS.values())
    already = wanted & set(files.read(f"{group}/cgroup.subtree_control").split())
    possible = wanted & set(files.read(f"{group}/cgroup.controllers").split())
    if possible == already or not files.writable(f"{group}/cgroup.subtree_control"):
        return already
    holds_processes = bool(files.read(f"{group}/cgroup.procs").split())
    return possible if is_root or not holds_processes else already


def _hand_on(files: Files, group: str, controllers: frozenset[str]) -> None:
    """Completes the controllers that a group hands on, one a write, so that an error names it."""
    there = set(files.read(f"{group}/cgroup.subtree_control").split())
    for controller in sorted(controllers - there):
        try:
            files.write(f"{group}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            # A process entered the group since it was looked at.
            if error.errno == errno.EBUSY:
                reason = f"{group} holds processes and so cannot hand {controller} on"
                raise OSError(errno.EBUSY, reason) from error
            raise
