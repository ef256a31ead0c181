"""Commands in a running box, from the caller's side: run to the end, stream, or talk through a terminal."""

from __future__ import annotations

import os
import pty
import shlex
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from fcntl import ioctl
from typing import IO, Any, Final

from kibo.box.env import is_seconds
from kibo.model.errors import (
    CommandTimedOut,
    FileMissing,
    FrameTooLarge,
    InstanceEnded,
    InvalidInput,
    KiboError,
    Unavailable,
)
from kibo.model.limits import MAX_EXEC_OUTPUT_BYTES
from kibo.model.record import Record
from kibo.runtime import wire
from kibo.runtime.channel import Reply
from kibo.runtime.files import box_path
from kibo.runtime.orders import Orders
from kibo.runtime.refusals import refusal_error
from kibo.runtime.waiting import Waiting

_READ_BYTES: Final = 65536

Command = str | Sequence[str]

_COMMAND_HINT: Final = 'Write "ls -l" for the shell, or ["ls", "-l"].'
_VARIABLES_HINT: Final = 'Write variables={"NAME": "value"}.'


class Completed(Record):
    """How a command ended.

    Attributes:
        stdout: What it wrote to its standard output, as UTF-8; bytes that are none appear as U+FFFD.
        stderr: The same of its standard error.
        returncode: Its exit status, or minus the number of the signal that ended it.
    """

    stdout: str
    stderr: str
    returncode: int


def argv_of(command: Command) -> list[str]:
    """Turns a command into arguments: a string is run by the box's shell, a sequence as it is.

    Raises:
        InvalidInput: It is empty or holds something that is no string, or a zero byte.
    """
    if isinstance(command, str):
        if not command or "\0" in command:
            raise InvalidInput("a command is empty or holds a zero byte", hint=_COMMAND_HINT)
        try:
            words = shlex.split(command)
        except ValueError:
            words = []
        # One plain word needs no shell, and a shell costs as much as the program.
        if len(words) == 1 and words[0] == command and command.replace("-", "").replace("_", "").isalnum():
            return words
        return ["/bin/sh", "-c", command]
    arguments = list(command) if isinstance(command, Sequence) else []
    if not arguments or not all(isinstance(word, str) and "\0" not in word for word in arguments):
        raise InvalidInput(
            f"a command is a string, or a sequence of strings without zero bytes, and not {command!r}",
            hint=_COMMAND_HINT,
        )
    return arguments


def _checked_variables(variables: Mapping[str, str] | None) -> dict[str, str]:
    if not isinstance(variables or {}, Mapping):
        raise InvalidInput(f"variables must be a dict, got {variables!r}", hint=_VARIABLES_HINT)
    given = dict(variables or {})
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name:
            raise InvalidInput(
                f"variables: {name!r}: {value!r} must be a name and a string", hint=_VARIABLES_HINT
            )
        if "\0" in name + value:
            raise InvalidInput(
                f"the variable {name!r} holds a zero byte", hint="No variable can; use a file."
            )
    return given


class Running:
    """A command that has been started. Closing its reply kills its process group."""

    def __init__(self, session: Orders, instance: str, reply: Reply) -> None:
        self._session = session
        self._instance = instance
        self._reply = reply
        self.returncode: int | None = None

    @property
    def fd(self) -> int:
        """Readable when the command has ended."""
        return self._reply.sock.fileno()

    async def wait(self, waiting: Waiting, timeout_s: float | None = None) -> int:
        """Waits for the end.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
            FileMissing: The program is not in the box.
            InstanceEnded: The box ended first.
            Unavailable: The box killed the command together with what had started it.
        """
        if self.returncode is None:
            try:
                message, _ = await self._reply.receive(waiting, timeout_s)
            except wire.Closed:
                raise await self._why(waiting) from None
            if message["kind"] == "not-started":
                raise _not_started(message)
            if message["kind"] == "refused":
                raise refusal_error(message)
            self.returncode = int(message["status"])
            self._reply.close()
        return self.returncode

    async def _why(self, waiting: Waiting) -> KiboError:
        """Finds out why nobody says how the command ended: its box is gone, or killed what ran it."""
        if await self._session.lives_on(waiting, self._instance):
            return Unavailable(
                "something in the box killed the command and what had started it",
                hint="Call again; the instance lives on.",
            )
        return InstanceEnded("the instance ended while a command ran in it", hint="Spawn another one.")

    def signal(self, signum: int) -> None:
        """Signals the command's process group. Nothing happens once it has ended."""
        if self.returncode is None:
            try:
                wire.send_command(self._reply.sock, {"signal": int(signum)})
            except (ConnectionError, OSError):
                return  # it ended this moment; `wait` tells how

    def close(self) -> None:
        """Kills the command if it still runs."""
        self._reply.close()


def _not_started(message: dict[str, Any]) -> KiboError:
    said, details = f"the command could not be started: {message['message']}", {"errno": message["errno"]}
    if message["errno"] in (2, 20):
        hint = "Is the program installed in the box (Env.apt, Env.pip), and the directory there?"
        return FileMissing(said, hint=hint, details=details)
    return InvalidInput(
        said,
        hint="Is it a program, and executable by the box's user? `ls -l` in the box tells.",
        details=details,
    )


def start(
    session: Orders,
    instance: str,
    command: Command,
    streams: tuple[int, int, int],
    *,
    cwd: str | None,
    variables: Mapping[str, str] | None,
    terminal: bool = False,
) -> Running:
    """Starts a command beside the guest. The descriptors in ``streams`` stay the caller's to close."""
    order = {
        "id": instance,
        "argv": argv_of(command),
        "cwd": box_path(cwd) if cwd else "",
        "variables": _checked_variables(variables),
        "terminal": terminal,
    }
    reply = Reply()
    try:
        session.order("exec", order, [reply.theirs.fileno(), *streams])
    except BaseException:
        reply.close()
        raise
    reply.theirs.close()
    return Running(session, instance, reply)


async def execute(
    waiting: Waiting,
    session: Orders,
    instance: str,
    command: Command,
    *,
    stdin: bytes,
    cwd: str | None,
    variables: Mapping[str, str] | None,
    timeout_s: float | None,
) -> Completed:
    """Runs a command to its end; see `Instance.exec`."""
    if timeout_s is not None and not is_seconds(timeout_s):
        raise InvalidInput(f"timeout_s={timeout_s!r} is no time", hint="Give seconds above 0, or None.")
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    in_read, in_write = (
        os.pipe2(os.O_CLOEXEC) if stdin else (os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), -1)
    )
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    open_fds = {in_read, out_read, err_read, out_write, err_write} | ({in_write} if in_write >= 0 else set())

    def shut(*descriptors: int) -> None:
        for fd in descriptors:
            if fd in open_fds:
                open_fds.discard(fd)
                os.close(fd)

    running: Running | None = None
    try:
        running = start(
            session, instance, command, (in_read, out_write, err_write), cwd=cwd, variables=variables
        )
        shut(in_read, out_write, err_write)
        output = {out_read: bytearray(), err_read: bytearray()}
        reading, to_write = {out_read, err_read}, memoryview(stdin)
        if in_write >= 0:
            os.set_blocking(in_write, False)
        while reading:
            writers = (in_write,) if in_write in open_fds else ()
            ready = await waiting.ready(
                tuple(reading), writers, None if deadline is None else deadline - time.monotonic()
            )
            if in_write in ready:
                try:
                    to_write = to_write[os.write(in_write, to_write[:_READ_BYTES]) :]
                except BrokenPipeError:
                    to_write = memoryview(b"")
                if not to_write:
                    shut(in_write)
            for fd in reading.intersection(ready):
                piece = os.read(fd, _READ_BYTES)
                output[fd] += piece
                if not piece:
                    reading.discard(fd)
                elif len(output[fd]) > MAX_EXEC_OUTPUT_BYTES:
                    raise FrameTooLarge(
                        f"the command wrote more than {MAX_EXEC_OUTPUT_BYTES} bytes",
                        hint="Use popen(), which streams, or write to a file in the box.",
                    )
        status = await running.wait(waiting, None if deadline is None else deadline - time.monotonic())
        return Completed(
            stdout=output[out_read].decode(errors="replace"),
            stderr=output[err_read].decode(errors="replace"),
            returncode=status,
        )
    except TimeoutError:
        raise CommandTimedOut(
            f"the command did not end within {timeout_s:g} s and was killed",
            hint="Raise timeout_s, or start it with popen().",
            details={"timeout_s": timeout_s},
        ) from None
    finally:
        shut(*open_fds.copy())
        if running is not None:
            running.close()


class Process:
    """A command whose streams the caller reads and writes while it runs. A context manager that kills it at the end.

    Attributes:
        stdin: Takes bytes; close it to end the input.
        stdout: Gives bytes as they come.
        stderr: The same of its standard error.
    """

    def __init__(
        self,
        session: Orders,
        instance: str,
        command: Command,
        cwd: str | None,
        variables: Mapping[str, str] | None,
    ) -> None:
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (in_read, in_write), (out_read, out_write), (err_read, err_write) = pipes
        try:
            self.running = start(
                session, instance, command, (in_read, out_write, err_write), cwd=cwd, variables=variables
            )
        except BaseException:
            for fd in (in_write, out_read, err_read):
                os.close(fd)
            raise
        finally:
            for fd in (in_read, out_write, err_write):
                os.close(fd)
        self.stdin: IO[bytes] = open(in_write, "wb", buffering=0)  # noqa: SIM115 - closed by close()
        self.stdout: IO[bytes] = open(out_read, "rb")  # noqa: SIM115
        self.stderr: IO[bytes] = open(err_read, "rb")  # noqa: SIM115

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Signals the command and what it started."""
        self.running.signal(signum)

    def close(self) -> None:
        """Kills the command if it runs and closes the streams."""
        self.running.close()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()


class Terminal:
    """A command on a terminal of its own.

    Attributes:
        fd: The terminal: read what the screen gets, write what the keyboard sends.
    """

    def __init__(self, session: Orders, instance: str, command: Command, rows: int, columns: int) -> None:
        self.fd, inside = pty.openpty()
        try:
            self.resize(rows, columns)
            self.running = start(
                session, instance, command, (inside,) * 3, cwd=None, variables=None, terminal=True
            )
        except BaseException:
            os.close(self.fd)
            raise
        finally:
            os.close(inside)

    def resize(self, rows: int, columns: int) -> None:
        """Tells the program the size of its screen.

        Args:
            rows: Its height, in characters.
            columns: Its width.
        """
        ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, size: int = 65536) -> bytes:
        """Reads what the program wrote, up to ``size`` bytes; waits for some. Empty once it has ended."""
        try:
            return os.read(self.fd, size)
        except OSError as error:
            if error.errno == 5:  # EIO: the last program on the terminal is gone
                return b""
            raise

    def write(self, data: bytes) -> None:
        """Types ``data``, as a keyboard would send it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def close(self) -> None:
        """Hangs up: the program is killed."""
        self.running.close()
        os.close(self.fd)
