"""A command in a box on a terminal of its own, joined to the one that this program runs on."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from kibo.cli.piping import exit_status, write_all
from kibo.runtime.commandline import Command, Terminal
from kibo.runtime.instance import RunningBox
from kibo.runtime.waiting import Blocking, run

#: The best shell that the box has.
SHELL = ("/bin/sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash -i; exec sh -i")


def run_on_terminal(box: RunningBox, command: Command) -> int:
    """Runs a command until it ends and returns its exit status. Keys go to it, Ctrl-C too; hung up, it is killed."""
    size = shutil.get_terminal_size()
    terminal = box.shell(command, rows=size.lines, columns=size.columns)
    try:
        with _raw_keyboard(), _resizing(terminal):
            _pump(terminal)
        return exit_status(run(terminal.running.wait(Blocking())))
    finally:
        terminal.close()


@contextmanager
def _raw_keyboard() -> Iterator[None]:
    """Has every key come through as it is, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _resizing(terminal: Terminal) -> Iterator[None]:
    def resize(*_: object) -> None:
        size = shutil.get_terminal_size()
        terminal.resize(size.lines, size.columns)

    before = signal.signal(signal.SIGWINCH, resize)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _pump(terminal: Terminal) -> None:
    """Copies keys and screen until the command has ended and its last words are out."""
    poll = select.poll()
    for fd in (0, terminal.fd, terminal.running.fd):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if terminal.fd in ready:
            piece = terminal.read()
            if not piece:
                return
            write_all(1, piece)
        elif terminal.running.fd in ready:
            return  # what it left in the background may hold the terminal for ever
        if 0 in ready:
            keys = os.read(0, 4096)
            if keys:
                terminal.write(keys)
            else:
                # No more keys: said as a terminal says it, because a hang-up would kill the command.
                poll.unregister(0)
                terminal.write(b"\x04")
