"""What the warden knows of each box that it holds."""

from __future__ import annotations

import contextlib
import enum
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kibo.runtime import wire
from kibo.runtime.cgroups.files import parse_counters
from kibo.runtime.doorways import Doorway
from kibo.runtime.held import Held
from kibo.runtime.loop import Timer
from kibo.runtime.mapwriter import MapWriter
from kibo.runtime.roots import Root


class CellState(enum.Enum):
    """Where a cell is in its life. STARTING -> ENTERED -> LIVE <-> SEALED; any -> ENDED."""

    STARTING = "starting"
    ENTERED = "entered"
    LIVE = "live"
    SEALED = "sealed"
    ENDED = "ended"


@dataclass(slots=True)
class Group:
    """A control group that a box joins by writing ``0`` into each of its files."""

    name: str
    attach_fds: tuple[int, ...]
    counts_fd: int
    limits: str
    kills: int = 0


class Groups:
    """Control groups by their limits, used again and again: making one costs more than a box.

    The keeper, which can reach the host's files, makes them and answers on ``keeper``.
    """

    def __init__(self, keeper: socket.socket, *, enabled: bool) -> None:
        self._keeper = keeper
        self._enabled = enabled
        self._free: dict[str, list[Group]] = {}

    def take(self, limits: dict[str, Any]) -> Group | None:
        """Returns a group with these limits, or None where there is nothing to limit."""
        if not self._enabled or not limits:
            return None
        key = repr(sorted(limits.items()))
        free = self._free.setdefault(key, [])
        if free:
            return free.pop()
        wire.send_command(self._keeper, limits)
        answer, descriptors, _ = wire.receive_command(self._keeper)
        if answer["kind"] != "ok":
            raise OSError(answer["errno"], answer["message"])
        *attach, counts = descriptors
        return Group(answer["name"], tuple(attach), counts, key)

    def give_back(self, group: Group) -> str:
        """Takes back the group of an ended box. Returns why the kernel ended it, where the group was the reason."""
        self._free[group.limits].append(group)
        before = group.kills
        group.kills = parse_counters(os.pread(group.counts_fd, 4096, 0).decode()).get("oom_kill", 0)
        return "out of memory" if group.kills > before else ""


@dataclass(slots=True, eq=False)
class Helper:
    """A child of the warden that works for one cell; with ``orders`` where it is told what to do.

    Attributes:
        commands: A file in memory in which a steward notes what it runs, or -1.
        ordered: How many commands it was told to start.
    """

    pid: int
    pidfd: int
    cell: Cell
    orders: socket.socket | None
    commands: int = -1
    ordered: int = 0


