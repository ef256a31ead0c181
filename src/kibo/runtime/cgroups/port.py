"""What the runtime needs from control groups."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Final, Protocol

from kibo.model.errors import HostUnsupported

#: The kernel's default period of the processor quota; shorter ones cost more, longer ones stall for longer.
PERIOD_US: Final = 100_000
#: The least quota the kernel takes.
_LEAST_QUOTA_US: Final = 1_000


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """What a group may use; None where nothing was asked.

    Attributes:
        memory_bytes: Memory and swap together, file pages included.
        cpus: Processors' worth of time in each 100 ms, such as 0.5.
        pids: Processes and threads.
    """

    memory_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def asked(self) -> list[str]:
        """Names the limits that were asked for, as `Cgroups.available` names them."""
        words = {"memory_bytes": "memory", "cpus": "cpus", "pids": "pids"}
        return [words[field.name] for field in fields(self) if getattr(self, field.name) is not None]


class CgroupHandle(Protocol):
    """One box's group, which may be several of the kernel's (v1).

    Attributes:
        name: The instance's name, unique in the session.
        attach_fds: Open files into each of which a process writes ``b"0"`` to join. A process that joins by
            itself needs no lock over all processes of the machine, which an outside writer waits for (20 ms
            and more, at times). The files carry the opener's rights: close them in the box once it has
            joined.
        oom_file: The file in which the kernel counts what `oom_events` tells, or empty where nothing is counted.
        clone_fd: The group's folder, for CLONE_INTO_CGROUP of clone3(2); None on v1.
    """

    name: str
    attach_fds: tuple[int, ...]
    clone_fd: int | None
    oom_file: str

    def attach(self, pid: int) -> None:
        """Moves a process in, from outside. p50 60 us, but p99 above 20 ms: see `attach_fds`."""

    def oom_events(self) -> int:
        """Counts processes that the kernel killed here for want of memory."""

    def pids_refused(self) -> int:
        """Counts forks that failed for the process limit."""

    def memory_bytes(self) -> int:
        """Tells the memory in use, file pages included; 0 where it is not measured."""

    def kill(self) -> None:
        """Kills every process inside: at once on v2, one by one on v1."""

    def remove(self) -> bool:
        """Removes the group and closes its files. False while processes are inside: call again later."""


class Cgroups(Protocol):
    """A session's groups.

    Attributes:
        version: 1, 2, or 0 for none.
        remedy: How to get what `available` lacks; empty where it lacks nothing.
    """

    version: int
    remedy: str

    def available(self) -> dict[str, bool]:
        """Tells which limits can be set: ``memory``, ``swap`` (counted with memory), ``cpus``, ``pids``."""

    def create(self, name: str, limits: CgroupLimits) -> CgroupHandle:
        """Makes a group with limits, in those hierarchies that the limits need. p50 0.15 ms for memory and
        pids.

        Raises:
            HostUnsupported: A limit that was asked for cannot be set here. Nothing was made.
            FileExistsError: The session has a group of that name.
        """

    def places(self) -> tuple[str, ...]:
        """Names the session's folders, for `remove_places` by a process that may be in another group itself."""

    def remove_session(self) -> bool:
        """Removes every group of the session that is empty. Returns whether none is left. Never waits."""


def quota_us(cpus: float) -> int:
    """Turns processors into microseconds of each period."""
    return max(_LEAST_QUOTA_US, round(cpus * PERIOD_US))


def require(limits: CgroupLimits, available: dict[str, bool], remedy: str) -> None:
    """Refuses limits that cannot be set, all of them in one error.

    Raises:
        HostUnsupported: With the missing controllers in ``details["missing"]``.
    """
    missing = [name for name in limits.asked() if not available[name]]
    if missing:
        raise HostUnsupported(
            f"this host cannot limit {' and '.join(missing)} for this user",
            hint=remedy,
            details={"missing": missing, "uid": os.geteuid()},
        )
