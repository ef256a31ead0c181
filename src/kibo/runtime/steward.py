"""Starts commands in one box, from inside it.

A process that has joined the box once, given up every right and taken on the filter, can start a program for the price
of starting it; each newcomer from outside would pay for all of that again. Its memory is a copy of the warden's, so
it cannot be traced or read by others of its user id (it is not dumpable, and what it starts is replaced by exec).
Killed by the box, it is started anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
import signal
import socket
import stat
import termios
import time
from typing import Any, Final

from kibo.runtime import wire
from kibo.runtime.orphans import Adopted

#: Before the notes: since when a command is being started whose number is not noted yet, in ticks since boot, or 0.
STARTING_BYTES: Final = 8
#: After that: how many commands have been started, or could not be.
COUNT_BYTES: Final = 8
HEAD_BYTES: Final = STARTING_BYTES + COUNT_BYTES
_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: One note of a command that runs: the number of its process group, or 0.
NOTE_BYTES: Final = 4
#: Exit status of a program that could not be started.
EXIT_NOT_STARTED: Final = 127

# Programs expect these as the kernel has them at boot, and the interpreter changes them.
_DEFAULTS: Final = (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ, signal.SIGCHLD)


class Steward:
    """The loop, and what it started."""

    def __init__(self, orders: socket.socket, cwd: str) -> None:
        self._orders = orders
        self._cwd = cwd
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)
        self._adopted = Adopted()
        self._poll.register(self._adopted.fd, select.POLLIN)
        self._by_pidfd: dict[int, tuple[int, socket.socket]] = {}
        self._by_reply: dict[int, int] = {}
        _, (notes,), _ = wire.receive_command(orders)
        self._notes = mmap.mmap(notes, os.fstat(notes).st_size)
        os.close(notes)
        self._places: dict[int, int] = {}
        self._free: list[int] = []
        self._unused = HEAD_BYTES
        self._count = 0

    def serve(self) -> None:
        """Serves until the warden closes its end."""
        mine = self._orders.fileno()
        while True:
            # A handler may close descriptors whose events are still to come, and open others under the same numbers.
            ready = [(fd, self._by_pidfd.get(fd), self._by_reply.get(fd)) for fd, _ in self._poll.poll()]
            for fd, command, pid in ready:
                if fd == mine:
                    try:
                        order, descriptors, _ = wire.receive_command(self._orders)
                    except (wire.Closed, ConnectionError):
                        return
                    self._start(order, descriptors)
                elif command is not None and self._by_pidfd.get(fd) is command:
                    self._ended(fd)
                elif pid is not None and self._by_reply.get(fd) == pid:
                    self._spoken_to(fd)
            # Last, when all that were started here are known.
            self._adopted.reap({pid for pid, _ in self._by_pidfd.values()})

    def _start(self, order: dict[str, Any], descriptors: list[int]) -> None:
        reply = socket.socket(fileno=descriptors[0])
        streams = descriptors[1:]
        self._starting(int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS))
        try:
            pid = self._spawn(order, streams)
            self._note(pid)
        except OSError as error:
            _tell(reply, {"kind": "not-started", "errno": error.errno or 0, "message": str(error)})
            reply.close()
            return
        finally:
            self._starting(0)
            self._count += 1
            self._notes[STARTING_BYTES:HEAD_BYTES] = self._count.to_bytes(COUNT_BYTES, "little")
            for fd in streams:
                os.close(fd)
        pidfd = os.pidfd_open(pid)
        self._by_pidfd[pidfd] = (pid, reply)
        self._by_reply[reply.fileno()] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(reply, select.POLLIN)

    def _spawn(self, order: dict[str, Any], streams: list[int]) -> int:
        argv, variables = order["argv"], order["variables"]
        environment = {**os.environ, **variables}
        program = _find(argv[0], environment.get("PATH", os.defpath))
        os.chdir(order["cwd"] or self._cwd)
        try:
            if order["terminal"]:
                return _spawn_on_terminal(program, argv, environment, streams)
            return os.posix_spawn(
                program,
                argv,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(streams)],
                setsid=True,
                setsigdef=_DEFAULTS,
            )
        finally:
            os.chdir("/")

    def _starting(self, since: int) -> None:
        self._notes[:STARTING_BYTES] = since.to_bytes(STARTING_BYTES, "little")

    def _note(self, pid: int) -> None:
        """Notes a command where the warden reads it if this process is killed. There is room for all that can run."""
        if self._free:
            place = self._free.pop()
        elif self._unused < len(self._notes):
            place = self._unused
            self._unused += NOTE_BYTES
        else:
            return
        self._places[pid] = place
        self._notes[place : place + NOTE_BYTES] = pid.to_bytes(NOTE_BYTES, "little")

    def _strike(self, pid: int) -> None:
        place = self._places.pop(pid, None)
        if place is not None:
            self._notes[place : place + NOTE_BYTES] = bytes(NOTE_BYTES)
            self._free.append(place)

    def _ended(self, pidfd: int) -> None:
        pid, reply = self._by_pidfd.pop(pidfd)
        # Before it is reaped: after that its number may be another's.
        self._strike(pid)
        _, status = os.waitpid(pid, 0)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        if self._by_reply.pop(reply.fileno(), 0):
            self._poll.unregister(reply)
        _tell(reply, {"kind": "exit", "status": os.waitstatus_to_exitcode(status)})
        reply.close()

    def _spoken_to(self, fd: int) -> None:
        """The caller speaks to send a signal, and hangs up when it no longer cares."""
        pid = self._by_reply[fd]
        reply = next(reply for other, reply in self._by_pidfd.values() if other == pid)
        try:
            order, descriptors, _ = wire.receive_command(reply)
            for extra in descriptors:
                os.close(extra)
            signum = int(order["signal"])
        except (wire.Closed, wire.FrameError, ConnectionError):
            self._poll.unregister(fd)
            del self._by_reply[fd]
            signum = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signum)


def read_notes(data: bytes) -> tuple[list[int], int]:
    """Reads what a steward noted: the process groups that run, and since when it was starting one, or 0."""
    numbers = (
        int.from_bytes(data[i : i + NOTE_BYTES], "little", signed=True)
        for i in range(HEAD_BYTES, len(data), NOTE_BYTES)
    )
    return [number for number in numbers if number > 1], int.from_bytes(data[:STARTING_BYTES], "little")


def read_count(data: bytes) -> int:
    """Reads how many commands a steward has started, or could not."""
    return int.from_bytes(data[STARTING_BYTES:HEAD_BYTES], "little")


def find_orphans(guest: int, since: int) -> list[int]:
    """Finds what a steward had just started when it was killed: sessions that fell to the guest and are that young.

    Args:
        guest: The box's first process, by its number in the /proc that this process sees.
        since: When the steward began, in ticks since boot.

    Returns:
        Their numbers in the box.
    """
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
            if int(fields[1]) != guest or int(fields[19]) < since:
                continue
            with open(f"/proc/{entry}/status") as file:
                lines = dict(line.split(":", 1) for line in file.read().splitlines() if line.startswith("NS"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if lines["NSpid"].split()[-1] == lines["NSsid"].split()[-1]:
            found.append(int(lines["NSpid"].split()[-1]))
    return found


def _find(name: str, path: str) -> str:
    """Finds a program as a shell would.

    Raises:
        FileNotFoundError: It is nowhere on the path.
    """
    if "/" in name:
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        try:
            mode = os.stat(candidate).st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return candidate
    raise FileNotFoundError(2, "No such program in the box", name)


def _spawn_on_terminal(program: str, argv: list[str], environment: dict[str, str], streams: list[int]) -> int:
    """Starts a program whose session has a controlling terminal, which posix_spawn cannot give it."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        fcntl.ioctl(streams[0], termios.TIOCSCTTY, 0)
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
        for signum in _DEFAULTS:
            signal.signal(signum, signal.SIG_DFL)
        os.execve(program, argv, environment)
    finally:
        os._exit(EXIT_NOT_STARTED)


def _tell(reply: socket.socket, message: dict[str, Any]) -> None:
    # A caller that has hung up does not care any more.
    with contextlib.suppress(ConnectionError):
        wire.send_command(reply, message)