@dataclass(slots=True, eq=False)
class Cell:
    """One box's namespaces, processes and files, from the warden's side.

    Attributes:
        source: The sealed cell that it was forked from, or None.
        channel: The guest's end of its channel to the user's process, kept until the guest has entered.
        control_number: The inode number of its guest's end of its control socket.
        proc: A /proc of its PID namespace, until it has been let in, or -1.
        egress: Where to send the listening socket of its only way out, or -1.
        awaited: Forks of this cell that were ordered and not yet asked of the kernel, in order.
        own_userns: Whether it has a user namespace below the warden's own.
        label: The box, by the names of its parts; a fork's is its source's.
        name: What its user calls it, if anything.
        await_map: Waits until its id map is in force, which its source's map writer has been asked for.
        given_up: Whether it is to be ended as soon as its process is known.
        parked: The instance that it was before it was sealed and will be again when that is used; empty for none.
        instance: Whether it was an instance, and not a state, when it was sealed.
        next_upper: The layer on disk that it is to write to when it goes on; empty for one in memory.
        kept: Whether it stays although nothing was forked from it: a cached state, or a point that may be forked.
        held: How it is held once it is sealed, so that it does nothing but fork; None where it is not.
        forking: The fork that its process is making.
        ahead: Forks of it that wait for whoever asks next, or are on their way, by whether they write to a disk.
        forked_s: When a fork of each such kind was last let in, by the monotonic clock.
        unclaimed: Whether nobody has asked for it yet: it was forked ahead.
        vetted: Whether it has been seen to have no rights.
        entry: Its guest's end of its control socket, until its source has been let fork it.
        forks: How many cells descend from it directly and have not ended.
        counted: Whether it is one of its source's ``forks``.
        waking: Whether it is the fork in which a parked instance goes on, and not live yet.
        own_from: Which of its root's sealed layers are its own and not its state's: those from this index on.
        copy: The point that its files are being copied for, or empty.
        deferred: Orders, with their descriptors, that wait until it is live, or its files are copied.
        doorway: Where its programs call out to Kibo; None where they may not, and while it is sealed.
        deadline: Ends it when its time is up.
        reason: Why it ended.
    """

    id: str
    root: Root
    source: Cell | None
    channel: int
    egress: int
    label: str = ""
    name: str = ""
    made: float = field(default_factory=time.monotonic)
    state: CellState = CellState.STARTING
    setup: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    pidfd: int = -1
    control: wire.AnySocket | None = None
    control_number: int = 0
    listener: int = -1
    proc: int = -1
    own_userns: bool = False
    awaited: list[Cell] = field(default_factory=list)
    group: Group | None = None
    map_writer: MapWriter | None = None
    await_map: Callable[[], None] | None = None
    given_up: bool = False
    log_fd: int = -1
    parked: str = ""
    instance: bool = False
    next_upper: str = ""
    kept: bool = False
    held: Held | None = None
    forking: Cell | None = None
    ahead: dict[bool, Cell] = field(default_factory=dict)
    forked_s: dict[bool, float] = field(default_factory=dict)
    unclaimed: bool = False
    vetted: bool = False
    entry: wire.AnySocket | None = None
    forks: int = 0
    counted: bool = False
    waking: bool = False
    own_from: int = 0
    copy: str = ""
    deferred: list[tuple[Any, list[int]]] = field(default_factory=list)
    end_replies: list[int] = field(default_factory=list)
    helpers: dict[int, Helper] = field(default_factory=dict)
    steward: Helper | None = None
    supervisor: Helper | None = None
    services: list[dict[str, Any]] = field(default_factory=list)
    doorway: Doorway | None = None
    deadline: Timer | None = None
    reason: str = ""

    def open_pid_namespace(self) -> int:
        """Opens the PID namespace of its first process; the caller closes it. Kept, it would cost one more."""
        return os.open(f"/proc/{self.pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def open_log(self) -> int:
        """Opens what its actions print to, which counts as the box's own disk space; the caller closes it."""
        if self.log_fd < 0:
            self.log_fd = self.open_file("log")
        return os.dup(self.log_fd)

    def open_log_to_add_to(self) -> int:
        """Opens the same anew, for somebody outside to add lines to; the caller closes it.

        Whoever shares an open file sees what the other does with its flags and locks. Not waited for: the box may have
        taken a lease on it (fcntl(2)).
        """
        shared = self.open_log()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{shared}", flags)
        finally:
            os.close(shared)

    def open_service_log(self, name: str) -> int:
        """Opens what one of its services prints to; the caller closes it."""
        return self.open_file(f"service-{name}.log")

    def open_file(self, name: str) -> int:
        """Opens a file of the warden's own that lies beside the box's, out of its sight. ``name`` has no slash."""
        return os.open(
            name, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o666, dir_fd=self.root.upper_fd
        )

    def forked_setup(self) -> dict[str, Any]:
        """What a fork is told: all else it has from its source."""
        assert self.source is not None
        setup = {"cwd": self.setup["cwd"]}
        if self.setup["variables"] is not self.source.setup["variables"]:
            setup["variables"] = self.setup["variables"]
        return setup

    def tell(self, data: dict[str, Any]) -> None:
        """Tells the caller, on the channel that is still ours, that the box could not be made."""
        if self.channel < 0:
            return
        with socket.socket(fileno=os.dup(self.channel)) as reply, contextlib.suppress(ConnectionError):
            wire.send_frame(reply, ["failed", 0, data])

    def release_channel(self) -> None:
        """Closes our copy of the guest's channel, so that its end is seen when the guest ends."""
        if self.channel >= 0:
            os.close(self.channel)
            self.channel = -1

    def describe(self) -> dict[str, Any]:
        """Tells what a person may know."""
        return {
            "id": self.parked or self.id,
            "label": self.label[:200],
            "name": self.name[:200],
            "made": self.made,
            "state": "parked" if self.parked else self.state.value,
            "pid": self.pid,
            "source": self.source.id if self.source else "",
        }

    def close(self) -> None:
        """Lets go of everything and answers those who wait for the end."""
        if self.state is CellState.STARTING:
            self.tell({"kind": "refused", "code": "instance.ended", "message": self.reason, "details": {}})
        self.state = CellState.ENDED
        self.release_channel()
        for name in ("pidfd", "listener", "proc", "egress", "log_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                os.close(fd)
                setattr(self, name, -1)
        for name in ("control", "entry"):
            sock = getattr(self, name)
            if sock is not None:
                sock.close()
                setattr(self, name, None)
        if self.map_writer is not None:
            self.map_writer.close()
        self.root.close()
        for _, descriptors in self.deferred:
            for fd in descriptors:
                os.close(fd)
        for fd in self.end_replies:
            with contextlib.suppress(ConnectionError):
                wire.answer(fd, {"kind": "ok", "reason": self.reason})
            os.close(fd)
        self.end_replies.clear()
        if self.deadline is not None:
            self.deadline.cancel()
        # What was forked from it may live for long, and needs nothing of what this was forked from.
        self.source = self.held = None


def is_ending(pid: int) -> bool:
    """Whether a process is on its way out, or gone (PF_EXITING in ``/proc/PID/stat``, proc(5))."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return bool(int(file.read().rpartition(")")[2].split()[6]) & 0x4)
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_ended(pidfd: int) -> bool:
    """Whether the process behind a pidfd is gone, or waits to be reaped."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
