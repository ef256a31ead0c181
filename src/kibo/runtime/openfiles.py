"""What a sealed state has open, and how each fork of it gets its own.

An inherited descriptor is the origin's open file: forks would share its offset, and write into the sealed layer, which
is below all of them. So each fork opens anew what its origin had open. What cannot be made anew stands in the way of
a fork, and is named. Sources: open(2) on open file descriptions, proc(5) on ``fdinfo`` and ``maps``.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

_O_PATH: Final = 0o10000000
_CREATION: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
_SO_DOMAIN: Final = 39
_SO_PROTOCOL: Final = 38

#: Makes one descriptor anew.
Renewal = Callable[[], int]


class OpenFiles:
    """The descriptors of one state, remembered when it is sealed."""

    def __init__(self) -> None:
        self._renewals: list[tuple[int, Renewal]] = []
        self._pipes: dict[tuple[int, int], list[tuple[int, bool]]] = {}
        self._epolls: list[int] = []

    def remember(self, own: frozenset[int]) -> list[str]:
        """Looks at everything that is open but ``own``.

        Returns:
            What no fork can have, described; empty where all can be made anew.
        """
        self.__init__()  # type: ignore[misc]
        problems = [f"shared memory ({name})" for name in _shared_mappings()]
        for fd in sorted(int(entry) for entry in os.listdir("/proc/self/fd")):
            if fd not in own:
                problem = self._remember(fd)
                if problem:
                    problems.append(problem)
        return problems

    def _remember(self, fd: int) -> str:
        try:
            info, name = os.fstat(fd), os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return ""  # the descriptor of the listing itself
        kind, flags = stat.S_IFMT(info.st_mode), fcntl.fcntl(fd, fcntl.F_GETFL)
        if kind in (stat.S_IFREG, stat.S_IFDIR):
            if name.endswith(" (deleted)"):
                return f"an open file that is deleted ({name.removesuffix(' (deleted)')})"
            offset = 0 if flags & _O_PATH or kind == stat.S_IFDIR else os.lseek(fd, 0, os.SEEK_CUR)
            self._renewals.append((fd, lambda: _reopen(name, flags & ~_CREATION, offset)))
        elif kind == stat.S_IFIFO and name.startswith("pipe:"):
            self._pipes.setdefault((info.st_dev, info.st_ino), []).append((fd, bool(flags & os.O_ACCMODE)))
        elif kind == stat.S_IFIFO:
            # Both ways, because opening one way waits for the other.
            self._renewals.append((fd, lambda: os.open(name, flags & ~_CREATION & ~os.O_ACCMODE | os.O_RDWR)))
        elif kind == stat.S_IFSOCK:
            self._renewals.append((fd, _socket_like(fd)))
        elif name == "anon_inode:[eventpoll]":
            self._epolls.append(fd)
        elif name == "anon_inode:[eventfd]":
            self._renewals.append((fd, lambda: os.eventfd(0, os.EFD_CLOEXEC | flags & os.O_NONBLOCK)))
        elif kind == 0:
            return f"an open {name.removeprefix('anon_inode:').strip('[]')}"
        return ""  # a device such as /dev/null, which keeps nothing

    def renew(self) -> None:
        """Opens everything anew, in a fork. Costs nothing where nothing was open.

        Sockets come back unconnected, so that clients connect again; pipes come back empty.
        """
        for fd, renewal in self._renewals:
            _replace(fd, renewal())
        for ends in self._pipes.values():
            read, write = os.pipe2(os.O_CLOEXEC)
            for fd, writes in ends:
                os.set_blocking(write if writes else read, os.get_blocking(fd))
                _replace(fd, os.dup(write if writes else read))
            os.close(read)
            os.close(write)
        for fd in self._epolls:
            watched = _watched_by(fd)
            fresh = select.epoll()
            for target, events in watched:
                fresh.register(target, events)
            _replace(fd, os.dup(fresh.fileno()))
            fresh.close()


def _replace(fd: int, fresh: int) -> None:
    inheritable = os.get_inheritable(fd)
    os.dup2(fresh, fd, inheritable)
    os.close(fresh)


def _reopen(path: str, flags: int, offset: int) -> int:
    fd = os.open(path, flags)
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return fd


def _socket_like(fd: int) -> Renewal:
    """Prepares to make a fresh socket of the same kind, which is connected to nothing."""
    with socket.socket(fileno=os.dup(fd)) as old:
        family, kind = (
            old.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN),
            old.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
        )
        protocol, blocking = old.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL), os.get_blocking(fd)

    def renewal() -> int:
        fresh = socket.socket(family, kind, protocol)
        fresh.setblocking(blocking)
        return fresh.detach()

    return renewal


def _watched_by(fd: int) -> list[tuple[int, int]]:
    """Lists what an epoll instance watches: descriptors and events."""
    found = []
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("tfd:"):
            words = line.split()
            found.append((int(words[1]), int(words[3], 16)))
    return found


def _shared_mappings() -> list[str]:
    """Names the memory that this process would share with its forks."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split(maxsplit=5)
        if words[1][1] == "w" and words[1][3] == "s":
            found.add(words[5] if len(words) > 5 else "anonymous")
    return sorted(found)
