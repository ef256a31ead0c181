"""How processes of one state directory wake each other: a file that is closed, which inotify(7) tells of.

A wake-up means nothing but "look": what there is to know is in the store. Whoever is about to write there opens the
file first, so that the kernel rings where it is killed between the record and the bell.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Protocol, Self

#: The file that is closed by whoever has something to tell.
BELL: Final = "bell"
_IN_CLOSE_WRITE: Final = 0x8
_IN_DELETE: Final = 0x200
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
#: How often one looks who cannot be told.
_LOOK_S: Final = 1.0
_libc: Final = ctypes.CDLL(None, use_errno=True)


class WakeupBus(Protocol):
    """Wakes whoever listens, in this process and in others. A wake-up may be lost only with the whole machine."""

    def ringing(self) -> AbstractContextManager[None]:
        """Wakes them at the end of a block, also where this process is killed in it."""

    def listen(self, heard: Callable[[], None]) -> None:
        """Has a function called after each wake-up, on a thread of its own; several may be one."""

    def close(self) -> None:
        """Calls it no more."""


@contextmanager
def ringing(directory: Path) -> Iterator[None]:
    """Wakes those who watch a directory at the end of a block, also where this process is killed in it."""
    fd = _bell(directory)
    if fd is None:
        directory.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(directory / BELL, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def telling(directory: Path) -> Iterator[None]:
    """As `ringing`, where somebody has watched the directory, and free of charge otherwise. Where this process is
    killed in the block, who began to watch in that same moment is not told.
    """
    fd = _bell(directory)
    try:
        yield
    finally:
        fd = _bell(directory) if fd is None else fd  # whoever began meanwhile may have looked too early
        if fd is not None:
            os.close(fd)


def _bell(directory: Path) -> int | None:
    try:
        return os.open(directory / BELL, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


class Following:
    """Wakes whoever follows what is written: of the directory that `telling` names. Not to miss any, look after it is
    made and after each `wait`.

    Args:
        directory: Of this user alone.
    """

    def __init__(self, directory: Path) -> None:
        self._watch = Watch(directory)
        with ringing(directory):
            pass  # so that there is a bell

    def wait(self) -> None:
        """Waits until something may have been written."""
        poll = select.poll()
        poll.register(self._watch.fds[0], select.POLLIN)
        poll.poll(_LOOK_S * 1000 if self._watch.deaf else None)
        self._watch.heard()

    def __enter__(self) -> Self:
        """Itself: a block closes it at its end."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends it."""
        self._watch.close()


class Watch:
    """Hears of files in one directory that are closed after writing, or removed.

    Args:
        directory: It; made where it is missing.

    Attributes:
        fds: What to wait for: the first.
        deaf: Whether this user has no inotify instance left: nothing is heard, one has to look.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.fds: tuple[int, ...] = ()
        self.deaf = False
        fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(directory), _IN_CLOSE_WRITE | _IN_DELETE) >= 0:
            self.fds = (fd,)
            return
        number = ctypes.get_errno()
        if fd >= 0:
            os.close(fd)
        if number not in (errno.EMFILE, errno.ENOSPC):
            raise OSError(number, os.strerror(number), os.fspath(directory))
        self.fds, self.deaf = os.pipe(), True  # says nothing, ever

    def heard(self) -> set[str] | None:
        """Reads what has happened. Returns the names of files; None where the kernel could not tell all."""
        found: set[str] = set()
        whole = True
        try:
            while data := os.read(self.fds[0], 65536):
                at = 0
                while at < len(data):
                    _, mask, _, length = _EVENT.unpack_from(data, at)
                    name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                    whole = whole and not mask & _IN_Q_OVERFLOW
                    found.add(os.fsdecode(name))
                    at += _EVENT.size + length
        except BlockingIOError:
            pass
        return found if whole else None

    def close(self) -> None:
        """Ends it."""
        for fd in self.fds:
            os.close(fd)
        self.fds = ()

    def __enter__(self) -> Self:
        """The watch itself: a block closes it at its end."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Closes it."""
        self.close()


class DirectoryBus:
    """Wakes the processes that share a directory; see `WakeupBus`.

    Args:
        directory: Of this user alone.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._heard: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._over = -1

    def ringing(self) -> AbstractContextManager[None]:
        """See `WakeupBus.ringing`."""
        return ringing(self._directory)

    def listen(self, heard: Callable[[], None]) -> None:
        """See `WakeupBus.listen`. The first that listens is the one that is called."""
        if self._thread is not None:
            return
        self._heard = heard
        self._over = os.eventfd(0, os.EFD_CLOEXEC)
        watch = Watch(self._directory)
        self._thread = threading.Thread(target=self._run, args=(watch,), name="kibo-wakeups", daemon=True)
        self._thread.start()

    def _run(self, watch: Watch) -> None:
        with watch:
            poll = select.poll()
            poll.register(watch.fds[0], select.POLLIN)
            poll.register(self._over, select.POLLIN)
            while True:
                ready = [fd for fd, _ in poll.poll(_LOOK_S * 1000 if watch.deaf else None)]
                if self._over in ready:
                    return
                heard = watch.heard() if ready else None
                if heard is None or BELL in heard:
                    self._heard()

    def close(self) -> None:
        """See `WakeupBus.close`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            os.eventfd_write(self._over, 1)
            thread.join()
            os.close(self._over)
