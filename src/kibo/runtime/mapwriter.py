"""Writes the id maps of forks whose parent user namespace is a box's and not the warden's.

The kernel takes a map only from a process in the namespace itself or in its parent with the right to set ids there
(user_namespaces(7)). The warden is above both, and joining would be for good. So a child of it joins, and stays.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from dataclasses import dataclass

from kibo.runtime import kernel, wire


@dataclass(slots=True)
class MapWriter:
    """A helper process inside one cell's user namespace. Costs about 1 MB for as long as the cell is forked from."""

    pid: int
    sock: socket.socket

    @classmethod
    def start(cls, pidfd: int) -> MapWriter:
        """Starts a writer in the user namespace of the process behind ``pidfd``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
                kernel.setns(pidfd, kernel.CLONE_NEWUSER)
                fd = os.dup2(theirs.fileno(), 3)
                kernel.close_range(4)
                _serve(socket.socket(fileno=fd))
            except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()
        return cls(pid, ours)

    def write(self, pid: int, text: str) -> None:
        """Writes both maps of process ``pid``. Returns once they are in force.

        Raises:
            OSError: The kernel refused.
        """
        wire.send_command(self.sock, [pid, text])
        number, _, _ = wire.receive_command(self.sock)
        if number:
            raise OSError(number, f"id map of a fork: {os.strerror(number)}")

    def close(self) -> None:
        """Ends the writer."""
        self.sock.close()
        os.waitpid(self.pid, 0)


def _serve(sock: socket.socket) -> None:
    while True:
        try:
            (pid, text), _, _ = wire.receive_command(sock)
        except wire.Closed:
            return
        number = 0
        try:
            for name in ("uid_map", "gid_map"):
                with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                    file.write(text.encode())
        except OSError as error:
            number = error.errno or 1
        wire.send_command(sock, number)
