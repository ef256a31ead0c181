"""The warden: one small process, first of its namespaces, from which every box descends and with which all of them end.

It is single-threaded and does one short thing at a time: it makes file systems, lets guests fork, starts commands in
boxes, and watches for ends. Whatever takes long happens in a child of its own. It takes orders from its own user's
processes only, and believes nothing that a guest says.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import socket
import traceback
from dataclasses import dataclass, field
from typing import Any, Final

from kibo.runtime import guest, kernel, roots, seccomp_listener, wire
from kibo.runtime.cells import Cell, CellState, Groups
from kibo.runtime.commands import Commands
from kibo.runtime.idmap import format_lines
from kibo.runtime.loop import Loop
from kibo.runtime.mapwriter import MapWriter
from kibo.runtime.vetting import RightsKeptError, check_bare, vet

#: Where a box's forwarder listens, inside the box.
PROXY_PORT: Final = 3128
_IP_FREEBIND: Final = 15  # ip(7); not in the socket module
#: Ended cells whose reason is remembered for a caller who asks late.
MAX_REASONS: Final = 4096
#: Cells in one answer to ``list``: with names of 200 bytes still half of what a message may have.
PAGE_CELLS: Final = 128

_CLONE_FIRST: Final = guest.FORK_FLAGS & ~kernel.CLONE_NEWUSER


class Refused(Exception):
    """An order that cannot be carried out; told to whoever gave it."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.data = {"kind": "refused", "code": code, "message": message, "details": details}


@dataclass(slots=True)
class Settings:
    """What the keeper tells the warden at its start."""

    single_id: bool
    box_uid: int
    filters: dict[bool, bytes] = field(default_factory=dict)


