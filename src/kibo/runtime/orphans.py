"""Reaping in a PID namespace whose first process also runs the user's code.

PID 1 inherits every orphan of its namespace and must reap it, or the process table fills up. But children that the
user's code started itself belong to that code, whose ``Popen.wait`` must find their status. So the children that
Python starts are remembered, and only the others are reaped. Source: pid_namespaces(7), waitid(2).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from kibo.runtime import kernel


class Orphans:
    """Knows which children are the user's own."""

    def __init__(self) -> None:
        self._own: set[int] = set()

    def watch(self) -> None:
        """Starts remembering: wraps the three doors through which Python starts processes."""
        self._wrap(os, "fork")
        self._wrap(os, "posix_spawn")
        self._wrap(subprocess, "_fork_exec")

    def _wrap(self, module: Any, name: str) -> None:
        start: Callable[..., int] = getattr(module, name)

        def remembered(*args: Any, **kwargs: Any) -> int:
            pid = start(*args, **kwargs)
            if pid > 0:
                self._own.add(pid)
            return pid

        setattr(module, name, remembered)

    def forget(self) -> None:
        """Forgets all: a fork has no children."""
        self._own.clear()

    def reap(self) -> None:
        """Reaps ended orphans; leaves the user's own children to the user's code. One call when there are none."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                self._own.clear()
                return
            if ended is None:
                return
            if ended.si_pid in self._own:
                # The kernel shows the same one again, so the others are looked for one by one.
                self._reap_behind()
                return
            os.waitpid(ended.si_pid, os.WNOHANG)

    def _reap_behind(self) -> None:
        for pid in self.living_children() + self._zombies():
            if pid not in self._own:
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue

    def end_children(self) -> list[str]:
        """Kills and reaps every child, and returns the names of those that still ran."""
        names = []
        while children := self._children():
            for pid, state in children:
                if state != "Z":
                    names.append(Path(f"/proc/{pid}/comm").read_text().strip())
                    os.kill(pid, signal.SIGKILL)
            for pid, _ in children:
                # A thread of the user's code may be waiting for it too; either may be the one that reaps it.
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        return names

    def living_children(self) -> list[int]:
        """Lists the children that have not ended."""
        return [pid for pid, state in self._children() if state != "Z"]

    def _zombies(self) -> list[int]:
        return [pid for pid, state in self._children() if state == "Z"]

    def _children(self) -> list[tuple[int, str]]:
        me, found = os.getpid(), []
        for name in os.listdir("/proc"):
            if not name.isdigit():
                continue
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
            if int(fields[1]) == me:
                found.append((int(name), fields[0]))
        return found


class Adopted:
    """Reaps the orphans of programs that a process of ours starts in a box, so that they need not wait for PID 1.

    That one runs the user's code, and looks only between calls. Attributes:
        fd: Readable when a child may have ended; then `reap`.
    """

    def __init__(self) -> None:
        """Makes this process the parent of its descendants' orphans (prctl(2))."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self.fd, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # The handler has nothing to do: that there is one is what makes the kernel tell.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def reap(self, known: Container[int]) -> None:
        """Reaps ended children but ``known`` ones, which their starter reaps and then calls this again."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in known:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)
