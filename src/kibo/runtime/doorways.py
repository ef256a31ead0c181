"""Doorways by which programs in a box call out to Kibo, from the warden's side: a socket in each box that may.

The warden listens, for it alone knows for certain which box a connection comes from: it made the socket, in a file
system of its own, below the one root that it is mounted in. Each fork gets another, and so does what goes on after it
was sealed; nothing that a box holds or sends has a part in who it is. What is said on a connection is not read here:
the connection is handed to the user's process, with the name of the instance.

Sources: unix(7), for sockets that are found by their inode, whatever network the caller is in.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from kibo.model.limits import MAX_DOORWAY_CONNECTIONS_PER_S
from kibo.runtime import kernel, wire

if TYPE_CHECKING:
    from kibo.runtime.cells import Cell
    from kibo.runtime.warden import Warden

#: Where it is mounted in a box, below ``/dev``, and what is in it.
PLACE: Final = "kibo"
SOCKET: Final = "box.sock"
#: Connections that wait to be taken.
_BACKLOG: Final = 16
#: How long the warden waits before it tries again to tell a user's process that does not listen.
_AGAIN_S: Final = 0.02


def make_doorway() -> tuple[int, int]:
    """Makes a file system with a listening socket in it, and nothing else. About 60 us.

    Returns:
        A detached read-only mount, and the socket.
    """
    context = kernel.fsopen("tmpfs")
    try:
        kernel.fsconfig_string(context, "mode", "0755")
        kernel.fsconfig_string(context, "nr_inodes", "4")
        kernel.fsconfig_create(context)
        safe = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        tree = kernel.fsmount(context, safe)
    finally:
        os.close(context)
    try:
        listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            path = f"/proc/self/fd/{tree}/{SOCKET}"
            listener.bind(path)
            os.chmod(path, 0o666)  # whoever runs in the box
            listener.listen(_BACKLOG)
            kernel.mount_setattr(tree, set_=kernel.MOUNT_ATTR_RDONLY)
            return tree, listener.detach()
        except BaseException:
            listener.close()
            raise
    except BaseException:
        os.close(tree)
        raise


@dataclass(slots=True, eq=False)
class Doorway:
    """One box's socket, and how many connections it may still take now."""

    listener: socket.socket
    left: float = MAX_DOORWAY_CONNECTIONS_PER_S
    counted: float = field(default_factory=time.monotonic)

    def take(self) -> float:
        """Counts one connection. Returns how many seconds too early it is: 0 for one that is welcome."""
        now = time.monotonic()
        gained = (now - self.counted) * MAX_DOORWAY_CONNECTIONS_PER_S
        self.left = min(self.left + gained, MAX_DOORWAY_CONNECTIONS_PER_S) - 1
        self.counted = now
        return max(0.0, -self.left / MAX_DOORWAY_CONNECTIONS_PER_S)


class Doorways:
    """The doorways of all boxes, and the socket to the user's process that their connections are handed to."""

    def __init__(self, warden: Warden) -> None:
        self._warden = warden
        self._outside: socket.socket | None = None
        #: What could not be told yet, because nobody read what was told before.
        self._untold: deque[str] = deque()

    def lead_to(self, outside: socket.socket) -> None:
        """Hands connections to this socket from now on."""
        if self._outside is not None:
            self._outside.close()
        outside.setblocking(False)
        self._outside = outside

    def open(self, cell: Cell) -> None:
        """Listens at the doorway that was made with a cell's root, if it has one."""
        if cell.root.listener < 0:
            return
        doorway = cell.doorway = Doorway(socket.socket(fileno=cell.root.listener))
        cell.root.listener = -1
        self._warden.loop.watch(doorway.listener.fileno(), lambda: self._accept(cell, doorway))

    def close(self, cell: Cell) -> None:
        """Closes a cell's doorway, before it gets another or ends. Who waits there reads the end of it."""
        if cell.doorway is not None:
            self._warden.loop.unwatch(cell.doorway.listener.fileno())
            cell.doorway.listener.close()
            cell.doorway = None

    def ended(self, cell: Cell, instance: str) -> None:
        """Tells that an instance has ended, and all that it had asked for with it."""
        if cell.setup.get("doorway") and self._outside is not None:
            self._untold.append(instance)
            if len(self._untold) == 1:
                self._tell()

    def _tell(self) -> None:
        while self._untold and self._outside is not None:
            try:
                wire.send_command(self._outside, ["ended", self._untold[0]])
            except BlockingIOError:
                self._warden.loop.after(_AGAIN_S, self._tell)
                return
            except OSError:
                self._untold.clear()  # nobody is left who would want to know
                return
            self._untold.popleft()

    def _accept(self, cell: Cell, doorway: Doorway) -> None:
        early = doorway.take() or (_AGAIN_S if self._is_full() else 0.0)
        if early:
            # It waits in the box's own queue, whoever has filled the one to the user's process.
            doorway.left += 1
            self._warden.loop.unwatch(doorway.listener.fileno())
            self._warden.loop.after(early, lambda: self._go_on(cell, doorway))
            return
        try:
            caller, _ = doorway.listener.accept()
        except OSError:
            return  # it has gone again, or we have no descriptor for it: then it waits
        with caller:
            if self._outside is not None:
                try:
                    wire.send_command(self._outside, ["call", cell.id], [caller.fileno()])
                except OSError:
                    pass  # not listened to: the caller reads the end of its connection, and may try again

    def _is_full(self) -> bool:
        """Whether the user's process has still to read what it was told before."""
        if self._outside is None:
            return False
        poll = select.poll()
        poll.register(self._outside, select.POLLOUT)
        return bool(self._untold) or not poll.poll(0)

    def _go_on(self, cell: Cell, doorway: Doorway) -> None:
        if cell.doorway is doorway:
            self._warden.loop.watch(doorway.listener.fileno(), lambda: self._accept(cell, doorway))
