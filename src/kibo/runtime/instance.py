"""An instance: the caller's hold on one running box."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from kibo.box.actions import ActionSpec
from kibo.box.plan import Plan
from kibo.model.errors import (
    ActionExited,
    ActionTimedOut,
    FrameTooLarge,
    InstanceEnded,
    KiboError,
    MemoryExceeded,
    UnknownAction,
)
from kibo.model.ids import BranchId, InstanceId
from kibo.model.limits import DEFAULT_ACTION_S
from kibo.model.record import Record
from kibo.runtime import commandline, wire
from kibo.runtime.channel import Channel
from kibo.runtime.commandline import Command, Completed, Process, Terminal
from kibo.runtime.egress import Egress
from kibo.runtime.files import FileChange, FileInfo, FileStream, Progress, box_path
from kibo.runtime.refusals import raised_error, violation
from kibo.runtime.session import Session, lost
from kibo.runtime.waiting import Blocking, Waiting, run

#: How long an interrupted action has to unwind before its instance is destroyed.
UNWIND_S: Final = 2.0


class Change(Record):
    """One file that a box changed.

    Attributes:
        kind: ``"added"``, ``"changed"`` or ``"removed"``.
        path: Absolute, in the box; a directory's ends in ``/``.
        size: In bytes; 0 for what was removed and for directories.
    """

    kind: str
    path: str
    size: int


class Conversation:
    """The calls to one guest, one at a time, as coroutines."""

    def __init__(self, session: Session, instance: str, plan: Plan, channel: Channel) -> None:
        self.session = session
        self.instance = instance
        self.plan = plan
        self.channel = channel
        self.ended = ""
        self._numbers = itertools.count(1)

    def spec(self, name: str) -> ActionSpec:
        """Finds an action.

        Raises:
            UnknownAction: The box has none of that name.
        """
        found = self.plan.actions.get(name)
        if found is None:
            known = ", ".join(sorted(self.plan.actions)) or "none"
            raise UnknownAction(f"the box has no action {name!r}", hint=f"It has: {known}.", details={"action": name})
        return found

    async def call(
        self, waiting: Waiting, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], timeout_s: float | None
    ) -> Any:
        """Calls an action and returns its checked result."""
        positional, named = spec.check_arguments(args, kwargs)
        limit = timeout_s or spec.timeout_s or self.plan.limits.action_s or DEFAULT_ACTION_S
        await self._send(waiting, ["call", next(self._numbers), spec.part, spec.name, positional, named, spec.plain])
        reply = await self._receive(waiting, spec, limit)
        return spec.check_result(reply[2])

    async def begin(
        self, waiting: Waiting, spec: ActionSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Starts a streaming action, whose items `advance` takes."""
        positional, named = spec.check_arguments(args, kwargs)
        await self._send(waiting, ["stream", next(self._numbers), spec.part, spec.name, positional, named, spec.plain])

    async def advance(self, waiting: Waiting, spec: ActionSpec, timeout_s: float | None) -> tuple[bool, Any]:
        """Returns whether the stream goes on, and its next item, or its result."""
        limit = timeout_s or spec.timeout_s or self.plan.limits.action_s or DEFAULT_ACTION_S
        reply = await self._receive(waiting, spec, limit)
        if reply[0] == "item":
            return True, spec.check_item(reply[2])
        return False, spec.check_result(reply[2]) if reply[0] == "ok" else None

    async def stop(self, waiting: Waiting, spec: ActionSpec) -> None:
        """Stops a stream that its reader left, and takes what was under way."""
        await self._send(waiting, ["stop", next(self._numbers)])
        going = True
        while going:
            going = (await self._receive(waiting, spec, UNWIND_S))[0] == "item"

    async def _send(self, waiting: Waiting, request: list[Any]) -> None:
        if self.ended:
            raise ended_error(self.ended)
        try:
            await self.channel.send(waiting, request)
        except wire.FrameError as error:
            raise FrameTooLarge(str(error), hint="Send large data with files.upload().") from None
        except OSError:
            raise await self._why(waiting, "") from None

    async def _receive(self, waiting: Waiting, spec: ActionSpec, limit_s: float) -> list[Any]:
        try:
            reply = await self.channel.receive(waiting, limit_s)
        except TimeoutError:
            reply = await self._interrupt(waiting, spec, limit_s)
        except wire.Closed:
            raise await self._why(waiting, spec.name) from None
        except wire.FrameError as error:
            self._destroy("broke the protocol")
            raise violation(str(error)) from None
        if not (isinstance(reply, list) and len(reply) >= 2 and isinstance(reply[0], str)):
            self._destroy("broke the protocol")
            raise violation("its answer has no form")
        if reply[0] == "error" and len(reply) == 3 and isinstance(reply[2], dict):
            raise self._raised(spec, reply[2])
        if reply[0] == "interrupted":
            raise self._too_slow(spec, limit_s, "The instance lives on.")
        if reply[0] not in ("ok", "item", "stopped") or (reply[0] != "stopped" and len(reply) != 3):
            self._destroy("broke the protocol")
            raise violation(f"it answered {str(reply[0])[:40]!r}")
        return reply

    def _raised(self, spec: ActionSpec, report: dict[str, Any]) -> KiboError:
        if report.get("kind") == "too-large":
            return FrameTooLarge(
                f"the result of {spec.name}() is too large: {report.get('message')}",
                hint="Write it to a file in the box and fetch it with files.read() or files.download().",
            )
        error = raised_error(report)
        if report.get("type") == "MemoryError":
            return MemoryExceeded(f"{spec.name}() ran out of memory", hint="Raise Limits.memory_bytes.")
        return error

    async def _interrupt(self, waiting: Waiting, spec: ActionSpec, limit_s: float) -> Any:
        await self.session.ask(waiting, "interrupt", {"id": self.instance}, timeout_s=UNWIND_S)
        try:
            return await self.channel.receive(waiting, UNWIND_S)
        except (TimeoutError, wire.Closed, wire.FrameError):
            self._destroy("did not stop in time")
            raise self._too_slow(spec, limit_s, "It did not stop when interrupted: the instance was destroyed.") from None

    def _too_slow(self, spec: ActionSpec, limit_s: float, then: str) -> ActionTimedOut:
        return ActionTimedOut(
            f"{spec.name}() did not end within {limit_s:g} s and was interrupted",
            hint=f"{then} Raise @action(timeout_s=...) or Limits.action_s if it needs longer.",
            details={"action": spec.name, "timeout_s": limit_s, "ended": bool(self.ended)},
        )

    async def _why(self, waiting: Waiting, action: str) -> KiboError:
        """Finds out why a guest is gone."""
        if not self.session.alive:
            self.ended = "the runtime ended"
            return lost()
        if not self.ended:
            try:
                answer, _ = await self.session.ask(waiting, "destroy", {"id": self.instance}, timeout_s=UNWIND_S)
                self.ended = str(answer["reason"])
            except (KiboError, TimeoutError):
                return lost()
        if self.ended == "out of memory":
            return MemoryExceeded(
                f"{action + '() used' if action else 'the instance used'} more memory than the box has, and the kernel ended it",
                hint="Raise Limits.memory_bytes, or use less.",
            )
        if not action:
            return ended_error(self.ended)
        return ActionExited(
            f"{action}() ended the process that ran it; the instance is gone",
            hint="An action returns or raises; os._exit(), a crash or a kill ends its box. Spawn another one.",
            details={"action": action, "reason": self.ended},
        )

    def _destroy(self, reason: str) -> None:
        self.ended = reason
        self.session.forget(self.instance)


