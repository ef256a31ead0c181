"""Memory that a process would share with its forks, or they with each other. Source: proc_pid_maps(5)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from typing import Final

#: PROCMAP_QUERY of linux/fs.h (Linux 6.11): the next shared region at or after an address.
_PROCMAP_QUERY: Final = 0xC0686611
_SHARED_OR_NEXT: Final = 0x08 | 0x10
_QUERY: Final = struct.Struct("QQQQQ64x")


def shared_mappings(pid: int | str) -> list[str]:
    """Names the shared mappings of a process, as ``map_files`` does, that can be written or be made so.

    One of a file that was opened for reading can never be written, whatever asks: the rights of its link tell
    (proc_pid_map_files(5)). The kernel remembers those rights by addresses for as long as the process lives, so what a
    process says of itself may be out of date; of a new one, looked at for the first time, it is not.
    """
    folder = f"/proc/{pid}/map_files"
    return [place for place in _shared(pid) if os.lstat(f"{folder}/{place}").st_mode & stat.S_IWUSR]


def _shared(pid: int | str) -> list[str]:
    fd = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    found = []
    try:
        query = bytearray(_QUERY.size)
        address = 0
        while True:
            _QUERY.pack_into(query, 0, _QUERY.size, _SHARED_OR_NEXT, address, 0, 0)
            fcntl.ioctl(fd, _PROCMAP_QUERY, query)
            _, _, _, start, address = _QUERY.unpack(query)
            found.append(f"{start:x}-{address:x}")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return found
        if error.errno != errno.ENOTTY:
            raise
        # A kernel that must write them all down for us: some 0.1 ms.
        with open(f"/proc/{pid}/maps", "rb") as maps:
            lines = [line.split(None, 2) for line in maps]
        return [place.decode() for place, rights, _ in lines if rights.endswith(b"s")]
    finally:
        os.close(fd)
