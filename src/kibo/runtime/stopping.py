"""Stops every process of a box for a moment, so that its files can be copied as they are at one point in time.

By signal, because that works for every user and on every kernel: SIGSTOP to parents before their children, SIGCONT to
children before their parents, so that no shell finds a job of its own stopped. A process that has stopped starts no
other; so whoever is new is looked for until nobody is. Sources: signal(7), proc_pid_stat(5), pidfd_send_signal(2).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import Final

from kibo.runtime import kernel

#: How long the processes of a box have to stop. One that waits for a disk or another machine may not.
STOP_S: Final = 2.0
_FIRST_LOOK_S: Final = 0.0001
_LONGEST_LOOK_S: Final = 0.005
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: PF_FORKNOEXEC of a process's flags.
_FORKED_NOT_EXECUTED: Final = 0x40
#: Numbers of clone, vfork and clone3 in ``/proc/PID/syscall``.
_STARTING: Final = (b"56", b"58", b"435") if kernel.MACHINE == "x86_64" else (b"220", b"435")


class NotStoppedError(Exception):
    """Processes did not stop in time, or did not stay so.

    Attributes:
        names: What they are called.
    """

    def __init__(self, names: list[str]) -> None:
        super().__init__(", ".join(names))
        self.names = names


@dataclass(slots=True)
class _Process:
    """One process.

    Attributes:
        fd: Its directory in /proc, which is as good as a pidfd: it never becomes another process.
        ours: Whether it is we who stopped it; one that its user has stopped stays so.
    """

    pid: int
    fd: int
    ours: bool = True

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(self.fd, signum)


class Stopped:
    """The processes of one box, stopped from `stop` to `go_on`."""

    def __init__(self, proc: int) -> None:
        """Takes a descriptor of a /proc of the box's PID namespace. It stays the caller's."""
        self._proc = proc
        self._held: dict[int, _Process] = {}

    def stop(self, within_s: float = STOP_S) -> None:
        """Stops them all.

        Raises:
            NotStoppedError: Some did not stop in time. The others are stopped: `go_on` follows in every case.
        """
        deadline = time.monotonic() + within_s
        while found := self._next():
            for process in found:
                if process.ours:
                    process.signal(signal.SIGSTOP)
            moving = self._await(deadline)
            if moving or time.monotonic() > deadline:
                raise NotStoppedError([_name(process.fd) for process in moving or found])

    def check(self) -> None:
        """Sees that nobody has been woken since: a process can have a timer send it SIGCONT.

        Raises:
            NotStoppedError: Some have.
        """
        moving = [process for process in self._held.values() if self._moves(process)] + self._next()
        if moving:
            raise NotStoppedError([_name(process.fd) for process in moving])

    def go_on(self) -> None:
        """Has them go on, the last stopped first."""
        for process in reversed(self._held.values()):
            if process.ours:
                process.signal(signal.SIGCONT)
            os.close(process.fd)
        self._held.clear()

    def _next(self) -> list[_Process]:
        """Takes hold of those that are not held and whose parents are, or are outside of the box."""
        fresh: dict[int, int] = {}
        for entry in os.listdir(f"/proc/self/fd/{self._proc}"):
            if entry.isdigit() and int(entry) not in self._held:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    fresh[int(entry)] = os.open(entry, _DIRECTORY, dir_fd=self._proc)
        found = []
        for pid, fd in fresh.items():
            fields = _stat(fd, b"stat")
            if not fields or int(fields[1]) in fresh or not _living(fd):
                os.close(fd)
                continue
            self._held[pid] = process = _Process(pid, fd)
            process.ours = fields[0] != b"T" or self._moves(process)
            found.append(process)
        return found

    def _moves(self, process: _Process) -> bool:
        """Whether any thread of a process can still do something."""
        states = _threads(process.fd)
        if b"?" in states and not any(_is_newborn(other.fd, process.pid) for other in self._held.values()):
            return True
        return any(state not in b"?TtZX" for state in states)

    def _await(self, deadline: float) -> list[_Process]:
        """Waits until all that are held have stopped; returns those that have not by the deadline."""
        pause_s = _FIRST_LOOK_S
        moving = list(self._held.values())
        while moving := [process for process in moving if self._moves(process)]:
            if time.monotonic() > deadline:
                return moving
            for process in moving:
                # One that its user had stopped, and that was woken since, is like the others.
                if not process.ours:
                    process.ours = True
                    process.signal(signal.SIGSTOP)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_LOOK_S)
        return []


def continue_all(proc: int) -> None:
    """Has every process of a box go on, whoever stopped it: for when it is not known any more who did.

    Args:
        proc: A descriptor of a /proc of the box's PID namespace.
    """
    box = Stopped(proc)
    while box._next():
        pass
    for process in box._held.values():
        process.ours = True
    box.go_on()


def _stat(fd: int, name: bytes) -> list[bytes]:
    """Returns what follows the name in a ``stat`` file of /proc; nothing for one that is gone."""
    return (_read(fd, name) or b"").rpartition(b")")[2].split()


def _read(fd: int, name: bytes) -> bytes | None:
    """Reads a file of a process in /proc: empty where it has ended, None where it is not ours to read."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except PermissionError:
        return None
    try:
        return os.read(file, 4096)
    except ProcessLookupError:
        return b""
    finally:
        os.close(file)


def _threads(fd: int) -> list[bytes]:
    """Returns the states of a process's threads; ``?`` where only a child of it can tell whether it has stopped.

    The first may have ended while others run.
    """
    try:
        names = os.listdir(f"/proc/self/fd/{fd}/task")
    except (FileNotFoundError, ProcessLookupError):
        return []
    states = []
    for name in names:
        task = b"task/%b/" % name.encode()
        state = (_stat(fd, task + b"stat") or [b"X"])[0]
        if state == b"D":
            # It may wait until the child that it has just made runs a program of its own (vfork(2)). That child is
            # stopped like all others, and the signal is there before this one can do anything else.
            call = _read(fd, task + b"syscall")
            state = b"?" if call is None else b"T" if call.partition(b" ")[0] in _STARTING else state
        states.append(state)
    return states


def _is_newborn(fd: int, parent: int) -> bool:
    """Whether a process is a child of ``parent`` that runs no program of its own yet."""
    fields = _stat(fd, b"stat")
    return bool(fields) and int(fields[1]) == parent and bool(int(fields[6]) & _FORKED_NOT_EXECUTED)


def _living(fd: int) -> bool:
    return any(state not in b"ZX" for state in _threads(fd))


def _name(fd: int) -> str:
    return (_read(fd, b"comm") or b"").decode(errors="replace").strip() or "one that has ended"