def ended_error(reason: str) -> InstanceEnded:
    """The error for a call on an instance that is gone."""
    return InstanceEnded(f"the instance has ended: {reason}", hint="Spawn another one.")


class Files:
    """The files of one instance. Paths are the box's own; relative ones start at ``/work``."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._stream: FileStream | None = None
        self._lock = threading.Lock()
        self._waiting = Blocking()

    def _open(self) -> FileStream:
        session, name = self._instance._conversation.session, self._instance.id
        channel, theirs = Channel.pair()
        try:
            session.order("files", {"id": name}, [theirs.fileno()])
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return FileStream(channel)

    def _do(self, work: Callable[[FileStream], Any]) -> Any:
        self._instance._check()
        with self._lock:
            if self._stream is None:
                self._stream = self._open()
            try:
                return run(work(self._stream))
            except (wire.Closed, ConnectionError):
                self.close()
                raise run(self._instance._conversation._why(self._waiting, "")) from None
            except KiboError:
                raise
            except BaseException:
                # An unfinished conversation cannot be taken up again.
                self.close()
                raise

    def close(self) -> None:
        """Ends the server in the box; the next use starts another."""
        if self._stream is not None:
            self._stream.channel.close()
            self._stream = None

    def read(self, path: str) -> bytes:
        """Reads a whole file.

        Raises:
            FileMissing: It is not there.
            PathRefused: The box's programs may not read it.
        """
        return bytes(self._do(lambda stream: stream.read(self._waiting, box_path(path))))

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Writes a whole file; makes the directories above it.

        Raises:
            DiskFull: The box's share is used up.
            PathRefused: The box's programs may not write there.
        """
        data = content.encode() if isinstance(content, str) else bytes(content)
        self._do(lambda stream: stream.write(self._waiting, box_path(path), data, mode))

    def list(self, path: str = ".") -> list[FileInfo]:
        """Lists a directory, in order of name."""
        found: list[FileInfo] = self._do(lambda stream: stream.list(self._waiting, box_path(path)))
        return found

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it."""
        self._do(lambda stream: stream.ask(self._waiting, ["remove", box_path(path)]))

    def upload(self, source: str | os.PathLike[str], target: str = ".", progress: Progress | None = None) -> int:
        """Copies a file or a tree of the host into the box. 1,000 files of 10 KB take about 0.1 s.

        Args:
            source: On the host. Links are copied as links.
            target: In the box: what the file or directory is to be called there.
            progress: Called with files and bytes done so far.

        Returns:
            The number of files and directories copied.
        """
        return int(self._do(lambda stream: stream.upload(self._waiting, Path(source), box_path(target), progress)))

    def download(self, source: str, target: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """Copies a file or a tree of the box to the host.

        Args:
            source: In the box.
            target: On the host: what the file or directory is to be called there.
            progress: Called with files and bytes done so far.

        Returns:
            The number of files and directories copied.

        Raises:
            GuestViolation: The box sent a name that would leave the target.
        """
        return int(self._do(lambda stream: stream.download(self._waiting, box_path(source), Path(target), progress)))

    def watch(self, path: str = ".") -> Generator[FileChange, None, None]:
        """Yields changes in one directory as they happen, until closed."""
        self._instance._check()
        stream = self._open()
        try:
            run(stream.channel.send(self._waiting, ["watch", box_path(path)]))
            run(stream._answer(self._waiting))
            while True:
                yield run(stream.changes(self._waiting))
        finally:
            stream.channel.close()


class Instance:
    """A running box. Its actions are methods; unreferenced, it is destroyed. A context manager.

    Calls from several threads wait for each other: an instance does one thing at a time. Commands and files work
    while an action runs.
    """

    def __init__(self, session: Session, egress: Egress, plan: Plan, channel: Channel, instance: InstanceId) -> None:
        self.id = instance
        self.branch = BranchId("br_0")
        self._plan = plan
        self._conversation = Conversation(session, instance, plan, channel)
        self._lock = threading.Lock()
        self._waiting = Blocking()
        self.files = Files(self)
        self._finalizer = weakref.finalize(self, _forget, session, egress, channel, instance, os.getpid())

    def __repr__(self) -> str:
        return f"<Instance {self.id} {self.status}: {' + '.join(part.name for part in self._plan.parts) or 'Box()'}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        spec = self._conversation.spec(name)
        return _BoundAction(self, spec)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._plan.actions]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.destroy()

    def _check(self) -> None:
        if self._conversation.ended:
            raise ended_error(self._conversation.ended)

    @property
    def status(self) -> Literal["running", "ended"]:
        """Whether it runs."""
        conversation = self._conversation
        if conversation.ended or not conversation.session.alive:
            return "ended"
        answer, _ = run(conversation.session.ask(self._waiting, "list", {"id": self.id}))
        return "running" if answer["cells"] else "ended"

    def exec(
        self,
        command: Command,
        *,
        timeout_s: float | None = None,
        cwd: str | None = None,
        stdin: bytes | str = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """Runs a command in the box and waits for its end. Works while an action runs.

        Args:
            command: A line for the box's shell, or a sequence of arguments.
            timeout_s: Seconds until it is killed; None waits for ever.
            cwd: Directory in the box; ``/work`` by default.
            stdin: What it reads.
            variables: Environment variables besides the box's own.

        Returns:
            Its output and exit status, whatever that is.

        Raises:
            CommandTimedOut: It was killed, with all that it started in its process group.
            FileMissing: The program is not in the box.
            InstanceEnded: The box ended first.
        """
        self._check()
        data = stdin.encode() if isinstance(stdin, str) else stdin
        return run(
            commandline.execute(
                self._waiting,
                self._conversation.session,
                self.id,
                command,
                stdin=data,
                cwd=cwd,
                variables=variables,
                timeout_s=timeout_s,
            )
        )

    def popen(self, command: Command, *, cwd: str | None = None, variables: Mapping[str, str] | None = None) -> Popen:
        """Starts a command in the box and returns it with its streams. Close it, or use it as a context manager."""
        self._check()
        return Popen(self._conversation.session, self.id, command, cwd, variables, self._waiting)

    def shell(self, command: Command = ("/bin/sh", "-i"), *, rows: int = 24, columns: int = 80) -> Terminal:
        """Starts a command on a terminal of its own in the box."""
        self._check()
        return Terminal(self._conversation.session, self.id, command, rows, columns)

    def logs(self, tail_bytes: int | None = None) -> str:
        """Returns what its actions printed, up to now.

        Args:
            tail_bytes: Only that much of the end.
        """
        self._check()
        _, descriptors = run(self._conversation.session.ask(self._waiting, "log", {"id": self.id}))
        with open(descriptors[0], "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), size, max(0, size - tail_bytes) if tail_bytes else 0).decode(errors="replace")

    def diff(self) -> list[Change]:
        """Lists what it changed since it was spawned, in order of path."""
        self._check()
        channel, theirs = Channel.pair()
        try:
            self._conversation.session.order("diff", {"id": self.id}, [theirs.fileno()])
            theirs.close()
            found: list[Change] = []
            while batch := run(channel.receive(self._waiting)):
                if batch[0] == "failed":
                    raise violation(str(batch[2]))
                found += [Change(kind=kind, path=f"/{path}", size=size) for kind, path, size in batch]
            return found
        finally:
            theirs.close()
            channel.close()

    def tools(self, format: Literal["openai", "anthropic", "mcp"] = "openai") -> list[dict[str, Any]]:
        """Returns the actions as a model provider's tool definitions."""
        from kibo.box.tools import tools_of_plan  # noqa: PLC0415

        return tools_of_plan(self._plan, format)

    def destroy(self) -> None:
        """Ends it. Returns once its last process is gone, and its mounts, memory and network with it. Idempotent."""
        conversation = self._conversation
        already = not self._finalizer.alive
        self._finalizer.detach()
        if already or conversation.session.owner_pid != os.getpid():
            return
        try:
            if conversation.session.alive:
                run(conversation.session.ask(self._waiting, "destroy", {"id": self.id}))
        finally:
            conversation.ended = conversation.ended or "destroyed"
            self.files.close()
            conversation.channel.close()


