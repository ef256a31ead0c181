"""How a gateway hears that the ledger was written to by another process: a named pipe beside what it is known by.

What is sent means nothing but "look": the ledger has what there is to know, and only this user can reach the directory.
Whoever is about to write opens the pipe first. So the kernel rings where it is killed between the record and the bell:
the end of the last writer is heard as well as what it writes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

SUFFIX: Final = ".bell"
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN_S: Final = 1.0
_WRITE: Final = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC


def bell_of(directory: Path, gateway: str) -> Path:
    """Returns where the bell of a gateway hangs."""
    return directory / f"{gateway}{SUFFIX}"


class Bell:
    """The bell of this gateway, from now until the process or `close` ends it.

    Args:
        path: Where it is to hang.
        heard: Called on the loop each time that it may have rung.

    Raises:
        OSError: It cannot be made.
    """

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        self._path = path
        self._heard = heard
        os.mkfifo(path, 0o600)
        self._fd = os.open(path, _READ)
        self._listen()

    def _listen(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().add_reader(self._fd, self._hear)

    def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(BlockingIOError):
            while os.read(self._fd, 4096):
                pass
        loop.remove_reader(self._fd)
        # fifo(7), poll(2): a descriptor that has seen its last writer end says so for ever; one that is opened now does
        # not. The new one before the old one is closed, so that no writer finds nobody there.
        try:
            fresh = os.open(f"/proc/self/fd/{self._fd}", _READ)
        except OSError:  # this process has no descriptor left: again in a moment, and not for ever at once
            loop.call_later(_AGAIN_S, self._listen)
        else:
            os.close(self._fd)
            self._fd = fresh
            self._listen()
        self._heard()

    def close(self) -> None:
        """Takes it down."""
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._path.unlink(missing_ok=True)


@contextmanager
def ringing(directory: Path) -> Iterator[None]:
    """Has every gateway of a state directory look at the ledger after what is done meanwhile, however it ends."""
    before = _opened(directory)
    try:
        yield
    finally:
        for fd in before + _opened(directory):  # those that have come meanwhile, too
            with suppress(
                BlockingIOError, BrokenPipeError
            ):  # it has not heard the last ones yet; it has ended
                os.write(fd, b".")
            os.close(fd)


def _opened(directory: Path) -> list[int]:
    found = []
    for path in directory.glob(f"*{SUFFIX}"):
        with suppress(
            OSError
        ):  # ENXIO: nobody reads, its gateway is dead; ENOENT: it has just been taken down
            found.append(os.open(path, _WRITE))
    return found
