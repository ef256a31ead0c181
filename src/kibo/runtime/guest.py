"""The runner inside a box: PID 1 of its namespace, forked from the warden or from a sealed state, never exec'd.

It executes one action at a time and forks itself when the warden orders it to. Two sockets lead out: *control* to the
warden (orders) and *channel* to the user's process (calls). Nothing here is trusted by the other side: a program in
the box may take this process over, and gains what the box has, no more. Only light modules are imported, because
every page that a fork touches is paid for in each box.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal is made of
import _socket
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
from kibo.model.errors import KiboError
from kibo.model.limits import BATCH_S, MAX_COMMAND_BYTES, MAX_ERROR_TEXT_BYTES
from kibo.runtime import hugepages, kernel, seccomp, wire
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

_LOOPBACK_UP: Final = struct.pack("16sH14x", b"lo", 0x1 | 0x40)
_SIGCHLD, _DEFAULT = int(signal.SIGCHLD), int(signal.SIG_DFL)
_SCOPED_LANDLOCK: Final = struct.pack("QQQ", 0, 0, 0x1 | 0x2)
#: How to see what comes next without taking it, or waiting for it.
_LOOK: Final = int(_socket.MSG_PEEK | _socket.MSG_DONTWAIT)
#: As many as the strongest of OpenSSL's generators takes.
_SEED_BYTES: Final = 32


#: The sockets. Fixed, so that a fork finds everything that was set up for them still right.
CONTROL: Final = 3
CHANNEL: Final = 4
_OWN: Final = frozenset({0, 1, 2, CONTROL, CHANNEL})
#: Standard input, output and error: the first descriptors that it is let in with. A fork, which has nothing but
#: `CONTROL` open, finds them in their places, and then `CHANNEL`: the kernel gives out the lowest numbers first.
_STREAMS: Final = 3

_HELLO: Final = b"\xc0"  # nothing: the kernel adds this process's id, which the warden reads
_BARE: Final = b"\xa4bare"
_IN: Final = b"\xa2in"


class _Part:
    """What is called to rehearse."""

    def action(self, argument: str) -> str:
        return argument


_PART: Final = _Part()
#: A call such as comes most often, of the last part.
_SAMPLE: Final = wire.pack(["call", 1, -1, "action", ["argument"], {}, True])[4:]


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
        # An interrupt that came while no action ran, and the newest request that the warden has named with one.
        self.signalled = False
        self.interrupted = 0
        self.sealed = False
        self.suspended = False
        self.guarded = False
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
        # Nothing of the user's runs before the warden has seen that this process has no rights and is alone.
        wire.receive_command(self.control)

    def enter_fork(self) -> None:
        """Enters the box as a fork, which inherits filter, ids and environment and gives up what its namespace gave.

        The warden makes its root meanwhile, and lets in only a process that is alone and has no rights.
        """
        os.write(CONTROL, _HELLO)
        _raise_loopback()
        kernel.drop_capabilities()
        # What it has open is its origin's and that of all other forks: each side would hear the others through it. Nor
        # has it a part in their terminal, or in what is sent to their process group.
        os.setsid()
        kernel.close_range(0, CONTROL - 1)
        kernel.close_range(CONTROL + 1)
        os.write(CONTROL, _BARE)
        self.sealed = False
        self.interrupted = 0  # its caller counts its requests anew
        # Not by way of the signal module, whose enums are another 25 pages that a fork touches.
        _signal.signal(_SIGCHLD, _DEFAULT)
        self.after_fork.restore()
        self.orphans.forget()
        _reseed()
        self.rehearse()
        _, descriptors, _ = wire.receive_command(self.control)
        self._take_streams(descriptors)
        # This it may have to wait for long: until somebody asks for a box.
        order, (channel,), _ = wire.receive_command(self.control)
        self._take_channel(channel)
        if "variables" in order:
            os.environ.clear()
            os.environ.update(order["variables"])
        os.chdir(self.cwd or order["cwd"])
        self._guard()

    def _guard(self) -> None:
        if self.guarded:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 0)

    def _take(self, descriptors: list[int]) -> None:
        """Puts its standard streams and the channel where they belong, and joins its control groups."""
        channel = descriptors.pop(_STREAMS)
        self._take_streams(descriptors)
        self._take_channel(channel)

    def _take_streams(self, descriptors: list[int]) -> None:
        for fd in descriptors[_STREAMS:]:
            os.write(fd, b"0")
            os.close(fd)
        for place in range(_STREAMS):
            fd = descriptors[place]
            if fd != place:
                os.dup2(fd, place)
                os.close(fd)
            else:
                os.set_inheritable(fd, True)

    def _take_channel(self, fd: int) -> None:
        if fd != CHANNEL:
            os.dup2(fd, CHANNEL, False)
            os.close(fd)
        if not self.open:
            self.poll.register(CHANNEL, select.POLLIN)
            self.open = True

    def _settle_first(self, order: dict[str, Any]) -> None:
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
            case "hold":
                self._be_forked()
            case "wake":
                self._take(descriptors)
                self._go_on()
                _send(self.ready)
            case ["interrupt", number]:
                self.interrupted = number

    def _be_forked(self) -> None:
        """Makes the call that forks it, at which the warden holds it: each fork comes out of it with a control socket
        of its own. So does this process, once, when it is to go on itself.
        """
        if self.open:
            # Its caller speaks to it on another one from now on.
            self._leave_channel()
        try:
            if kernel.clone(FORK_FLAGS):
                os._exit(EXIT_SETUP)  # nobody holds it
        except OSError:
            return
        try:
            self.enter_fork()
            self.files.renew()
            self.suspended = False
            self._resume()
            _send(self.ready)
        except BaseException:  # noqa: BLE001 - a fork must never run on as its origin
            _die_with_report(self.open)

    def _resume(self) -> None:
        for part in self.resumers:
            try:
                part.resume()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the caller is told
                self._say(["failed", 0, describe(error, f"{type(part).__name__}.resume")])
                os._exit(EXIT_SETUP)

    def _say(self, message: object) -> None:
        _send(wire.pack(message))

    def _answer(self) -> None:
        try:
            request = _receive()
        except (wire.Closed, wire.FrameError, ConnectionError):
            if not self.sealed:
                os._exit(EXIT_ALONE)
            self._leave_channel()
            return
        try:
            _send(self._reply(request))
        except ConnectionError:
            os._exit(EXIT_ALONE)

    def _reply(self, request: list[Any]) -> bytes:
        """Does what it is asked for, and returns the frame that says what came of it."""
        kind, number, *rest = request
        try:
            reply = getattr(self, f"_do_{kind}")(number, *rest)
        except ActionInterrupted as error:
            reply = ["interrupted", number, describe(error)["traceback"]]
        except BaseException as error:  # noqa: BLE001 - whatever an action raises is its caller's to see
            reply = ["error", number, describe(error)]
        try:
            return wire.pack(reply)
        except wire.FrameError as error:
            return wire.pack(["error", number, {"kind": "too-large", "message": str(error)}])

    def _leave_channel(self) -> None:
        self.poll.unregister(CHANNEL)
        os.dup2(0, CHANNEL, False)  # keeps the number taken
        self.open = False

    # Requests

    def _do_call(
        self,
        number: int,
        part: int,
        name: str,
        args: list[Any],
        kwargs: dict[str, Any],
        plain: bool,
        trace: str = "",
    ) -> Any:
        method = getattr(self.parts[part], name)
        if not plain:
            args, kwargs = _restore(type(self.parts[part]), name, args, kwargs)
        if trace:
            before = os.environ.get("TRACEPARENT", "")
            os.environ["TRACEPARENT"] = trace
        try:
            self._begin(number)
            return ["ok", number, to_builtins(method(*args, **kwargs))]
        finally:
            self.in_action = False
            if trace:  # what is called next belongs elsewhere
                os.environ["TRACEPARENT"] = before
                if not before:
                    del os.environ["TRACEPARENT"]
            _flush()

    def _do_deliver(self, number: int, part: int, name: str, messages: list[dict[str, Any]]) -> Any:
        """Gives messages to the method that handles them, one after the other, for a short while.

        Answers how many it has handled, what it returned for the last if somebody waits for that, and what it raised.
        """
        from kibo.model.message import Message, call_handler

        method = getattr(self.parts[part], name)
        count, answer, report = 0, None, None
        until = time.monotonic() + BATCH_S
        try:
            for message in messages:
                if count and time.monotonic() > until:
                    break
                try:
                    self._begin(number)
                    answer = call_handler(method, Message(**message))
                    answer = to_builtins(answer) if message["asks"] else None
                    wire.pack(answer)
                    self.in_action = False  # what has been handled is told, whatever comes now
                except ActionInterrupted as error:
                    report = {**describe(error), "kind": "interrupted"}
                    break
                except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its message's to tell
                    report = describe(error)
                    break
                count += 1
                if message["asks"]:
                    break
        finally:
            self.in_action = False
            _flush()
        return ["ok", number, [count, None if report else answer, report]]

    def _do_stream(
        self, number: int, part: int, name: str, args: list[Any], kwargs: dict[str, Any], plain: bool
    ) -> Any:
        method = getattr(self.parts[part], name)
        if not plain:
            args, kwargs = _restore(type(self.parts[part]), name, args, kwargs)
        poll = select.poll()
        poll.register(CHANNEL, select.POLLIN)
        self._begin(number)
        stream = method(*args, **kwargs)
        try:
            while True:
                try:
                    item = next(stream)
                except StopIteration as end:
                    return ["ok", number, to_builtins(end.value)]
                frame = wire.pack(["item", number, to_builtins(item)])
                self.in_action = False  # half a frame would be read as part of the next
                _send(frame)
                self._begin(number)
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
            try:
                self._begin(number)
                launch()
            finally:
                self.in_action = False
                _flush()
        return ["ok", number, None]

    def _do_seal(self, number: int) -> Any:
        """Gets ready to be forked from as a state, or says what stands in the way.

        What ``resume`` opened, ``suspend`` closes. Children that are left end here: a fork could not have them.
        """
        self._suspend()
        ended = self.orphans.end_children()
        _await_threads()
        gc.collect()
        obstacles = self._obstacles()
        if obstacles:
            return ["ok", number, obstacles]
        self._step_aside()
        gc.collect()
        gc.freeze()
        hugepages.collapse_heap()
        return ["ok", number, {"ended": ended}]

    def _do_hold(self, number: int) -> Any:
        """Gets ready to be forked from as a running instance, or says what stands in the way and goes on.

        ``suspend`` is called only where it may help: what needs no closing is not disturbed.
        """
        _flush()
        obstacles = self._obstacles()
        if obstacles and any(hasattr(part, "suspend") for part in self.parts):
            self._suspend()
            _await_threads()
            obstacles = self._obstacles()
        if obstacles:
            if self.suspended:
                self._resume()
                self.suspended = False
            return ["ok", number, obstacles]
        self._step_aside()
        gc.freeze()
        return ["ok", number, {}]

    def _do_release(self, number: int) -> Any:
        """Goes on after `_do_hold` when nothing came of it."""
        self._go_on()
        return ["ok", number, None]

    def _suspend(self) -> None:
        for part in reversed(self.parts):
            suspend = getattr(part, "suspend", None)
            if suspend is not None:
                self.suspended = True
                suspend()
        _flush()

    def _obstacles(self) -> dict[str, Any]:
        """Finds what a fork cannot have: threads, and open files that cannot be made anew. Remembers the others."""
        count = len(os.listdir("/proc/self/task"))
        if count > 1:
            threads = [
                thread.name for thread in threading.enumerate() if thread is not threading.main_thread()
            ]
            return {"threads": threads, "thread_count": count}
        problems = self.files.remember(_OWN)
        return {"unforkable": problems} if problems else {}

    def _step_aside(self) -> None:
        """Lets go of its root, so that it can be sealed, and gets ready to be forked."""
        self.files.step_aside()
        for fd in (1, 2):
            os.dup2(0, fd)  # the log is its own, and no fork's
        self.cwd = _working_directory()
        # pivot_root moves processes by their root, not by their working directory.
        os.chdir("/")
        self.rehearse()
        openssl = sys.modules.get("_ssl")
        if openssl is not None:
            openssl.RAND_status()  # makes its generator, which takes milliseconds: once, and in no fork
        self.after_fork.thin()
        self.sealed = True
        # A program may forbid others to look at its memory; the warden has to, for as long as it is sealed.
        self.guarded = kernel.prctl(kernel.PR_GET_DUMPABLE) == 0
        if self.guarded:
            kernel.prctl(kernel.PR_SET_DUMPABLE, 1)
        # Its children are boxes, whose ends are the warden's business.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)

    def _go_on(self) -> None:
        """Takes up what it let go of, in the root that it now has."""
        self.sealed = False
        self._guard()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.after_fork.put_back()
        if self.cwd:
            os.chdir(self.cwd)
        self.files.take_up()
        if self.suspended:
            self.suspended = False
            self._resume()

    def rehearse(self) -> None:
        """Runs through a call of nobody's: a fork does so while its root is being built, and finds its pages warm."""
        self.parts.append(_PART)
        try:
            self._reply(wire.unpack(_SAMPLE))
        finally:
            self.parts.pop()
        self.poll.poll(0)

    # Interrupts: the warden names the request on the control socket, and then sends the signal. A signal reaches the
    # action that runs, which is the one that is meant: whoever interrupts has the warden's word for it before the next
    # request is written. While none runs, the number tells an interrupt that came early from one that came late.

    def _on_interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self.in_action:
            self.in_action = False  # once: what unwinds is left to
            raise ActionInterrupted
        self.signalled = True

    def _begin(self, number: int) -> None:
        """Lets the box's code be interrupted from here on.

        Raises:
            ActionInterrupted: It was, before it began.
        """
        self.in_action = True
        if self.signalled:
            self.signalled = False
            self._hear_interrupts()
            if self.interrupted == number:
                self.in_action = False
                raise ActionInterrupted

    def _hear_interrupts(self) -> None:
        """Reads what the control socket says of interrupts, and leaves orders for `_obey`."""
        while True:
            try:
                match wire.unpack(self.control.recv(MAX_COMMAND_BYTES, _LOOK)):
                    case ["interrupt", _]:
                        self._obey()
                    case _:
                        return
            except (BlockingIOError, wire.FrameError):
                return


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
    """Gives a fork random numbers of its own. Python's generator does so by itself at a fork.

    OpenSSL's tells a fork by its process id, which is 1 on every side: keys of all would be the same.
    """
    openssl = sys.modules.get("_ssl")
    if openssl is not None:
        openssl.RAND_add(os.urandom(_SEED_BYTES), _SEED_BYTES)
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
    kind, trace = type(error), error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next  # the way through the runner tells nobody anything
    lines = traceback.format_exception(kind, error, trace or error.__traceback__)[-40:]
    message, hint = (error.message, error.hint) if isinstance(error, KiboError) else (str(error), "")
    return {
        "kind": "raised",
        "type": f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__ != "builtins"
        else kind.__qualname__,
        "message": _bounded(message),
        "hint": _bounded(hint),
        "traceback": _bounded("".join(lines)),
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
    probe = kernel.udp_socket()
    kernel.set_interface_flags(probe, _LOOPBACK_UP)
    os.close(probe)


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


def _working_directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""  # removed meanwhile: where it goes on is the box's own


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
