"""An instance: the caller's hold on one running box, for plain programs. `kibo.aio` has the same for coroutines."""

from __future__ import annotations

import os
import signal
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from kibo.box.actions import ActionSpec
from kibo.model.ids import BranchId, InstanceId
from kibo.model.limits import DEFAULT_ACTION_S
from kibo.model.telling import telling
from kibo.runtime import forking
from kibo.runtime.callers import Caller
from kibo.runtime.channel import Channel
from kibo.runtime.commandline import Command, Completed, Process, Terminal
from kibo.runtime.conversation import Conversation
from kibo.runtime.egress import Tape
from kibo.runtime.fileaccess import FileAccess
from kibo.runtime.files import FileChange, FileInfo, Progress
from kibo.runtime.forking import Live, Point
from kibo.runtime.handle import Change, Handle
from kibo.runtime.mailing import Mailbox, Receipt, mail_of, note_listener
from kibo.runtime.orders import Orders
from kibo.runtime.recording import perform
from kibo.runtime.states import Spawned
from kibo.runtime.waiting import Blocking, Waiting, run

__all__ = ["Change", "Files", "Instance", "Popen", "RunningBox"]


class Files:
    """The files of one instance. Paths are the box's own; relative ones start at ``/work``.

    Files are read and written with the rights of the box's programs, and while an action runs. Every call raises
    `InstanceEnded` once the instance is over, and `Unavailable`, to be made again, where the box killed what serves it.
    """

    def __init__(self, access: FileAccess, box: object) -> None:
        self._access = access
        self._box = box  # an instance that nothing else refers to lives for as long as its files are used

    def close(self) -> None:
        """Ends the server in the box; the next use starts another."""
        self._access.hang_up()

    def read(self, path: str) -> bytes:
        """Reads a whole file.

        Args:
            path: In the box.

        Returns:
            Its content, of up to 256 MiB.

        Raises:
            FileMissing: It is not there.
            PathRefused: The box's programs may not read it.
            InvalidInput: It is a directory, or no regular file.
            FrameTooLarge: It is larger; `download` streams.
        """
        return run(self._access.read(path))

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Writes a whole file; makes the directories above it.

        Args:
            path: In the box.
            content: Bytes, or text, which is written as UTF-8.
            mode: The file's permissions.

        Raises:
            DiskFull: The box's share is used up. The file may have been written in part; retry once there is room.
            PathRefused: The box's programs may not write there.
            InvalidInput: There is a directory or something else of that name, or the content is no content.
        """
        run(self._access.write(path, content, mode))

    def list(self, path: str = ".") -> list[FileInfo]:
        """Lists a directory.

        Args:
            path: In the box.

        Returns:
            What is in it, in order of name.

        Raises:
            FileMissing: It is not there.
            PathRefused: The box's programs may not read it.
            InvalidInput: It is no directory.
        """
        return run(self._access.list(path))

    def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it.

        Args:
            path: In the box.

        Raises:
            FileMissing: It is not there.
            PathRefused: The box's programs may not remove it, or something in it; the rest may be gone.
        """
        run(self._access.remove(path))

    def upload(
        self, source: str | os.PathLike[str], target: str = ".", progress: Progress | None = None
    ) -> int:
        """Copies a file or a tree of the host into the box. 1,000 files of 10 KB take about 0.1 s.

        Args:
            source: On the host. Links are copied as links.
            target: In the box: what the file or directory is to be called there.
            progress: Called with files and bytes done so far.

        Returns:
            The number of files and directories copied.

        Raises:
            FileMissing: The source is not on this host.
            DiskFull, PathRefused: As `write`. What was copied before stays; copying again replaces it.
            InvalidInput: This process may not read a file of the source.
        """
        return run(self._access.upload(source, target, progress))

    def download(self, source: str, target: str | os.PathLike[str], progress: Progress | None = None) -> int:
        """Copies a file or a tree of the box to the host.

        Args:
            source: In the box.
            target: On the host: what the file or directory is to be called there.
            progress: Called with files and bytes done so far.

        Returns:
            The number of files and directories copied.

        Raises:
            FileMissing: The source is not in the box, or the target's directory not on this host.
            HostDiskFull: The host's disk is. What was copied before stays.
            InvalidInput: This process may not write the target.
            GuestViolation: The box sent a name that would leave the target.
        """
        return run(self._access.download(source, target, progress))

    def watch(self, path: str = ".") -> Generator[FileChange, None, None]:
        """Yields changes in one directory as they happen, until closed.

        Args:
            path: A directory in the box; those below it are not watched.

        Raises:
            FileMissing: It is not there.
        """
        changes = self._access.watch(path)
        try:
            while True:
                yield run(anext(changes))
        finally:
            run(changes.aclose())


