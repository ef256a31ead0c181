"""What the kernel counts of this process and of all that descends from it: processor time and page faults.

Unlike times by the clock, these say what a thing costs on a machine that is busy with something else. They leave out
what the kernel does after a process's end: taking its memory and its namespaces down. Source: perf_event_open(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from types import TracebackType
from typing import Final, Self

_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_SOFTWARE, _TASK_CLOCK, _PAGE_FAULTS = 1, 1, 2
_SIZE: Final = 128
_INHERIT, _EXCLUDE_KERNEL = 1 << 1, 1 << 5
_CLOSE_ON_EXEC: Final = 8


class Counters:
    """Counts from now on, in processes that are started from now on too. A context manager."""

    def __init__(self) -> None:
        """Opens the counters.

        Raises:
            OSError: The host does not allow them.
        """
        self._fds: list[int] = []
        for event in (_TASK_CLOCK, _PAGE_FAULTS):
            self._fds.append(_open(event))

    def read(self) -> tuple[float, int]:
        """Returns the seconds of processor time and the page faults so far."""
        clock, faults = (struct.unpack("Q", os.read(fd, 8))[0] for fd in self._fds)
        return clock / 1e9, faults

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for fd in self._fds:
            os.close(fd)


def _open(event: int) -> int:
    # An ordinary user may not count in the kernel; what is counted by the kernel itself is whole all the same.
    flags = _INHERIT | _EXCLUDE_KERNEL
    attributes = struct.pack("IIQQQQQ", _SOFTWARE, _SIZE, event, 0, 0, 0, flags).ljust(_SIZE, b"\0")
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    fd: int = syscall(_PERF_EVENT_OPEN[platform.machine()], attributes, 0, -1, -1, _CLOSE_ON_EXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd
