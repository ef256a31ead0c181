"""One running runtime, from the user's process: its keeper, its warden, and the socket that gives it orders."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import HostUnsupported, InstanceEnded, KiboError, RuntimeLost
from kibo.runtime import wire
from kibo.runtime.channel import Channel, Reply
from kibo.runtime.refusals import refusal_error, violation
from kibo.runtime.waiting import Waiting

#: A warden that has not started by then will not: it is a fraction of a second's work.
START_TIMEOUT_S: Final = 30.0


class Session:
    """Starts a keeper and a warden, and gives the warden orders. Thread-safe: an order is one datagram."""

    def __init__(self, home: Path) -> None:
        """Starts the processes. About 0.2 s.

        Args:
            home: The state directory, prepared.

        Raises:
            HostUnsupported: The host cannot give the isolation that boxes need; the hint is the remedy.
        """
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.home = home
        self.owner_pid = os.getpid()
        self.run_directory = home / "run" / self.name
        self.run_directory.mkdir(mode=0o700, parents=True)
        self._closing = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life_read, self._life = os.pipe2(os.O_CLOEXEC)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        listener = _listen(self.run_directory / "warden.sock")
        passed = (theirs.fileno(), life_read, ready_write, listener.fileno())
        config = {
            "session": self.name,
            "run": str(self.run_directory),
            "layers": str(home / "layers"),
            "python_path": _python_path(),
            "owner_pid": self.owner_pid,
            "owner_fd": theirs.fileno(),
            "life_fd": life_read,
            "ready_fd": ready_write,
            "listen_fd": listener.fileno(),
        }
        _raise_open_files()
        try:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "frozen_modules=on", _keeper_path()],
                pass_fds=passed,
                stdin=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                cwd="/",
            )
        finally:
            theirs.close()
            listener.close()
            os.close(life_read)
            os.close(ready_write)
        try:
            assert self._keeper.stdin is not None
            with self._keeper.stdin as stdin:
                stdin.write(json.dumps(config).encode())
            self.facts = self._await_ready(ready_read)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready_read)

    def _await_ready(self, ready: int) -> dict[str, Any]:
        with open(ready, closefd=False) as stream:
            line = stream.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"kind": "failed", "message": "the keeper ended"}
        if answer["kind"] != "ok":
            raise HostUnsupported(
                f"boxes cannot be isolated on this host: {answer['message']}",
                hint="Run `kibo doctor`: it says what is missing and how to get it.",
                details=answer,
            )
        return answer

    @property
    def alive(self) -> bool:
        """Whether orders can be given: this process started the runtime and its keeper runs."""
        return self.owner_pid == os.getpid() and self._keeper.poll() is None and self._socket.fileno() >= 0

    def order(self, name: str, arguments: dict[str, Any], descriptors: list[int] | tuple[int, ...] = ()) -> None:
        """Gives an order. The answer, if there is one, comes on the first descriptor.

        Raises:
            RuntimeLost: The warden is gone, and every instance with it. Spawning starts a new one.
        """
        try:
            wire.send_command(self._socket, [name, arguments], descriptors)
        except (ConnectionError, OSError) as error:
            raise lost() from error

    async def ask(
        self,
        waiting: Waiting,
        name: str,
        arguments: dict[str, Any],
        descriptors: list[int] | tuple[int, ...] = (),
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Gives an order and waits for its answer.

        Raises:
            KiboError: The warden refused; the error's class follows its code.
            RuntimeLost: The warden is gone.
        """
        reply = Reply()
        try:
            self.order(name, arguments, [reply.theirs.fileno(), *descriptors])
            reply.theirs.close()
            answer, received = await reply.receive(waiting, timeout_s)
        except wire.Closed:
            raise lost() from None
        finally:
            reply.close()
        if answer["kind"] == "refused":
            raise refusal_error(answer)
        return answer, received

    def begin(self, name: str, arguments: dict[str, Any], egress: int = -1) -> Channel:
        """Has a cell made by the order ``new`` or ``fork``. `finish` waits for it.

        Args:
            name: The order.
            arguments: Its arguments; ``id`` names the cell.
            egress: Where the warden is to send the cell's listening socket, or -1 for a cell without a way out.

        Returns:
            The channel to its guest.
        """
        channel, theirs = Channel.pair()
        try:
            self.order(name, arguments, [theirs.fileno()] if egress < 0 else [theirs.fileno(), egress])
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return channel

    async def finish(self, waiting: Waiting, channel: Channel, cell: str) -> None:
        """Waits until a cell's guest is ready.

        Raises:
            KiboError: It could not be made; nothing is left of it.
        """
        try:
            message = await channel.receive(waiting)
            if not (isinstance(message, list) and len(message) == 3 and message[0] in ("ready", "failed")):
                raise violation("it did not say that it is ready")
            if message[0] == "failed":
                raise refusal_error(message[2])
        except wire.Closed:
            channel.close()
            raise (InstanceEnded("the instance ended before it was ready") if self.alive else lost()) from None
        except BaseException:
            channel.close()
            self.forget(cell)
            raise

    def forget(self, instance: str) -> None:
        """Has a cell destroyed without waiting for it; quiet when the runtime is gone, as at the process's end."""
        with contextlib.suppress(KiboError):
            self.order("destroy", {"id": instance})

    def close(self) -> None:
        """Ends every instance and the runtime's processes. Returns when all are gone. Idempotent."""
        with self._closing:
            self._socket.close()
            if self._life >= 0:
                os.close(self._life)
                self._life = -1
        if self.owner_pid == os.getpid():
            self._keeper.wait()


def lost() -> RuntimeLost:
    """The error for a warden that is gone."""
    return RuntimeLost(
        "the runtime's processes ended, and every instance with them",
        hint="Spawn again: a new runtime starts by itself. If it recurs, look at the system log for kills.",
    )


def _listen(path: Path) -> socket.socket:
    """Makes the socket through which the same user's other processes reach the warden."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    here = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # By descriptor, because a socket's path may have 107 bytes and a home directory's more.
        listener.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)
    listener.listen(16)
    return listener


def _keeper_path() -> str:
    return str(Path(__file__).with_name("keeper.py"))


def _python_path() -> list[str]:
    """Names what the warden's interpreter may import: the standard library, Kibo and what its guest half needs."""
    import cloudpickle  # noqa: PLC0415
    import msgspec  # noqa: PLC0415

    import kibo  # noqa: PLC0415

    paths = [p for p in sys.path if p and ("lib-dynload" in p or p == sysconfig.get_path("stdlib") or p.endswith(".zip"))]
    for module in (kibo, cloudpickle, msgspec):
        parent = str(Path(str(module.__file__)).parent.parent)
        if parent not in paths:
            paths.append(parent)
    return paths


def _raise_open_files() -> None:
    """Lifts this process's soft limit of open files to its hard one: an instance takes one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
