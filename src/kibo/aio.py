"""The async face: the same instances as `Box.spawn` makes, for programs on asyncio or trio.

```python
from kibo import aio

async with aio.spawn(box) as instance:
    receipt = await instance.buy_coffee("latte")
```

Cancelling a call interrupts the action; the instance lives on where the action lets itself be interrupted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import aclosing
from functools import wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
import anyio.to_thread

from kibo.box.actions import ActionSpec
from kibo.box.define import Box
from kibo.box.plan import plan
from kibo.box.sums import parts_of, prefix
from kibo.branch.explore.exploring import explore_async as explore
from kibo.model.asker import Asker
from kibo.model.errors import ActionTimedOut
from kibo.model.ids import BranchId, InstanceId
from kibo.model.limits import DEFAULT_ACTION_S
from kibo.model.message import Message, call_handler
from kibo.model.telling import telling
from kibo.runtime import forking
from kibo.runtime.anyio_waiting import AnyioWaiting
from kibo.runtime.async_mailing import AsyncMailbox, AsyncReceipt
from kibo.runtime.callers import Caller
from kibo.runtime.commandline import Command, Completed, Process, Terminal
from kibo.runtime.conversation import ActionItems, Conversation
from kibo.runtime.egress import Tape
from kibo.runtime.fileaccess import FileAccess
from kibo.runtime.files import FileChange, FileInfo, Progress
from kibo.runtime.forking import Live
from kibo.runtime.handle import Change
from kibo.runtime.images.environment import build_environment
from kibo.runtime.instance import Forks, admit, finalizer, hand_over
from kibo.runtime.mailing import mail_of, note_listener
from kibo.runtime.recording import perform
from kibo.runtime.states import Launched, Launching, Spawned, State, States
from kibo.runtime.states import Progress as BuildProgress
from kibo.wiring import Runtime, runtime

if TYPE_CHECKING:
    from kibo.wiring.async_branches import Branch as Branch
    from kibo.wiring.async_branches import approve as approve
    from kibo.wiring.async_branches import branch as branch
    from kibo.wiring.async_branches import checkout as checkout
    from kibo.wiring.async_branches import compare as compare
    from kibo.wiring.async_branches import context_of as context_of
    from kibo.wiring.async_branches import deny as deny
    from kibo.wiring.async_runs import explain as explain
    from kibo.wiring.async_runs import get_run as get_run
    from kibo.wiring.async_runs import runs as runs
    from kibo.wiring.async_runs import submit as submit
    from kibo.wiring.async_sessions import session as session

__all__ = [
    "ActionStream",
    "Branch",
    "Files",
    "Instance",
    "Popen",
    "Shell",
    "approve",
    "branch",
    "build",
    "checkout",
    "compare",
    "context_of",
    "deny",
    "explain",
    "explore",
    "get_run",
    "runs",
    "session",
    "spawn",
    "submit",
]

_READ_BYTES = 65536


def __getattr__(name: str) -> Any:
    # Late: branches and sessions bring a database along, which no spawn needs.
    if name in ("Branch", "approve", "branch", "checkout", "compare", "context_of", "deny"):
        from kibo.wiring import async_branches

        return getattr(async_branches, name)
    if name == "session":
        from kibo.wiring.async_sessions import session

        return session
    if name in ("explain", "get_run", "runs", "submit"):
        from kibo.wiring import async_runs

        return getattr(async_runs, name)
    raise AttributeError(f"module 'kibo.aio' has no attribute {name!r}")


def spawn(
    box: Box,
    *,
    name: str = "",
    progress: BuildProgress | None = None,
    record: bool | str = False,
    replay: str | os.PathLike[str] | None = None,
) -> Spawning:
    """Makes an instance of a box; see `Box.spawn`.

    Args:
        box: The definition.
        name: What to call the instance on the command line, besides its id.
        progress: Told of each step where something has to be built; what builds calls it, on any thread.
        record: Whether to record its traffic, or what to call the recording.
        replay: The recording that answers in place of servers.

    Returns:
        What to await for an instance, or to enter with ``async with``, which destroys the instance at the end.

    Cancelling it leaves no instance. A ``launch()`` under way for it is ended; states that are ready stay cached.
    """
    return Spawning(box, name, progress, record, replay)


async def build(box: Box, progress: BuildProgress | None = None) -> None:
    """Makes a box's cached state, or finds it. Raises as `Box.spawn`; cancelled as `spawn`."""
    await _ensure(await _states(runtime()), box, progress)


