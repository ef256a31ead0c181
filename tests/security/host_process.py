"""A user's program that keeps boxes and does what a test tells it to: one JSON request a line, one answer a
line.

It is a process of its own so that the same tests run as root and as an ordinary user, with an environment, a
home and an interpreter that are worth attacking, and so that a box that harms its user's process does not
harm the tests.
"""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from kibo import Box, Env, KiboError, Limits, MayFork, MaySpawn, Quota, action


class Attacker(Box):
    """Runs hostile code, and says what came of it."""

    @action
    def run(self, code: str) -> str:
        """Runs code in the guest itself. Returns the repr of what it left in `result`."""
        scope: dict[str, Any] = {"__name__": "attack"}
        exec(code, scope)
        return repr(scope.get("result"))


class Root(Attacker):
    """The same as the box's own root."""

    env = Env(user="root")


class Small(Attacker):
    """The same with little of everything."""

    env = Env(limits=Limits(memory_bytes=256 << 20, pids=64, disk_bytes=32 << 20, action_s=20))


class Bounded(Attacker):
    """The same where only what every user can have is bounded."""

    env = Env(limits=Limits(disk_bytes=32 << 20, open_files=64, action_s=3))


class Nested(Attacker):
    """The same where programs may make user namespaces of their own."""

    env = Env(nested_namespaces=True)


class Spammer(Attacker):
    """Leaves a program behind in its cached state that asks for namespaces all the time."""

    def launch(self) -> None:
        code = (
            "import ctypes, os\n"
            "os.makedirs('/tmp/spam', exist_ok=True)\n"
            "for n in range(200000):\n"
            "    number = 56 if os.uname().machine == 'x86_64' else 220\n"
            "    pid = ctypes.CDLL(None).syscall(number, 0x10000011, 0, 0, 0, 0)\n"
            "    if pid == 0: os._exit(0)\n"
            "    if pid > 0: open('/tmp/spam/won', 'a').write('x'); os.waitpid(pid, 0)\n"
        )
        if os.fork() == 0:
            os.execv("/usr/bin/python3", ["python3", "-c", code])


class Mute(Attacker):
    """Changes the runner in its cached state so that it no longer does what the warden asks."""

    def launch(self) -> None:
        import sys
        import time

        sys.modules["kibo.runtime.guest"].Guest._be_forked = lambda *_: time.sleep(3600)


class Deaf(Attacker):
    """Changes the runner so that it no longer even reads what the warden says."""

    def launch(self) -> None:
        import sys
        import time

        sys.modules["kibo.runtime.guest"].Guest._obey = lambda *_: time.sleep(3600)


class Early(Attacker):
    """Changes the runner so that its forks start programs as soon as they may, whether anybody has asked for them."""

    env = Env(limits=Limits(pids=64))

    def launch(self) -> None:
        import os
        import sys

        runner = sys.modules["kibo.runtime.guest"].Guest
        take_streams = runner._take_streams

        def start(guest: Any, descriptors: list[int]) -> None:
            take_streams(guest, descriptors)
            started = 0
            try:
                while started < 200:
                    os.posix_spawn("/usr/bin/sleep", ["sleep", "3600"], {})
                    started += 1
            except OSError:
                pass
            sys.modules["__main__"].started = started  # type: ignore[attr-defined]

        runner._take_streams = start


class Keeper(Attacker):
    """Changes the runner so that its forks keep the rights they are born with, and say that all is well."""

    def launch(self) -> None:
        import sys

        sys.modules["kibo.runtime.kernel"].drop_capabilities = lambda: None


class Threaded(Attacker):
    """Changes the runner so that its forks give up their rights, but not those of a thread they started before."""

    def launch(self) -> None:
        import _thread
        import sys
        import time

        kernel = sys.modules["kibo.runtime.kernel"]
        drop = kernel.drop_capabilities

        def start_a_thread_first() -> None:
            _thread.start_new_thread(time.sleep, (60,))
            drop()

        kernel.drop_capabilities = start_a_thread_first


