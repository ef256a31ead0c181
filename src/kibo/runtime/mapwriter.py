"""Writes the id maps of forks whose parent user namespace is a box's and not the warden's.

The kernel takes a map only from a process in the namespace itself or in its parent with the right to set ids there
(user_namespaces(7)). The warden is above both, and joining would be for good. So a process of its own joins each, and
stays. It is started by a nursery, a child of the warden that does nothing else: the warden itself goes on meanwhile.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from kibo.runtime import kernel, wire

Work = Callable[[socket.socket], None]


class Nursery:
    """The process that starts writers."""

    def __init__(self) -> None:
        """Starts it. About 1 ms."""
        self._sock = self._begin()

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            _run(theirs, _raise_writers)
        theirs.close()
        return ours

    def start(self, pidfd: int) -> MapWriter:
        """Has a writer started in the user namespace of the process behind ``pidfd``. Does not wait for it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if _hung_up(self._sock):  # it was killed, which is no reason to refuse forks from now on
            self._sock.close()
            self._sock = self._begin()
        with theirs:
            wire.send_command(self._sock, None, [pidfd, theirs.fileno()])
        return MapWriter(ours)


@dataclass(slots=True)
class MapWriter:
    """A process inside one cell's user namespace. Costs about 1 MB for as long as the cell is forked from."""

    sock: socket.socket
    written: int = 0
    #: What came of writes that nobody has asked for yet, or ever will: a fork may be given up meanwhile.
    answers: dict[int, int] = field(default_factory=dict)

    def ended(self) -> bool:
        """Tells whether it was killed, or its box has ended."""
        return _hung_up(self.sock)

    def write(self, pid: int, text: str) -> Callable[[], None]:
        """Has both maps of a process written; several may be under way. Returns what waits until they are in force."""
        wire.send_command(self.sock, [pid, text])
        self.written += 1
        self.answers[self.written] = -1
        return functools.partial(self._confirm, self.written)

    def _confirm(self, write: int) -> None:
        """Waits until a write is in force.

        Raises:
            OSError: The kernel refused.
        """
        try:
            while self.answers[write] < 0:
                oldest = next(each for each, answer in self.answers.items() if answer < 0)
                self.answers[oldest], _, _ = wire.receive_command(self.sock)
        except wire.Closed:
            raise OSError(3, "the box whose fork it is has ended") from None
        number = self.answers.pop(write)
        if number:
            raise OSError(number, f"id map of a fork: {os.strerror(number)}")

    def close(self) -> None:
        """Ends the writer."""
        self.sock.close()


def _hung_up(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, 0)
    return bool(poll.poll(0))


def _run(sock: socket.socket, work: Work) -> None:
    """Turns this child into one that does ``work`` on its socket and holds nothing else. Never returns."""
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        fd = os.dup2(sock.fileno(), 3)
        kernel.close_range(4)
        work(socket.socket(fileno=fd))
    except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
        traceback.print_exc()
    finally:
        os._exit(0)


def _raise_writers(orders: socket.socket) -> None:
    kernel.set_name("kibo-nursery")
    # Nobody waits for the writers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            _, (pidfd, sock), _ = wire.receive_command(orders)
        except wire.Closed:
            return
        if os.fork() == 0:
            try:
                kernel.setns(pidfd, kernel.CLONE_NEWUSER)
            except ProcessLookupError:
                os._exit(0)  # the box has ended: nobody asks any more, and the socket's end says so
            kernel.set_name("kibo-maps")
            _run(socket.socket(fileno=sock), _write_maps)
        os.close(pidfd)
        os.close(sock)


def _write_maps(sock: socket.socket) -> None:
    while True:
        try:
            (pid, text), _, _ = wire.receive_command(sock)
        except (wire.Closed, ConnectionResetError):
            return  # reset where whoever asked was given up, and did not take the last answer
        number = 0
        try:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                    file.write(text.encode())
        except OSError as error:
            number = error.errno or 1
        try:
            wire.send_command(sock, number)
        except BrokenPipeError:
            return