class Warden:
    """The loop and the cells that it holds."""

    def __init__(self, settings: Settings, groups: Groups) -> None:
        self.settings = settings
        self.groups = groups
        self.cells: dict[str, Cell] = {}
        self.reasons: dict[str, str] = {}
        self._by_pid: dict[int, Cell] = {}
        self.loop = Loop()
        self.own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.own_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self.commands = Commands(self)
        self.clients: dict[int, socket.socket] = {}

    # Clients

    def run(self, owner: socket.socket, listener: socket.socket | None) -> None:
        """Serves until the owner's socket closes."""
        self.add_client(owner, owns=True)
        if listener is not None:
            self.loop.watch(listener.fileno(), lambda: self._accept(listener))
        self.loop.run()

    def _accept(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        self.add_client(client, owns=False)

    def add_client(self, client: socket.socket, *, owns: bool) -> None:
        """Takes orders from one more socket."""
        self.clients[client.fileno()] = client
        self.loop.watch(client.fileno(), lambda: self._order(client, owns=owns))

    def _order(self, client: socket.socket, *, owns: bool) -> None:
        try:
            order, descriptors, _ = wire.receive_command(client)
        except (wire.Closed, wire.FrameError, ConnectionError):
            if owns:
                # The kernel ends every box with its PID namespace, whose first process this is.
                os._exit(0)
            self.loop.unwatch(client.fileno())
            del self.clients[client.fileno()]
            client.close()
            return
        taken: list[int] = []
        name = "an order"
        try:
            name, arguments = order
            getattr(self, f"order_{name}", self._order_unknown)(arguments, descriptors, taken)
        except Refused as refusal:
            _tell(descriptors, refusal.data)
        except OSError as error:
            _tell(descriptors, _refusal(error, f"{name}: {error}"))
        except Exception as error:  # noqa: BLE001 - one order gone wrong must not end everybody's boxes
            traceback.print_exc()
            _tell(
                descriptors,
                {"kind": "refused", "code": "kibo.bug", "message": f"{name}: {error!r}", "details": {}},
            )
        finally:
            for fd in descriptors:
                if fd not in taken:
                    os.close(fd)

    def _order_unknown(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        raise Refused("kibo.bug", "the warden knows no such order")

    def cell(self, arguments: dict[str, Any]) -> Cell:
        """Finds the cell that an order names."""
        cell = self.cells.get(arguments["id"])
        if cell is None or cell.state is CellState.ENDED:
            raise Refused(
                "instance.ended", f"there is no running instance {arguments['id']}", id=arguments["id"]
            )
        return cell

    # Making cells

    def order_new(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell from layers alone. Descriptors: its channel, and where to send its listening socket if any."""
        root = roots.Root(
            lowers=tuple(arguments["lowers"]),
            usr_lowers=tuple(arguments["usr_lowers"]),
            disk_bytes=arguments["disk_bytes"],
            writable_usr=arguments["writable_usr"],
        )
        cell = self._add_cell(arguments, root, None, descriptors, taken)
        cell.setup = arguments["setup"] | {"seccomp": self.settings.filters[arguments["nested"]]}
        control = self._control(cell)
        if kernel.clone(_CLONE_FIRST) == 0:
            self._become_guest(control)
        control.close()

    def _become_guest(self, control: socket.socket) -> None:
        """Turns the fresh child into a guest that holds nothing of the warden's. Never returns."""
        try:
            os.dup2(control.detach(), guest.CONTROL, False)
            kernel.close_range(guest.CONTROL + 1)
            kernel.set_name("kibo-guest")
            guest.run()
        except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
            traceback.print_exc()
        finally:
            os._exit(guest.EXIT_SETUP)

    def order_fork(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell as a live fork of a sealed one. Descriptors as for `order_new`."""
        source = self.cells.get(arguments["source"])
        if source is None or source.state is not CellState.SEALED:
            raise Refused("instance.ended", "the state to fork from is gone", id=arguments["source"])
        root = source.root.child(
            arguments.get("disk_bytes") or source.root.disk_bytes,
            tuple(arguments.get("lowers", ())),
            tuple(arguments.get("usr_lowers", ())),
        )
        cell = self._add_cell(arguments, root, source, descriptors, taken)
        cell.setup = source.setup | arguments.get("setup", {})
        control = self._control(cell)
        assert source.control is not None
        try:
            wire.send_command(source.control, "fork", [control.fileno()])
        finally:
            control.close()
        source.awaited.append(cell)

    def _add_cell(
        self,
        arguments: dict[str, Any],
        root: roots.Root,
        source: Cell | None,
        descriptors: list[int],
        taken: list[int],
    ) -> Cell:
        if arguments["id"] in self.cells:
            raise Refused("kibo.bug", f"there is an instance {arguments['id']} already")
        taken.append(descriptors[0])
        egress = -1
        if len(descriptors) > 1:
            taken.append(descriptors[1])
            egress = descriptors[1]
        cell = Cell(
            arguments["id"],
            root,
            source,
            channel=descriptors[0],
            egress=egress,
            label=arguments.get("label") or (source.label if source else ""),
            name=arguments.get("name", ""),
        )
        self.cells[cell.id] = cell
        return cell

    def _control(self, cell: Cell) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # A guest that reads no more must not keep the warden waiting.
        ours.setblocking(False)
        cell.control = ours
        self.loop.watch(ours.fileno(), lambda: self._from_guest(cell))
        return theirs

    # What guests say

    def _from_guest(self, cell: Cell) -> None:
        assert cell.control is not None
        try:
            message, descriptors, pid = wire.receive_command(cell.control)
        except BlockingIOError:
            return
        except (wire.Closed, wire.FrameError, ConnectionError):
            self.end(cell, "its guest left")
            return
        taken = False
        try:
            if cell.state is CellState.STARTING and message is None and pid:
                self._admit(cell, pid)
            elif cell.state is CellState.STARTING and isinstance(message, int):
                refused = f"the kernel refused another fork: {os.strerror(message)}"
                cell.tell(_refusal(OSError(message, refused), refused) | {"code": "host.exhausted"})
                self.end(cell, refused)
            elif (
                message == "listener" and cell.source is None and cell.listener < 0 and len(descriptors) == 1
            ):
                cell.listener = descriptors[0]
                taken = True
                seccomp_listener.hint_same_cpu(cell.listener)
                self.loop.watch(cell.listener, lambda: self._clone_asked(cell))
            elif message == "bare" and cell.state is CellState.ENTERED and cell.source is not None:
                self._admit_fork(cell)
            elif message == "in" and cell.state is CellState.ENTERED and cell.source is None:
                self._check(cell)
            elif message == "out" and cell.state is CellState.SEALING:
                self._finish_seal(cell)
            else:
                self.end(cell, "its guest broke the protocol")
        except RightsKeptError as error:
            cell.tell({"kind": "refused", "code": "guest.protocol", "message": str(error), "details": {}})
            self.end(cell, str(error))
        except OSError as error:
            self._fail(cell, error)
        finally:
            if not taken:
                for fd in descriptors:
                    os.close(fd)

    def _fail(self, cell: Cell, error: OSError) -> None:
        """Ends a cell that the kernel would not let us make, and tells its caller why."""
        cell.tell(_refusal(error, str(error)))
        self.end(cell, str(error))

    def _admit(self, cell: Cell, pid: int) -> None:
        """Gives a new process its ids, root and network. A first guest, which is still ours, is let in at once."""
        cell.pid = pid
        self._by_pid[pid] = cell
        cell.pidfd = kernel.pidfd_open(pid)
        self.loop.watch(cell.pidfd, lambda: self.end(cell, "its first process ended"))
        if cell.source is not None:
            self._map(cell, cell.source)
        self._prepare(cell)
        if cell.egress >= 0:
            self._listen(cell)
        cell.proc = self._move_in(cell)
        cell.state = CellState.ENTERED
        if cell.source is None:
            # With one id a state is made under the box's own; those forked from it may call it root.
            own = {"uid": self.settings.box_uid} if self.settings.single_id else {}
            self._let_in(cell, cell.setup | own)

    def _let_in(self, cell: Cell, setup: dict[str, Any]) -> None:
        os.close(cell.proc)
        cell.proc = -1
        log = cell.open_log()
        assert cell.control is not None
        try:
            groups = cell.group.attach_fds if cell.group else ()
            wire.send_command(cell.control, setup, [cell.channel, log, *groups])
        finally:
            os.close(log)

    def _admit_fork(self, cell: Cell) -> None:
        """Lets a fork in that says that it has given up its rights, once that is seen to be true."""
        vet(cell.pid, cell.proc)
        self._let_in(cell, cell.forked_setup())
        cell.release_channel()
        cell.state = CellState.LIVE
        if wall_s := cell.setup.get("wall_s"):
            self.loop.after(wall_s, lambda: self._time_up(cell))

    def _time_up(self, cell: Cell) -> None:
        if self.cells.get(cell.id) is cell:
            self.end(cell, "its time was up")

    def _prepare(self, cell: Cell) -> None:
        """Makes what a cell needs and what does not depend on its process, if that has not been done."""
        if cell.root.root_fd >= 0:
            return
        cell.root.make()
        cell.group = self.groups.take(cell.setup["limits"])

    def _move_in(self, cell: Cell) -> int:
        """Gives a process its root, and returns a descriptor of its /proc, the caller's to close."""
        namespace = cell.open_pid_namespace()
        process = roots.proc(namespace)
        os.close(namespace)
        try:
            roots.move_in(cell.pidfd, self.own_mounts, cell.root, process)
        except BaseException:
            os.close(process)
            raise
        finally:
            cell.root.attached()
        return process

    def _map(self, cell: Cell, source: Cell) -> None:
        cell.own_userns = True
        # The one id is called what the box asks to run as: its programs' own id, or root.
        inside: int | None = cell.setup["uid"] if self.settings.single_id else None
        lines = ((inside, inside, 1),) if inside is not None else ((0, 0, 65536),)
        if not source.own_userns:
            # The parent of the new namespace is the warden's own, so it may write.
            outside = os.getuid() if self.settings.single_id else None
            if outside is not None and inside is not None:
                lines = ((inside, outside, 1),)
            text = format_lines(lines).encode()
            for name in ("uid_map", "gid_map"):
                fd = os.open(f"/proc/{cell.pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(fd, text)
                finally:
                    os.close(fd)
            return
        if source.map_writer is None:
            source.map_writer = MapWriter.start(source.pidfd)
        source.map_writer.write(cell.pid, format_lines(lines))

    def _listen(self, cell: Cell) -> None:
        """Opens the box's only door out: a socket inside its network that the forwarder accepts from."""
        kernel.setns(cell.pidfd, kernel.CLONE_NEWNET)
        try:
            door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # The guest may not have brought its loopback up yet, and until then it has no such address.
            door.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            door.bind(("127.0.0.1", PROXY_PORT))
            door.listen(128)
        finally:
            kernel.setns(self.own_net, kernel.CLONE_NEWNET)
        with door, socket.socket(fileno=os.dup(cell.egress)) as reply:
            # With the box's first process: whoever serves the door closes it when that ends, however it ends.
            wire.send_command(reply, "listening", [door.fileno(), cell.pidfd])
        os.close(cell.egress)
        cell.egress = -1

    def _check(self, cell: Cell) -> None:
        """Sees for itself that a first guest has dropped every right, before anything of the user's runs in it."""
        check_bare(cell.pid)
        cell.release_channel()
        cell.state = CellState.LIVE
        if cell.seal_reply >= 0:
            self._begin_seal(cell)

    def _clone_asked(self, cell: Cell) -> None:
        """Answers a clone into new namespaces: yes to the one that a fork was ordered for, else no."""
        try:
            call = seccomp_listener.receive(cell.listener)
        except OSError:
            # The last process under this filter ended.
            self.loop.unwatch(cell.listener)
            os.close(cell.listener)
            cell.listener = -1
            return
        if call is None:
            return
        asking = self._by_pid.get(call.pid)
        flags = call.arguments[0] & ~(0xFF | 0x01000000 | 0x00200000)
        if asking is not None and asking.awaited and flags == guest.FORK_FLAGS:
            seccomp_listener.proceed(cell.listener, call)
            child = asking.awaited.pop(0)
            try:
                # While the source forks on another processor, its child's root is made here.
                self._prepare(child)
            except OSError as error:
                self._fail(child, error)
        else:
            seccomp_listener.refuse(cell.listener, call, errno.EPERM)

    # Sealing

    def order_seal(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell's writable layer immutable, for forks to share. The guest has said that it is ready."""
        cell = self.cell(arguments)
        if cell.state not in (CellState.ENTERED, CellState.LIVE) or cell.seal_reply >= 0:
            raise Refused("kibo.bug", f"{cell.id} is {cell.state.value} and cannot be sealed")
        cell.seal_reply = descriptors[0]
        taken.append(descriptors[0])
        if cell.state is CellState.LIVE:
            self._begin_seal(cell)
        # Else its guest has told its caller before us that it is in; once it has told us, we go on.

    def _begin_seal(self, cell: Cell) -> None:
        cell.state = CellState.SEALING
        assert cell.control is not None
        wire.send_command(cell.control, "step-out")

    def _finish_seal(self, cell: Cell) -> None:
        cell.root.seal(f"/kibo/states/{cell.id}")
        os.close(self._move_in(cell))
        cell.state = CellState.SEALED
        with socket.socket(fileno=cell.seal_reply) as reply:
            wire.send_command(reply, {"kind": "ok"})
        cell.seal_reply = -1

    # Looking, talking, ending

    def order_list(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Tells of one cell, or of a page of them, oldest first: those made after the time ``after``."""
        if "id" in arguments:
            # One that is about to be gone is gone to whoever asks why a command in it was killed.
            found = self.cells.get(arguments["id"])
            wanted = [found] if found is not None and not (found.pid and _is_ending(found.pid)) else []
        else:
            later = (cell for cell in self.cells.values() if cell.made > arguments.get("after", 0.0))
            wanted = list(itertools.islice(later, PAGE_CELLS))
        after = wanted[-1].made if wanted else None
        _tell(descriptors, {"kind": "ok", "cells": [cell.describe() for cell in wanted], "after": after})

    def order_log(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Sends the descriptor of a cell's log."""
        cell = self.cell(arguments)
        with socket.socket(fileno=os.dup(descriptors[0])) as reply:
            service = arguments.get("service", "")
            if service and all(spec["name"] != service for spec in cell.services):
                raise Refused("service.unknown", f"the box has no service {service!r}")
            log = cell.open_service_log(service) if service else cell.open_log()
            wire.send_command(reply, {"kind": "ok"}, [log])
            os.close(log)

    def order_process(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Sends a descriptor of a cell's first process, from which whoever asks reads its number as it sees it."""
        cell = self.cell(arguments)
        if cell.pidfd < 0:
            raise Refused("instance.ended", f"{cell.id} has no process yet", id=cell.id)
        with socket.socket(fileno=os.dup(descriptors[0])) as reply:
            wire.send_command(reply, {"kind": "ok"}, [cell.pidfd])

    def order_interrupt(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Interrupts the running action."""
        cell = self.cell(arguments)
        # One that has just ended says so on its channel, where the caller listens next.
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(cell.pidfd, signal.SIGUSR1)
        _tell(descriptors, {"kind": "ok"})

    def order_exec(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Starts a command in a cell. Descriptors: reply, standard input, output and error."""
        self.commands.start(self.cell(arguments), arguments, descriptors)

    def order_services(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Starts the services of a cell, or stops them where none are named. Descriptors: reply."""
        cell = self.cell(arguments)
        if not arguments["services"] and cell.supervisor is None:
            _tell(descriptors, {"kind": "ok"})
            return
        self.commands.start_services(cell, arguments["services"], descriptors)

    def order_files(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Starts a file server in a cell. Descriptors: its stream."""
        self.commands.start_files(self.cell(arguments), descriptors)

    def order_diff(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Lists what a cell changed. Descriptors: the stream to write the list to."""
        self.commands.start_diff(self.cell(arguments), descriptors)

    def order_destroy(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Ends a cell; answers once its last process is gone. Descriptors: reply, or none to ask for no answer."""
        cell = self.cells.get(arguments["id"])
        if cell is None or cell.state is CellState.ENDED:
            _tell(descriptors, {"kind": "ok", "reason": self.reasons.get(arguments["id"], "destroyed")})
            return
        if descriptors:
            cell.end_replies.append(descriptors[0])
            taken.append(descriptors[0])
        if cell.pidfd >= 0:
            # One that has just ended by itself is answered as soon as its end is seen.
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(cell.pidfd, signal.SIGKILL)
        else:
            self.end(cell, "destroyed")

    def end(self, cell: Cell, reason: str) -> None:
        """Forgets a cell whose processes have ended, or kills it first and comes back when they have."""
        cell.reason = cell.reason or reason
        if cell.pidfd >= 0 and not _has_ended(cell.pidfd):
            if cell.control is not None:
                # A guest that misbehaves is heard no more; the end of its process brings us back here.
                self.loop.unwatch(cell.control.fileno())
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(cell.pidfd, signal.SIGKILL)
            return
        if cell.pidfd >= 0:
            self.loop.unwatch(cell.pidfd)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, cell.pidfd, os.WEXITED | os.WNOHANG)
        if cell.control is not None:
            self.loop.unwatch(cell.control.fileno())
        if cell.source is not None and cell in cell.source.awaited:
            cell.source.awaited.remove(cell)
        if cell.listener >= 0:
            self.loop.unwatch(cell.listener)
        self.commands.end_all(cell)
        if cell.group is not None:
            cell.reason = self.groups.give_back(cell.group) or cell.reason
        while len(self.reasons) >= MAX_REASONS:
            del self.reasons[next(iter(self.reasons))]
        self.reasons[cell.id] = cell.reason
        if self._by_pid.get(cell.pid) is cell:
            del self._by_pid[cell.pid]
        cell.close()
        del self.cells[cell.id]


def _tell(descriptors: list[int], data: dict[str, Any]) -> None:
    """Answers an order on its reply socket, if it has one and is still listened to."""
    if not descriptors:
        return
    with socket.socket(fileno=os.dup(descriptors[0])) as reply, contextlib.suppress(ConnectionError):
        if reply.type == socket.SOCK_STREAM:
            wire.send_frame(reply, ["failed", 0, data])
        else:
            wire.send_command(reply, data)


def _refusal(error: OSError, message: str) -> dict[str, Any]:
    """Tells what the kernel refused, as data for the caller."""
    details = {"errno": error.errno or 0}
    return {"kind": "refused", "code": _os_code(error), "message": message, "details": details}


def _os_code(error: OSError) -> str:
    return {
        errno.ENOSPC: "host.disk_full",
        errno.EMFILE: "host.exhausted",
        errno.ENFILE: "host.exhausted",
        errno.ENOMEM: "host.exhausted",
        errno.EPERM: "host.unsupported",
        errno.EINVAL: "host.unsupported",
        errno.ENODEV: "host.unsupported",
    }.get(error.errno or 0, "kibo.bug")


def _is_ending(pid: int) -> bool:
    """Whether a process is on its way out, or gone (PF_EXITING in ``/proc/PID/stat``, proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & 0x4)
    except (FileNotFoundError, ProcessLookupError):
        return True


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