class RunningBox:
    """What any process of the user can do with a running box: commands, files, logs, changes, and its end.

    Commands and files work while an action runs. Thread-safe.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._access = FileAccess(handle)

    @property
    def files(self) -> Files:
        """Its files."""
        return Files(self._access, self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with telling(error):
            self.destroy()

    @property
    def id(self) -> InstanceId:
        """Its id. An instance of a branch gets that of the winner when a fork of the branch is committed."""
        return InstanceId(self._handle.instance)

    @property
    def status(self) -> Literal["running", "ended"]:
        """Whether it runs."""
        return run(self._handle.status())

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
            FileMissing: The program, or the directory, is not in the box.
            InvalidInput: It is no program, or an argument makes no sense; nothing ran.
            FrameTooLarge: It wrote more than 64 MiB, and was killed; `popen` streams.
            InstanceEnded: The box ended first.
            Unavailable: The box killed what ran the command. It may have run in part.
        """
        return run(
            self._handle.execute(command, timeout_s=timeout_s, cwd=cwd, stdin=stdin, variables=variables)
        )

    def popen(
        self, command: Command, *, cwd: str | None = None, variables: Mapping[str, str] | None = None
    ) -> Popen:
        """Starts a command in the box and returns it with its streams. Close it, or use it as a context manager.

        Args:
            command: As for `exec`.
            cwd: Directory in the box; ``/work`` by default.
            variables: Environment variables besides the box's own.

        Raises:
            InvalidInput: As `exec`. That its program is not there is told by `Popen.wait`.
            InstanceEnded: The box has ended.
        """
        return Popen(self._handle.start(command, cwd, variables), self._handle.waiting, self)

    def shell(self, command: Command = ("/bin/sh", "-i"), *, rows: int = 24, columns: int = 80) -> Terminal:
        """Starts a command on a terminal of its own in the box. Close it at the end.

        Args:
            command: As for `exec`.
            rows: The height of its screen, in characters.
            columns: The width.

        Raises:
            InvalidInput, InstanceEnded: As `popen`.
        """
        return self._handle.terminal(command, rows, columns)

    def logs(self, tail_bytes: int | None = None, *, service: str = "") -> str:
        """Returns what its actions printed, up to now.

        Args:
            tail_bytes: Only that much of the end.
            service: Of this service instead.

        Raises:
            NotFound: The box has no service of that name.
            InstanceEnded: It has ended.
        """
        return run(self._handle.logs(tail_bytes, service))

    def diff(self) -> list[Change]:
        """Lists what it changed since it was spawned, in order of path. Read from outside: the box is not asked.

        Raises:
            InstanceEnded: It has ended, and its files with it.
        """
        return run(self._handle.diff())

    def destroy(self) -> None:
        """Ends it. Returns once its last process is gone, and its mounts, memory and network with it. Idempotent."""
        try:
            run(self._handle.destroy())
        finally:
            self._access.hang_up()


