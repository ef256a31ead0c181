"""Control groups of the first version: one hierarchy a controller, as the host mounted them."""

from __future__ import annotations

import os
import signal
from typing import Final

from kibo.runtime.cgroups.files import (
    Files,
    hierarchies,
    make_group,
    parse_counters,
    remove_group,
    remove_tree,
)
from kibo.runtime.cgroups.port import PERIOD_US, CgroupLimits, quota_us, require

_REMEDY: Final = (
    "run Kibo as root, or have an administrator give this user a group in each hierarchy: "
    "mkdir and chown /sys/fs/cgroup/{{memory,pids,cpu}}/kibo and move your shell into them; "
    "or boot with systemd.unified_cgroup_hierarchy=1, where a user session has its own "
    "(missing here: {missing})"
)


class V1Handle:
    """One box's groups, one in each hierarchy that its limits need."""

    clone_fd: int | None = None

    def __init__(self, name: str, groups: dict[str, str], attach_fds: tuple[int, ...], files: Files) -> None:
        self.name = name
        self.attach_fds = attach_fds
        self.oom_file = f"{groups['memory']}/memory.oom_control" if "memory" in groups else ""
        self._groups = groups
        self._files = files

    def attach(self, pid: int) -> None:
        """Moves a process in, from outside; slower than when it joins by itself."""
        for path in self._groups.values():
            self._files.write(f"{path}/cgroup.procs", str(pid))

    def oom_events(self) -> int:
        """Counts processes that the kernel killed here for want of memory."""
        return self._counter("memory", "memory.oom_control", "oom_kill")

    def pids_refused(self) -> int:
        """Counts forks that failed for the process limit."""
        return self._counter("pids", "pids.events", "max")

    def memory_bytes(self) -> int:
        """Tells the memory in use, file pages included."""
        path = self._groups.get("memory")
        return int(self._files.read(f"{path}/memory.usage_in_bytes")) if path else 0

    def kill(self) -> None:
        """Kills the processes inside, round after round, because new ones may be forked between two looks."""
        for path in self._groups.values():
            for _round in range(100):
                inside = self._files.read(f"{path}/cgroup.procs").split()
                if not inside:
                    break
                for pid in inside:
                    _kill(int(pid))

    def remove(self) -> bool:
        """Removes the groups and closes their files. Returns False while a process is inside any."""
        for fd in self.attach_fds:
            os.close(fd)
        self.attach_fds = ()
        for controller, path in list(self._groups.items()):
            if remove_group(self._files, path):
                del self._groups[controller]
        return not self._groups

    def _counter(self, controller: str, file: str, key: str) -> int:
        path = self._groups.get(controller)
        if path is None:
            return 0
        return parse_counters(self._files.read(f"{path}/{file}")).get(key, 0)


class V1Cgroups:
    """A session's groups below the process's own in the memory, cpu and pids hierarchies."""

    version = 1

    def __init__(self, session: str, own: dict[str, str], files: Files) -> None:
        """Takes the process's own group in each of the three hierarchies, where there is one."""
        self._files = files
        self._sessions = {name: f"{path}/kibo-{session}" for name, path in own.items()}
        usable = {name: name in own and files.writable(own[name]) for name in ("memory", "cpu", "pids")}
        swap = usable["memory"] and self._counts_swap(own["memory"])
        self._available = {
            "memory": usable["memory"],
            "swap": swap,
            "cpus": usable["cpu"],
            "pids": usable["pids"],
        }
        missing = ", ".join(name for name, there in usable.items() if not there)
        self.remedy = _REMEDY.format(missing=missing) if missing else ""

    @classmethod
    def find(cls, session: str, files: Files) -> V1Cgroups | None:
        """Looks the hierarchies up; None where the host mounted none of the three."""
        found = hierarchies(files)
        own: dict[str, str] = {}
        for name in ("memory", "cpu", "pids"):
            if name in found:
                own[name] = found[name].own
        return cls(session, own, files) if own else None

    def available(self) -> dict[str, bool]:
        """Tells which limits can be set."""
        return dict(self._available)

    def create(self, name: str, limits: CgroupLimits) -> V1Handle:
        """Makes a group in each hierarchy that the limits need.

        Raises:
            HostUnsupported: A limit that was asked for cannot be set here.
            FileExistsError: The session has a group of that name.
        """
        require(limits, self._available, self.remedy)
        groups: dict[str, str] = {}
        fds: list[int] = []
        try:
            for controller, values in self._values(limits):
                path = f"{self._sessions[controller]}/{name}"
                make_group(self._files, path)
                groups[controller] = path
                for file, value in values:
                    self._files.write(f"{path}/{file}", value)
                # `tasks`, not `cgroup.procs`: a thread that moves itself needs no lock over the whole
                # machine.
                fds.append(self._files.open_file(f"{path}/tasks"))
        except BaseException:
            V1Handle(name, groups, tuple(fds), self._files).remove()
            raise
        return V1Handle(name, groups, tuple(fds), self._files)

    def places(self) -> tuple[str, ...]:
        """Names the session's folder in every hierarchy."""
        return tuple(self._sessions.values())

    def remove_session(self) -> bool:
        """Removes the session's empty groups in every hierarchy."""
        left = [path for path in self._sessions.values() if not remove_tree(self._files, path)]
        return not left

    def _values(self, limits: CgroupLimits) -> list[tuple[str, list[tuple[str, str]]]]:
        """Says which files of which hierarchy hold the limits, in the order the kernel takes them."""
        wanted: list[tuple[str, list[tuple[str, str]]]] = []
        if limits.memory_bytes is not None:
            values = [("memory.limit_in_bytes", str(limits.memory_bytes))]
            # Memory and swap together may not be less than memory alone, so it comes second.
            if self._available["swap"]:
                values.append(("memory.memsw.limit_in_bytes", str(limits.memory_bytes)))
            else:
                values.append(("memory.swappiness", "0"))
            wanted.append(("memory", values))
        if limits.pids is not None:
            wanted.append(("pids", [("pids.max", str(limits.pids))]))
        if limits.cpus is not None:
            quota = str(quota_us(limits.cpus))
            wanted.append(("cpu", [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", quota)]))
        return wanted

    def _counts_swap(self, own: str) -> bool:
        return self._files.exists(f"{own}/memory.memsw.limit_in_bytes")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It ended by itself between the look and the signal.
