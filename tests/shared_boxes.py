"""Boxes that share directories with others of their branch."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
from pathlib import Path

from kibo import Box, Env, Limits, action


class Scribe(Box):
    """Reads and writes files, and keeps one open."""

    def launch(self) -> None:
        self.seen: list[str] = []

    @action
    def write(self, path: str, text: str) -> None:
        """Write a file."""
        Path(path).write_text(text)

    @action
    def add(self, path: str, text: str) -> None:
        """Add to the end of a file, which stays open."""
        if not hasattr(self, "file"):
            self.file = open(path, "a")  # noqa: SIM115 - it is to stay open
        self.file.write(text)
        self.file.flush()

    @action
    def read(self, path: str) -> str:
        """Read a file, and remember that."""
        self.seen.append(path)
        return Path(path).read_text()

    @action
    def names(self, path: str) -> list[str]:
        """List a directory."""
        return sorted(os.listdir(path))

    @action
    def remembered(self) -> int:
        """Count the files that were read."""
        return len(self.seen)

    @action
    def begin_writing(self, path: str) -> None:
        """Have a program write ever higher numbers to a file, and go on."""
        script = f"n=0; while true; do n=$((n+1)); echo $n > {path}.new; mv {path}.new {path}; done"
        self.program = subprocess.Popen(["sh", "-c", script])
        while not Path(path).exists():
            os.sched_yield()


class Small(Scribe):
    """The same, with little disk."""

    env = Env(limits=Limits(disk_bytes=4 << 20, disk_files=200))


class Privileged(Scribe):
    """The same, as root of its box."""

    env = Env(user="root")


class Hoarder(Scribe):
    """Keeps what is open where nobody looks."""

    @action
    def hide(self, path: str) -> None:
        """Open a file for writing, and have its descriptor on its way between two sockets of one's own."""
        self.here, self.there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with open(path, "w") as file:
            socket.send_fds(self.here, [b"x"], [file.fileno()])

    @action
    def use(self, text: str) -> None:
        """Take the descriptor, and write to it."""
        self.there.setblocking(False)
        _, (fd,), _, _ = socket.recv_fds(self.there, 1, 1)
        os.write(fd, text.encode())
        os.close(fd)

    @action
    def keep(self, path: str) -> None:
        """Keep a directory open."""
        self.directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    @action
    def make(self, name: str) -> None:
        """Make a file in the directory that is open."""
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=self.directory))

    @action
    def map(self, path: str) -> None:
        """Map four bytes of a file."""
        Path(path).write_bytes(b"\0\0\0\0")
        with open(path, "r+b") as file:
            self.mapped = mmap.mmap(file.fileno(), 4)

    @action
    def change(self, data: bytes) -> None:
        """Change them."""
        self.mapped[:] = data