class Instance(RunningBox):
    """A running box. Its actions are methods; unreferenced, it is destroyed. A context manager.

    Calls from several threads wait for each other: an instance does one thing at a time.
    """

    #: What was begun for it alone, and ends with it.
    _tape: Tape | None = None
    #: What it is to whoever answers when it calls out; None where it may not.
    _caller: Caller | None = None
    #: What it is called in its branch.
    _member = ""

    def __init__(self, spawned: Spawned) -> None:
        self._spawned = spawned
        session = spawned.states.session
        self._conversation = Conversation(
            session, spawned.instance, _BLOCKING, spawned.state.plan, spawned.channel
        )
        super().__init__(self._conversation)
        self.branch: Any = BranchId("br_0")
        self._finalizer = finalizer(self, spawned)
        admit(self)
        if spawned.state.plan.handlers:
            note_listener(self)

    def __repr__(self) -> str:
        parts = " + ".join(part.name for part in self._conversation.plan.parts) or "Box()"
        return f"<Instance {self.id} {self.status}: {parts}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _BoundAction(self, self._conversation.spec(name))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._conversation.plan.actions]

    @property
    def alive(self) -> bool:
        """Whether it runs, for an instance that is not being called: asks nobody, so cheaper than `status`."""
        talk = self._conversation
        return not talk.ended and (talk.parked or talk.channel.is_quiet())

    @property
    def progress(self) -> Any:
        """What code in it has said last of how far it is, by ``me.progress(...)``; None before."""
        return None if self._caller is None else self._caller.progress

    def fork(self, n: int = 1, *, live: Live = "prefer") -> Forks[Self]:
        """Forks it: others that have its files and its live state as they are now, and from now on go their own way.

        Waits for a call that is under way. What it has open outside of itself is not shared: connections come back
        unconnected, in the origin too, and `resume()` is called in each. What stands in the way of a live fork is
        threads, programs that run in it, and what cannot be opened anew; `suspend()` is called for them. If something
        is left then, forks have its files, copied while all that runs in it is stopped for a moment, and fresh guests.

        Args:
            n: How many, 1 to 10,000. 100 take about 0.2 s.
            live: ``"prefer"``, ``"require"`` or ``"never"``: whether a fork has the origin's Python state. Where that
                cannot be, which includes more than 32 forks of forks, ``"require"`` makes it an error.

        Returns:
            The forks, and whether they are live (`Forks.live`) or why not (`Forks.reasons`). All exist, or none.

        Raises:
            NotLive: ``details["reasons"]`` stand in the way, and ``live`` is ``"require"``; nothing has changed.
            InstanceEnded: It has ended.
            HostDiskFull: There is no room for a copy; nothing is left of it, and the origin goes on.
            Unavailable: A program could not be stopped for a copy; the same. Retry once it waits for nothing.
        """
        children, point = run(_fork(self, n, live))
        return Forks((type(self)(child) for child in children), live=bool(point.cell), reasons=point.reasons)

    def snapshot(self, label: str = "") -> Any:
        """Seals what its branch is, itself among it, to come back to with `kibo.checkout`.

        Args:
            label: A name for it, which moves here if another snapshot of the tree has it.

        Returns:
            A `kibo.branch.records.SnapshotRecord`, as `Branch.snapshot` does.

        Raises:
            WrongState: It is in no branch.
            NotLive: As `fork`.
            BranchClosed, BranchStale: Its branch is not open.
        """
        return forking.branch_of(self).snapshot(label)

    def send_message(
        self,
        other: Instance | str,
        body: Any,
        *,
        key: str | None = None,
        reply_to: str | None = None,
        wait_s: float = 0.0,
    ) -> Receipt:
        """Sends a message to another instance of its branch. On the disk when it returns; about 0.5 ms.

        Its branch is where it stays: a fork that has it too handles it there, and what is sent in a fork comes to the
        parent's instance of that name when the fork is committed, or never.

        Args:
            other: The instance, or its name in the branch.
            body: A value of JSON, or bytes, of up to 1 MiB.
            key: The same key again is the same message: it is sent once.
            reply_to: The id of the message that it answers.
            wait_s: Seconds to wait where the other is too far behind; by default that is an error at once.

        Returns:
            What becomes of it.

        Raises:
            InstanceUnknown: There is no such instance in the branch.
            InstanceEnded: The other has ended, or this one has.
            MessageInvalid: The body is no value of JSON and no bytes, or too large.
            MailboxFull: 100,000 messages wait for the other.
            BranchClosed: The branch was committed or aborted.
        """
        mail = mail_of(self)
        send = mail.send(self._member, other, body, key=key, reply_to=reply_to, wait_s=wait_s)
        return Receipt(mail, run(send))

    def publish_event(
        self, name: str, data: Any = None, *, key: str | None = None, wait_s: float = 0.0
    ) -> Receipt:
        """Publishes an event to all in its branch that listen to it now.

        Args:
            name: Words joined by dots: ``order.paid``.
            data: A value of JSON, or bytes, of up to 1 MiB.
            key: As for `send_message`.
            wait_s: As for `send_message`.

        Returns:
            What becomes of it.

        Raises:
            InvalidInput: The name is none.
            KiboError: As `send_message`.
        """
        mail = mail_of(self)
        return Receipt(mail, run(mail.publish(self._member, name, data, key=key, wait_s=wait_s)))

    def on_event(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        group: str = "",
        subscription: str = "",
        timeout_s: float = DEFAULT_ACTION_S,
    ) -> str:
        """Has a function of this program handle events on behalf of the instance, one at a time.

        It runs in this process, on a thread of its own, and for this branch alone: what a fork publishes, it hears
        once the fork is committed. One that raises gets the event again, up to five times. For a handler that runs
        in the box, mark a method of its Box with ``@kibo.on_event``.

        Args:
            name: What the events are called, or a pattern: ``*`` stands for a word, ``>`` for all that follows.
            handler: Takes the event, a `kibo.Message`, or nothing.
            group: Of all that listen with one, each event goes to one.
            subscription: What to call it, by which another program goes on with what this one has not handled; the
                function's name and the pattern by default.
            timeout_s: How long it may take; the event is a dead letter then.

        Returns:
            What the subscription is called, for `off_event`.

        Raises:
            InvalidInput: The name is no pattern, or there is another subscription of that name.
            InstanceEnded: The instance has ended.
        """
        listen = mail_of(self).listen(
            self._member, name, handler, name=subscription, group=group, timeout_s=timeout_s
        )
        return str(run(listen))

    def off_event(self, subscription: str) -> None:
        """Ends a subscription: what it has not handled is dead.

        Args:
            subscription: As `on_event` returned it.
        """
        run(mail_of(self).unlisten(self._member, subscription))

    def on_message(self, handler: Callable[..., Any], *, timeout_s: float = DEFAULT_ACTION_S) -> None:
        """Has a function of this program handle the messages to the instance, one at a time, as `on_event`.

        Args:
            handler: Takes the message, a `kibo.Message`, or nothing. What it returns is the answer to a `request`.
            timeout_s: How long it may take; the message is a dead letter then.

        Raises:
            InvalidInput: The box handles messages itself, or another function does.
            InstanceEnded: The instance has ended.
        """
        run(mail_of(self).answer_with(self._member, handler, timeout_s=timeout_s))

    def request(self, other: Instance | str, body: Any, *, timeout_s: float = 60.0) -> Any:
        """Sends a message and waits for what its handler returns.

        Args:
            other: The instance, or its name in the branch.
            body: As for `send_message`.
            timeout_s: Seconds to wait. A message that was not handled by then is not any more.

        Raises:
            ReplyTimedOut: Nobody has answered in time.
            ActionFailed: Its handler raised, each time.
            KiboError: As `send_message`.
        """
        return run(mail_of(self).request(self._member, other, body, timeout_s=timeout_s))

    def delegate(self, other: Instance | str, action: str, /, *args: Any, **kwargs: Any) -> Any:
        """Has another instance of its branch do an action, and goes on.

        Args:
            other: The instance, or its name in the branch.
            action: What it is to do. What a streaming action yields is its progress.
            args: The action's arguments.
            kwargs: The same by name.

        Returns:
            A `kibo.branch.mail_faces.Delegated`: ``events()``, ``result(timeout_s)``, ``cancel()``.

        Raises:
            UnknownAction: The other has none of that name.
            InvalidArguments: As a call of it.
            InstanceUnknown, InstanceEnded: As `send_message`.
        """
        mail = mail_of(self)
        return mail.delegated(run(mail.delegate(self._member, other, action, args, kwargs)))

    @property
    def mail(self) -> Mailbox:
        """The messages to it, for a program that takes them itself."""
        return Mailbox(mail_of(self), self._member)

    def tools(self, format: Literal["openai", "anthropic", "mcp"] = "openai") -> list[dict[str, Any]]:
        """Returns the actions as a model provider's tool definitions; see `Box.tools`."""
        from kibo.box.tools import tools_of_plan

        return tools_of_plan(self._conversation.plan, format)

    def destroy(self) -> None:
        """Ends it. Returns once its last process is gone, and its mounts, memory and network with it. Idempotent.

        Raises:
            RequestUnknown: It replays, and something was asked for that the recording does not have.
            HostDiskFull, Exhausted, RecordingLost: It records, and the recording was not kept.
        """
        already = not self._finalizer.alive
        self._finalizer.detach()
        if not already and self._conversation.session.owner_pid == os.getpid():
            try:
                super().destroy()
            finally:
                if self._tape is not None:
                    self._tape.close()


