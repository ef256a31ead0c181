"""One running runtime, from the user's process: its keeper, its warden, and the socket that gives it orders."""

from __future__ import annotations

import errno
import json
import os
import resource
import secrets
import select
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import Any, Final

from kibo.model.errors import HostUnsupported
from kibo.runtime.interpreter import out_of_reach
from kibo.runtime.layers.home import kernel_features_to_do_without
from kibo.runtime.orders import Orders
from kibo.runtime.remains import lock_path, remove_remains, sweep_sessions
from kibo.store.locking import try_lock

#: A warden that has not started by then will not: it is a fraction of a second's work.
START_TIMEOUT_S: Final = 30.0

#: What a session tells of itself, beside its socket, to the same user's other processes.
FACTS_FILE: Final = "session.json"


class Session(Orders):
    """Starts a keeper and a warden, and gives the warden orders. Thread-safe: an order is one datagram."""

    def __init__(self, home: Path) -> None:
        """Starts the processes. About 0.2 s.

        Args:
            home: The state directory, prepared.

        Raises:
            HostUnsupported: The host cannot give the isolation that boxes need; the hint is the remedy.
            OSError: The state directory cannot be written to, such as ENOSPC.
        """
        self.name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self.home = home
        self.owner_pid = os.getpid()
        self.run_directory = home / "run" / self.name
        sweep_sessions(home)
        # Nothing slow from here to the keeper's start: who is killed in between leaves a directory for the next sweep.
        python_path = _python_path()
        lock = try_lock(lock_path(self.run_directory))
        assert lock is not None, "two sessions of one random name"
        try:
            self.run_directory.mkdir(mode=0o700, parents=True)
        except BaseException:
            lock_path(self.run_directory).unlink()
            os.close(lock)
            raise
        self._closing = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life_read, self._life = os.pipe2(os.O_CLOEXEC)
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        listener = _listen(self.run_directory / "warden.sock")
        passed = (theirs.fileno(), life_read, ready_write, listener.fileno(), lock)
        config = {
            "session": self.name,
            "run": str(self.run_directory),
            "layers": str(home / "layers"),
            "deltas": str(home / "deltas"),
            "python_path": python_path,
            "owner_pid": self.owner_pid,
            "owner_fd": theirs.fileno(),
            "life_fd": life_read,
            "ready_fd": ready_write,
            "listen_fd": listener.fileno(),
            "lock_fd": lock,
            "without": kernel_features_to_do_without(),
        }
        _raise_open_files()
        settings = _in_memory(json.dumps(config).encode())
        try:
            with out_of_reach(sys.executable) as (executable, copy):
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-X", "frozen_modules=on", _keeper_path()],
                    executable=executable,
                    pass_fds=(*passed, *copy),
                    stdin=settings,
                    env=_variables(),
                    cwd="/",
                )
        finally:
            theirs.close()
            listener.close()
            os.close(life_read)
            os.close(ready_write)
            os.close(lock)
            os.close(settings)
        try:
            self.facts = self._await_ready(ready_read)
            facts = {"owner_pid": self.owner_pid, "started_s": time.time(), "facts": self.facts}
            (self.run_directory / FACTS_FILE).write_text(json.dumps(facts))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready_read)

    def _await_ready(self, ready: int) -> dict[str, Any]:
        in_time, _, _ = select.select([ready], [], [], START_TIMEOUT_S)
        with open(ready, closefd=False) as stream:
            line = stream.readline() if in_time else ""
        answer: dict[str, Any] = {"kind": "failed", "message": "the keeper ended or did not start in time"}
        if line:
            answer = json.loads(line)
        if answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(answer["errno"], answer["message"])
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

    def close(self) -> None:
        """Ends every instance and the runtime's processes. Returns when all are gone. Idempotent."""
        with self._closing:
            self._socket.close()
            if self._life >= 0:
                os.close(self._life)
                self._life = -1
        if self.owner_pid == os.getpid():
            self._keeper.wait()
            # Nothing, unless the keeper was killed; what is busy still is swept by the next session.
            remove_remains(self.run_directory)


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


def _in_memory(data: bytes) -> int:
    """Puts data where a child finds it whole, even if this process is killed meanwhile. Returns its descriptor."""
    fd = os.memfd_create("kibo-settings", os.MFD_CLOEXEC)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _variables() -> dict[str, str]:
    """The keeper's environment: nothing of the user's but where programs are, and whose ids boxes are to have."""
    kept = {name: os.environ[name] for name in ("KIBO_IDS",) if name in os.environ}
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **kept}


def _keeper_path() -> str:
    return str(Path(__file__).with_name("keeper.py"))


def _python_path() -> list[str]:
    """Names what the warden's interpreter may import: the standard library, Kibo and what its guest half needs."""
    import cloudpickle
    import msgspec

    import kibo

    paths = [
        p
        for p in sys.path
        if p and ("lib-dynload" in p or p == sysconfig.get_path("stdlib") or p.endswith(".zip"))
    ]
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
