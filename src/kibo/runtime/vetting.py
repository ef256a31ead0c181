"""Whether a process has really given up its rights: the warden looks for itself, because guests may say anything."""

from __future__ import annotations

import os
from typing import Final


class RightsKeptError(Exception):
    """A guest has, or could have passed on, rights that no process of a box may have."""


#: What a process without rights shows of itself, proc_pid_status(5).
_BARE: Final = (
    *(f"\n{name}:\t0000000000000000\n".encode() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")),
    b"\nNoNewPrivs:\t1\n",
    b"\nSeccomp:\t2\n",
    b"\nThreads:\t1\n",
)


def check_bare(pid: int) -> None:
    """Sees in /proc that a process has no rights, is filtered, and has one thread.

    Raises:
        RightsKeptError: It has.
    """
    status = _read_status(pid)
    if not all(line in status for line in _BARE):
        raise RightsKeptError("its guest kept rights that it must drop")


def vet(pid: int, proc_fd: int) -> None:
    """Sees for itself that a fork has given up the rights that it was born with, and is alone.

    A fork is a copy of memory that the box could change: it may keep its rights, or start a helper that does. Once
    the only process of the namespace has none, no later one can have any.

    Args:
        pid: The fork, which waits.
        proc_fd: A /proc of its PID namespace.

    Raises:
        RightsKeptError: It has not.
    """
    check_bare(pid)
    if [name for name in os.listdir(f"/proc/self/fd/{proc_fd}") if name.isdigit()] != ["1"]:
        raise RightsKeptError("its guest started another process while it had rights")


def _read_status(pid: int) -> bytes:
    fd = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)