Member = TypeVar("Member")


class Forks(list[Member]):
    """The forks of one instance.

    Attributes:
        live: Whether they have its live state, and not its files alone.
        reasons: What stood in the way of that; empty where nothing did.
    """

    def __init__(self, members: Iterable[Member], *, live: bool, reasons: tuple[str, ...]) -> None:
        super().__init__(members)
        self.live = live
        self.reasons = reasons


class Popen:
    """A started command and its streams. A context manager that kills it at the end.

    Attributes:
        stdin: Takes bytes; close it to end the input.
        stdout: Gives bytes as they come.
        stderr: The same of its standard error.
    """

    def __init__(self, process: Process, waiting: Waiting, box: object) -> None:
        self._box = box  # lives for as long as its command is held
        self._process = process
        self._waiting = waiting
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr

    @property
    def returncode(self) -> int | None:
        """Its exit status once `wait` has returned; None before."""
        return self._process.running.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Waits for its end and returns its exit status, or minus the number of the signal that ended it.

        Args:
            timeout_s: Seconds to wait; None waits for ever.

        Raises:
            FileMissing: Its program is not in the box, so that it never started.
            InstanceEnded: The box ended first.
            TimeoutError: It has not ended in time; it goes on.
        """
        return run(self._process.running.wait(self._waiting, timeout_s))

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Signals the command and what it started, with SIGKILL or the signal ``signum``. Nothing once it has ended."""
        self._process.kill(signum)

    def close(self) -> None:
        """Kills the command if it runs and closes the streams."""
        self._process.close()

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
        if self._spec.recorded:
            return run(perform(self._instance, self._spec, args, kwargs))
        return run(self._instance._conversation.call(self._spec, args, kwargs))

    def _stream(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Generator[Any, None, Any]:
        items = self._instance._conversation.stream(self._spec, args, kwargs)
        try:
            while True:
                going, value = run(items.next())
                if not going:
                    return value
                yield value
        finally:
            run(items.close())


async def _fork(instance: Instance, n: int, live: Live) -> tuple[list[Spawned], Point]:
    talk, spawned = instance._conversation, instance._spawned
    children, point = await forking.fork_once(talk.waiting, spawned, talk, n, live)
    instance._access.hang_up()
    return children, point


def handle_of(box: RunningBox) -> Handle:
    """Returns what is behind the face. Functions, because each method is a name that no action can have."""
    return box._handle


def conversation_of(instance: Instance) -> Conversation:
    """Returns the conversation with an instance's guest."""
    return instance._conversation


def spawned_of(instance: Instance) -> Spawned:
    """Returns what an instance consists of."""
    return instance._spawned


def admit(face: Any) -> None:
    """Notes an instance, of either face, as one that may call out, if it may."""
    talk: Conversation = face._conversation
    if talk.plan.rights:
        answering, before = face._spawned.states.answering, caller_of(face)
        face._caller = answering.admit(face, talk.instance, talk.plan, talk.waiting.outside())
        if before is not None:
            # What a fork of it was made by counts no more: it is that fork now.
            face._caller.put_below(before.above)


def caller_of(face: Any) -> Caller | None:
    """Returns what an instance is to whoever answers when it calls out; None where it may not."""
    caller: Caller | None = face._caller
    return caller


def hand_over(instance: Instance) -> Spawned:
    """Gives up an instance that nobody has called, for another face to take. It must not be used again itself."""
    instance._finalizer.detach()
    return instance._spawned


def adopt(instance: Any, winner: Any) -> None:
    """Makes an instance, of either face, what another is; that one is given up. Its guest of before is not ended."""
    for face in (instance, winner):
        face._access.hang_up()
        face._finalizer.detach()
    instance._conversation.become(winner._conversation)
    # A copy: what the winner was stays what it was.
    instance._spawned = replace(winner._spawned)
    instance._finalizer = finalizer(instance, instance._spawned)
    admit(instance)


def give_up(instance: Any, why: str) -> Orders:
    """Ends an instance, of either face, without waiting: a call that runs in it raises, and says why.

    Returns:
        Who was told to end it: when the order is carried out, all that runs in it is killed.
    """
    talk: Conversation = instance._conversation
    if instance._finalizer.detach() is None:
        return talk.session
    talk.ended = talk.ended or why
    talk.channel.hang_up()
    instance._access.hang_up()
    instance._finalizer = weakref.finalize(instance, _close, talk.channel, instance._access)
    if talk.session.owner_pid == os.getpid():
        talk.session.forget(talk.instance)
    return talk.session


def was_destroyed(instance: Any) -> bool:
    """Tells whether an instance, of either face, was destroyed by its user."""
    return not instance._finalizer.alive


def _close(channel: Channel, access: FileAccess) -> None:
    channel.close()
    access.close()


def finalizer(face: Any, spawned: Spawned) -> weakref.finalize[..., Any]:
    """Has an instance end when nobody refers to its face any more."""
    session = spawned.states.session
    return weakref.finalize(
        face, forget, session, spawned.channel, face._access, spawned.instance, os.getpid()
    )


def forget(session: Orders, channel: Channel, access: FileAccess, instance: str, owner: int) -> None:
    """Ends an instance that nobody refers to any more, without waiting."""
    _close(channel, access)
    if os.getpid() == owner:
        session.forget(instance)


#: It holds nothing, so that all instances share one.
_BLOCKING = Blocking()
