"""The runner inside a box: PID 1 of its namespace, forked from the warden or from a sealed state, never exec'd.

It executes one action at a time and forks itself when the warden orders it to. Two sockets lead out: *control* to the
warden (orders) and *channel* to the user's process (calls). Nothing here is trusted by the other side: a program in
the box may take this process over, and gains what the box has, no more. Only light modules are imported, because
every page that a fork touches is paid for in each box.
"""

from __future__ import annotations

import _socket
import fcntl
import gc
import os
import resource
import select
import signal
import struct
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any, Final

from kibo.box.results import to_builtins
from kibo.model.limits import MAX_ERROR_TEXT_BYTES
from kibo.runtime import kernel, seccomp, wire
from kibo.runtime.afterfork import AfterFork
from kibo.runtime.openfiles import OpenFiles
from kibo.runtime.orphans import Orphans

#: What a fork makes anew for the child. The user namespace is what lets it do so without any right.
FORK_FLAGS: Final = (
    kernel.CLONE_NEWUSER
    | kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWCGROUP
)
#: Exit status of a guest whose sockets closed: nobody is left to serve.
EXIT_ALONE: Final = 0
#: Exit status of a guest that could not enter its box.
EXIT_SETUP: Final = 70

_SIOCSIFFLAGS: Final = 0x8914
_LOOPBACK_UP: Final = struct.pack("16sH14x", b"lo", 0x1 | 0x40)
#: A call such as comes most often.
_SAMPLE: Final = wire.pack(["call", 1, 0, "action", ["argument"], {}, True])[4:]
_SCOPED_LANDLOCK: Final = struct.pack("QQQ", 0, 0, 0x1 | 0x2)


#: The sockets. Fixed, so that a fork finds everything that was set up for them still right.
CONTROL: Final = 3
CHANNEL: Final = 4
_OWN: Final = frozenset({0, 1, 2, CONTROL, CHANNEL})

_HELLO: Final = b"\xc0"  # nothing: the kernel adds this process's id, which the warden reads
_BARE: Final = b"\xa4bare"
_IN: Final = b"\xa2in"


class ActionInterrupted(BaseException):
    """The time of the running action is up. Not an Exception, so that a broad handler in the box lets it pass."""


