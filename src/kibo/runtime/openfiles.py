"""What a process has open when it is sealed, and how each fork of it gets its own.

An inherited descriptor is the origin's open file: forks would share its offset, and write into the sealed layer, which
is below all of them. So files are closed before a layer is sealed, and each fork closes what it inherited and opens
anew what its origin had open, with the locks that it held. What cannot be made anew stands in the way of a fork, and is
named. Sources: open(2) on open file descriptions, proc(5) on ``fdinfo`` and ``maps``, fcntl(2) and flock(2) on locks.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from kibo.runtime.sharedmemory import shared_mappings

_O_PATH: Final = 0o10000000
_CREATION: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
_SO_DOMAIN: Final = 39
_SO_PROTOCOL: Final = 38

#: Devices that keep nothing, by number: what is read or written does not depend on who has them open.
_DEVICES: Final = {
    os.makedev(1, minor): f"/dev/{name}"
    for minor, name in {3: "null", 5: "zero", 7: "full", 8: "random", 9: "urandom"}.items()
}

#: What deleted files that are still open may hold together: their content is carried over in memory.
MAX_DELETED_BYTES: Final = 64 << 20

#: Makes one descriptor anew.
Renewal = Callable[[], int]

_F_OFD_SETLK: Final = 37
_FLOCK: Final = struct.Struct("hhqqi0q")


class Lock(NamedTuple):
    """A lock on a file, as ``fdinfo`` tells of it.

    Attributes:
        kind: ``FLOCK``, ``POSIX`` or ``OFDLCK``; others cannot be taken again.
        exclusive: Whether nobody else may have it.
        inode: Of the file.
        start: The first byte.
        length: How many bytes; 0 for all that there will ever be.
    """

    kind: str
    exclusive: bool
    inode: str
    start: int
    length: int

    def take(self, fd: int) -> None:
        """Takes it. Never waits.

        Raises:
            OSError: Somebody else has it.
        """
        if self.kind == "OFDLCK":
            wanted = fcntl.F_WRLCK if self.exclusive else fcntl.F_RDLCK
            fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(wanted, os.SEEK_SET, self.start, self.length, 0))
            return
        how = fcntl.LOCK_NB | (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH)
        if self.kind == "FLOCK":
            fcntl.flock(fd, how)
        else:
            fcntl.lockf(fd, how, self.length, self.start)


class OpenFiles:
    """The descriptors of one process, remembered when it is sealed."""

    def __init__(self) -> None:
        #: Files and directories: closed while sealed, and opened anew by whoever goes on.
        self._files: list[tuple[int, bool, Renewal]] = []
        #: What is the origin's own: a fork makes it anew, the origin keeps it.
        self._renewals: list[tuple[int, bool, Renewal]] = []
        #: Ends of each pipe: the descriptor, whether it is inherited by programs, writes, and waits.
        self._pipes: dict[tuple[int, int], list[tuple[int, bool, bool, bool]]] = {}
        self._epolls: list[tuple[int, bool, list[tuple[int, int]]]] = []
        #: Locks, each with the descriptor that held it: to close a file lets go of them.
        self._locks: list[tuple[int, Lock]] = []
        self._deleted_bytes = 0

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
        kind, flags, inherited = (
            stat.S_IFMT(info.st_mode),
            fcntl.fcntl(fd, fcntl.F_GETFL),
            os.get_inheritable(fd),
        )
        if kind in (stat.S_IFREG, stat.S_IFDIR) and not _is_log(info):
            return self._remember_file(fd, info, name, flags)
        renewal: Renewal
        if kind == stat.S_IFIFO and name.startswith("pipe:"):
            end = fd, inherited, bool(flags & os.O_ACCMODE), os.get_blocking(fd)
            self._pipes.setdefault((info.st_dev, info.st_ino), []).append(end)
            return ""
        if name == "anon_inode:[eventpoll]":
            self._epolls.append((fd, inherited, _watched_by(fd)))
            return ""
        if kind == stat.S_IFREG:
            renewal = lambda: os.dup(1)  # noqa: E731 - the log, of which each side has its own
        elif kind == stat.S_IFIFO:
            # Both ways, because opening one way waits for the other.
            renewal = lambda: os.open(name, flags & ~_CREATION & ~os.O_ACCMODE | os.O_RDWR)  # noqa: E731
        elif kind == stat.S_IFSOCK:
            renewal = _socket_like(fd)
        elif name == "anon_inode:[eventfd]":
            renewal = lambda: os.eventfd(0, os.EFD_CLOEXEC | flags & os.O_NONBLOCK)  # noqa: E731
        elif kind == stat.S_IFCHR and info.st_rdev in _DEVICES:
            renewal = lambda: os.open(_DEVICES[info.st_rdev], flags & ~_CREATION)  # noqa: E731
        else:
            return f"an open {name.removeprefix('anon_inode:').strip('[]')}"
        self._renewals.append((fd, inherited, renewal))
        return ""

    def _remember_file(self, fd: int, info: os.stat_result, name: str, flags: int) -> str:
        offset = 0 if flags & _O_PATH or stat.S_ISDIR(info.st_mode) else os.lseek(fd, 0, os.SEEK_CUR)
        flags &= ~_CREATION
        renewal: Renewal = lambda: _reopen(name, flags, offset)  # noqa: E731
        if not info.st_nlink:
            self._deleted_bytes += info.st_size
            path = name.removesuffix(" (deleted)")
            if not stat.S_ISREG(info.st_mode) or self._deleted_bytes > MAX_DELETED_BYTES:
                return f"an open file that is deleted ({path})"
            content = _content(fd, info.st_size)
            renewal = lambda: _recreate(content, flags, offset)  # noqa: E731
        self._files.append((fd, os.get_inheritable(fd), renewal))
        locks = _locks_by(fd)
        if locks and os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            # Its inode is every box's, and the host's: no two sides of a fork could hold what one of them does.
            return f"a lock on a file that all boxes share ({name})"
        for lock in locks:
            if lock.kind not in ("FLOCK", "POSIX", "OFDLCK"):
                return f"a {lock.kind.lower()} of an open file ({name})"
            # One that excludes all others and is seen twice is one that two descriptors share.
            if not lock.exclusive or lock not in (each for _, each in self._locks):
                self._locks.append((fd, lock))
        return ""

    def step_aside(self) -> None:
        """Closes the files and directories, and keeps their numbers taken: nothing of the root stays open."""
        for fd, _, _ in self._files:
            os.dup2(0, fd, False)

    def take_up(self) -> None:
        """Opens the files and directories again, where they now are, and takes the locks that were held on them."""
        for fd, inheritable, renewal in self._files:
            _replace(fd, renewal(), inheritable)
        # Once all are open: whoever closes any descriptor of a file lets go of its process's locks on it.
        for fd, lock in self._locks:
            lock.take(fd)

    def renew(self) -> None:
        """Makes everything anew, in a fork that has closed it all. Costs nothing where nothing was open.

        Sockets come back unconnected, so that clients connect again; pipes come back empty.
        """
        kept = [entry[0] for entry in self._files] + [entry[0] for entry in self._renewals]
        kept += [end[0] for ends in self._pipes.values() for end in ends] + [
            entry[0] for entry in self._epolls
        ]
        for fd in kept:
            os.dup2(0, fd, False)  # so that what is opened meanwhile gets no number that belongs to another
        self.take_up()
        for fd, inherited, renewal in self._renewals:
            _replace(fd, renewal(), inherited)
        for pipe in self._pipes.values():
            read, write = os.pipe2(os.O_CLOEXEC)
            for fd, inherited, writes, waits in pipe:
                os.set_blocking(write if writes else read, waits)
                _replace(fd, os.dup(write if writes else read), inherited)
            os.close(read)
            os.close(write)
        for fd, inherited, watched in self._epolls:
            fresh = select.epoll()
            for target, events in watched:
                fresh.register(target, events)
            _replace(fd, os.dup(fresh.fileno()), inherited)
            fresh.close()


def _replace(fd: int, fresh: int, inheritable: bool) -> None:
    os.dup2(fresh, fd, inheritable)
    os.close(fresh)


def _reopen(path: str, flags: int, offset: int) -> int:
    fd = os.open(path, flags)
    if offset:
        os.lseek(fd, offset, os.SEEK_SET)
    return fd


def _content(fd: int, size: int) -> bytes:
    """Reads a deleted file, which may be open for writing alone, through a descriptor of its own."""
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(again, size, 0)
    finally:
        os.close(again)


def _recreate(content: bytes, flags: int, offset: int) -> int:
    """Makes a file without a name, as a deleted one is, with the same content."""
    fd = os.open("/tmp", flags & ~os.O_ACCMODE | os.O_RDWR | os.O_TMPFILE, 0o600)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
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


def _locks_by(fd: int) -> list[Lock]:
    """Lists the locks that a process holds through a descriptor."""
    found = []
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        if line.startswith("lock:"):
            _, _, kind, _, mode, _, inode, first, last = line.split()
            length = 0 if last == "EOF" else int(last) - int(first) + 1
            found.append(Lock(kind, mode == "WRITE", inode, int(first), length))
    return found


def _is_log(info: os.stat_result) -> bool:
    return os.path.samestat(info, os.fstat(1))


def _shared_mappings() -> list[str]:
    """Names the memory that this process would share with its forks."""
    return sorted({os.readlink(f"/proc/self/map_files/{place}") for place in shared_mappings("self")})
