"""What a build step may do once it is inside its sandbox: run programs, attach mounts, leave no trace of either."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from kibo.runtime import kernel
from kibo.runtime.images.fakeids import fake_id_changes  # here: inside, Python's own files are out of reach


class Refusal(Exception):
    """A step cannot go on. Crosses from the sandbox to the builder as data, and becomes a KiboError there.

    Args:
        code: ``failed`` (a program's exit), ``missing`` (a program that is not there), ``locked`` (the lock says
            otherwise), ``raised`` or ``exited`` (Kibo's own code inside).
        message: What went wrong, in one sentence.
        details: Facts behind it.
    """

    def __init__(self, code: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or {}


class Inside:
    """The sandbox as its first process sees it.

    Args:
        variables: The environment of the programs that it runs.
        fake_ids: Whether changes of owner are to succeed without effect, because there is one id only.
    """

    def __init__(self, variables: Mapping[str, str], *, fake_ids: bool) -> None:
        self.variables = dict(variables)
        self._fake_ids = fake_ids
        self._attached: list[str] = []
        self._made: list[str] = []

    def attach(self, fd: int, target: str, *, directory: bool) -> None:
        """Attaches a detached mount, making its mount point when it is missing. `leave` undoes both."""
        parts = target.strip("/").split("/")
        for depth in range(1, len(parts)):
            self._make("/" + "/".join(parts[:depth]), directory=True)
        self._make(target, directory=directory)
        kernel.move_mount(fd, target)
        os.close(fd)
        self._attached.append(target)

    def enter(self, root: str) -> None:
        """Makes a directory the root of this process, for good. Programs and mounts are out of reach after it."""
        os.chroot(root)
        os.chdir("/")
        self._attached.clear()
        self._made.clear()

    def keep_mount_points(self) -> None:
        """Counts the mount points that had to be made as the step's work, so that `leave` lets them stay."""
        self._made.clear()

    def leave(self) -> None:
        """Detaches everything and removes the mount points that had to be made: they are not the step's work."""
        for target in reversed(self._attached):
            if not target.startswith(("/dev/", "/run/")):  # these lie in mounts that go with the rest
                kernel.umount2(target, kernel.MNT_DETACH)
        for path in reversed(self._made):
            if path.startswith(("/dev/", "/run/")):
                continue
            if os.path.isdir(path):
                if not os.listdir(path):
                    os.rmdir(path)
            elif os.path.getsize(path) == 0:
                os.unlink(path)

    def run(
        self,
        arguments: Sequence[str],
        *,
        variables: Mapping[str, str] | None = None,
        cwd: str = "/",
        capture: bool = False,
        accept: tuple[int, ...] = (0,),
    ) -> bytes:
        """Runs a program to its end; what it prints goes to the step's log.

        Args:
            arguments: The program, found on the step's PATH, and its arguments.
            variables: Additions to the step's environment.
            cwd: Its working directory.
            capture: Whether to return its standard output instead of logging it.
            accept: Exit statuses that count as success.

        Raises:
            Refusal: There is no such program, or it ended otherwise than ``accept`` says.
        """
        environment = {**self.variables, **(variables or {})}
        program = shutil.which(arguments[0], path=environment.get("PATH"))
        if program is None:
            raise Refusal(
                "missing", f"there is no program {arguments[0]!r} in this base", {"program": arguments[0]}
            )
        read, write = os.pipe() if capture else (-1, -1)
        pid = os.fork()
        if pid == 0:
            self._exec(program, arguments, environment, cwd, write)
        captured = b""
        if capture:
            os.close(write)
            with os.fdopen(read, "rb") as pipe:
                captured = pipe.read()
        code = os.waitstatus_to_exitcode(self._reap(pid))
        if code not in accept:
            how = f"ended with status {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
            raise Refusal("failed", f"{arguments[0]} {how}", {"program": list(arguments), "status": code})
        return captured

    def _exec(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], cwd: str, stdout: int
    ) -> None:
        try:
            if stdout >= 0:
                os.dup2(stdout, 1)
            os.chdir(cwd)
            os.closerange(3, 1024)
            if self._fake_ids:
                fake_id_changes()
            os.execve(program, list(arguments), dict(environment))
        finally:
            os._exit(127)

    def _make(self, path: str, *, directory: bool) -> None:
        if os.path.lexists(path):
            return
        if directory:
            os.mkdir(path, 0o755)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
        self._made.append(path)

    @staticmethod
    def _reap(pid: int) -> int:
        """Waits for one child; as process 1 it also gets every orphan of the step, and lets them go."""
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == pid:
                return status
