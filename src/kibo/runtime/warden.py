"""The warden: one small process, first of its namespaces, from which every box descends and with which all of them end.

It is single-threaded and does one short thing at a time: it makes file systems, lets guests fork, starts commands in
boxes, and watches for ends. Whatever takes long happens in a child of its own. It takes orders from its own user's
processes only, and believes nothing that a guest says.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import itertools
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from kibo.runtime import guest, kernel, roots, seccomp_listener, wire, world
from kibo.runtime.afterfork import AfterFork
from kibo.runtime.ahead import Ahead
from kibo.runtime.cells import Cell, CellState, Groups, has_ended, is_ending
from kibo.runtime.commands import Commands
from kibo.runtime.doorways import Doorways
from kibo.runtime.held import Held, Step, stops
from kibo.runtime.idmap import ALL_IDS, BOX_ID, format_lines
from kibo.runtime.loop import Loop
from kibo.runtime.mapwriter import Nursery
from kibo.runtime.points import Points
from kibo.runtime.shareddirs import MOUNTS, Part, Shared, shareable
from kibo.runtime.vetting import RightsKeptError, check_bare, vet

#: Where a box's forwarder listens, inside the box.
PROXY_PORT: Final = 3128
_IP_FREEBIND: Final = 15  # ip(7); not in the socket module
#: Ended cells whose reason is remembered for a caller who asks late.
MAX_REASONS: Final = 4096
#: Cells in one answer to ``list``: with names of 200 bytes still half of what a message may have.
PAGE_CELLS: Final = 128

#: How long what a sealed process has started may take to end.
ALONE_S: Final = 1.0
#: How long after a seal what it left is taken down, where nothing has asked for it before.
IDLE_S: Final = 0.02

#: Orders for which a parked instance wakes.
_FOR_RUNNING: Final = frozenset({"exec", "services", "files", "interrupt", "process", "copy"})

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
        #: Cells that were instances when they were sealed, by the id that those go on under.
        self.parked: dict[str, Cell] = {}
        self.reasons: dict[str, str] = {}
        self._by_pid: dict[int, Cell] = {}
        self._seals = itertools.count()
        self.nursery = Nursery()
        self.ahead = Ahead(self)
        #: Forks that were ordered, and those of them that were there already.
        self.forks = self.handed = 0
        self.loop = Loop()
        self.own_mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self.own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.own_net = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        #: Where a guest's standard input leads. Detached, so that it has no path of ours.
        self._null = kernel.open_tree(kernel.AT_FDCWD, f"{roots.SHARED_DEV}/null", kernel.OPEN_TREE_CLONE)
        self.commands = Commands(self)
        self.points = Points(self)
        self.doorways = Doorways(self)
        #: The shared directories of branches, by the names that those who began them have given.
        self.shared: dict[str, Shared] = {}
        # This process has one thread, and so has whatever it forks: nothing has to be made anew for others.
        self._after_fork = AfterFork()
        self._after_fork.thin()
        # Read like everything else, and never in the middle of a call.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self._stops = kernel.child_signals()
        self.loop.watch(self._stops, self._see_stops)
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
        self._carry_out(order, descriptors)

    def _carry_out(self, order: Any, descriptors: list[int]) -> None:
        taken: list[int] = []
        name = "an order"
        try:
            name, arguments = order
            if name in _FOR_RUNNING and self._put_off(order, descriptors, taken):
                return
            getattr(self, f"order_{name}", self._order_unknown)(arguments, descriptors, taken)
        except Refused as refusal:
            _tell(descriptors, refusal.data)
        except ProcessLookupError:
            # The instance's first process was killed, and whoever waits for its end has not been told yet.
            _tell(descriptors, Refused("instance.ended", f"{name}: the instance has just ended").data)
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
        cell = self.cells.get(arguments["id"]) or self.parked.get(arguments["id"])
        if cell is None or cell.state is CellState.ENDED:
            raise Refused(
                "instance.ended", f"there is no running instance {arguments['id']}", id=arguments["id"]
            )
        return cell

    def _put_off(self, order: Any, descriptors: list[int], taken: list[int]) -> bool:
        """Wakes the instance that an order is for, and keeps the order until it runs. False where it does run.

        One whose files are being copied does not: whatever started in it now could write to them.
        """
        instance = order[1]["id"]
        if (sealed := self.parked.get(instance)) is not None:
            self._wake(sealed)
        cell = self.cells.get(instance)
        if cell is None or not (cell.waking or cell.copy):
            return False
        taken.extend(descriptors)
        cell.deferred.append((order, descriptors))
        return True

    # Making cells

    def order_new(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell from layers alone. Descriptors: its channel, and where to send its listening socket if any."""
        root = roots.Root(
            lowers=tuple(arguments["lowers"]),
            usr_lowers=tuple(arguments["usr_lowers"]),
            disk_bytes=arguments["disk_bytes"],
            disk_files=arguments["disk_files"],
            writable_usr=arguments["writable_usr"],
            has_doorway=arguments["setup"]["doorway"],
        )
        cell = self._add_cell(arguments, root, None, descriptors, taken)
        nested = arguments["nested"]
        cell.setup = arguments["setup"] | {"nested": nested, "seccomp": self.settings.filters[nested]}
        control = self._control(cell)
        if kernel.clone(_CLONE_FIRST) == 0:
            self._become_guest(control)
        control.close()

    def _become_guest(self, control: wire.AnySocket) -> None:
        """Turns the fresh child into a guest that holds nothing of the warden's. Never returns."""
        try:
            self._after_fork.restore()  # a box's own forks may have threads
            os.dup2(control.detach(), guest.CONTROL, False)
            kernel.close_range(guest.CONTROL + 1)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            # Out of our process group, to which anyone in it may send signals.
            os.setsid()
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
        self._check_new(arguments["id"])
        self.forks += 1
        ready = self.ahead.take(source, arguments)
        if ready is not None:
            self._hand_over(ready, source, arguments, descriptors, taken)
            return
        deltas = self.stack(arguments["files"]) if "files" in arguments else source.root.deltas
        root = source.root.child(
            arguments.get("disk_bytes", 0),
            arguments.get("disk_files", 0),
            tuple(arguments.get("lowers", ())),
            tuple(arguments.get("usr_lowers", ())),
            (
                *deltas,
                *(roots.Sealed(_delta_path(name), mounted=False) for name in arguments.get("over", ())),
            ),
            _delta_path(arguments["upper"]) if arguments.get("upper") else "",
            self._part(arguments["shared"]) if arguments.get("shared") else None,
        )
        cell = self._add_cell(arguments, root, source, descriptors, taken)
        # What its state left is not its own, nor is what an origin changed before it was forked.
        cell.own_from = len(root.deltas)
        cell.setup = source.setup | arguments.get("setup", {})
        root.has_doorway = cell.setup["doorway"]
        self._order_fork(source, cell)

    def fork_ahead(self, source: Cell, name: str, upper: str) -> Cell:
        """Begins a fork of a sealed cell that nobody has asked for.

        Args:
            source: The cell.
            name: What to call the fork until somebody asks for it.
            upper: The same of the layer on disk that it writes to; empty for one in memory.
        """
        root = source.root.child(upper_path=_delta_path(upper) if upper else "")
        cell = Cell(name, root, source, channel=-1, egress=-1, unclaimed=True)
        self.cells[cell.id] = cell
        cell.own_from = len(cell.root.deltas)
        cell.setup = source.setup
        cell.root.has_doorway = cell.setup["doorway"]
        try:
            self._order_fork(source, cell)
        except OSError as error:
            self._fail(cell, error)
        return cell

    def _hand_over(
        self, cell: Cell, source: Cell, arguments: dict[str, Any], descriptors: list[int], taken: list[int]
    ) -> None:
        """Gives a fork that was made or begun ahead to whoever has ordered one. Descriptors as for `order_new`."""
        self.handed += 1
        del self.cells[cell.id]
        cell.made, cell.unclaimed = time.monotonic(), False
        cell.setup = source.setup | arguments.get("setup", {})
        self._claim(cell, arguments, descriptors, taken)
        try:
            if arguments.get("upper"):
                cell.root.name_upper(_delta_path(arguments["upper"]))
            if cell.state is not CellState.ENTERED:
                return
            self._open_ways(cell)
            if cell.vetted:
                self._let_fork_in(cell)
        except OSError as error:
            self._fail(cell, error)

    def _order_fork(self, source: Cell, cell: Cell) -> None:
        cell.entry = self._control(cell)
        source.awaited.append(cell)
        source.forks += 1
        cell.counted = True
        self._fork_next(source)

    def _fork_next(self, source: Cell) -> None:
        """Lets a sealed cell make the next fork that was ordered of it, if it is ready to, or go on itself."""
        held = source.held
        while held is not None and held.waits and source.awaited:
            child = source.awaited.pop(0)
            if child.state is CellState.ENDED:
                continue
            assert child.entry is not None
            if not held.fork(child.entry.fileno(), guest.CONTROL):
                source.awaited.insert(0, child)
                return
            source.forking = child
            try:
                # While the source forks on another processor, its child's root is made here; but not where nobody waits
                # for it, and what was forked before wants to work.
                if not child.unclaimed:
                    self._prepare(child)
            except OSError as error:
                self._fail(child, error)
        if held is not None and held.waits and source.state is CellState.LIVE:
            assert source.entry is not None
            held.let_go(source.entry.fileno(), guest.CONTROL)

    def _add_cell(
        self,
        arguments: dict[str, Any],
        root: roots.Root,
        source: Cell | None,
        descriptors: list[int],
        taken: list[int],
    ) -> Cell:
        self._check_new(arguments["id"])
        cell = Cell(arguments["id"], root, source, channel=-1, egress=-1)
        self._claim(cell, arguments, descriptors, taken)
        return cell

    def _check_new(self, name: str) -> None:
        if name in self.cells:
            raise Refused("kibo.bug", f"there is an instance {name} already")

    def _claim(self, cell: Cell, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell the one that an order names."""
        taken.extend(descriptors[:2])
        cell.id, cell.channel = arguments["id"], descriptors[0]
        if len(descriptors) > 1:
            cell.egress = descriptors[1]
        cell.label = arguments.get("label") or (cell.source.label if cell.source else "")
        cell.name = arguments.get("name", "")
        self.cells[cell.id] = cell

    def _control(self, cell: Cell) -> wire.AnySocket:
        ours, theirs = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        # A guest that reads no more must not keep the warden waiting.
        ours.setblocking(False)
        cell.control = ours
        cell.control_number = os.fstat(theirs.fileno()).st_ino
        self.loop.watch(ours.fileno(), lambda: self._from_guest(cell))
        return theirs

    def _close_control(self, cell: Cell) -> None:
        if cell.control is not None:
            self.loop.unwatch(cell.control.fileno())
            cell.control.close()
            cell.control = None

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
            elif (
                message == "listener" and cell.source is None and cell.listener < 0 and len(descriptors) == 1
            ):
                cell.listener = descriptors[0]
                taken = True
                self.loop.watch(cell.listener, lambda: self._clone_asked(cell))
            elif message == "bare" and cell.state is CellState.ENTERED and cell.source is not None:
                self._admit_fork(cell)
            elif message == "in" and cell.state is CellState.ENTERED and cell.source is None:
                self._check(cell)
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
        if cell.pidfd >= 0 and has_ended(cell.pidfd):
            # What the kernel says of a process that is gone is nobody's fault.
            cell.tell(Refused("instance.ended", "its first process was killed as it was made").data)
        else:
            cell.tell(_refusal(error, str(error)))
        self.end(cell, str(error))

    def _admit(self, cell: Cell, pid: int) -> None:
        """Gives a new process its ids, root and network. A first guest, which is still ours, is let in at once."""
        cell.pid = pid
        self._by_pid[pid] = cell
        cell.pidfd = kernel.pidfd_open(pid)
        self.loop.watch(cell.pidfd, lambda: self.end(cell, "its first process ended"))
        if cell.given_up:
            self.end(cell, "destroyed")
            return
        if cell.source is not None:
            self._map(cell, cell.source)
        self._prepare(cell)
        if not cell.unclaimed:
            self._open_ways(cell)
        cell.proc = self._move_in(cell)
        cell.state = CellState.ENTERED
        if cell.source is None:
            # With one id a state is made under the box's own; those forked from it may call it root.
            own = {"uid": self.settings.box_uid} if self.settings.single_id else {}
            self._let_in(cell, cell.setup | own)

    def _let_in(self, cell: Cell, setup: dict[str, Any]) -> None:
        self._send_in(cell, setup, [cell.channel, *self._settle(cell)])

    def _settle(self, cell: Cell) -> tuple[int, ...]:
        """Lets go of what was needed to look at a cell. Returns its control groups' files, which it joins by."""
        os.close(cell.proc)
        cell.proc = -1
        return cell.group.attach_fds if cell.group else ()

    def _send_in(self, cell: Cell, order: object, others: Sequence[int]) -> None:
        """Gives a guest an order, and with it its standard streams and other descriptors."""
        log = cell.open_log()
        # Of its own: whoever shares an open file sees what the other does with its flags, locks and owner.
        null = os.open(f"/proc/self/fd/{self._null}", os.O_RDWR | os.O_CLOEXEC)
        assert cell.control is not None
        try:
            wire.send_command(cell.control, order, [null, log, log, *others])
        finally:
            os.close(log)
            os.close(null)

    def _open_ways(self, cell: Cell) -> None:
        """Opens the ways by which a box may reach others, once it is somebody's."""
        if cell.egress >= 0:
            self._listen(cell)
        self.doorways.open(cell)

    def _admit_fork(self, cell: Cell) -> None:
        """Lets a fork in that says that it has given up its rights, once that is seen to be true."""
        vet(cell.pid, cell.proc, cell.control_number, cell.root.identity)
        if cell.await_map is not None:
            # It was asked for before all that was done since, so that nobody has waited for it.
            cell.await_map()
            cell.await_map = None
        # Only this count of its own: the hard limit stays, which what is forked from it has for all below it.
        self._limit_processes(cell, cell.setup["pids"])
        # It settles in while it is told whose it is, or waits for that.
        self._send_in(cell, "settle", self._settle(cell))
        cell.vetted = True
        if not cell.unclaimed:
            self._let_fork_in(cell)

    def _let_fork_in(self, cell: Cell) -> None:
        assert cell.control is not None
        wire.send_command(cell.control, cell.forked_setup(), [cell.channel])
        cell.release_channel()
        self._is_live(cell)
        if wall_s := cell.setup.get("wall_s"):
            cell.deadline = self.loop.after(wall_s, lambda: self._time_up(cell))
        if cell.source is not None and cell.root.is_plain_child(cell.source.root):
            self.ahead.follow(cell.source, os.path.basename(cell.root.upper_path))

    def _is_live(self, cell: Cell) -> None:
        cell.state = CellState.LIVE
        cell.waking = False
        self.catch_up(cell)

    def catch_up(self, cell: Cell) -> None:
        """Carries out what was put off until a cell runs."""
        deferred, cell.deferred = cell.deferred, []
        for order, descriptors in deferred:
            self._carry_out(order, descriptors)

    def _limit_processes(self, cell: Cell, soft: int) -> None:
        hard = kernel.limit_of(cell.pid, resource.RLIMIT_NPROC)[1]
        kernel.set_limit(cell.pid, resource.RLIMIT_NPROC, min(soft, hard), hard)

    def _time_up(self, cell: Cell) -> None:
        if self.cells.get(cell.id) is cell and cell.state is not CellState.SEALED:
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
        process = roots.proc(namespace, self.own_pids)
        os.close(namespace)
        try:
            # What it was forked from has the empty root, and so has what goes on after it was sealed.
            bare = cell.source is not None or cell.state is CellState.SEALED
            roots.move_in(cell.pidfd, self.own_mounts, cell.root, process, from_bare=bare)
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
        lines = ((inside, inside, 1),) if inside is not None else ALL_IDS
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
        if source.map_writer is None or source.map_writer.ended():
            source.map_writer = self.nursery.start(source.pidfd)
        cell.await_map = source.map_writer.write(cell.pid, format_lines(lines))

    def _listen(self, cell: Cell) -> None:
        """Opens the box's only doors out: sockets inside its network that the forwarder accepts from."""
        doors: list[socket.socket] = []
        log = -1
        try:
            kernel.setns(cell.pidfd, kernel.CLONE_NEWNET)
            try:
                doors.append(_listening("127.0.0.1", PROXY_PORT))
                doors += [_listening(address, port) for address, port in cell.setup["forwards"]]
            finally:
                kernel.setns(self.own_net, kernel.CLONE_NEWNET)
            log = cell.open_log_to_add_to()
            # With the box's first process: whoever serves the doors closes them when that ends, however it ends.
            with socket.socket(fileno=os.dup(cell.egress)) as reply:
                wire.send_command(reply, "listening", [cell.pidfd, log, *(door.fileno() for door in doors)])
        finally:
            for door in doors:
                door.close()
            if log >= 0:
                os.close(log)
        os.close(cell.egress)
        cell.egress = -1

    def _check(self, cell: Cell) -> None:
        """Sees for itself that a first guest has dropped every right, before anything of the user's runs in it.

        It waits for that: what it runs may start a thread at once, and would be taken for a guest that broke a rule.
        """
        check_bare(cell.pid)
        cell.release_channel()
        cell.state = CellState.LIVE
        assert cell.control is not None
        wire.send_command(cell.control, "serve")

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
        if asking is not None and asking.held is not None and flags == guest.FORK_FLAGS:
            asking.held.asks(cell.listener, call)
            self._fork_next(asking)
        elif cell.setup["nested"]:
            seccomp_listener.proceed(cell.listener, call)
        else:
            seccomp_listener.refuse(cell.listener, call, errno.EPERM)

    def _see_stops(self) -> None:
        """Has those go on that have stopped on their way from one fork to the next."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._stops, 4096)
        for pid, status in stops():
            cell = self._by_pid.get(pid)
            if cell is not None and cell.held is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._take_step(cell, cell.held, status)

    def _take_step(self, cell: Cell, held: Held, status: int) -> None:
        match held.step(status):
            case Step.STOPPED:
                self._hold(cell, held, time.monotonic() + ALONE_S)
            case Step.STRAYED:
                self.end(cell, "its guest did something when it was to do nothing but fork")
            case Step.LET_GO:
                assert cell.entry is not None
                cell.entry.close()
                cell.held = cell.entry = None
            case Step.FORKED | Step.REFUSED | Step.BROKEN_OFF as step if cell.forking is not None:
                child, cell.forking = cell.forking, None
                if child.state is CellState.ENDED:
                    return
                if step is Step.BROKEN_OFF:
                    cell.awaited.insert(0, child)
                    return
                assert child.entry is not None
                child.entry.close()
                child.entry = None
                if step is Step.REFUSED:
                    self._not_forked(child, held.error)

    def _not_forked(self, cell: Cell, number: int) -> None:
        refused = f"the kernel refused another fork: {os.strerror(number)}"
        code = "fork.too_deep" if number == errno.ENOSPC else "host.exhausted"
        cell.tell(_refusal(OSError(number, refused), refused) | {"code": code, "message": refused})
        self.end(cell, refused)

    def _hold(self, cell: Cell, held: Held, until: float) -> None:
        """Looks at a sealed process that stands still for the first time, and keeps it so once it is alone.

        Services that were stopped may not have ended altogether yet: what is left of them has until then.
        """
        if cell.held is not held:
            return
        try:
            with open(f"/proc/{cell.pid}/status") as file:
                single = "\nThreads:\t1\n" in file.read()
            with open(f"/proc/{cell.pid}/task/{cell.pid}/children") as file:
                # What has fallen to it from others is its own too: it is the first process of its namespace.
                children = [int(pid) for pid in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            return  # it was killed meanwhile
        late = time.monotonic() > until
        if not single or (late and any(not is_ending(pid) for pid in children)):
            self.end(cell, "its guest started a program while it was to do nothing but fork")
        elif children and not late:
            self.loop.after(0.001, lambda: self._hold(cell, held, until))
        else:
            if cell.state is CellState.SEALED:
                self._close_control(cell)  # which gives way to that of its first fork
            held.go_on()

    # Sealing

    def order_seal(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a cell's writable layer immutable, for forks to lie on. Its guest has stepped aside.

        An instance is parked: its cell goes on under the id ``state``, and wakes when it is used under its own; then
        it writes to the layer ``upper`` where its own is on disk. Descriptors: reply, and an instance's next channel.
        """
        cell = self.cell(arguments)
        if cell.state is not CellState.LIVE or cell.copy:
            raise Refused("kibo.bug", f"{cell.id} is {cell.state.value} and cannot be sealed")
        instance = "state" in arguments
        if cell.own_userns and cell.map_writer is None:
            # Before it is needed: it starts on another processor meanwhile.
            cell.map_writer = self.nursery.start(cell.pidfd)
        if instance:
            others = self._others(cell)
            if others:
                raise _busy(others)
            self.commands.end_all(cell)
        if cell.setup["nested"] and cell.root.shared is not None:
            raise Refused("fork.written", "it may have mounts of its own of what it shares with other boxes")
        try:
            roots.stop_writes(cell.pidfd, self.own_mounts, cell.root, several=cell.setup["nested"])
            self.loop.after(IDLE_S, roots.take_down)
        except roots.StillWrittenError:
            raise Refused("fork.written", "it keeps a file open that cannot be closed for it") from None
        try:
            cell.held = Held(cell.pid, kernel.CLONE)
        except PermissionError:
            self.end(cell, "its guest does not let itself be held")
            raise Refused("guest.protocol", cell.reason) from None
        self.doorways.close(cell)
        cell.root.seal(f"/kibo/states/{cell.id}-{next(self._seals)}")
        self._step_down(cell)
        cell.state = CellState.SEALED
        self._limit_processes(cell, kernel.INFINITE)
        if instance:
            taken.append(descriptors[1])
            self._park(cell, arguments["state"], descriptors[1])
            cell.next_upper = arguments.get("upper", "")
        # Until it is dropped: nothing may wake it in place between its sealing and its forks.
        cell.kept = True
        assert cell.control is not None
        wire.send_command(cell.control, "hold")
        _tell(descriptors, {"kind": "ok", "layers": [delta.path for delta in cell.root.deltas]})

    def order_keep(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes a parked instance a point to fork from once more. Answers with no state where it has gone on."""
        sealed = self.parked.get(arguments["id"])
        if sealed is None:
            self.cell(arguments)
            _tell(descriptors, {"kind": "ok", "state": "", "layers": []})
            return
        sealed.kept = True
        layers = [delta.path for delta in sealed.root.deltas]
        _tell(descriptors, {"kind": "ok", "state": sealed.id, "layers": layers})

    def _step_down(self, cell: Cell) -> None:
        """Gives a sealed cell's process a root that holds nothing: it runs no more, and each fork copies its mounts."""
        try:
            roots.move_in(cell.pidfd, self.own_mounts, cell.root)
        finally:
            cell.root.attached()

    def _park(self, cell: Cell, state: str, channel: int) -> None:
        cell.parked, cell.channel, cell.instance = cell.id, channel, True
        self.parked[cell.parked] = cell
        del self.cells[cell.id]
        cell.id = state
        self.cells[state] = cell

    def _others(self, cell: Cell, *, served: bool = False) -> list[str]:
        """Names the processes of a cell besides its guest and what the warden has started to serve it.

        Args:
            cell: The cell.
            served: Whether services and what they started count as such.
        """
        # First: what has started by now is found below.
        starting = ["a command that is being started"] if self.commands.starting(cell) else []
        own = {1, *(_innermost_pid(helper.pid) for helper in cell.helpers.values())}
        namespace = cell.open_pid_namespace()
        process = roots.proc(namespace, self.own_pids)
        os.close(namespace)
        try:
            found = {
                int(pid): told
                for pid in os.listdir(f"/proc/self/fd/{process}")
                if pid.isdigit() and int(pid) not in own and (told := _living(process, pid))
            }
        finally:
            os.close(process)
        if served and cell.supervisor is not None:
            below = {_innermost_pid(cell.supervisor.pid)}
            while more := {pid for pid, (_, parent) in found.items() if parent in below}:
                below |= more
                found = {pid: told for pid, told in found.items() if pid not in more}
        return starting + [name for name, _ in found.values()]

    def order_alone(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Says whether nothing runs in a cell but its guest and its services."""
        others = self._others(self.cell(arguments), served=True)
        if others:
            raise _busy(others)
        _tell(descriptors, {"kind": "ok"})

    def order_wake(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Has a parked instance go on, if it has not yet. Descriptors: where its next listening socket goes, if any."""
        sealed = self.parked.get(arguments["id"])
        if sealed is None:
            self.cell(arguments)
            return
        taken.extend(descriptors)
        self._wake(sealed, *descriptors)

    def _wake(self, sealed: Cell, egress: int = -1) -> None:
        """Has an instance go on: in its own process where nothing descends from that, else in a fork of it.

        One whose descendants run does not: they would be its children, in sight and reach of its programs.
        """
        instance, channel = sealed.parked, sealed.channel
        del self.parked[instance]
        sealed.parked, sealed.channel = "", -1
        if sealed.forks or sealed.kept:
            part = sealed.root.shared
            root = sealed.root.child(
                upper_path=_next_upper(sealed), shared=part.for_another() if part else None
            )
            arguments = {"id": instance, "label": sealed.label, "name": sealed.name}
            cell = self._add_cell(arguments, root, sealed, [channel] if egress < 0 else [channel, egress], [])
            cell.own_from, cell.log_fd, cell.waking = sealed.own_from, os.dup(sealed.log_fd), True
            cell.setup = sealed.setup
            self._order_fork(sealed, cell)
            return
        if egress >= 0:
            os.close(egress)  # the socket that it has listens still
        del self.cells[sealed.id]
        sealed.id = instance
        self.cells[instance] = sealed
        sealed.root.unseal(_next_upper(sealed))
        self.doorways.open(sealed)
        os.close(self._move_in(sealed))
        self._limit_processes(sealed, sealed.setup["pids"])
        self._close_control(sealed)
        sealed.entry = self._control(sealed)
        sealed.channel = channel
        self._send_in(sealed, "wake", [channel])
        sealed.release_channel()
        self._is_live(sealed)
        self._fork_next(sealed)

    def order_doorways(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Hands what calls out of boxes to the user's process from now on. Descriptors: the socket to hand it to."""
        taken.append(descriptors[0])
        self.doorways.lead_to(socket.socket(fileno=descriptors[0]))

    def order_copy(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Copies a running cell's writable layer for forks to lie on, under the name ``point``, to the layer
        ``upper`` where its own is on disk. Descriptors: reply.

        What runs in it is stopped meanwhile, and orders for it wait.
        """
        cell = self.cell(arguments)
        if cell.state is not CellState.LIVE:
            raise Refused("kibo.bug", f"{cell.id} is {cell.state.value} and cannot be copied")
        taken.append(descriptors[0])
        path = (
            _delta_path(arguments["upper"])
            if cell.root.upper_path
            else f"/kibo/states/copy-{next(self._seals)}"
        )
        try:
            self.points.take(cell, arguments["point"], path, descriptors[0])
        except BaseException:
            taken.remove(descriptors[0])
            raise

    def order_drop(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Lets go of a point that nobody forks from any more. What was forked from it keeps what it needs."""
        if self.points.drop(arguments["files"]):
            return
        cell = self.cells.get(arguments["files"])
        if cell is not None and cell.instance:
            cell.kept = False
            self._let_go(cell)

    def stack(self, name: str) -> tuple[roots.Sealed, ...]:
        """Returns the layers of a sealed cell, or of a point that was copied."""
        layers = self.points.layers(name)
        if layers is not None:
            return layers
        cell = self.cells.get(name)
        if cell is None or cell.state is not CellState.SEALED:
            raise Refused("instance.ended", "the files to fork with are gone", id=name)
        return cell.root.deltas

    # Shared directories

    def order_shared(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Begins the shared directories of a branch over sealed layers. They are mounted with their first part."""
        name = arguments["id"]
        if name in self.shared or not name.isalnum():
            raise Refused("kibo.bug", f"{name!r} cannot name shared directories")
        self.shared[name] = Shared(
            f"{MOUNTS}/{name}",
            tuple(_delta_path(each) for each in arguments["over"]),
            _delta_path(arguments["upper"]),
            None if self.settings.single_id else BOX_ID,
        )

    def order_shared_seal(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Makes what is in shared directories a sealed layer, or copies it where boxes go on writing, which are
        stopped meanwhile; ``upper`` names the next writable layer, or the copy. Descriptors: reply.
        """
        shared, upper = self._shared(arguments["id"]), _delta_path(arguments["upper"])
        if shared.seal(upper):
            _tell(descriptors, {"kind": "ok", "layers": list(shared.layers), "upper": shared.upper})
            return
        taken.append(descriptors[0])
        cells = [
            cell
            for cell in self.cells.values()
            if cell.state is CellState.LIVE
            and (part := cell.root.shared)
            and part.of is shared
            and part.counted
        ]
        try:
            self.points.take_shared(cells, shared, upper, descriptors[0])
        except BaseException:
            taken.remove(descriptors[0])
            raise

    def order_shared_end(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Lets go of shared directories. Boxes that have parts of them keep these until they end, and get no others."""
        shared = self.shared.pop(arguments["id"], None)
        if shared is not None:
            shared.end()

    def _shared(self, name: str) -> Shared:
        found = self.shared.get(name)
        if found is None:
            raise Refused("instance.ended", "the shared directories are gone", id=name)
        return found

    def _part(self, wanted: dict[str, Any]) -> Part:
        names = tuple(wanted["names"])
        if not all(shareable(name) for name in names):
            raise Refused("kibo.bug", f"{names!r} cannot be names of shared directories")
        return Part(self._shared(wanted["id"]), names)

    # Looking, talking, ending

    def order_list(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Tells of one cell, or of a page of them, oldest first: those made after the time ``after``."""
        if "id" in arguments:
            # One that is about to be gone is gone to whoever asks why a command in it was killed.
            found = self.cells.get(arguments["id"]) or self.parked.get(arguments["id"])
            wanted = [found] if found is not None and not (found.pid and is_ending(found.pid)) else []
        else:
            after = arguments.get("after", 0.0)
            later = (cell for cell in self.cells.values() if cell.made > after and not cell.unclaimed)
            wanted = list(itertools.islice(later, PAGE_CELLS))
        after = wanted[-1].made if wanted else None
        _tell(descriptors, {"kind": "ok", "cells": [cell.describe() for cell in wanted], "after": after})

    def order_counts(self, arguments: dict[str, Any], descriptors: list[int], taken: list[int]) -> None:
        """Tells how many forks were ordered, and how many of them were there already."""
        _tell(descriptors, {"kind": "ok", "forks": self.forks, "ahead": self.handed})

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
        """Interrupts an action, by the number of its request, whether it runs or is about to."""
        cell = self.cell(arguments)
        if cell.state is not CellState.LIVE or cell.control is None:
            raise Refused("instance.ended", f"{cell.id} runs no action", id=cell.id)
        # The number is there before the signal. A guest that has left so many unread that there is no room for it gets
        # the signal alone: it is no guest of ours, or in an action.
        with contextlib.suppress(BlockingIOError):
            wire.send_command(cell.control, ["interrupt", arguments["request"]])
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
        if cell is None and (sealed := self.parked.pop(arguments["id"], None)) is not None:
            # Its process stays for those that descend from it.
            sealed.parked = ""
            sealed.release_channel()
            self.doorways.ended(sealed, arguments["id"])
            self._let_go(sealed)
        if cell is None or cell.state is CellState.ENDED:
            _tell(descriptors, {"kind": "ok", "reason": self.reasons.get(arguments["id"], "destroyed")})
            return
        if descriptors:
            cell.end_replies.append(descriptors[0])
            taken.append(descriptors[0])
        self.destroy(cell, "destroyed")

    def destroy(self, cell: Cell, reason: str) -> None:
        """Ends a cell, wherever in its life it is."""
        if cell.pidfd >= 0:
            # One that has just ended by itself is answered as soon as its end is seen.
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(cell.pidfd, signal.SIGKILL)
        elif cell.state is CellState.STARTING and cell.source is not None and cell not in cell.source.awaited:
            # The kernel is making its process: it is ended when it says so, and counts as a fork until then.
            cell.given_up = True
        else:
            self.end(cell, reason)

    def end(self, cell: Cell, reason: str) -> None:
        """Forgets a cell whose processes have ended, or kills it first and comes back when they have."""
        cell.reason = cell.reason or reason
        self.ahead.forget(cell)
        if cell.pidfd >= 0 and not has_ended(cell.pidfd):
            if cell.control is not None:
                # A guest that misbehaves is heard no more; the end of its process brings us back here.
                self.loop.unwatch(cell.control.fileno())
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(cell.pidfd, signal.SIGKILL)
            return
        if cell.pidfd >= 0:
            self.loop.unwatch(cell.pidfd)
        if cell.pidfd >= 0 and (cell.source is None or cell.held is not None):
            # Ours to reap; all others are their sources'.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, cell.pidfd, os.WEXITED | os.WNOHANG)
        self._close_control(cell)
        if cell.source is not None and cell.counted:
            cell.source.forks -= 1
            self._let_go(cell.source)
        if cell.forking is not None and cell.forking.entry is not None:
            # Its own end, if it was born, is another.
            cell.forking.entry.close()
            cell.forking.entry = None
        for child in [child for child in cell.awaited if child.state is not CellState.ENDED]:
            child.counted = False  # else its end would end this one once more
            self.end(child, "what it was to be forked from ended")
        self.doorways.close(cell)
        if not cell.unclaimed:
            self.doorways.ended(cell, cell.parked or cell.id)
        if cell.parked:
            del self.parked[cell.parked]
        if cell.listener >= 0:
            self.loop.unwatch(cell.listener)
        self.commands.end_all(cell)
        self.points.forget(cell)
        if cell.group is not None:
            cell.reason = self.groups.give_back(cell.group) or cell.reason
        while len(self.reasons) >= MAX_REASONS:
            del self.reasons[next(iter(self.reasons))]
        self.reasons[cell.id] = cell.reason
        if self._by_pid.get(cell.pid) is cell:
            del self._by_pid[cell.pid]
        for order, descriptors in cell.deferred:
            refusal = {"kind": "refused", "code": "instance.ended", "message": cell.reason, "details": {}}
            _tell(descriptors, refusal | {"details": {"order": order[0]}})
        cell.close()
        if cell.unclaimed:
            with contextlib.suppress(OSError):  # its owner sweeps what is left
                cell.root.remove_upper()
        del self.cells[cell.id]

    def _let_go(self, cell: Cell) -> None:
        """Ends a sealed cell that nobody can reach any more: nothing descends from it, and it is no cached state."""
        if cell.state is CellState.SEALED and not (cell.forks or cell.kept or cell.parked):
            self.end(cell, "nothing descends from it any more")


def _delta_path(name: str) -> str:
    if not name.startswith("delta_") or "/" in name:
        raise Refused("kibo.bug", f"{name!r} names no layer")
    return f"{world.DELTAS}/{name}"


def _next_upper(cell: Cell) -> str:
    """Where the writable layer goes that follows a sealed one: beside it, where that is on disk."""
    return _delta_path(cell.next_upper) if cell.root.upper_path else ""


def _busy(others: list[str]) -> Refused:
    return Refused("fork.busy", f"programs run in it: {', '.join(others)}", programs=others)


def _innermost_pid(pid: int) -> int:
    """Returns a process's number in its own PID namespace, proc_pid_status(5); 0 for one that ended."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return int(next(line for line in file if line.startswith("NSpid:")).split()[-1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _living(process: int, pid: str) -> tuple[str, int] | None:
    """Names a process of a /proc and its parent; None for one that has ended."""
    try:
        with open(f"/proc/self/fd/{process}/{pid}/stat") as file:
            head, _, tail = file.read().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent = tail.split()[:2]
    return None if state in "ZX" else (head.partition("(")[2], int(parent))


def _tell(descriptors: list[int], data: dict[str, Any]) -> None:
    """Answers an order on its reply socket, if it has one and is still listened to."""
    if not descriptors:
        return
    with socket.socket(fileno=os.dup(descriptors[0])) as reply, contextlib.suppress(ConnectionError):
        if reply.type == socket.SOCK_STREAM:
            wire.send_frame(reply, ["failed", 0, data])
        else:
            wire.send_command(reply, data)


def _listening(address: str, port: int) -> socket.socket:
    """Opens a socket that listens in the network namespace of this thread."""
    door = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # The guest may not have brought its loopback up yet, and until then it has no such address.
        door.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        door.bind((address, port))
        door.listen(128)
    except BaseException:
        door.close()
        raise
    return door


def _refusal(error: OSError, message: str) -> dict[str, Any]:
    """Tells what the kernel refused, as data for the caller."""
    details = {"errno": error.errno or 0}
    if error.errno == errno.ENOSPC:
        message = "there is no room for what an instance may write"  # the path is the warden's own
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