class Guest:
    """The state of one runner. A fork has a copy of it.

    What runs between a fork and its first result touches as few objects as it can: each page that it writes to, if
    only to count a reference, is copied for the child at nearly two microseconds.
    """

    def __init__(self) -> None:
        self.control = _socket.socket(fileno=CONTROL)
        self.open = False
        self.parts: list[Any] = []
        self.resumers: list[Any] = []
        self.orphans = Orphans()
        self.files = OpenFiles()
        self.after_fork = AfterFork()
        self.cwd = ""
        self.in_action = False
        self.sealed = False
        self.poll = select.poll()
        self.poll.register(CONTROL, select.POLLIN)
        self.ready = wire.pack(["ready", 0, 0])

    # Entering the box

    def enter_first(self) -> None:
        """Enters the box as the warden's own child, with everything still to do."""
        os.write(CONTROL, _HELLO)
        _raise_loopback()
        order, descriptors, _ = wire.receive_command(self.control)
        self._take(descriptors)
        kernel.disarm_root()
        self._settle_first(order)
        os.chdir(order["cwd"])
        kernel.drop_capabilities()
        self._filter(order["seccomp"])
        os.write(CONTROL, _IN)

    def enter_fork(self) -> None:
        """Enters the box as a fork, which inherits filter, ids and environment and gives up what its namespace gave.

        The warden makes its root meanwhile, and lets in only a process that is alone and has no rights.
        """
        os.write(CONTROL, _HELLO)
        _raise_loopback()
        kernel.drop_capabilities()
        os.write(CONTROL, _BARE)
        self.sealed = False
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.after_fork.restore()
        self.orphans.forget()
        _reseed()
        self.rehearse()
        order, descriptors, _ = wire.receive_command(self.control)
        self._take(descriptors)
        resource.setrlimit(resource.RLIMIT_NPROC, (order["pids"], order["pids"]))
        if "variables" in order:
            os.environ.clear()
            os.environ.update(order["variables"])
        os.chdir(self.cwd or order["cwd"])

    def _take(self, descriptors: list[int]) -> None:
        """Joins the control groups, and puts the channel and the log where they belong."""
        channel, log, *groups = descriptors
        for fd in groups:
            os.write(fd, b"0")
            os.close(fd)
        os.dup2(channel, CHANNEL, False)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(channel)
        os.close(log)
        if not self.open:
            self.poll.register(CHANNEL, select.POLLIN)
            self.open = True

    def _settle_first(self, order: dict[str, Any]) -> None:
        with open("/dev/null") as null:
            os.dup2(null.fileno(), 0)
        # Whoever follows the log of a long action sees each line as it is printed.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
        os.umask(0o022)
        kernel.sethostname(order["hostname"])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["open_files"], order["open_files"]))
        # The hard limit stays: a user namespace that is forked from here counts every box below it against it.
        resource.setrlimit(
            resource.RLIMIT_NPROC, (order["pids"], resource.getrlimit(resource.RLIMIT_NPROC)[1])
        )
        if order["uid"] != os.getuid():
            os.setgroups([])
            os.setresgid(order["uid"], order["uid"], order["uid"])
            os.setresuid(order["uid"], order["uid"], order["uid"])
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        os.environ.clear()
        os.environ.update(order["variables"])
        sys.path[:] = order["python_path"]
        sys.prefix = sys.exec_prefix = sys.base_prefix = sys.base_exec_prefix = "/opt/kibo/python"
        sys.executable = "/opt/kibo/python/bin/python3"
        sys.argv = ["kibo"]
        sys.path_importer_cache.clear()
        _rehome_packages(order["python_path"])
        signal.signal(signal.SIGUSR1, self._on_interrupt)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.orphans.watch()

    def _filter(self, program: bytes) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        _scope_with_landlock()
        listener = seccomp.install(program, listener=True)
        assert listener is not None
        wire.send_command(self.control, "listener", [listener])
        os.close(listener)

    # Serving

    def serve(self) -> None:
        """Serves orders and calls until both sides are gone."""
        while True:
            for fd, _ in self.poll.poll():
                if fd == CHANNEL:
                    self._answer()
                    self.orphans.reap()
                else:
                    self._obey()
                    break  # a fork's sockets have something else to say

    def _obey(self) -> None:
        try:
            order, descriptors, _ = wire.receive_command(self.control)
        except wire.Closed:
            os._exit(EXIT_ALONE)
        match order:
            case "fork":
                self._fork(descriptors[0])
            case "step-out":
                # pivot_root moves processes by their root, not by their working directory.
                os.chdir("/")
                wire.send_command(self.control, "out")

    def _fork(self, control: int) -> None:
        try:
            child = kernel.clone(FORK_FLAGS)
        except OSError as error:
            # The kernel has no room for another: the one that was to be is told so in its own name.
            os.write(control, wire.pack(error.errno or 1)[4:])
            child = -1
        if child:
            os.close(control)
            return
        try:
            os.dup2(control, CONTROL, False)
            os.close(control)
            self.enter_fork()
            self.files.renew()
            self._resume()
        except BaseException:  # noqa: BLE001 - a fork must never run on as its origin
            _die_with_report(self.open)

    def _resume(self) -> None:
        for part in self.resumers:
            try:
                part.resume()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller is told
                self._say(["failed", 0, describe(error, f"{type(part).__name__}.resume")])
                os._exit(EXIT_SETUP)
        _send(self.ready)

    def _say(self, message: object) -> None:
        _send(wire.pack(message))

    def _answer(self) -> None:
        try:
            request = _receive()
        except (wire.Closed, wire.FrameError, ConnectionError):
            if not self.sealed:
                os._exit(EXIT_ALONE)
            self.poll.unregister(CHANNEL)
            os.dup2(0, CHANNEL, False)  # keeps the number taken
            self.open = False
            return
        kind, number, *rest = request
        try:
            reply = getattr(self, f"_do_{kind}")(number, *rest)
        except ActionInterrupted:
            reply = ["interrupted", number]
        except BaseException as error:  # noqa: BLE001 - whatever an action raises is its caller's to see
            reply = ["error", number, describe(error)]
        try:
            data = wire.pack(reply)
        except wire.FrameError as error:
            data = wire.pack(["error", number, {"kind": "too-large", "message": str(error)}])
        try:
            _send(data)
        except ConnectionError:
            os._exit(EXIT_ALONE)

    # Requests

    def _do_call(
        self, number: int, part: int, name: str, args: list[Any], kwargs: dict[str, Any], plain: bool
    ) -> Any:
        method = getattr(self.parts[part], name)
        if not plain:
            args, kwargs = _restore(type(self.parts[part]), name, args, kwargs)
        self.in_action = True
        try:
            return ["ok", number, to_builtins(method(*args, **kwargs))]
        finally:
            self.in_action = False
            _flush()

    def _do_stream(
        self, number: int, part: int, name: str, args: list[Any], kwargs: dict[str, Any], plain: bool
    ) -> Any:
        method = getattr(self.parts[part], name)
        if not plain:
            args, kwargs = _restore(type(self.parts[part]), name, args, kwargs)
        poll = select.poll()
        poll.register(CHANNEL, select.POLLIN)
        self.in_action = True
        stream = method(*args, **kwargs)
        try:
            while True:
                try:
                    item = next(stream)
                except StopIteration as end:
                    return ["ok", number, to_builtins(end.value)]
                self._say(["item", number, to_builtins(item)])
                # The reader speaks only to stop a stream, so anything readable here is that. It is answered after.
                if poll.poll(0):
                    return ["stopped", number]
        finally:
            self.in_action = False
            stream.close()
            _flush()

    def _do_stop(self, number: int) -> Any:
        """Follows the answer of a stream that is over, stopped or not, so that each request has its one answer."""
        return ["stopped", number]

    def _do_load(self, number: int, parts: bytes) -> Any:
        """Unpickles the box's classes, which come from the user's process, and makes their live objects."""
        from kibo.box.ship import decode_parts

        for cls, parameters, needs in decode_parts(parts)[len(self.parts) :]:
            part = cls.__new__(cls)
            bound = {attribute: self.parts[index] for attribute, index in needs.items()}
            cls.__kibo_restore__(part, parameters, bound)
            self.parts.append(part)
        self.resumers = [part for part in self.parts if hasattr(part, "resume")]
        return ["ok", number, len(self.parts)]

    def _do_launch(self, number: int, part: int) -> Any:
        launch = getattr(self.parts[part], "launch", None)
        if launch is not None:
            self.in_action = True
            try:
                launch()
            finally:
                self.in_action = False
                _flush()
        return ["ok", number, None]

    def _do_seal(self, number: int) -> Any:
        """Gets ready to be forked from, or says what stands in the way.

        What ``resume`` opened, ``suspend`` closes. Children that are left end here: a fork could not have them.
        """
        for part in reversed(self.parts):
            suspend = getattr(part, "suspend", None)
            if suspend is not None:
                suspend()
        _flush()
        ended = self.orphans.end_children()
        _await_threads()
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        count = len(os.listdir("/proc/self/task"))
        if count > 1:
            return ["ok", number, {"threads": threads, "thread_count": count}]
        problems = self.files.remember(_OWN)
        if problems:
            return ["ok", number, {"unforkable": problems}]
        self.cwd = os.getcwd()
        self.rehearse()
        self.after_fork.thin()
        self.sealed = True
        # Its children are boxes, whose ends are the warden's business.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        os.chdir("/")
        gc.collect()
        gc.freeze()
        return ["ok", number, {"ended": ended}]

    def rehearse(self) -> None:
        """Runs through a call without one: a fork does so while its root is being built, and finds its pages warm."""
        wire.unpack(_SAMPLE)
        wire.pack(["ok", 1, to_builtins("")])
        self.in_action = False
        self.poll.poll(0)
        _flush()

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.in_action:
            raise ActionInterrupted


