"""The floor: what a box costs that is a fork, its namespaces, an overlay and one call, and nothing else.

The same shape as Kibo's: a warmed process with one thread, first of its own namespaces, clones children into six
new namespaces, writes their id maps, mounts an overlay on a tmpfs, joins the child's mount namespace and pivots; the
child answers one call on a socket. What it leaves out is the rest of a box: /proc, /dev, /sys and /usr in it,
loopback, limits, a filter of system calls, dropped rights, a hop to another process that asks for it, checks of
arguments and results.

Of Kibo it uses the bare system calls alone, so that no tuning of the runtime moves the floor. `Prototype` runs it as a
program of its own, so that neither warms nor slows the other.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

if __name__ == "__main__":
    sys.path[:0] = json.loads(sys.argv[1])

from kibo.runtime import idmap, kernel

_NAMESPACES: Final = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
)


class Prototype:
    """The floor's program, from the side of whoever measures. A context manager."""

    def __init__(self) -> None:
        package = str(Path(kernel.__file__).parents[2])
        site = [path for path in sys.path if path.endswith("site-packages")]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, json.dumps([package, *site])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.measure(20)

    def measure(self, count: int) -> list[float]:
        """Makes, calls and ends ``count`` bare boxes. Returns the seconds from order to result of each."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(count, file=self._process.stdin, flush=True)
        seconds: list[float] = json.loads(self._process.stdout.readline())
        return seconds

    def rate(self, seconds: float) -> float:
        """Returns how many bare boxes a second it makes, calls and ends, one after the other."""
        made, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            made += len(self.measure(50))
        return made / passed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Parent:
    """The warmed process that clones. Runs inside its own namespaces."""

    def __init__(self, line: bytes) -> None:
        self._line = line
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        # Children are numbered by our own namespace, and so must be the /proc in which their maps are.
        kernel.mount("proc", "/proc", "proc")
        kernel.mount("tmpfs", "/mnt", "tmpfs")
        os.mkdir("/mnt/lower")
        self._own = os.open("/proc/self/ns/mnt", os.O_RDONLY)

    def spawn(self) -> float:
        """Makes one box, calls it, ends it. Returns the seconds until its answer had come."""
        start = time.perf_counter()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = kernel.clone(_NAMESPACES)
        if pid == 0:
            try:
                while request := theirs.recv(4096):
                    theirs.send(request)
            finally:
                os._exit(0)
        theirs.close()
        for name in ("uid_map", "gid_map"):
            fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
            os.write(fd, self._line)
            os.close(fd)
        pidfd = kernel.pidfd_open(pid)
        upper, root = new_root()
        self.move_in(pidfd, root)
        ours.send(b"hello")
        answer = ours.recv(4096)
        seconds = time.perf_counter() - start
        assert answer == b"hello"
        kernel.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        for fd in (pidfd, upper, root):
            os.close(fd)
        ours.close()
        return seconds

    def move_in(self, pidfd: int, root: int) -> None:
        """Makes ``root`` the root of the child, which waits."""
        kernel.setns(pidfd, kernel.CLONE_NEWNS)
        kernel.move_mount(root, "/")
        os.fchdir(root)
        kernel.pivot_root(".", ".")
        kernel.umount2(".", kernel.MNT_DETACH)
        kernel.setns(self._own, kernel.CLONE_NEWNS)


def new_root() -> tuple[int, int]:
    """Makes a writable layer in memory and an overlay with it, both detached; returns their descriptors."""
    context = kernel.fsopen("tmpfs")
    kernel.fsconfig_create(context)
    upper = kernel.fsmount(context, 0)
    os.close(context)
    os.mkdir("u", dir_fd=upper)
    os.mkdir("w", dir_fd=upper)
    context = kernel.fsopen("overlay")
    kernel.fsconfig_string(context, "lowerdir", "/mnt/lower")
    kernel.fsconfig_string(context, "upperdir", f"/proc/self/fd/{upper}/u")
    kernel.fsconfig_string(context, "workdir", f"/proc/self/fd/{upper}/w")
    kernel.fsconfig_flag(context, "userxattr")
    kernel.fsconfig_create(context)
    root = kernel.fsmount(context, 0)
    os.close(context)
    return upper, root


def main() -> None:
    """Enters the parent's namespaces and serves numbers of boxes from standard input until it ends."""
    ours, theirs = socket.socketpair()
    chosen = idmap.choose_map()
    if chosen.kind == "subuid":
        # The floor needs no range, and the program that grants one would be called for nothing.
        chosen = idmap.IdMap("single", ((0, os.geteuid(), 1),), ((0, os.getegid(), 1),))
    pid = kernel.clone(_NAMESPACES)
    if pid:
        theirs.close()
        idmap.write_maps(pid, chosen)
        ours.send(b"mapped")
        os.waitpid(pid, 0)
        return
    ours.close()
    theirs.recv(16)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if chosen.has_range:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
    parent = Parent(b"0 0 65536\n" if chosen.has_range else b"0 0 1\n")
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps([parent.spawn() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
