"""Runs a box's services from inside it: starts them, knows when they are ready, restarts them, and ends them.

Like the steward, the supervisor is a process that has joined the box and given up every right. Being inside, it
sees the box's ports in ``/proc/net`` without touching the network. Each service dies with it
(``PR_SET_PDEATHSIG``), and it is started anew by the warden if the box kills it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kibo.model.limits import FORWARDS_NETWORK
from kibo.runtime import kernel, wire
from kibo.runtime.orphans import Adopted

#: How often a service that is starting is looked at: the wait for it is part of spawn.
LOOK_S: Final = 0.005
#: The same for a readiness command, which costs a process each time.
ASK_S: Final = 0.1
#: The first pause before a restart, which doubles up to the second, and starts over after a run of the third.
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 10.0
LONG_RUN_S: Final = 10.0
#: How long services have to end in good order before a state is sealed.
GRACE_S: Final = 5.0
#: How much of a log is told with a failure.
TAIL_BYTES: Final = 4096

_LISTENING: Final = "0A"
_DEFAULTS: Final = (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ, signal.SIGCHLD)


def pause_before_restart(restart: str, status: int, ran_s: float, last_pause_s: float) -> float | None:
    """Decides what follows the end of a service.

    Args:
        restart: Its policy: always, on-failure or never.
        status: Its exit status, or minus the signal that ended it.
        ran_s: How long it ran, in seconds.
        last_pause_s: The pause before this run; 0 for the first.

    Returns:
        Seconds to wait before it is started again, or None to leave it ended.
    """
    if restart == "never" or (restart == "on-failure" and status == 0):
        return None
    if ran_s >= LONG_RUN_S or not last_pause_s:
        return FIRST_PAUSE_S
    return min(last_pause_s * 2, LONGEST_PAUSE_S)


def listens(port: int, tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")) -> bool:
    """Tells whether a program in this network listens on a TCP port (proc_net(5)). What leads outside is none."""
    for table in tables:
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except FileNotFoundError:
            continue  # a kernel without IPv6
        for line in lines:
            words = line.split()
            address, _, listened = words[1].partition(":")
            if words[3] == _LISTENING and int(listened, 16) == port and not _leads_outside(address):
                return True
    return False


def _leads_outside(address: str) -> bool:
    """Tells whether an address, as the kernel lists it, is one at which the gateway listens for the box."""
    if len(address) != 8:
        return False
    return socket.inet_ntoa(struct.pack("=I", int(address, 16))).startswith(FORWARDS_NETWORK)


@dataclass(slots=True)
class Running:
    """One service.

    Attributes:
        spec: ``name``, ``command`` (arguments), ``ready``, ``restart``, ``start_timeout_s`` and ``variables``.
        log: Where its output goes.
    """

    spec: dict[str, Any]
    log: int
    pid: int = 0
    pidfd: int = -1
    started: float = 0.0
    pause_s: float = 0.0
    start_at: float | None = None
    ended: int | None = None


@dataclass(slots=True)
class Start:
    """What is under way: services that become ready one after the other, and who is waiting for them."""

    names: list[str]
    reply: socket.socket | None
    deadline: float = 0.0
    checks: list[int] = field(default_factory=list)


class Supervisor:
    """The loop. Orders: ``["service", spec]`` with its log, ``["start"]`` and ``["stop"]`` with where to answer."""

    def __init__(self, orders: socket.socket, cwd: str) -> None:
        self._orders = orders
        self._cwd = cwd
        self._services: dict[str, Running] = {}
        self._start: Start | None = None
        self._next_look = 0.0
        self._check = 0
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)
        self._adopted = Adopted()
        self._poll.register(self._adopted.fd, select.POLLIN)

    def serve(self) -> None:
        """Serves until it is told to stop, or the warden is gone."""
        while True:
            for fd, _ in self._poll.poll(self._until_due()):
                if fd == self._orders.fileno():
                    try:
                        order, descriptors, _ = wire.receive_command(self._orders)
                    except (wire.Closed, ConnectionError):
                        return
                    if not self._obey(order, descriptors):
                        return
                elif fd != self._adopted.fd:
                    self._reap(fd)
            self._run_due()
            # Last, when all that were started here are known.
            self._adopted.reap({self._check, *(service.pid for service in self._services.values())})

    def _obey(self, order: list[Any], descriptors: list[int]) -> bool:
        match order:
            case ["service", spec]:
                self._services[spec["name"]] = Running(spec, descriptors[0])
            case ["start"]:
                reply = socket.socket(fileno=descriptors[0]) if descriptors else None
                self._start = Start(list(self._services), reply)
                self._start_next()
            case ["stop"]:
                self._stop()
                _tell(socket.socket(fileno=descriptors[0]), {"kind": "ok"})
                return False
        return True

    # Time

    def _until_due(self) -> float | None:
        due = [service.start_at for service in self._services.values() if service.start_at is not None]
        if self._start is not None:
            due.append(self._next_look)
        return max(0.0, min(due) - time.monotonic()) * 1000 if due else None

    def _run_due(self) -> None:
        now = time.monotonic()
        for service in self._services.values():
            if service.start_at is not None and service.start_at <= now:
                self._launch(service)
        if self._start is not None and self._next_look <= now:
            self._look()

    # Starting

    def _start_next(self) -> None:
        """Starts the first of those that are not ready, or says that all are."""
        assert self._start is not None
        if not self._start.names:
            _tell(self._start.reply, {"kind": "ok"})
            self._start = None
            return
        service = self._services[self._start.names[0]]
        self._start.deadline = time.monotonic() + service.spec["start_timeout_s"]
        self._launch(service)
        self._look()

    def _launch(self, service: Running) -> None:
        service.start_at, service.ended = None, None
        service.started = time.monotonic()
        service.pid = self._run(service.spec["command"], service)
        service.pidfd = os.pidfd_open(service.pid)
        self._poll.register(service.pidfd, select.POLLIN)

    def _run(self, argv: list[str], service: Running) -> int:
        """Starts a program that ends with this process, in a group of its own, and writes to the service's log."""
        pid = os.fork()
        if pid:
            return pid
        try:
            kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            os.dup2(service.log, 1)
            os.dup2(service.log, 2)
            os.chdir(self._cwd)
            for signum in _DEFAULTS:
                signal.signal(signum, signal.SIG_DFL)
            os.execvpe(argv[0], argv, {**os.environ, **service.spec["variables"]})
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def _look(self) -> None:
        """Sees whether the one that is starting is ready."""
        assert self._start is not None
        service, now = self._services[self._start.names[0]], time.monotonic()
        kind, _, rest = (service.spec["ready"] or "").partition(":")
        self._next_look = now + (ASK_S if kind == "cmd" else LOOK_S)
        if service.ended is not None and service.start_at is None and (kind or service.ended):
            self._give_up(service, f"ended with status {service.ended}")
        elif not kind or (kind == "tcp" and listens(int(rest))):
            self._is_ready()
        elif now > self._start.deadline:
            self._give_up(
                service,
                f"was not ready ({service.spec['ready']}) within {service.spec['start_timeout_s']:g} s",
            )
        elif kind == "cmd" and not self._check:
            self._check = self._run(["/bin/sh", "-c", rest], service)
            self._poll.register(os.pidfd_open(self._check), select.POLLIN)

    def _is_ready(self) -> None:
        assert self._start is not None
        del self._start.names[0]
        self._start_next()

    def _give_up(self, service: Running, why: str) -> None:
        assert self._start is not None
        size = os.fstat(service.log).st_size
        tail = os.pread(service.log, TAIL_BYTES, max(0, size - TAIL_BYTES)).decode(errors="replace")
        name = service.spec["name"]
        _tell(
            self._start.reply,
            {
                "kind": "refused",
                "code": "service.failed",
                "message": f"service {name!r} {why}",
                "details": {"service": name, "log": tail},
            },
        )
        self._start = None

    # Ending

    def _reap(self, pidfd: int) -> None:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return
        self._poll.unregister(pidfd)
        os.close(pidfd)
        status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        if result.si_pid == self._check:
            self._check = 0
            if status == 0 and self._start is not None:
                self._is_ready()
            return
        for service in self._services.values():
            if service.pid == result.si_pid:
                self._ended(service, status)

    def _ended(self, service: Running, status: int) -> None:
        _kill_group(service.pid, signal.SIGKILL)
        ran_s = time.monotonic() - service.started
        service.pid, service.pidfd, service.ended = 0, -1, status
        pause_s = pause_before_restart(service.spec["restart"], status, ran_s, service.pause_s)
        if pause_s is not None:
            service.pause_s = pause_s
            service.start_at = time.monotonic() + pause_s

    def _stop(self) -> None:
        """Ends all, the last started first, in good order where they manage that in time."""
        deadline = time.monotonic() + GRACE_S
        for service in reversed(self._services.values()):
            if not service.pid:
                continue
            _kill_group(service.pid, signal.SIGTERM)
            poll = select.poll()
            poll.register(service.pidfd, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            _kill_group(service.pid, signal.SIGKILL)
            os.waitid(os.P_PIDFD, service.pidfd, os.WEXITED)


def _kill_group(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signum)


def _tell(reply: socket.socket | None, message: dict[str, Any]) -> None:
    if reply is None:
        return
    # A caller that has hung up does not care any more.
    with reply, contextlib.suppress(ConnectionError):
        wire.send_command(reply, message)
