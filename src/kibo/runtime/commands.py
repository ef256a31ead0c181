"""Commands, file servers and listings that the warden starts beside a guest, in the same box.

Each is a child of the warden that joins the box's namespaces before it runs anything of the box's, so that it works
while an action runs. Its parent stays outside: the box cannot reach the warden through it.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from kibo.model.errors import KiboError
from kibo.runtime import fileserver, kernel, seccomp, services, steward, wire
from kibo.runtime.cells import Cell, CellState, Helper, is_ending
from kibo.runtime.trees.changes import difference
from kibo.runtime.trees.stack import Stack, order

if TYPE_CHECKING:
    from kibo.runtime.warden import Warden

_JOIN: Final = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWCGROUP
)
#: Changes that one frame of a listing holds.
_BATCH: Final = 4096


class Commands:
    """Starts helpers in boxes and sees to their ends."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden

    def start(self, cell: Cell, order: dict[str, Any], descriptors: list[int]) -> None:
        """Has the box's steward start a program.

        Its exit status goes to ``descriptors[0]``; closing the other end of that kills its process group.
        """
        for attempt in (1, 2):
            helper = cell.steward or self._start_steward(cell)
            try:
                assert helper.orders is not None
                wire.send_command(helper.orders, order, descriptors)
            except ConnectionError:
                # The box has killed its steward, whose end we have yet to see.
                cell.steward = None
                if attempt == 2:
                    raise
            else:
                helper.ordered += 1
                return

    def starting(self, cell: Cell) -> bool:
        """Whether a command was ordered in a cell that has not started yet: it is in no /proc."""
        helper = cell.steward
        if helper is None or helper.commands < 0:
            return False
        return steward.read_count(os.pread(helper.commands, steward.HEAD_BYTES, 0)) < helper.ordered

    def _start_steward(self, cell: Cell) -> Helper:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The box may stop its steward; the warden must not wait for it.
        ours.setblocking(False)
        pid = self._fork_into(cell)
        if pid == 0:
            _become(
                "kibo-steward",
                cell,
                theirs.detach(),
                lambda orders: steward.Steward(orders, cell.setup["cwd"]).serve(),
            )
        theirs.close()
        cell.steward = self._follow(cell, pid, ours)
        # Where it notes what it runs, for us to end if the box kills it. Of one size, which nobody can change.
        cell.steward.commands = os.memfd_create("kibo-commands", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(cell.steward.commands, steward.HEAD_BYTES + steward.NOTE_BYTES * cell.setup["pids"])
        fcntl.fcntl(cell.steward.commands, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        wire.send_command(ours, "notes", [cell.steward.commands])
        return cell.steward

    def _end_commands(self, cell: Cell, notes: bytes) -> None:
        """Ends what a steward ran that the box killed: nobody waits for it any more, nor could stop it.

        In the box's PID namespace, whose numbers the notes have. They are hearsay: whatever they say, what dies is the
        box's own.
        """
        groups, starting = steward.read_notes(notes)
        if not (groups or starting) or cell.state is not CellState.LIVE or is_ending(cell.pid):
            return
        try:
            pid = self._fork_into(cell)
        except OSError as error:
            self._warden.end(cell, f"what its steward ran could not be ended: {error.strerror}")
            return
        if pid == 0:
            try:
                kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
                if starting:
                    groups += steward.find_orphans(cell.pid, starting)
                for group in groups:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(group, signal.SIGKILL)
            finally:
                os._exit(0)
        self._follow(cell, pid, None)

    def start_services(self, cell: Cell, specs: list[dict[str, Any]], descriptors: list[int]) -> None:
        """Starts a supervisor for services, or stops the one there is where ``specs`` is empty."""
        if not specs:
            cell.services = []
            if cell.supervisor is not None:
                assert cell.supervisor.orders is not None
                wire.send_command(cell.supervisor.orders, ["stop"], descriptors)
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = self._fork_into(cell)
        if pid == 0:
            _become(
                "kibo-services",
                cell,
                theirs.detach(),
                lambda orders: services.Supervisor(orders, cell.setup["cwd"]).serve(),
            )
        theirs.close()
        cell.services = specs
        cell.supervisor = self._follow(cell, pid, ours)
        for spec in specs:
            log = cell.open_service_log(spec["name"])
            wire.send_command(ours, ["service", spec], [log])
            os.close(log)
        wire.send_command(ours, ["start"], descriptors)

    def _restart_services(self, cell: Cell) -> None:
        if cell.state is CellState.LIVE and cell.services and cell.supervisor is None:
            self.start_services(cell, cell.services, [])

    def start_files(self, cell: Cell, descriptors: list[int]) -> None:
        """Starts a file server, which ends when its stream is closed."""
        pid = self._fork_into(cell)
        if pid == 0:
            _become("kibo-files", cell, descriptors[0], fileserver.serve)
        self._follow(cell, pid, None)

    def start_diff(self, cell: Cell, descriptors: list[int]) -> None:
        """Starts a listing of what the cell changed, in the warden's own namespaces: it reads layers, not the box."""
        pid = os.fork()
        if pid == 0:
            try:
                stream = os.dup2(descriptors[0], 3)
                upper = os.dup2(cell.root.upper_fd, 4) if cell.root.upper_fd != 4 else 4
                _write_listing(
                    socket.socket(fileno=stream), cell.root.trees(f"/proc/self/fd/{upper}", cell.own_from)
                )
            except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
                traceback.print_exc()
            finally:
                os._exit(0)
        self._follow(cell, pid, None)

    def _fork_into(self, cell: Cell) -> int:
        """Forks a child that is already in the cell's PID namespace: a process cannot move there later."""
        kernel.setns(cell.pidfd, kernel.CLONE_NEWPID)
        try:
            return os.fork()
        finally:
            # In the child as in the parent: what either starts next belongs where it is itself.
            if os.getpid() == 1:
                kernel.setns(self._warden.own_pids, kernel.CLONE_NEWPID)

    def _follow(self, cell: Cell, pid: int, orders: socket.socket | None) -> Helper:
        helper = Helper(pid, kernel.pidfd_open(pid), cell, orders)
        cell.helpers[pid] = helper
        self._warden.loop.watch(helper.pidfd, lambda: self._ended(helper))
        return helper

    def _ended(self, helper: Helper) -> None:
        if os.waitid(os.P_PIDFD, helper.pidfd, os.WEXITED | os.WNOHANG) is None:
            return
        self._warden.loop.unwatch(helper.pidfd)
        os.close(helper.pidfd)
        del helper.cell.helpers[helper.pid]
        if helper.orders is not None:
            helper.orders.close()
        if helper.cell.steward is helper:
            helper.cell.steward = None
        if helper.commands >= 0:
            notes = os.pread(helper.commands, os.fstat(helper.commands).st_size, 0)
            os.close(helper.commands)
            self._end_commands(helper.cell, notes)
        if helper.cell.supervisor is helper:
            helper.cell.supervisor = None
            # Whoever killed it killed its services too; they are to run as long as the box does.
            self._warden.loop.after(services.FIRST_PAUSE_S, lambda: self._restart_services(helper.cell))

    def end_all(self, cell: Cell) -> None:
        """Ends the helpers of a cell that ended; those in its PID namespace the kernel has killed already."""
        for helper in list(cell.helpers.values()):
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(helper.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, helper.pidfd, os.WEXITED | os.WNOWAIT)
            self._ended(helper)


def _enter(cell: Cell, keep: int) -> socket.socket:
    """Makes this child one of the box's own processes, with nothing of the warden's but the socket ``keep``."""
    if cell.group is not None:
        for fd in cell.group.attach_fds:
            os.write(fd, b"0")
    log = cell.open_log()
    kernel.setns(cell.pidfd, _JOIN | (kernel.CLONE_NEWUSER if cell.own_userns else 0))
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(keep, 3, False)
    kernel.close_range(4)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    setup = cell.setup
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (setup["open_files"], setup["open_files"]))
    resource.setrlimit(resource.RLIMIT_NPROC, (setup["pids"], setup["pids"]))
    os.umask(0o022)
    # The memory is a copy of the warden's; nobody in the box may look at it.
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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    # What is imported from here on is the box's own copy of the same.
    sys.path[:] = setup["python_path"]
    # The old one is kept: to free it is to write to, and so to copy, each page that it is on.
    setup["importers"], sys.path_importer_cache = sys.path_importer_cache, {}
    os.environ.clear()
    os.environ.update(setup["variables"])
    os.chdir("/")
    seccomp.install(setup["seccomp"])
    return socket.socket(fileno=3)


def _become(name: str, cell: Cell, stream: int, work: Callable[[socket.socket], None]) -> NoReturn:
    """Turns this child into one of the box's helpers, which does ``work`` on its socket until that closes."""
    try:
        kernel.set_name(name)
        work(_enter(cell, stream))
    except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
        traceback.print_exc()
    finally:
        os._exit(0)


def _write_listing(stream: socket.socket, trees: Sequence[tuple[str, Sequence[str], Sequence[str]]]) -> None:
    """Sends ``[kind, path, size]`` for every change, in order of path, in bounded frames, then an empty frame.

    Args:
        stream: Where to.
        trees: As `Root.trees` names them.
    """
    batch: list[tuple[str, bytes, int]] = []
    found = [_changed(place.encode(), own, lowers) for place, own, lowers in trees]
    try:
        for kind, path, size in heapq.merge(*found, key=lambda change: order(change[1])):
            batch.append((kind, path, size))
            if len(batch) == _BATCH:
                wire.send_frame(stream, batch)
                batch = []
    except KiboError as error:
        wire.send_frame(stream, ["failed", 0, error.to_dict()])
        return
    if batch:
        wire.send_frame(stream, batch)
    wire.send_frame(stream, [])


def _changed(place: bytes, own: Sequence[str], lowers: Sequence[str]) -> Iterator[tuple[str, bytes, int]]:
    """Lists what a box's own layers of one overlay hold that those below do not; a directory's path ends in a slash."""
    base = Stack(lowers)
    for change in difference(base, base.over(own), written=True):
        node = change.after or change.before
        assert node is not None
        folder = node.kind == "directory"
        yield change.kind, place + change.path + b"/" * folder, 0 if folder or not change.after else node.size
