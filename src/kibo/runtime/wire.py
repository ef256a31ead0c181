"""Frames and descriptors between the user's process, the warden and the guests.

Two kinds of socket, both Unix and both made in pairs by whoever starts the other side:

* *command* sockets keep message boundaries and carry descriptors (``SOCK_SEQPACKET``): small fixed vocabulary,
  anything large goes in a memory file whose descriptor travels along;
* *channels* are byte streams of length-prefixed frames: calls to a guest and what it answers.

A frame is four bytes of length, little-endian, and that many bytes of MessagePack. Nothing that a box sends is ever
unpickled, and every length is checked before memory is reserved for it.
"""

from __future__ import annotations

import _socket
import array
import os
import socket
import struct
from typing import Any, Final

import msgspec

from kibo.model.limits import MAX_COMMAND_BYTES, MAX_DESCRIPTORS, MAX_FRAME_BYTES

# As plain numbers: the named ones are objects that every message would touch, and each page touched costs a fork.
_SOCKET, _RIGHTS, _SENDER = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS), int(socket.SCM_CREDENTIALS)
_CUT, _CLOSE_ON_EXEC = int(socket.MSG_TRUNC | socket.MSG_CTRUNC), int(socket.MSG_CMSG_CLOEXEC)
_LENGTH: Final = struct.Struct("<I")


def _plain(value: object) -> str:
    """Encodes the ids, which are strings of a class of their own."""
    if isinstance(value, str):
        return "".join(value)
    raise TypeError(f"a message cannot hold {type(value).__name__}")


_encode: Final = msgspec.msgpack.Encoder(enc_hook=_plain).encode
_decode: Final = msgspec.msgpack.Decoder().decode
_FD_SPACE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4) + socket.CMSG_SPACE(12)
_CREDENTIALS: Final = struct.Struct("iII")


#: A socket, or the plain one below it, which costs less to make.
AnySocket = _socket.socket


class FrameError(Exception):
    """The other side broke the protocol: a frame too large, cut short, or not MessagePack."""


class Closed(Exception):
    """The other side closed the socket, between two frames."""


def pack(message: object) -> bytes:
    """Encodes one frame.

    Raises:
        FrameError: The frame would be larger than ``MAX_FRAME_BYTES``.
    """
    body = _encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the bound of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def frame_length(head: bytes) -> int:
    """Reads a frame's length from its first four bytes, checked against the bound."""
    length: int = _LENGTH.unpack(head)[0]
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the bound of {MAX_FRAME_BYTES}")
    return length


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """Decodes one frame's body."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FrameError(f"a frame is not MessagePack: {error}") from None


def send_frame(sock: socket.socket, message: object) -> None:
    """Sends one frame on a blocking channel."""
    sock.sendall(pack(message))


def _receive_exactly(sock: socket.socket, buffer: bytearray, have: int, need: int) -> None:
    view = memoryview(buffer)
    while have < need:
        count = sock.recv_into(view[have:need])
        if count == 0:
            raise FrameError("the channel was closed inside a frame")
        have += count


def receive_frame(sock: socket.socket) -> Any:
    """Receives one frame from a blocking channel; small frames take one system call.

    Raises:
        Closed: The other side has closed the channel.
        FrameError: What came is no frame.
        TimeoutError: The socket has a timeout and it passed.
    """
    # Frames are answered one by one, so what comes in one read is at most one frame; a second one in the same
    # read would mean that the peer does not wait its turn. MSG_PEEK costs a call more, so the head is read first.
    head = sock.recv(4)
    if not head:
        raise Closed
    while len(head) < 4:
        more = sock.recv(4 - len(head))
        if not more:
            raise FrameError("the channel was closed inside a frame")
        head += more
    length = frame_length(head)
    if length <= 65536:
        body = sock.recv(length) if length else b""
        if len(body) == length:
            return unpack(body)
        if not body:
            raise FrameError("the channel was closed inside a frame")
        buffer = bytearray(length)
        buffer[: len(body)] = body
        _receive_exactly(sock, buffer, len(body), length)
        return unpack(buffer)
    # Memory is reserved as the bytes arrive, not as the head promises them.
    parts = bytearray()
    while len(parts) < length:
        chunk = sock.recv(min(1 << 20, length - len(parts)))
        if not chunk:
            raise FrameError("the channel was closed inside a frame")
        parts += chunk
    return unpack(parts)


def send_command(sock: AnySocket, message: object, descriptors: list[int] | tuple[int, ...] = ()) -> None:
    """Sends one message, with descriptors, on a command socket."""
    body = _encode(message)
    if len(body) > MAX_COMMAND_BYTES:
        raise FrameError(f"a command of {len(body)} bytes is over the bound of {MAX_COMMAND_BYTES}")
    if descriptors:
        sock.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
    else:
        sock.send(body)


def answer(fd: int, message: object) -> None:
    """Sends one message without descriptors on a command socket of which only the number is known.

    A socket object would ask the kernel three questions about it first.
    """
    os.write(fd, _encode(message))


def receive_command(sock: AnySocket) -> tuple[Any, list[int], int]:
    """Receives one message from a command socket.

    Returns:
        The message, the descriptors that came with it (closed on exec), and the sender's process id as this
        process sees it where ``SO_PASSCRED`` is set, else 0.

    Raises:
        Closed: The other side has closed the socket.
        FrameError: What came is no message; its descriptors have been closed.
        BlockingIOError: The socket does not block and has nothing.
    """
    body, ancillary, flags, _ = sock.recvmsg(MAX_COMMAND_BYTES, _FD_SPACE, _CLOSE_ON_EXEC)
    descriptors: list[int] = []
    pid = 0
    for level, kind, data in ancillary:
        if level != _SOCKET:
            continue
        if kind == _RIGHTS:
            descriptors.extend(array.array("i", data[: len(data) - len(data) % 4]))
        elif kind == _SENDER:
            pid = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
    try:
        if not body:
            raise Closed
        if flags & _CUT:
            raise FrameError("a command was cut short")
        return unpack(body), descriptors, pid
    except (Closed, FrameError):
        for fd in descriptors:
            os.close(fd)
        raise
