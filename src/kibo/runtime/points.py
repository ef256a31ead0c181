"""Files at one point in time, copied while the boxes that write them are stopped, for forks to lie on.

For boxes that cannot step aside: something runs in them that is not to notice. Whatever takes long is done by a child
of the warden, outside of the box, which cannot reach it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from kibo.runtime import kernel, layercopy, roots, wire
from kibo.runtime.cells import Cell, CellState
from kibo.runtime.loop import Timer
from kibo.runtime.stopping import NotStoppedError, Stopped, continue_all
from kibo.runtime.trees.removing import remove

if TYPE_CHECKING:
    from kibo.runtime.shareddirs import Shared
    from kibo.runtime.warden import Warden

#: How long a copy may take, and its box be stopped. A gigabyte in memory takes a second or two.
COPY_S: Final = 300.0
#: What a child was told to stop for: its point is wanted no more.
_DROPPED: Final = {
    "kind": "refused",
    "code": "instance.ended",
    "message": "the point was dropped",
    "details": {},
}


@dataclass(slots=True, eq=False)
class Copy:
    """One copy that is under way.

    Attributes:
        name: What the point is to be called.
        cells: The boxes that are stopped meanwhile.
        of: The box whose files they are, with which the copy ends; None where they are those of several.
        source: The writable layer's directory.
        on_disk: Whether it lies on disk, and the copy will.
        writable_usr: Whether it has a part for ``/usr``.
        reply: Where to answer.
        below: The sealed layers that its files lie on. Held.
        target: The layer in memory that is being filled, or -1.
        path: Where the layer is to be, in the warden's namespace.
        keep: What to do with a copy that is there, and what to answer.
        pidfd: The child.
        result: Where it says what came of it.
        over: Why it was told to stop, if it was.
        deadline: Tells it to stop when it takes too long.
    """

    name: str
    cells: tuple[Cell, ...]
    of: Cell | None
    source: int
    on_disk: bool
    writable_usr: bool
    reply: int
    below: tuple[roots.Sealed, ...]
    target: int
    path: str
    keep: Callable[[Copy], dict[str, Any]]
    pidfd: int = -1
    result: socket.socket | None = None
    over: dict[str, Any] | None = None
    deadline: Timer | None = None


class Points:
    """The points that were copied, and the copies that are under way."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._points: dict[str, tuple[roots.Sealed, ...]] = {}
        self._copies: dict[str, Copy] = {}

    def layers(self, name: str) -> tuple[roots.Sealed, ...] | None:
        """Returns the layers of a point, lowest first, or None where there is none of that name."""
        return self._points.get(name)

    def take(self, cell: Cell, name: str, path: str, reply: int) -> None:
        """Starts to copy a box's writable layer, and answers on ``reply``, which it closes, when that is done.

        Args:
            cell: The box, which is live.
            name: What to call the point.
            path: Where its layer goes: on disk where the box's own is there, else where a mount is made.
            reply: A descriptor.
        """
        root = cell.root
        target = -1 if root.upper_path else root.new_upper(writable_usr=root.writable_usr)
        below = tuple(delta.hold() for delta in root.deltas)
        source, on_disk = os.dup(root.upper_fd), bool(root.upper_path)
        self._begin(
            Copy(
                name,
                (cell,),
                cell,
                source,
                on_disk,
                root.writable_usr,
                reply,
                below,
                target,
                path,
                self._keep,
            )
        )

    def take_shared(self, cells: Iterable[Cell], shared: Shared, path: str, reply: int) -> None:
        """Starts to copy the writable layer of shared directories; answers as `take`.

        Args:
            cells: All boxes that run and have a part of them.
            shared: The directories.
            path: Where the copy goes, on disk.
            reply: A descriptor.
        """

        def keep(copy: Copy) -> dict[str, Any]:
            return {"layers": [*shared.layers, copy.path], "upper": shared.upper}

        source = os.open(shared.upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._begin(Copy(path, tuple(cells), None, source, True, False, reply, (), -1, path, keep))

    def _begin(self, copy: Copy) -> None:
        copy.result, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            pid = os.fork()
        except OSError:
            theirs.close()
            self._discard(copy)
            os.close(copy.source)
            raise
        if pid == 0:
            _become(
                "kibo-copy", [theirs.fileno(), copy.source, copy.target, self._warden.own_pids], _Work(copy)
            )
        theirs.close()
        for cell in copy.cells:
            cell.copy = copy.name
        self._copies[copy.name] = copy
        copy.pidfd = self._follow(pid, lambda status: self._ended(copy, status))
        copy.deadline = self._warden.loop.after(COPY_S, lambda: self._late(copy))

    def drop(self, name: str) -> bool:
        """Lets go of a point, or of the copy that was to become one. False where there is none of that name."""
        layers = self._points.pop(name, None)
        if layers is not None:
            _release(layers)
        elif name in self._copies:
            self._stop(self._copies[name], _DROPPED)
        return layers is not None

    def forget(self, cell: Cell) -> None:
        """Gives up the copy of a box that has ended."""
        copy = self._copies.get(cell.copy)
        if copy is not None and copy.of is cell:
            copy.over = copy.over or _DROPPED | {"message": cell.reason}
            with contextlib.suppress(ProcessLookupError):
                kernel.pidfd_send_signal(copy.pidfd, signal.SIGKILL)

    def _late(self, copy: Copy) -> None:
        if self._copies.get(copy.name) is copy:
            message = f"its files could not be copied within {COPY_S:g} s"
            self._stop(
                copy, {"kind": "refused", "code": "fork.unstoppable", "message": message, "details": {}}
            )

    def _stop(self, copy: Copy, why: dict[str, Any]) -> None:
        copy.over = copy.over or why
        with contextlib.suppress(ProcessLookupError):
            kernel.pidfd_send_signal(copy.pidfd, signal.SIGTERM)

    def _ended(self, copy: Copy, status: int) -> None:
        assert copy.result is not None
        if copy.deadline is not None:
            copy.deadline.cancel()
        failed: dict[str, Any] | None = copy.over
        try:
            answer, _, _ = wire.receive_command(copy.result)
            failed = failed or answer
        except (wire.Closed, ConnectionError):
            # It was killed, by the kernel for want of memory, and has left the box's processes as they were: stopped.
            message = f"the process that copied its files was killed by signal {-status}"
            failed = failed or {
                "kind": "refused",
                "code": "host.exhausted",
                "message": message,
                "details": {},
            }
            for cell in copy.cells:
                if cell.state is CellState.LIVE:
                    self._child("kibo-continue", [self._warden.own_pids], _Continue(cell.pid))
        kept: dict[str, Any] = {}
        if failed is None:
            try:
                kept = {"kind": "ok"} | copy.keep(copy)
            except OSError as error:
                failed = _refused(error)
        if failed is not None:
            self._discard(copy)
        os.close(copy.source)
        self._finish(copy, failed or kept)

    def _keep(self, copy: Copy) -> dict[str, Any]:
        if copy.target >= 0:
            os.mkdir(copy.path, 0o755)
            kernel.move_mount(copy.target, copy.path)
            os.close(copy.target)
        layer = roots.Sealed(copy.path, mounted=copy.target >= 0)
        copy.target = -1
        self._points[copy.name] = (*copy.below, layer.hold())
        return {"layers": [layer.path for layer in self._points[copy.name]]}

    def _discard(self, copy: Copy) -> None:
        if copy.target >= 0:
            os.close(copy.target)
        _release(copy.below)

    def _finish(self, copy: Copy, answer: dict[str, Any]) -> None:
        """Answers; where something lies on disk that is not to be there, once it does no more."""
        if answer["kind"] != "ok" and copy.on_disk and os.path.lexists(copy.path):
            self._child("kibo-remove", [], _Remove(copy.path), lambda _: self._answer(copy, answer))
            return
        self._answer(copy, answer)

    def _answer(self, copy: Copy, answer: dict[str, Any]) -> None:
        assert copy.result is not None
        copy.result.close()
        del self._copies[copy.name]
        with socket.socket(fileno=copy.reply) as reply, contextlib.suppress(ConnectionError):
            wire.send_command(reply, answer)
        for cell in copy.cells:
            if cell.copy == copy.name:
                cell.copy = ""
                self._warden.catch_up(cell)

    def _child(
        self, name: str, keep: list[int], work: Work, then: Callable[[int], None] = lambda _: None
    ) -> None:
        pid = os.fork()
        if pid == 0:
            _become(name, keep, work)
        self._follow(pid, then)

    def _follow(self, pid: int, then: Callable[[int], None]) -> int:
        pidfd = kernel.pidfd_open(pid)

        def ended() -> None:
            result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                self._warden.loop.unwatch(pidfd)
                os.close(pidfd)
                then(result.si_status if result.si_code == os.CLD_EXITED else -result.si_status)

        self._warden.loop.watch(pidfd, ended)
        return pidfd


#: What a child does, with the descriptors that it was to keep.
Work = Callable[[list[int]], None]


@dataclass(slots=True)
class _Work:
    """Stops boxes, copies a layer, and has them go on."""

    copy: Copy

    def __call__(self, kept: list[int]) -> None:
        sock, upper, target, own_pids = kept
        result = socket.socket(fileno=sock)
        try:
            # What comes after it is what ends the box's stop.
            signal.signal(signal.SIGTERM, _give_up)
            self._copy(upper, target, own_pids)
        except NotStoppedError as error:
            message = f"it cannot be stopped to copy its files: {', '.join(error.names)}"
            report = {
                "kind": "refused",
                "code": "fork.unstoppable",
                "message": message,
                "details": {"programs": error.names},
            }
            wire.send_command(result, report)
        except OSError as error:
            wire.send_command(result, _refused(error))
        except _GivenUp:
            wire.send_command(result, _DROPPED)
        else:
            wire.send_command(result, None)

    def _copy(self, upper: int, target: int, own_pids: int) -> None:
        boxes: list[Stopped] = []
        try:
            for cell in self.copy.cells:
                with contextlib.suppress(
                    FileNotFoundError, ProcessLookupError
                ):  # one that has ended writes nothing
                    boxes.append(Stopped(_proc_of(cell.pid, own_pids)))
            for box in boxes:
                box.stop()
            if self.copy.on_disk:
                target = roots.disk_upper(self.copy.path, writable_usr=self.copy.writable_usr)
            layercopy.copy_layer(upper, target)
            for box in boxes:
                box.check()
        finally:
            # Once more would leave them stopped.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            for box in boxes:
                box.go_on()


@dataclass(slots=True)
class _Continue:
    """Has a box go on that was left stopped."""

    pid: int

    def __call__(self, kept: list[int]) -> None:
        continue_all(_proc_of(self.pid, kept[0]))


@dataclass(slots=True)
class _Remove:
    """Removes what is left on disk of a copy that failed."""

    path: str

    def __call__(self, kept: list[int]) -> None:
        above, _, name = self.path.rpartition("/")
        remove(os.open(above, os.O_RDONLY | os.O_DIRECTORY), os.fsencode(name))


class _GivenUp(BaseException):
    """The warden wants the copy no more."""


def _give_up(signum: int, frame: object) -> None:
    raise _GivenUp


def _proc_of(pid: int, own_pids: int) -> int:
    """Makes a /proc of the PID namespace of a box's first process."""
    namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return roots.proc(namespace, own_pids)
    finally:
        os.close(namespace)


def _become(name: str, keep: list[int], work: Work) -> NoReturn:
    """Turns this child of the warden into one that does ``work`` and holds nothing else. Never returns."""
    try:
        kernel.set_name(name)
        moved = _keep_only(keep)
        work(moved)
    except BaseException:  # noqa: BLE001 - a fork of the warden must never run on as a second warden
        traceback.print_exc()
    finally:
        os._exit(0)


def _keep_only(keep: list[int]) -> list[int]:
    """Closes all descriptors but the standard ones and some, which get other numbers; -1 stays -1."""
    first = 3 + len(keep)
    aside = [fd if fd < 0 else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, first) for fd in keep]
    moved = [fd if fd < 0 else os.dup2(fd, 3 + place, False) for place, fd in enumerate(aside)]
    for place, fd in enumerate(moved):
        if fd < 0:
            with contextlib.suppress(OSError):
                os.close(3 + place)
    kernel.close_range(first)
    return moved


def _release(layers: tuple[roots.Sealed, ...]) -> None:
    for layer in layers:
        layer.release()


def _refused(error: OSError) -> dict[str, Any]:
    codes = {errno.ENOSPC: "host.disk_full", errno.EDQUOT: "host.disk_full"}
    exhausted = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    code = codes.get(error.errno or 0, "host.exhausted" if error.errno in exhausted else "kibo.bug")
    message = f"its files could not be copied: {os.strerror(error.errno or 0)}"
    return {"kind": "refused", "code": code, "message": message, "details": {"errno": error.errno or 0}}