class Spawning:
    """An instance to be: awaitable, and an async context manager."""

    def __init__(
        self,
        box: Box,
        name: str,
        progress: BuildProgress | None,
        record: bool | str,
        replay: str | os.PathLike[str] | None,
    ) -> None:
        self._box = box
        self._name = name
        self._progress = progress
        self._record = record
        self._replay = replay
        self._instance: Instance | None = None

    def __await__(self) -> Generator[Any, None, Instance]:
        return self._spawn().__await__()

    async def __aenter__(self) -> Instance:
        self._instance = await self._spawn()
        return self._instance

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._instance is not None:
            with telling(error):
                await self._instance.destroy()

    async def _spawn(self) -> Instance:
        if self._record or self._replay is not None:
            return await self._spawn_taped()
        home = runtime()
        pool = home.pool_of(self._box, self._name)
        if pool is not None:
            # In a thread where it has none ready and makes one.
            ready = pool.spawn() if len(pool) else await anyio.to_thread.run_sync(pool.spawn)
            return Instance(hand_over(ready))
        return await self._fresh(home, "")

    async def _spawn_taped(self) -> Instance:
        from kibo.wiring.tapes import begin, bind  # late: few record

        home, waiting = runtime(), AnyioWaiting()
        tape = await waiting.aside(lambda: begin(home, self._record, self._replay, alone=False))
        assert tape is not None
        try:
            instance = await self._fresh(home, tape.id)
        except BaseException:
            tape.drop()
            raise
        bind(instance, tape)
        return instance

    async def _fresh(self, home: Runtime, tape: str) -> Instance:
        spawned = await home.fork(
            AnyioWaiting(),
            self._name,
            lambda: _states(home),
            lambda states: _ensure(states, self._box, self._progress, tape),
            Asker(tape=tape),
        )
        return Instance(spawned)


async def _states(home: Runtime) -> States:
    ready = home.running()
    # Starting a runtime takes 0.2 s.
    return ready if ready is not None else await anyio.to_thread.run_sync(home.states)


async def _ensure(states: States, box: Box, progress: BuildProgress | None, tape: str = "") -> State:
    """Returns the state of a box, building its environments on this loop and launching its parts in a thread."""
    found = states.find(*states.key(box, tape))
    if found is not None:
        return found
    for count in range(1, len(parts_of(box)) + 1):
        await build_environment(plan(prefix(box, count)).env, home=states.session.home, progress=progress)
    launching: list[str] = []
    cancelled = False

    def note(event: Any) -> None:
        # Called by the thread, and only for what this very call builds: nobody else waits for these cells.
        if isinstance(event, Launching):
            launching.append(event.cell)
            if cancelled:
                states.session.forget(event.cell)
        elif isinstance(event, Launched):
            launching.clear()
        if progress is not None:
            progress(event)

    try:
        return await anyio.to_thread.run_sync(states.ensure, box, note, tape, abandon_on_cancel=True)
    except anyio.get_cancelled_exc_class():
        # A thread cannot be stopped, but what it waits for can be ended.
        cancelled = True
        for cell in launching:
            states.session.forget(cell)
        raise