class Popen(Process):
    """A started command, for plain callers; see `kibo.runtime.commandline.Process`."""

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end and returns its exit status.

        Raises:
            TimeoutError: It has not ended in time; it goes on.
        """
        return run(self.running.wait(self._waiting, timeout_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _BoundAction:
    """An action of an instance, which it keeps alive for as long as the call lasts."""

    def __init__(self, instance: Instance, spec: ActionSpec) -> None:
        self._instance = instance
        self._spec = spec
        self.__doc__ = spec.doc
        self.__name__ = spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._spec.streaming:
            return self._stream(args, kwargs)
        instance = self._instance
        with instance._lock:
            return run(instance._conversation.call(instance._waiting, self._spec, args, kwargs, None))

    def _stream(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Generator[Any, None, Any]:
        instance, spec = self._instance, self._spec
        talk, waiting = instance._conversation, instance._waiting
        with instance._lock:
            run(talk.begin(waiting, spec, args, kwargs))
            going = True
            try:
                while True:
                    try:
                        going, value = run(talk.advance(waiting, spec, None))
                    except BaseException:
                        going = False
                        raise
                    if not going:
                        return value
                    yield value
            finally:
                if going:
                    run(talk.stop(waiting, spec))


def _forget(session: Session, egress: Egress, channel: Channel, instance: str, owner: int) -> None:
    """Ends an instance that nobody refers to any more, without waiting."""
    channel.close()
    if os.getpid() == owner:
        egress.stop(instance)
        session.forget(instance)

