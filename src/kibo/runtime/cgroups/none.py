"""A host, or a user, without control groups."""

from __future__ import annotations

from kibo.runtime.cgroups.port import CgroupHandle, CgroupLimits, Cgroups, require

_REMEDY = (
    "mount cgroup v2 at /sys/fs/cgroup (mount -t cgroup2 none /sys/fs/cgroup), "
    "or ask for no memory, cpus or pids limit"
)


class _NoHandle:
    """A group that is none: nothing to join, count or remove."""

    attach_fds: tuple[int, ...] = ()
    clone_fd: int | None = None
    oom_file: str = ""

    def __init__(self, name: str) -> None:
        self.name = name

    def attach(self, pid: int) -> None:
        """Does nothing: no limit was asked for, or `NoCgroups.create` would have refused."""

    def oom_events(self) -> int:
        """Counts nothing."""
        return 0

    def pids_refused(self) -> int:
        """Counts nothing."""
        return 0

    def memory_bytes(self) -> int:
        """Measures nothing."""
        return 0

    def kill(self) -> None:
        """Does nothing: the box's PID namespace ends its processes."""

    def remove(self) -> bool:
        """Has nothing to remove."""
        return True


class NoCgroups:
    """Refuses every limit that is asked for, with the remedy."""

    version = 0

    def __init__(self, unusable: Cgroups | None = None) -> None:
        """Takes the remedy of the adapter that came closest, where there was one."""
        self.remedy = unusable.remedy if unusable is not None and unusable.remedy else _REMEDY

    def available(self) -> dict[str, bool]:
        """Offers nothing."""
        return {"memory": False, "swap": False, "cpus": False, "pids": False}

    def create(self, name: str, limits: CgroupLimits) -> CgroupHandle:
        """Makes nothing, and refuses what was asked for.

        Raises:
            HostUnsupported: Any limit was asked for.
        """
        require(limits, self.available(), self.remedy)
        return _NoHandle(name)

    def places(self) -> tuple[str, ...]:
        """Has none."""
        return ()

    def remove_session(self) -> bool:
        """Has nothing to remove."""
        return True