class Files:
    """The files of one instance; see `kibo.runtime.instance.Files`, whose calls these are."""

    def __init__(self, access: FileAccess, box: object) -> None:
        self._access = access
        self._box = box  # an instance that nothing else refers to lives for as long as its files are used

    def close(self) -> None:
        """Ends the server in the box; the next use starts another."""
        self._access.hang_up()

    async def read(self, path: str) -> bytes:
        """Reads a whole file."""
        return await self._access.read(path)

    async def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Writes a whole file; makes the directories above it."""
        await self._access.write(path, content, mode)

    async def list(self, path: str = ".") -> list[FileInfo]:
        """Lists a directory, in order of name."""
        return await self._access.list(path)

    async def remove(self, path: str) -> None:
        """Removes a file, or a directory with all that is in it."""
        await self._access.remove(path)

    async def upload(
        self, source: str | os.PathLike[str], target: str = ".", progress: Progress | None = None
    ) -> int:
        """Copies a file or a tree of the host into the box. Reads of the host's disk happen on the loop."""
        return await self._access.upload(source, target, progress)

    async def download(
        self, source: str, target: str | os.PathLike[str], progress: Progress | None = None
    ) -> int:
        """Copies a file or a tree of the box to the host. Writes to the host's disk happen on the loop."""
        return await self._access.download(source, target, progress)

    async def watch(self, path: str = ".") -> AsyncGenerator[FileChange, None]:
        """Yields changes in one directory as they happen, until closed."""
        async with aclosing(self._access.watch(path)) as changes:
            async for change in changes:
                yield change


