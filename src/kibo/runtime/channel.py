"""The user's end of the sockets to guests and to the warden, for coroutines."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from typing import Any, Final

from kibo.runtime import wire
from kibo.runtime.waiting import Waiting

_RECEIVE_BYTES: Final = 65536


class Channel:
    """A stream of frames to a guest or to one of its servers. One conversation at a time.

    What comes in is untrusted: lengths are checked before memory is given, and each conversation has a deadline.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._buffer = bytearray()
        #: Who uses the socket now, and whether it is to be closed when nobody does; under the guard.
        self._users = 0
        self._over = False
        self._guard = threading.Lock()

    @classmethod
    def pair(cls) -> tuple[Channel, socket.socket]:
        """Makes a channel and its other end, to be handed to the warden."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(ours), theirs

    async def send(self, waiting: Waiting, message: object) -> None:
        """Sends one frame.

        Raises:
            ConnectionError: The other side is gone.
            wire.FrameError: The message is larger than a frame may be.
        """
        view = memoryview(wire.pack(message))
        if not self._enter():
            raise BrokenPipeError(errno.EPIPE, "the conversation was ended")
        try:
            while view:
                try:
                    view = view[self.sock.send(view) :]
                except BlockingIOError:
                    await waiting.ready((), (self.sock.fileno(),))
        finally:
            self._leave()

    async def receive(self, waiting: Waiting, timeout_s: float | None = None) -> Any:
        """Receives one frame.

        Raises:
            wire.Closed: The other side is gone.
            wire.FrameError: It sent something that is no frame.
            TimeoutError: No whole frame came within ``timeout_s`` seconds.
        """
        if not self._enter():
            raise wire.Closed
        try:
            return await self._receive(waiting, timeout_s)
        finally:
            self._leave()

    async def _receive(self, waiting: Waiting, timeout_s: float | None) -> Any:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        need = 4
        while True:
            if len(self._buffer) >= 4:
                need = 4 + wire.frame_length(bytes(self._buffer[:4]))
            if len(self._buffer) >= need:
                body = bytes(self._buffer[4:need])
                del self._buffer[:need]
                return wire.unpack(body)
            left = None if deadline is None else deadline - time.monotonic()
            if self.sock.fileno() < 0:
                raise wire.Closed  # by another thread, which has ended the instance
            await waiting.ready((self.sock.fileno(),), (), left)
            try:
                chunk = self.sock.recv(max(_RECEIVE_BYTES, min(need - len(self._buffer), 1 << 20)))
            except BlockingIOError:
                continue
            except ConnectionError:
                chunk = b""
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                raise wire.Closed from None  # as above, while we waited
            if not chunk:
                if self._buffer:
                    raise wire.FrameError("the channel was closed inside a frame")
                raise wire.Closed
            self._buffer += chunk

    def replace(self, sock: socket.socket) -> None:
        """Goes on with another socket in place of the one it has, which is closed."""
        sock.setblocking(False)
        with self._guard:
            self.sock.close()
            self.sock = sock
            self._buffer.clear()
            if self._over:
                sock.close()

    def is_quiet(self) -> bool:
        """Whether the other side is there and says nothing, as one does that waits to be asked."""
        with self._guard:
            if self.sock.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(self.sock, select.POLLIN)
            return not poll.poll(0)

    def is_open(self) -> bool:
        """Whether the other side is there, whatever it says."""
        with self._guard:
            if self.sock.fileno() < 0:
                return False
            poll = select.poll()
            poll.register(self.sock, select.POLLRDHUP)
            return not poll.poll(0)

    def hang_up(self) -> None:
        """Ends the conversation: both sides read its end, and so does whoever waits on it in another thread.

        Our end is closed as soon as nobody waits on it: its number might be another's by the time it is used again.
        """
        with self._guard:
            self._over = True
            with contextlib.suppress(OSError):  # the other side has hung up already, or it is closed
                self.sock.shutdown(socket.SHUT_RDWR)
            if not self._users:
                self.sock.close()

    def _enter(self) -> bool:
        with self._guard:
            self._users += not self._over
            return not self._over

    def _leave(self) -> None:
        with self._guard:
            self._users -= 1
            if self._over and not self._users:
                self.sock.close()

    def close(self) -> None:
        """Closes our end; the guest sees it."""
        self.sock.close()


class Reply:
    """Where the warden answers one order: messages, and descriptors with them."""

    def __init__(self) -> None:
        self.sock, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)

    async def receive(self, waiting: Waiting, timeout_s: float | None = None) -> tuple[Any, list[int]]:
        """Receives one message and its descriptors.

        Raises:
            wire.Closed: The warden is gone.
            TimeoutError: Nothing came in time.
        """
        while True:
            await waiting.ready((self.sock.fileno(),), (), timeout_s)
            try:
                message, descriptors, _ = wire.receive_command(self.sock)
            except BlockingIOError:
                continue
            except ConnectionError:
                raise wire.Closed from None
            return message, descriptors

    def close(self) -> None:
        """Closes both ends. For a running command that means: kill it."""
        self.sock.close()
        self.theirs.close()


def close_all(descriptors: list[int]) -> None:
    """Closes descriptors that came along and are not wanted."""
    for fd in descriptors:
        os.close(fd)