def run() -> None:
    """Runs a first guest, whose control socket is `CONTROL`: enters the box, then serves. Never returns."""
    os.dup2(0, CHANNEL, False)  # keeps the number taken
    guest = Guest()
    try:
        guest.enter_first()
        _send(guest.ready)
        guest.serve()
    except BaseException:  # noqa: BLE001 - whatever it is, the caller is told
        _die_with_report(guest.open)


def _send(data: bytes) -> None:
    """Sends a whole frame on the channel."""
    sent = os.write(CHANNEL, data)
    while sent < len(data):
        sent += os.write(CHANNEL, memoryview(data)[sent:])


def _receive() -> Any:
    """Receives one frame from the channel. A small one takes one read: the caller waits for each answer."""
    data = os.read(CHANNEL, 65536)
    if not data:
        raise wire.Closed
    while len(data) < 4 or len(data) < 4 + wire.frame_length(data[:4]):
        more = os.read(CHANNEL, 1 << 20)
        if not more:
            raise wire.FrameError("the channel was closed inside a frame")
        data += more
    return wire.unpack(data[4:])


def _reseed() -> None:
    """Gives a fork random numbers of its own. Python's generator does so by itself at a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _rehome_packages(python_path: list[str]) -> None:
    """Points packages that came along in memory at their files in the box, where what is not yet loaded of them is."""
    for name, module in list(sys.modules.items()):
        if getattr(module, "__path__", None):
            path = name.replace(".", "/")
            homes = [home for entry in python_path if os.path.isdir(home := f"{entry}/{path}")]
            if homes:
                module.__path__ = homes[:1]
                if module.__spec__ is not None:
                    module.__spec__.submodule_search_locations = homes[:1]


def describe(error: BaseException, where: str = "") -> dict[str, Any]:
    """Tells an exception as data: the host shows it, and never rebuilds the object."""
    text = "".join(traceback.format_exception(error)[-40:])
    kind = type(error)
    return {
        "kind": "raised",
        "type": f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__ != "builtins"
        else kind.__qualname__,
        "message": _bounded(str(error)),
        "traceback": _bounded(text),
        "frames": [
            (f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(error.__traceback__)[-40:]
        ],
        "where": where,
        "code": getattr(error, "code", ""),
    }


def _bounded(text: str) -> str:
    data = text.encode(errors="backslashreplace")
    return data[-MAX_ERROR_TEXT_BYTES:].decode(errors="replace")


def _restore(
    cls: type, name: str, args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    from kibo.box.schema import restore_arguments

    return restore_arguments(cls, name, args, kwargs)


def _raise_loopback() -> None:
    """Brings 127.0.0.1 up in the new network namespace, whose only device it is."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    fcntl.ioctl(probe.fileno(), _SIOCSIFFLAGS, _LOOPBACK_UP)
    probe.close()


def _scope_with_landlock() -> None:
    """Keeps abstract sockets and signals inside the box a second time over, where the kernel can (ABI 6).

    Rules on paths would not survive a fork, whose root is another; the mount namespace holds those.
    """
    try:
        if kernel.landlock_create_ruleset(b"", 1) < 6:
            return
    except OSError:
        return  # a kernel without Landlock: the namespaces hold, and `kibo doctor` says what is missing
    ruleset = kernel.landlock_create_ruleset(_SCOPED_LANDLOCK)
    kernel.landlock_restrict_self(ruleset)
    os.close(ruleset)


def _await_threads() -> None:
    """Gives threads that waited for the children a moment to see that those have ended."""
    deadline = time.monotonic() + 1.0
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.005)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _die_with_report(connected: bool) -> None:
    """Ends a guest that could not start, saying why to whoever still listens. Never returns."""
    error = sys.exc_info()[1]
    try:
        if error is not None and connected:
            _send(wire.pack(["failed", 0, describe(error, "guest") | {"kind": "setup"}]))
        elif error is not None:
            traceback.print_exception(error)
    finally:
        os._exit(EXIT_SETUP)
