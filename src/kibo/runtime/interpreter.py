"""The program that boxes are forked from, out of their reach.

A process can always reach the file it was started from, past every mount, by ``/proc/self/exe``. Guests are forks of
the keeper's Python; where that file belongs to the user (as pyenv and uv install it) and boxes have the user's id, a
program in a box could take the file's rights away or, once nothing runs from it, write to it (CVE-2019-5736 was
that). Such a file is copied into sealed memory, and the keeper is started from there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Final

from kibo.runtime.idmap import choose_map

_MFD_EXEC: Final = 0x10
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def needs_copy(path: str) -> bool:
    """Tells whether programs in a box could change an interpreter's file: whether boxes have its owner's id."""
    owner = os.stat(path).st_uid
    return any(outside <= owner < outside + count for _, outside, count in choose_map().uid_lines)


def sealed_copy(path: str) -> int:
    """Copies a program into memory that nobody can change. About 3 ms for 7 MB, held once by all boxes.

    Returns:
        Its descriptor, closed on exec. Start it as ``/proc/self/fd/<number>`` with the file's own path as the first
        argument, from which Python finds its library.

    Raises:
        OSError: The file cannot be read, or there is no memory for it.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        copy = os.memfd_create("kibo-python", flags | _MFD_EXEC)
    except OSError as error:
        # Before Linux 6.3 memory files may be executed without saying so.
        if error.errno != errno.EINVAL:
            raise
        copy = os.memfd_create("kibo-python", flags)
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = os.fstat(source).st_size
            while left:
                left -= os.sendfile(copy, source, None, left)
        finally:
            os.close(source)
        os.fchmod(copy, 0o555)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(copy)
        raise
    return copy


@contextlib.contextmanager
def out_of_reach(path: str) -> Generator[tuple[str, tuple[int, ...]], None, None]:
    """Gives what to start an interpreter from while the context lasts, so that no box can change its file.

    Yields:
        The path to execute (with ``path`` itself as the first argument), and descriptors to pass along.
    """
    if not needs_copy(path):
        yield path, ()
        return
    copy = sealed_copy(path)
    try:
        yield f"/proc/self/fd/{copy}", (copy,)
    finally:
        os.close(copy)


def hide_arguments() -> None:
    """Blanks this process's command line, which names folders of the user, in ``/proc/<pid>/cmdline``.

    Forks show what their parent showed, so that without this every box could read it.
    """
    import ctypes

    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    # proc_pid_stat(5): arg_start and arg_end are fields 48 and 49; the split begins at field 3.
    start, end = int(fields[45]), int(fields[46])
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, b"kibo", min(4, end - start))