class Instance:
    """A running box. Its actions are coroutine methods; unreferenced, it is destroyed. An async context manager.

    Calls from several tasks wait for each other: an instance does one thing at a time. Commands and files work while
    an action runs. What each call takes, returns and raises is said at `kibo.runtime.instance.Instance`.
    """

    #: What was begun for it alone, and ends with it.
    _tape: Tape | None = None
    #: As of `kibo.runtime.instance.Instance`.
    _caller: Caller | None = None
    #: What it is called in its branch.
    _member = ""

    def __init__(self, spawned: Spawned) -> None:
        session = spawned.states.session
        self._spawned = spawned
        self._conversation = Conversation(
            session, spawned.instance, AnyioWaiting(), spawned.state.plan, spawned.channel
        )
        self.branch: Any = BranchId("br_0")
        self._access = FileAccess(self._conversation)
        self._finalizer = finalizer(self, spawned)
        admit(self)
        if spawned.state.plan.handlers:
            note_listener(self)

    @property
    def files(self) -> Files:
        """Its files."""
        return Files(self._access, self)

    @property
    def id(self) -> InstanceId:
        """Its id; see `kibo.runtime.instance.RunningBox.id`."""
        return InstanceId(self._conversation.instance)

    def __repr__(self) -> str:
        parts = " + ".join(part.name for part in self._conversation.plan.parts) or "Box()"
        return f"<aio.Instance {self.id}: {parts}>"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return _BoundAction(self, self._conversation.spec(name))

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._conversation.plan.actions]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with telling(error):
            await self.destroy()

    @property
    def progress(self) -> Any:
        """See `kibo.runtime.instance.Instance.progress`."""
        return None if self._caller is None else self._caller.progress

    async def status(self) -> Literal["running", "ended"]:
        """Tells whether it runs."""
        return await self._conversation.status()

    async def exec(
        self,
        command: Command,
        *,
        timeout_s: float | None = None,
        cwd: str | None = None,
        stdin: bytes | str = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """Runs a command in the box and waits for its end; cancelled, it is killed."""
        return await self._conversation.execute(
            command, timeout_s=timeout_s, cwd=cwd, stdin=stdin, variables=variables
        )

    def popen(
        self, command: Command, *, cwd: str | None = None, variables: Mapping[str, str] | None = None
    ) -> Popen:
        """Starts a command in the box and returns it with its streams. Use it with ``async with``."""
        return Popen(self._conversation.start(command, cwd, variables))

    def shell(self, command: Command = ("/bin/sh", "-i"), *, rows: int = 24, columns: int = 80) -> Shell:
        """Starts a command on a terminal of its own in the box. Use it with ``async with``."""
        return Shell(self._conversation.terminal(command, rows, columns))

    async def logs(self, tail_bytes: int | None = None, *, service: str = "") -> str:
        """Returns what its actions, or a service, printed, up to now, or only that much of the end."""
        return await self._conversation.logs(tail_bytes, service)

    async def diff(self) -> list[Change]:
        """Lists what it changed since it was spawned, in order of path."""
        return await self._conversation.diff()

    async def fork(self, n: int = 1, *, live: Live = "prefer") -> Forks[Instance]:
        """Forks it, as `kibo.runtime.instance.Instance.fork` does. Cancelled, it leaves no fork."""
        talk = self._conversation
        children, point = await forking.fork_once(talk.waiting, self._spawned, talk, n, live)
        self._access.hang_up()
        return Forks(map(Instance, children), live=bool(point.cell), reasons=point.reasons)

    async def snapshot(self, label: str = "") -> Any:
        """Seals what its branch is; see `kibo.runtime.instance.Instance.snapshot`."""
        return await forking.branch_of(self).snapshot(label)

    async def send_message(
        self,
        other: Instance | str,
        body: Any,
        *,
        key: str | None = None,
        reply_to: str | None = None,
        wait_s: float = 0.0,
    ) -> AsyncReceipt:
        """Sends a message to another instance of its branch. Cancelled, it was sent or not; with a key, send again."""
        mail = mail_of(self)
        sent = await mail.send(self._member, other, body, key=key, reply_to=reply_to, wait_s=wait_s)
        return AsyncReceipt(mail, sent)

    async def publish_event(
        self, name: str, data: Any = None, *, key: str | None = None, wait_s: float = 0.0
    ) -> AsyncReceipt:
        """Publishes an event to all in its branch that listen to it now. Cancelled as `send_message`."""
        mail = mail_of(self)
        return AsyncReceipt(mail, await mail.publish(self._member, name, data, key=key, wait_s=wait_s))

    async def on_event(
        self,
        name: str,
        handler: Callable[..., Any],
        *,
        group: str = "",
        subscription: str = "",
        timeout_s: float = DEFAULT_ACTION_S,
    ) -> str:
        """Has a function handle events on behalf of the instance: a coroutine function on this loop, where it is
        cancelled when its time is up; any other on a thread.
        """
        return str(
            await mail_of(self).listen(
                self._member,
                name,
                _bounded(handler, timeout_s),
                name=subscription,
                group=group,
                timeout_s=timeout_s,
            )
        )

    async def off_event(self, subscription: str) -> None:
        """Ends a subscription: what it has not handled is dead."""
        await mail_of(self).unlisten(self._member, subscription)

    async def on_message(self, handler: Callable[..., Any], *, timeout_s: float = DEFAULT_ACTION_S) -> None:
        """Has a function handle the messages to the instance, as `on_event`."""
        await mail_of(self).answer_with(self._member, _bounded(handler, timeout_s), timeout_s=timeout_s)

    async def request(self, other: Instance | str, body: Any, *, timeout_s: float = 60.0) -> Any:
        """Sends a message and waits for what its handler returns. Cancelled, it may be handled all the same."""
        return await mail_of(self).request(self._member, other, body, timeout_s=timeout_s)

    async def delegate(self, other: Instance | str, action: str, /, *args: Any, **kwargs: Any) -> Any:
        """Has another instance of its branch do an action, and goes on: returns a
        `kibo.branch.async_mail_faces.AsyncDelegated`.
        """
        mail = mail_of(self)
        return mail.delegated(await mail.delegate(self._member, other, action, args, kwargs))

    @property
    def mail(self) -> AsyncMailbox:
        """The messages to it, for a program that takes them itself."""
        return AsyncMailbox(mail_of(self), self._member)

    def tools(self, format: Literal["openai", "anthropic", "mcp"] = "openai") -> list[dict[str, Any]]:
        """Returns the actions as a model provider's tool definitions."""
        from kibo.box.tools import tools_of_plan

        return tools_of_plan(self._conversation.plan, format)

    async def destroy(self) -> None:
        """Ends it. Returns once its last process is gone. Idempotent; cancelled, it ends all the same."""
        already = not self._finalizer.alive
        self._finalizer.detach()
        if already or self._conversation.session.owner_pid != os.getpid():
            return
        try:
            await self._conversation.destroy()
        finally:
            self._access.hang_up()
            if self._tape is not None:
                await AnyioWaiting().aside(self._tape.close)


def _bounded(handler: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
    """Has a coroutine function end when its time is up; other functions stay as they are."""
    if not iscoroutinefunction(handler):
        return handler

    @wraps(handler)
    async def bounded(message: Message) -> Any:
        try:
            with anyio.fail_after(timeout_s):
                return await call_handler(handler, message)
        except TimeoutError as error:
            raise ActionTimedOut(
                f"{handler.__qualname__}() did not return within {timeout_s:g} s",
                hint="Raise on_event(timeout_s=...) if it needs longer.",
            ) from error

    return bounded


class _BoundAction:
    """An action of an instance, which it keeps alive for as long as the call lasts."""

    def __init__(self, instance: Instance, spec: ActionSpec) -> None:
        self._instance = instance
        self._spec = spec
        self.__doc__ = spec.doc
        self.__name__ = spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._spec.streaming:
            return ActionStream(self._instance, self._instance._conversation.stream(self._spec, args, kwargs))
        return self._call(args, kwargs)

    async def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if self._spec.recorded:
            return await perform(self._instance, self._spec, args, kwargs)
        return await self._instance._conversation.call(self._spec, args, kwargs)


class ActionStream:
    """The items of a streaming action. Iterate over it; leave it early inside ``async with``, which stops it.

    Attributes:
        result: What the action returned, once its items are over.
    """

    def __init__(self, instance: Instance, items: ActionItems) -> None:
        self._instance = instance
        self._items = items
        self.result: Any = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        going, value = await self._items.next()
        if going:
            return value
        self.result = value if value is not None else self.result
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stops the action. Idempotent."""
        await self._items.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Popen:
    """A started command and its streams. An async context manager that kills it at the end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._waiting = AnyioWaiting()

    async def read(self, size: int = _READ_BYTES) -> bytes:
        """Returns what it wrote to its standard output; empty when that is closed."""
        return await self._read(self._process.stdout.fileno(), size)

    async def read_error(self, size: int = _READ_BYTES) -> bytes:
        """Returns what it wrote to its standard error; empty when that is closed."""
        return await self._read(self._process.stderr.fileno(), size)

    async def _read(self, fd: int, size: int) -> bytes:
        await self._waiting.ready((fd,))
        return os.read(fd, size)

    async def write(self, data: bytes) -> None:
        """Writes all of it to its standard input.

        Raises:
            BrokenPipeError: It reads no more.
        """
        await _write(self._waiting, self._process.stdin.fileno(), data)

    def close_stdin(self) -> None:
        """Ends its input."""
        self._process.stdin.close()

    async def wait(self) -> int:
        """Waits for its end and returns its exit status."""
        return await self._process.running.wait(self._waiting)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Signals the command and what it started."""
        self._process.kill(signum)

    def close(self) -> None:
        """Kills the command if it runs and closes the streams."""
        self._process.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Shell:
    """A command on a terminal of its own. An async context manager that hangs up at the end."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._waiting = AnyioWaiting()

    async def read(self, size: int = _READ_BYTES) -> bytes:
        """Returns what the program wrote; empty once it has ended."""
        await self._waiting.ready((self._terminal.fd,))
        return self._terminal.read(size)

    async def write(self, data: bytes) -> None:
        """Types."""
        await _write(self._waiting, self._terminal.fd, data)

    def resize(self, rows: int, columns: int) -> None:
        """Tells the program the size of its screen, in characters."""
        self._terminal.resize(rows, columns)

    async def wait(self) -> int:
        """Waits for its end and returns its exit status."""
        return await self._terminal.running.wait(self._waiting)

    def close(self) -> None:
        """Hangs up: the program is killed."""
        self._terminal.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


async def _write(waiting: AnyioWaiting, fd: int, data: bytes) -> None:
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await waiting.ready((), (fd,))
