"""The calls that other programs of the user make on a held instance: a socket in its session's directory.

Only this process can speak to the instance's guest. A caller sends one request and reads answers until the last; when
it hangs up before that, its action is interrupted. Frames are those of `kibo.runtime.wire`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from types import GeneratorType
from typing import Any, Final

from kibo.box.results import to_builtins
from kibo.cli.calls import read_arguments
from kibo.cli.failures import bug, exit_code
from kibo.model.errors import KiboError
from kibo.runtime import wire
from kibo.runtime.instance import Instance, conversation_of
from kibo.runtime.orders import UNWIND_S
from kibo.runtime.waiting import run

#: The socket, in the session's directory.
CALLS_SOCKET: Final = "calls.sock"
#: Of what an action printed, what is sent back after it; the rest is in the log.
_MAX_PRINTED_BYTES: Final = 1 << 20


class ServedCalls:
    """Serves until the process ends. Calls wait for each other, as an instance does one thing at a time."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        """Starts to listen.

        Args:
            instance: Whose actions are called.
            directory: The session's, which only its user can enter.
        """
        self._instance = instance
        self._talk = conversation_of(instance)
        self._log = run(self._talk.log_file())
        self._turn = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        here = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By descriptor, because a socket's path may have 107 bytes and a home directory's more.
            self._listener.bind(f"/proc/self/fd/{here}/{CALLS_SOCKET}")
        finally:
            os.close(here)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            caller, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(caller,), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        # A caller that is gone is seen by `_watch`; what is said to it then is lost, and nobody misses it.
        with caller, contextlib.suppress(OSError, wire.Closed, wire.FrameError):
            action, words = wire.receive_frame(caller)
            try:
                answer = self._call(caller, str(action), [str(word) for word in words])
            except KiboError as error:
                answer = ["failed", error.to_dict(), exit_code(error)]
            except Exception as error:  # noqa: BLE001 - told to whoever called
                failure = bug(error)
                answer = ["failed", failure.to_dict(), exit_code(failure)]
            wire.send_frame(caller, answer)

    def _call(self, caller: socket.socket, action: str, words: list[str]) -> list[Any]:
        positional, named = read_arguments(self._talk.spec(action), words)
        with self._turn:
            over = threading.Event()
            threading.Thread(target=self._watch, args=(caller, over), daemon=True).start()
            printed_before = os.fstat(self._log).st_size
            try:
                result = getattr(self._instance, action)(*positional, **named)
                if isinstance(result, GeneratorType):
                    result = self._stream(caller, result)
            finally:
                over.set()
                self._send_printed(caller, printed_before)
        return ["result", to_builtins(result)]

    def _stream(self, caller: socket.socket, items: GeneratorType[Any, None, Any]) -> Any:
        try:
            while True:
                try:
                    item = next(items)
                except StopIteration as end:
                    return end.value
                wire.send_frame(caller, ["item", to_builtins(item)])
        finally:
            items.close()

    def _send_printed(self, caller: socket.socket, since: int) -> None:
        size = os.fstat(self._log).st_size
        begin = max(since, size - _MAX_PRINTED_BYTES)
        if begin < size:
            with contextlib.suppress(OSError):
                wire.send_frame(caller, ["printed", os.pread(self._log, size - begin, begin)])

    def _watch(self, caller: socket.socket, over: threading.Event) -> None:
        """Interrupts the action of a caller that hangs up: it says nothing more until then."""
        with contextlib.suppress(OSError):
            caller.recv(1)
        with contextlib.suppress(KiboError, TimeoutError):
            while not over.is_set():
                run(self._talk.interrupt())
                over.wait(UNWIND_S)  # and again: that one may have come before its request was written