class Relay(Attacker):
    """Changes the runner so that its cached state carries what one fork says to all others."""

    def launch(self) -> None:
        import _thread
        import ctypes
        import sys
        import time

        libc = ctypes.CDLL(None)
        kept = ctypes.create_string_buffer(8)
        sys.modules["__main__"].kept = kept  # type: ignore[attr-defined]
        kernel = sys.modules["kibo.runtime.kernel"]
        clone = kernel.clone
        pids: list[int] = []

        class Piece(ctypes.Structure):
            _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

        def relay() -> None:
            here = ctypes.create_string_buffer(8)
            local, remote = Piece(ctypes.addressof(here), 8), Piece(ctypes.addressof(kept), 8)
            while True:
                for pid in pids:
                    libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
                    for other in pids if here.raw[:1] != b"\0" else ():
                        libc.process_vm_writev(other, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
                time.sleep(0.001)

        def note(flags: int) -> int:
            pid: int = clone(flags)
            if pid > 0:
                pids.append(pid)
                if len(pids) == 1:
                    _thread.start_new_thread(relay, ())
            return pid

        kernel.clone = note


class Helped(Attacker):
    """Changes the runner so that its forks give up their rights, but not before they have started a helper."""

    def launch(self) -> None:
        import os
        import sys
        import time

        kernel = sys.modules["kibo.runtime.kernel"]
        drop = kernel.drop_capabilities

        def start_a_helper_first() -> None:
            if os.getpid() == 1 and os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            drop()

        kernel.drop_capabilities = start_a_helper_first


# What a step of a build looks for, as a package's install script might. The secret is written in two halves.
LOOK_ROUND = f"""
import glob, os
secret, home = {os.environ.get("TEST_SECRET", "")[:16]!r}, {os.environ.get("HOME", "")!r}
rest, found = {os.environ.get("TEST_SECRET", "")[16:]!r}, []
for process in sorted(glob.glob("/proc/[0-9]*")):
    for name in ("environ", "root" + home + "/.secret", "cwd" + home + "/.secret"):
        try:
            with open(process + "/" + name, "rb") as stream:
                if (secret + rest).encode() in stream.read():
                    found.append(process + "/" + name)
        except OSError:
            continue
    try:
        link = os.readlink(process + "/exe")
        os.chmod(process + "/exe", os.stat(process + "/exe").st_mode)
        if not link.startswith("/usr/bin/"):
            found.append(process + "/exe -> " + link)
    except OSError:
        continue
for path in (home + "/.secret", "/root/.ssh", home):
    if os.path.exists(path):
        found.append(path)
top = os.open("/", os.O_RDONLY)
os.makedirs("/escape", exist_ok=True)
try:
    os.chroot("/escape")
    os.fchdir(top)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    if os.path.exists(home + "/.secret"):
        found.append("out of the root")
except OSError as error:
    pass
with open("/var/tmp/found", "w") as out:
    out.write(repr(found))
"""


class Built(Attacker):
    """Is built by a step that looks round."""

    env = Env(run=[f"echo {base64.b64encode(LOOK_ROUND.encode()).decode()} | base64 -d | python3 -"])


class Worker(Box):
    """What callers may spawn."""

    count: int = 0

    @action
    def add(self, n: int = 1) -> int:
        """Adds."""
        self.count += n
        return self.count


class Caller(Attacker):
    """May call out."""

    rights = [MaySpawn(Worker), MayFork()]
    quota = Quota(instances=3, branches=3, calls_per_s=1000)


class RootCaller(Caller):
    """The same as the box's own root."""

    env = Env(user="root")


class SlowCaller(Caller):
    """May call out, and not often."""

    quota = Quota(calls_per_s=5)


BOXES = {
    cls.__name__: cls
    for cls in (
        Attacker,
        Root,
        Small,
        Bounded,
        Nested,
        Spammer,
        Mute,
        Deaf,
        Keeper,
        Threaded,
        Helped,
        Relay,
        Early,
        Built,
        Caller,
        RootCaller,
        SlowCaller,
    )
}
living: dict[int, Any] = {}


def answer(request: dict[str, Any]) -> Any:
    """Does one request."""
    instance = living.get(request.get("box", 0))
    match request["do"]:
        case "spawn":
            number = len(living) + 1
            living[number] = BOXES[request["cls"]]().spawn()
            return number
        case "fork":
            numbers = range(len(living) + 1, len(living) + 1 + request["n"])
            living.update(zip(numbers, instance.fork(request["n"], live=request["live"]), strict=True))
            return list(numbers)
        case "run":
            return instance.run(request["code"])
        case "exec":
            done = instance.exec(request["command"], timeout_s=request["timeout_s"])
            return [_text(done.stdout), _text(done.stderr), done.returncode]
        case "read":
            return base64.b64encode(instance.files.read(request["path"])).decode()
        case "write":
            return instance.files.write(request["path"], request["text"].encode())
        case "list":
            return sorted(str(entry) for entry in instance.files.list(request["path"]))
        case "download":
            instance.files.download(request["path"], request["to"])
            return None
        case "logs":
            return len(instance.logs())
        case "destroy":
            living[request["box"]] = None
            instance.destroy()
            return None
        case "host":
            scope: dict[str, Any] = {"living": living, "gc": gc, "os": os, "Path": Path}
            exec(request["code"], scope)
            return scope.get("result")
    raise ValueError(request["do"])


def _text(data: Any) -> str:
    return data.decode(errors="replace") if isinstance(data, bytes) else str(data)


def main() -> None:
    """Answers until its input ends."""
    # Whatever else prints must not break the conversation.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            reply = {"ok": answer(json.loads(line))}
        except KiboError as error:
            reply = {"error": error.code, "message": str(error), "kind": type(error).__name__}
        except Exception as error:  # noqa: BLE001 (the test decides what it thinks of it)
            reply = {"error": "python", "message": traceback.format_exc(), "kind": type(error).__name__}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
