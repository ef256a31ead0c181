"""A sealed process, held at the one call that it may still make: the clone that forks it.

Whoever makes a user namespace has every right in it (user_namespaces(7)): what boxes are forked from could reach into
all of them, and carry word from one to the other, if code that a box left there ever ran. So it runs none. The warden
traces it. Between two forks it executes the instruction that enters the kernel and no other, and the forks, which are
not traced, go on behind it. Sources: ptrace(2), seccomp_unotify(2).
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass
from typing import Final

from kibo.runtime import kernel, seccomp_listener
from kibo.runtime.seccomp_listener import Notification

#: What the kernel tells itself when a call was broken off by a signal and is to be made again (linux/errno.h).
_MADE_AGAIN: Final = 513
_BROKEN_OFF: Final = frozenset({-512, -_MADE_AGAIN, -514, -516, -errno.EINTR})


class Step(enum.Enum):
    """What a held process has just done."""

    #: Nothing that matters to anyone.
    MOVED = enum.auto()
    #: It stands still for the first time: now it can be looked at, and then has to `go_on`.
    STOPPED = enum.auto()
    #: It made the fork that it was let make.
    FORKED = enum.auto()
    #: A signal came between, before it did what it was let do: it will wait at its call again.
    BROKEN_OFF = enum.auto()
    #: The kernel refused the fork; see `error`.
    REFUSED = enum.auto()
    #: It is held no more.
    LET_GO = enum.auto()
    #: It makes another call than it may.
    STRAYED = enum.auto()


@dataclass(slots=True)
class _Call:
    listener: int
    notification: Notification


class Held:
    """One sealed process. Its tracer is the thread that made this.

    Attributes:
        pid: The process.
        error: Why the kernel refused the last fork, as an errno.
    """

    def __init__(self, pid: int, call: int) -> None:
        """Begins to trace it; it runs on until it makes its call.

        Args:
            pid: The process, a descendant of ours.
            call: The number of the call, which the filter holds back for a listener.
        """
        kernel.ptrace_seize(pid)
        self.pid: Final = pid
        self.error = 0
        self._number = call
        self._call: _Call | None = None
        self._interrupted = self._stopped = False
        self._registers: tuple[int, ...] = ()
        #: How its call was answered.
        self._forking = False
        self._leaving = False

    def asks(self, listener: int, notification: Notification) -> None:
        """Notes that it waits at its call."""
        if not self._stopped:
            # It has come here by itself, and is held from now on. Answered as one that a signal broke off, the call is
            # made again by the kernel once the stop, which comes first, is over.
            self._interrupted = True
            kernel.ptrace_interrupt(self.pid)
            seccomp_listener.refuse(listener, notification, _MADE_AGAIN)
            return
        self._call = _Call(listener, notification)

    @property
    def waits(self) -> bool:
        """Whether it can be forked at once."""
        return self._call is not None

    def fork(self, fd: int, number: int) -> bool:
        """Lets it fork, once, with a descriptor of ours at a number.

        Returns:
            False where it was not there for it any more: its call comes again, or it has ended.
        """
        assert self._call is not None
        call, self._call = self._call, None
        if not seccomp_listener.hand_over(call.listener, call.notification, fd, number):
            return False
        self._forking = seccomp_listener.proceed(call.listener, call.notification)
        return self._forking

    def let_go(self, fd: int, number: int) -> bool:
        """Has its call fail, so that it runs on untraced, with a descriptor of ours at a number. Returns as `fork`."""
        assert self._call is not None
        call, self._call = self._call, None
        if not seccomp_listener.hand_over(call.listener, call.notification, fd, number):
            return False
        self._leaving = seccomp_listener.refuse(call.listener, call.notification, errno.ECANCELED)
        return self._leaving

    def go_on(self) -> None:
        """Has it go on to its call, when it was `Step.STOPPED`."""
        kernel.ptrace_to_next_call(self.pid)

    def step(self, status: int) -> Step:
        """Takes note of a stop, and has it go on but where it was `Step.STOPPED`.

        Args:
            status: The signal of the stop, and above it the event, as waitid(2) tells.

        Raises:
            ProcessLookupError: It has been killed meanwhile.
        """
        if not self._stopped:
            self._stopped = self._interrupted and status >> 8 == kernel.PTRACE_EVENT_STOP
            if self._stopped:
                return Step.STOPPED
            kernel.ptrace_continue(self.pid)
            return Step.MOVED
        done = self._at_call() if status == kernel.SYSCALL_STOP else Step.MOVED
        if done is Step.LET_GO:
            kernel.ptrace_detach(self.pid)
        elif done is not Step.STRAYED:
            # A signal that it was to get is dropped: it would run a handler of the box's.
            kernel.ptrace_to_next_call(self.pid)
        return done

    def _at_call(self) -> Step:
        stop = kernel.ptrace_syscall(self.pid)
        if stop.entering:
            if stop.value != self._number:
                return Step.STRAYED
            self._registers = self._registers or kernel.ptrace_registers(self.pid)
            return Step.MOVED
        if not self._registers:
            return Step.MOVED  # the call in which it was stopped, broken off
        forking, leaving, self._forking, self._leaving = self._forking, self._leaving, False, False
        broken_off = stop.value in _BROKEN_OFF
        if leaving and not broken_off:
            return Step.LET_GO
        kernel.ptrace_call_again(self.pid, self._registers)
        if broken_off:
            return Step.BROKEN_OFF
        if not forking:
            return Step.MOVED
        self.error = -stop.value if stop.value < 0 else 0
        return Step.REFUSED if self.error else Step.FORKED


def stops() -> list[tuple[int, int]]:
    """Lists the processes that have stopped since they were last asked for: their numbers, and how."""
    found = []
    while (stop := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG)) is not None:
        found.append((stop.si_pid, stop.si_status))
    return found
