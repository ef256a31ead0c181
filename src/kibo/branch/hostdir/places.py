"""The host directory by descriptors: whatever others do to its paths, nothing is read or written outside of it."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Final, Self

from kibo.branch.hostdir.scan import BENEATH
from kibo.runtime import kernel

#: Directories that are kept open at once.
_KEPT: Final = 128


class Places:
    """Opens directories beneath one, never through a link. A context manager."""

    def __init__(self, host: str | os.PathLike[str]) -> None:
        """Opens the host directory.

        Raises:
            OSError: It is gone, or no directory.
        """
        self.root = os.open(host, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._open: OrderedDict[bytes, int] = OrderedDict()

    def close(self) -> None:
        """Closes everything."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        os.close(self.root)

    def __enter__(self) -> Self:
        """Returns it."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Closes everything."""
        self.close()

    def directory(self, path: bytes) -> int:
        """Returns the descriptor of a directory, which stays this object's own.

        A directory that was moved away after it was first asked for is still the one that is returned.

        Raises:
            OSError: It is missing, no directory, or lies behind a link (``ELOOP``).
        """
        if not path:
            return self.root
        if path in self._open:
            self._open.move_to_end(path)
            return self._open[path]
        fd = self.beneath(path)
        if len(self._open) >= _KEPT:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = fd
        return fd

    def beneath(self, path: bytes) -> int:
        """Opens the directory that a path leads to now; the caller closes it.

        Raises:
            OSError: As for `directory`.
        """
        return kernel.openat2(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY, 0, BENEATH)

    def still(self, path: bytes, fd: int) -> bool:
        """Whether the path still leads to the directory that a descriptor is open on."""
        try:
            again = kernel.openat2(self.root, path or b".", os.O_PATH | os.O_DIRECTORY, 0, BENEATH)
        except OSError:
            return False
        try:
            return os.path.sameopenfile(again, fd)
        finally:
            os.close(again)

    def look(self, path: bytes) -> os.stat_result | None:
        """Returns the status of a path, or None where nothing is.

        Raises:
            OSError: A directory above it is missing or lies behind a link.
        """
        directory, _, name = path.rpartition(b"/")
        try:
            return os.lstat(name or b".", dir_fd=self.directory(directory))
        except FileNotFoundError:
            if directory and not self.still(directory, self.directory(directory)):
                raise
            return None


def place(fd: int, name: bytes) -> bytes:
    """Returns a path for calls that take no descriptor; its last part must not be a link that they follow."""
    return b"/proc/self/fd/%d/%b" % (fd, name)
