"""What every attack begins with, and how one is carried out: inside the guest itself, and as a program beside it."""

from __future__ import annotations

import ast
import json
import platform
import select
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kibo.runtime.syscalls import ARCHITECTURES

_WANTED = (
    "unshare setns mount umount2 pivot_root chroot clone clone3 open_tree move_mount fsopen fsmount mount_setattr "
    "keyctl add_key request_key bpf io_uring_setup io_uring_enter userfaultfd perf_event_open kexec_load init_module "
    "finit_module delete_module syslog reboot ptrace process_vm_readv open_by_handle_at mknodat fanotify_init "
    "sethostname settimeofday clock_settime swapon quotactl iopl ioperm modify_ldt pidfd_open pidfd_getfd "
    "lsm_set_self_attr seccomp kill personality socket"
)
NUMBERS = {
    name: number
    for name, number in ARCHITECTURES[platform.machine()].numbers.items()
    if name in _WANTED.split()
}

PRELUDE = f"""
import ctypes, errno, os, socket, sys, time
NUMBERS = {NUMBERS!r}
_libc = ctypes.CDLL(None, use_errno=True)

def syscall(name, *args):
    'Makes a system call; returns its value, or the name of its error.'
    ctypes.set_errno(0)
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    values += [ctypes.c_long(0)] * (6 - len(args))
    value = _libc.syscall(ctypes.c_long(NUMBERS[name]), *values)
    return errno.errorcode[ctypes.get_errno()] if value < 0 else value

def attempt(function, *args):
    'Calls a function; returns what it gives, or the name of its error.'
    try:
        return function(*args)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))

def read(path):
    with open(path, 'rb') as stream:
        return stream.read(65536)
"""

ANSWER_S = 40.0


class Refused(Exception):
    """An error of Kibo, as the user's process saw it."""

    def __init__(self, code: str, message: str, kind: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.kind = code, message, kind


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Refused | None:
    """Calls a function. Returns the error that Kibo gave, or None where it gave none."""
    try:
        function(*args, **kwargs)
    except Refused as refused:
        return refused
    return None


class Stuck(Exception):
    """The user's process did not answer in time."""


@dataclass
class Target:
    """One box, as a test sees it."""

    host: HostProcess
    number: int

    def attack(self, code: str, via: str = "action", timeout_s: float = 20) -> Any:
        """Runs code in the box, as an action or as a command. Returns what it left in `result`."""
        program = PRELUDE + code
        if via == "action":
            return ast.literal_eval(self.host.ask(do="run", box=self.number, code=program))
        out, err, status = self.exec(["python3", "-c", program + "\nprint(repr(result))"], timeout_s)
        assert status == 0, err
        return ast.literal_eval(out)

    def exec(self, command: list[str], timeout_s: float = 20) -> tuple[str, str, int]:
        out, err, status = self.host.ask(do="exec", box=self.number, command=command, timeout_s=timeout_s)
        return out, err, status

    def answers(self) -> bool:
        """Tells whether the box still works."""
        return self.attack("result = 6 * 7") == 42

    def fork(self, n: int = 1, live: str = "require") -> list[Target]:
        """Forks it."""
        return [
            Target(self.host, number) for number in self.host.ask(do="fork", box=self.number, n=n, live=live)
        ]

    def destroy(self) -> None:
        self.host.ask(do="destroy", box=self.number)


class HostProcess:
    """The user's process of `host_process.py`, and the way to talk to it."""

    def __init__(self, command: list[str], *, secret: str, ordinary: bool, **how: Any) -> None:
        self.secret = secret
        self.ordinary = ordinary
        self._errors = how.pop("errors")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, **how
        )  # fmt: skip

    def ask(self, within_s: float = ANSWER_S, **request: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], within_s)
        if not ready:
            raise Stuck(f"no answer within {within_s} s to {request['do']}")
        line = self.process.stdout.readline()
        assert line, f"the user's process ended:\n{self.log()[-3000:]}"
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"], reply["message"], reply["kind"])
        return reply["ok"]

    def spawn(self, cls: str = "Attacker") -> Target:
        """Spawns a box, or skips the test where this user cannot have what the box asks for."""
        try:
            return Target(self, self.ask(60.0, do="spawn", cls=cls))
        except Refused as refused:
            # Limits of memory are what having no control groups rules out.
            if refused.code != "host.unsupported" or not self.ordinary or cls != "Small":
                raise
            pytest.skip(f"this user cannot have what {cls} asks for (`kibo doctor`): {refused.message}")

    def here(self, code: str) -> Any:
        """Runs code in the user's process itself."""
        return self.ask(do="host", code=code)

    def descendants(self) -> list[int]:
        """Lists every process below the user's."""
        parents: dict[int, int] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parents[int(folder.name)] = int(
                        (folder / "stat").read_text().rpartition(")")[2].split()[1]
                    )
                except (FileNotFoundError, ProcessLookupError):
                    continue  # It ended while we looked.
        found, front = [], [self.process.pid]
        while front:
            front = [pid for pid, parent in parents.items() if parent in front]
            found += front
        return found

    def log(self) -> str:
        return Path(self._errors.name).read_text(errors="replace")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self._errors.close()
