"""Commands, file servers and listings that the warden starts beside a guest, in the same box.

Each is a child of the warden that joins the box's namespaces before it runs anything of the box's, so that it works
while an action runs. Its parent stays outside: the box cannot reach the warden through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import termios
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kibo.runtime import fileserver, kernel, overlaydiff, seccomp, wire

if TYPE_CHECKING:
    from kibo.runtime.cells import Cell
    from kibo.runtime.warden import Warden

_JOIN: Final = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWNET | kernel.CLONE_NEWCGROUP
)
#: Exit status of a command that could not be started, as shells use it.
EXIT_NOT_FOUND: Final = 127


@dataclass(slots=True)
class Command:
    """One running child."""

    pid: int
    pidfd: int
    reply: int
    cell: Cell


class Commands:
    """Starts them and tells how they ended."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden

    def start(self, cell: Cell, order: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Starts a program. Its exit status goes to ``descriptors[0]``; closing the other end kills its group."""
        reply, *streams = descriptors
        pid = self._fork_into(cell)
        if pid == 0:
            _run_program(cell, order, reply, streams)
        taken.append(reply)
        self._follow(cell, pid, reply)

    def start_files(self, cell: Cell, descriptors: list[int], taken: list[int]) -> None:
        """Starts a file server, which ends when its stream is closed."""
        pid = self._fork_into(cell)
        if pid == 0:
            _run_files(cell, descriptors[0])
        self._follow(cell, pid, -1)

    def start_diff(self, cell: Cell, descriptors: list[int]) -> None:
        """Starts a listing of what the cell changed, in the warden's own namespaces: it reads layers, not the box."""
        pid = os.fork()
        if pid == 0:
            try:
                stream = os.dup2(descriptors[0], 3)
                upper = os.dup2(cell.root.upper_fd, 4) if cell.root.upper_fd != 4 else 4
                overlaydiff.write_listing(socket.socket(fileno=stream), upper, cell.root.lowers)
            finally:
                os._exit(0)
        self._follow(cell, pid, -1)

    def _fork_into(self, cell: Cell) -> int:
        """Forks a child that is already in the cell's PID namespace: a process cannot move there later."""
        if cell.pid_namespace < 0:
            raise OSError(3, "the box has not started yet")
        kernel.setns(cell.pid_namespace, kernel.CLONE_NEWPID)
        try:
            return os.fork()
        finally:
            # In the child as in the parent: what either starts next belongs where it is itself.
            if os.getpid() == 1:
                kernel.setns(self._warden.own_pids, kernel.CLONE_NEWPID)

    def _follow(self, cell: Cell, pid: int, reply: int) -> None:
        command = Command(pid, kernel.pidfd_open(pid), reply, cell)
        cell.commands[pid] = command
        self._warden.watch(command.pidfd, lambda _: self._ended(command))
        if reply >= 0:
            self._warden.watch(reply, lambda _: self._reply_event(command))

    def _reply_event(self, command: Command) -> None:
        """The caller speaks to send a signal, and hangs up when it no longer cares."""
        try:
            with socket.socket(fileno=os.dup(command.reply)) as sock:
                order, descriptors, _ = wire.receive_command(sock)
            for fd in descriptors:
                os.close(fd)
            signum = int(order["signal"])
        except (wire.Closed, wire.FrameError, ConnectionError):
            self._warden.unwatch(command.reply)
            signum = signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signum)

    def _ended(self, command: Command) -> None:
        result = os.waitid(os.P_PIDFD, command.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        self._warden.unwatch(command.pidfd)
        os.close(command.pidfd)
        del command.cell.commands[command.pid]
        if command.reply >= 0:
            self._warden.unwatch(command.reply)
            with socket.socket(fileno=command.reply) as sock, contextlib.suppress(ConnectionError):
                wire.send_command(sock, self._outcome(command.cell, status))

    def _outcome(self, cell: Cell, status: int) -> dict[str, Any]:
        """Tells a command that was killed from one that its box took along: the kernel ends the box's first process last."""
        if status == -signal.SIGKILL and _is_ending(cell.pid):
            return {"kind": "refused", "code": "instance.ended", "message": "the instance ended while a command ran in it"}
        return {"kind": "exit", "status": status}

    def end_all(self, cell: Cell) -> None:
        """Forgets the commands of a cell that ended: the kernel has killed them with its PID namespace."""
        for command in list(cell.commands.values()):
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(command.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, command.pidfd, os.WEXITED | os.WNOWAIT)
            self._ended(command)


def _enter(cell: Cell, keep: list[int]) -> list[int]:
    """Makes this child one of the box's own processes. Returns where ``keep`` lies now, from descriptor 3 on."""
    if cell.group is not None:
        for fd in cell.group.attach_fds:
            os.write(fd, b"0")
    kernel.setns(cell.pidfd, _JOIN | (kernel.CLONE_NEWUSER if cell.own_userns else 0))
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64 + len(keep)) for fd in keep]
    kept = [os.dup2(fd, 3 + index) for index, fd in enumerate(high)]
    kernel.close_range(3 + len(keep))
    setup = cell.setup
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (setup["open_files"], setup["open_files"]))
    resource.setrlimit(resource.RLIMIT_NPROC, (setup["pids"], setup["pids"]))
    os.umask(0o022)
    # Until exec the memory is still a copy of the warden's; nobody in the box may look at it.
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.disarm_root()
    uid = setup["uid"]
    if os.getuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.drop_capabilities()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return kept


def _is_ending(pid: int) -> bool:
    """Whether a process is on its way out or gone (PF_EXITING of ``/proc/PID/stat``, proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return True
    return bool(int(fields[6]) & 0x4)


def _run_program(cell: Cell, order: dict[str, Any], reply: int, streams: list[int]) -> None:
    """Becomes the program. Never returns."""
    try:
        stdin, stdout, stderr, reply = _enter(cell, [*streams, reply])
        os.chdir(order.get("cwd") or cell.setup["cwd"])
        os.setsid()
        if order.get("terminal"):
            fcntl.ioctl(stdin, termios.TIOCSCTTY, 0)
        for number, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, number)
        os.set_inheritable(reply, False)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        variables = {**cell.setup["variables"], **order.get("variables", {})}
        seccomp.install(cell.setup["seccomp"])
        os.execvpe(order["argv"][0], order["argv"], variables)
    except OSError as error:
        with contextlib.suppress(OSError), socket.socket(fileno=reply) as sock:
            wire.send_command(sock, {"kind": "not-started", "errno": error.errno or 0, "message": str(error)})
    finally:
        os._exit(EXIT_NOT_FOUND)


def _run_files(cell: Cell, stream: int) -> None:
    """Becomes a file server with the rights of the box's programs. Never returns."""
    try:
        (kept,) = _enter(cell, [stream])
        os.chdir("/")
        seccomp.install(cell.setup["seccomp"])
        fileserver.serve(socket.socket(fileno=kept))
    except Exception as error:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
        sys.stderr.write(f"kibo: a file server ended: {error!r}\n")
    finally:
        os._exit(0)
