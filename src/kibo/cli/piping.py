"""A command in a box whose standard streams are this program's.

Through pipes, not by handing the descriptors over: a program in a box that holds one of the host's files can open it
again, for more than it was given.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kibo.runtime.instance import Popen, RunningBox

_PIECE_BYTES = 65536


def exit_status(returncode: int) -> int:
    """Returns an exit status as shells give it: 128 and the signal's number for what a signal ended."""
    return 128 - returncode if returncode < 0 else returncode


def run_piped(box: RunningBox, command: list[str], cwd: str | None) -> int:
    """Runs a command to its end and returns its exit status. Ctrl-C and SIGTERM go to the command."""
    with box.popen(command, cwd=cwd) as process, _signals_to(process):
        _pump(process)
        return exit_status(process.wait())


@contextmanager
def _signals_to(process: Popen) -> Iterator[None]:
    def forward(signum: int, frame: FrameType | None) -> None:
        process.kill(signum)

    before = {signum: signal.signal(signum, forward) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _pump(process: Popen) -> None:
    """Copies until both of the command's outputs are closed."""
    outputs = {process.stdout.fileno(): 1, process.stderr.fileno(): 2}
    target = process.stdin.fileno()
    os.set_blocking(target, False)
    pending = b""
    reading, writing = True, False
    poll = select.poll()
    for fd in outputs:
        poll.register(fd, select.POLLIN)
    _watch_input(poll)
    while outputs:
        for fd, events in poll.poll():
            if fd in outputs:
                piece = os.read(fd, _PIECE_BYTES)
                if piece:
                    write_all(outputs[fd], piece)
                else:
                    poll.unregister(fd)
                    del outputs[fd]
            elif fd == 0 and reading:
                pending = os.read(0, _PIECE_BYTES)
                poll.unregister(0)
                reading = False
                if pending:
                    poll.register(target, select.POLLOUT)
                    writing = True
                else:
                    process.stdin.close()
            elif fd == target and writing:
                try:
                    if not events & select.POLLOUT:
                        raise BrokenPipeError
                    pending = pending[os.write(target, pending) :]
                except BrokenPipeError:
                    # It reads no more; what we would have sent is nobody's.
                    poll.unregister(target)
                    process.stdin.close()
                    writing = False
                    continue
                if not pending:
                    poll.unregister(target)
                    writing = False
                    _watch_input(poll)
                    reading = True


def _watch_input(poll: select.poll) -> None:
    poll.register(0, select.POLLIN)


def write_all(fd: int, data: bytes) -> None:
    """Writes all of it, also to a stream that somebody else has made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
