"""Whether a process has really given up its rights: the warden looks for itself, because guests may say anything.

A fork is a copy of memory that the box could change, and so are its siblings. What it brings along from its origin -
an open file, a terminal, a piece of shared memory, a directory that it stands in - would be something through which
they could talk. Sources: proc_pid_status(5), proc_pid_fd(5), proc_pid_maps(5) and PROCMAP_QUERY (Linux 6.11).
"""

from __future__ import annotations

import os
from typing import Final

from kibo.runtime.sharedmemory import shared_mappings


class RightsKeptError(Exception):
    """A guest has, or could have passed on, rights that no process of a box may have."""


#: What a process without rights shows of itself, proc_pid_status(5).
_BARE: Final = (
    *(f"\n{name}:\t0000000000000000\n".encode() for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")),
    b"\nNoNewPrivs:\t1\n",
    b"\nSeccomp:\t2\n",
    b"\nThreads:\t1\n",
    b"\nTracerPid:\t0\n",
)
#: The one descriptor that a fork brings along, by name: to the warden.
_CONTROL: Final = "3"


def check_bare(pid: int) -> bytes:
    """Sees in /proc that a process has no rights, is filtered, not traced, and has one thread.

    Returns:
        What /proc says of it.

    Raises:
        RightsKeptError: It has.
    """
    status = _read(f"/proc/{pid}/status")
    if not all(line in status for line in _BARE):
        raise RightsKeptError("its guest kept rights that it must drop")
    return status


def vet(pid: int, proc_fd: int, control: int, root: tuple[int, int]) -> None:
    """Sees for itself that a fork has given up what it was born with, and is alone. About 40 microseconds.

    Once the only process of the namespace has no rights, no later one can have any; and once it holds nothing of its
    origin's, none can get to it.

    Args:
        pid: The fork, which waits.
        proc_fd: A /proc of its PID namespace.
        control: The inode number of its end of the socket to the warden.
        root: Device and inode number of its root directory.

    Raises:
        RightsKeptError: It has not.
    """
    status = check_bare(pid)
    if [name for name in os.listdir(f"/proc/self/fd/{proc_fd}") if name.isdigit()] != ["1"]:
        raise RightsKeptError("its guest started another process while it had rights")
    _, _, session = status.partition(b"\nNSsid:\t")
    if not session.partition(b"\n")[0].endswith(b"\t1"):
        raise RightsKeptError("its guest stayed in the session of what it was forked from")
    if os.listdir(f"/proc/{pid}/fd") != [_CONTROL]:
        raise RightsKeptError("its guest kept open what is not its own")
    if os.stat(f"/proc/{pid}/fd/{_CONTROL}").st_ino != control:
        raise RightsKeptError("its guest put something else in the place of its socket")
    for name in ("root", "cwd"):
        info = os.stat(f"/proc/{pid}/{name}")
        if (info.st_dev, info.st_ino) != root:
            raise RightsKeptError("its guest stands in a directory that is not its own")
    if shared_mappings(pid):
        raise RightsKeptError("its guest shares memory with what it was forked from")


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)
