"""Answers the calls that a filter holds back for a supervisor.

Only decisions that rest on the call's number and plain arguments are safe to answer with `proceed`: memory
that an argument points to can change in between. Source: seccomp_unotify(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from typing import Final, NamedTuple

_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")
_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_ID_VALID: Final = 0x40082102
_ADD_FD: Final = 0x40182103
_ADDED: Final = struct.Struct("=QIIII")
_AT_THIS_NUMBER: Final = 1
_CONTINUE: Final = 1


class Notification(NamedTuple):
    """One call that waits.

    Attributes:
        id: Names this call for its answer.
        pid: Its thread, in the supervisor's PID namespace.
        number: The system call.
        arguments: Its six arguments.
    """

    id: int
    pid: int
    number: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Notification | None:
    """Takes the next waiting call. Never blocks; poll the descriptor to learn of one.

    Returns:
        The call, or None when there is none: its process may have died before it was taken.

    Raises:
        ConnectionResetError: No process is left under the filter: close the listener.
    """
    # The ioctl waits, and before Linux 6.11 it does so even when nobody is left who could ask.
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    events = dict(poll.poll(0)).get(listener, 0)
    if not events & select.POLLIN:
        if events & select.POLLHUP:
            raise ConnectionResetError(errno.ECONNRESET, "no process is left under the filter")
        return None
    buffer = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    identity, pid, _flags, number, _architecture, _pointer, *arguments = _NOTIFICATION.unpack(buffer)
    return Notification(identity, pid, number, tuple(arguments))


def proceed(listener: int, notification: Notification) -> bool:
    """Lets the call run as if there were no filter. Returns whether its process still waited."""
    return _answer(listener, _RESPONSE.pack(notification.id, 0, 0, _CONTINUE))


def refuse(listener: int, notification: Notification, number: int = errno.EPERM) -> bool:
    """Fails the call with an errno. Returns whether its process still waited."""
    return _answer(listener, _RESPONSE.pack(notification.id, 0, -number, 0))


def hand_over(listener: int, notification: Notification, fd: int, number: int) -> bool:
    """Gives the process whose call waits a descriptor, closed on exec, in the place of what has that number there.

    Returns:
        Whether its process still waited.
    """
    try:
        fcntl.ioctl(
            listener, _ADD_FD, _ADDED.pack(notification.id, _AT_THIS_NUMBER, fd, number, os.O_CLOEXEC)
        )
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def still_waits(listener: int, notification: Notification) -> bool:
    """Tells whether the call still waits: if so, its ``pid`` has not passed to another process meanwhile."""
    try:
        fcntl.ioctl(listener, _ID_VALID, struct.pack("=Q", notification.id))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _answer(listener: int, response: bytes) -> bool:
    try:
        fcntl.ioctl(listener, _SEND, response)
    except OSError as error:
        # ENOENT: the process died. EINPROGRESS cannot be: one supervisor answers each call once.
        if error.errno == errno.ENOENT:
            return False
        raise
    return True
