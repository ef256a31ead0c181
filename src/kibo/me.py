"""What code in a box may ask of Kibo: ``from kibo import me``.

It works in actions of boxes that were given a right (`kibo.MayTalk`, `kibo.MaySpawn`, `kibo.MayFork`), and in programs
of the Python at ``/opt/kibo/python``; others have ``kibo-box``. Each call is a connection of its own to
``/dev/kibo/box.sock``, so that nothing of it is left that a fork would share. What `Box.spawn` and branches are to a
program outside, these are to the box, within its rights and its quota.

Every call raises `Denied` without the right, `Exhausted` beyond the quota, and `WrongState` outside of a box.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Final

from kibo.model.errors import Denied, InvalidInput, KiboError, Unavailable, WrongState, error_of
from kibo.runtime import wire

#: Where a box calls out.
SOCKET: Final = "/dev/kibo/box.sock"

__all__ = [
    "Branch",
    "Instance",
    "abort",
    "ask",
    "branch",
    "commit",
    "fork",
    "progress",
    "publish_event",
    "request",
    "send_message",
    "snapshot",
    "spawn",
]


def ask(verb: str, **arguments: Any) -> Any:
    """Asks for something by its verb, and returns the answer. All else here is thin over this.

    Args:
        verb: What is asked for: `kibo-box verbs` lists them.
        arguments: By name; builtins.

    Returns:
        The answer, as builtins.

    Raises:
        KiboError: What went wrong, as the host tells it.
        Unavailable: The connection ended without an answer. What was asked for may have happened.
    """
    answers = _answers(verb, arguments)
    try:
        while True:
            next(answers)
    except StopIteration as end:
        return end.value


def _answers(verb: str, arguments: dict[str, Any]) -> Generator[Any, None, Any]:
    """Yields the items of an answer, and returns its end."""
    sock = _connect()
    try:
        data = memoryview(wire.pack([verb, arguments]))
        try:
            while data:
                data = data[sock.send(data) :]
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was answered before it was read to its end: the answer says why
        while True:
            kind, value = _receive(sock)
            if kind == "item":
                yield value
            elif kind == "ok":
                return value
            else:
                raise _error(value)
    finally:
        sock.close()


def _connect() -> Any:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(SOCKET)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        sock.close()
        if isinstance(error, ConnectionRefusedError):
            raise _lost() from None
        if os.path.isdir(os.path.dirname(SOCKET)):
            raise Denied(
                "this box may not ask Kibo for anything",
                hint="Give its class a right: `rights = [MayTalk()]`, or MaySpawn(Worker), or MayFork().",
            ) from None
        raise WrongState(
            "this is no box", hint="`me` is for code that runs in one; outside, use kibo itself."
        ) from None
    except BaseException:
        sock.close()
        raise
    return sock


def _receive(sock: Any) -> Any:
    try:
        data = _exactly(sock, b"", 4)
        data = _exactly(sock, b"", wire.frame_length(data))
    except ConnectionResetError:
        raise _lost() from None
    return wire.unpack(data)


def _exactly(sock: Any, data: bytes, size: int) -> bytes:
    parts = bytearray(data)
    while len(parts) < size:
        chunk = sock.recv(min(size - len(parts), 1 << 20))
        if not chunk:
            raise _lost()
        parts += chunk
    return bytes(parts)


def _lost() -> KiboError:
    return Unavailable(
        "the call ended without an answer", hint="It may have happened. Find out before you ask for it again."
    )


def _error(told: dict[str, Any]) -> KiboError:
    error = error_of(told)
    if trace := told.get("traceback"):
        error.remote_traceback = trace  # type: ignore[attr-defined]
    return error


class Instance:
    """An instance that this box has made. Its actions are methods; a context manager that ends it."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._of, self._actions = told["of"], told["actions"]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def act(*args: Any, **kwargs: Any) -> Any:
            """Calls the action. Arguments and results are builtins."""
            arguments = {"of": self._of, "action": name, "args": _plain(args), "kwargs": _plain(kwargs)}
            return _answers("call", arguments) if self._actions.get(name) else ask("call", **arguments)

        return act

    def exec(
        self, command: str | list[str], *, stdin: str = "", timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Runs a command in it. Returns its ``stdout``, ``stderr`` and ``returncode``; raises as `exec` does."""
        limit = {} if timeout_s is None else {"timeout_s": float(timeout_s)}
        done: dict[str, Any] = ask("exec", of=self._of, command=command, stdin=stdin, **limit)
        return done

    def end(self) -> None:
        """Ends it. One of a branch ends with the branch."""
        if isinstance(self._of, str):
            ask("end", of=self._of)

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


class Branch:
    """A branch that this box has begun, or forked. A context manager that ends it, and all that is in it.

    Attributes:
        id: Its name for ever.
        name: What people call it.
        live: Whether its instances have the live state of those that they were forked from.
        instances: By their names in it.
    """

    def __init__(self, told: dict[str, Any]) -> None:
        self.id: str = told["id"]
        self.name: str = told["name"]
        self.live: bool = told["live"]
        self.instances = {name: Instance(each) for name, each in told["instances"].items()}

    def spawn(self, box: Any, *, name: str = "", **parameters: Any) -> Instance:
        """Makes an instance in it; see `spawn`. ``name`` is what it is called in the branch and in its forks."""
        called, given = _named(box, parameters)
        made = Instance(ask("spawn_in", branch=self.id, box=called, parameters=_plain(given), name=name))
        self.instances[made._of[1]] = made
        return made

    def __getitem__(self, instance: Instance | str) -> Instance:
        """Returns the same instance in this branch."""
        return self.instances[instance if isinstance(instance, str) else instance._of[1]]

    def fork(self, n: int = 1) -> list[Branch]:
        """Makes ``n`` branches that begin where this one is: files and live state of all instances, at one moment."""
        return [Branch(told) for told in ask("fork", n=n, branch=self.id)]

    def commit(self, *, overwrite: bool = False) -> None:
        """Makes the parent what this branch is. Its siblings become stale.

        Args:
            overwrite: Also where the parent has moved since the fork, which raises `BranchStale` otherwise.
        """
        ask("commit", branch=self.id, overwrite=overwrite)

    def abort(self) -> None:
        """Ends it and all that was forked from it."""
        ask("abort", branch=self.id)

    def snapshot(self, label: str = "") -> str:
        """Seals what it is, and returns the snapshot's id."""
        made: dict[str, str] = ask("snapshot", branch=self.id, label=label)
        return made["id"]

    def __enter__(self) -> Branch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ask("end", of=self.id)


def spawn(box: Any, **parameters: Any) -> Instance:
    """Makes an instance that is this box's own: it ends with it, and no fork of this box has it.

    Args:
        box: What `MaySpawn(...)` in the rights calls it; or a box of that class, whose parameters are taken.
        parameters: Of the definition.

    Raises:
        Denied: The box may not spawn that.
        Exhausted: It has as many instances as its quota allows.
        WrongState: It is in a fork, and what is to be spawned has a way out.
        KiboError: As `Box.spawn`.
    """
    called, given = _named(box, parameters)
    return Instance(ask("spawn", box=called, parameters=_plain(given)))


def progress(value: Any) -> None:
    """Says how far this box is, for whoever holds the instance: ``instance.progress``. Builtins, of up to 16 KiB."""
    ask("progress", value=_plain(value))


def send_message(to: str, body: Any, *, key: str | None = None, reply_to: str | None = None) -> str:
    """Sends a message to another instance of this box's branch, as `Instance.send_message` does. On the disk then.

    Args:
        to: What the instance is called in the branch.
        body: Builtins, of up to 1 MiB.
        key: Sent once, however often this is called with the same key.
        reply_to: The id of the message that it answers.

    Returns:
        The message's id.

    Raises:
        InstanceUnknown, InstanceEnded: There is nobody of that name in the branch.
        MailboxFull: The recipient is too far behind. Try again later.
    """
    sent: str = ask("send", to=to, body=_plain(body), key=key, reply_to=reply_to)
    return sent


def publish_event(name: str, data: Any = None, *, key: str | None = None) -> str:
    """Publishes an event to all in this box's branch that listen to it. Returns its id; raises as `send_message`."""
    sent: str = ask("publish", event=name, data=_plain(data), key=key)
    return sent


def request(to: str, body: Any, *, timeout_s: float = 60.0) -> Any:
    """Sends a message and returns what its handler does.

    In an action this box handles no mail meanwhile: a handler there that asks back waits until its time is up.

    Args:
        to: What the instance is called in the branch.
        body: As for `send_message`.
        timeout_s: Seconds to wait for the answer.

    Raises:
        ReplyTimedOut: There was none in time. The message may be handled all the same.
        ActionFailed: The handler could not handle it.
    """
    return ask("request", to=to, body=_plain(body), timeout_s=float(timeout_s))


def fork(n: int = 1) -> list[Branch]:
    """Forks the branch that this box is in, as it is between two actions.

    Raises:
        WrongState: An action is under way in the branch, as when this is called in one; or it is in no branch.
    """
    return [Branch(told) for told in ask("fork", n=n)]


def commit() -> None:
    """Makes the parent of its branch what that is; the box goes on there. Raises as `fork`, and `BranchStale`."""
    ask("commit")


def abort() -> None:
    """Ends the branch that this box is in, and with it the box: it does not return."""
    ask("abort")


def snapshot(label: str = "") -> str:
    """Seals what this box's branch is, and returns the snapshot's id. Raises as `fork`."""
    made: dict[str, str] = ask("snapshot", label=label)
    return made["id"]


class _OwnBranch:
    """The branch that this box is in. Called, it begins another, of the box's own."""

    def __call__(self, goal: str = "", *, name: str = "main") -> Branch:
        """Begins a tree of branches, to be used as a context manager; nothing of it is left after that.

        Args:
            goal: What it is for.
            name: What to call its root.

        Raises:
            WrongState: This box is in a fork itself, or is recorded.
        """
        return Branch(ask("begin", goal=goal, name=name))

    def __getattr__(self, name: str) -> Any:
        if name not in ("id", "name", "goal"):
            raise AttributeError(name)
        found = ask("who")["branch"]
        if found is None:
            raise WrongState(
                "this box is in no branch", hint="It was spawned by itself: `me.branch()` begins one."
            )
        return found[name]


branch: Final = _OwnBranch()


def __getattr__(name: str) -> Any:
    if name in ("id", "name", "rights", "may_spawn", "quota"):
        return ask("who")[name]
    raise AttributeError(f"module 'kibo.me' has no attribute {name!r}")


def _named(box: Any, parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(box, str):
        return box, parameters
    kind = box if isinstance(box, type) else type(box)
    own = {} if isinstance(box, type) else {k: v for k, v in vars(box).items() if not k.startswith("_")}
    if not hasattr(kind, "__kibo_restore__"):
        raise InvalidInput(f"{box!r} is no box", hint='Name one that this box may spawn: me.spawn("Worker").')
    return kind.__name__, {**own, **parameters}


def _plain(value: Any) -> Any:
    from kibo.box.results import to_builtins

    return to_builtins(value)
