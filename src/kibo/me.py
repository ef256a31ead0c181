"""What code in a box may ask of Kibo: ``from kibo import me``.

It works in actions of boxes that were given a right (`kibo.MayTalk`, `kibo.MayPost`, `kibo.MayDelegate`,
`kibo.MaySpawn`, `kibo.MayFork`), and in programs of the Python at ``/opt/kibo/python``; others have ``kibo-box``. Each
call is a connection of its own to ``/dev/kibo/box.sock``, so that nothing of it is left that a fork would share. What
`Box.spawn` and branches are to a program outside, these are to the box, within its rights and its quota.

Every call raises `Denied` without the right, `Exhausted` beyond the quota, and `WrongState` outside of a box.
"""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import Any, Final

from kibo.model.errors import Denied, InvalidInput, KiboError, Unavailable, WrongState, error_of
from kibo.model.message import DeadLetter, DelegationRecord, Delivery, Message, Posting
from kibo.runtime import wire

#: Where a box calls out.
SOCKET: Final = "/dev/kibo/box.sock"

__all__ = [
    "Branch",
    "Instance",
    "abort",
    "ask",
    "board",
    "branch",
    "commit",
    "dead",
    "delegate",
    "delegations",
    "done",
    "failed",
    "fork",
    "presence",
    "progress",
    "publish_event",
    "receipt",
    "receive",
    "redeliver",
    "request",
    "send_message",
    "sent",
    "snapshot",
    "spawn",
    "subscribe",
    "unsubscribe",
    "wait",
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

    def spawn(self, box: Any, *, name: str = "", shared: Sequence[str] = (), **parameters: Any) -> Instance:
        """Makes an instance in it; see `spawn`. ``name`` is what it is called in the branch and in its forks, and
        ``shared`` the directories at ``/shared/NAME`` that it has in common with others of the branch.
        """
        called, given = _named(box, parameters)
        told = ask(
            "spawn_in",
            branch=self.id,
            box=called,
            parameters=_plain(given),
            name=name,
            shared=_names(shared),
        )
        made = Instance(told)
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


def spawn(box: Any, *, shared: Sequence[str] = (), **parameters: Any) -> Instance:
    """Makes an instance that is this box's own: it ends with it, and no fork of this box has it.

    Args:
        box: What `MaySpawn(...)` in the rights calls it; or a box of that class, whose parameters are taken.
        shared: Directories at ``/shared/NAME`` that this box has, and it is to have, too.
        parameters: Of the definition.

    Raises:
        Denied: The box may not spawn that, or does not have such a directory itself.
        Exhausted: It has as many instances as its quota allows.
        WrongState: It is in a fork, and what is to be spawned has a way out.
        KiboError: As `Box.spawn`.
    """
    called, given = _named(box, parameters)
    return Instance(ask("spawn", box=called, parameters=_plain(given), shared=_names(shared)))


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


def delegate(to: str, action: str, /, *args: Any, **kwargs: Any) -> Generator[Any, None, Any]:
    """Has another instance of this box's branch do an action. Needs `kibo.MayDelegate`.

    It begins with the first `next`, and is cancelled where the generator is closed before its end.

    Args:
        to: What the instance is called in the branch.
        action: What it is to do.
        args: The action's arguments: builtins.
        kwargs: The same by name.

    Yields:
        What a streaming action yields: its progress.

    Returns:
        What it returns: ``result = yield from me.delegate(...)``, or the value of the `StopIteration`.

    Raises:
        UnknownAction, InvalidArguments, ActionFailed: As a call of it.
        InstanceUnknown, InstanceEnded: As `send_message`.
    """
    arguments = {"to": to, "action": action, "args": _plain(args), "kwargs": _plain(kwargs)}
    return _answers("delegate", arguments)


def delegations(*, after: int = 0) -> list[DelegationRecord]:
    """Tells what has become of what this box has delegated, oldest first: 100 at most. Needs `kibo.MayDelegate`.

    Args:
        after: The ``seq`` of the last one that is known; 0 for the beginning.
    """
    return [DelegationRecord(**each) for each in ask("delegations", after=after)]


def receive(*, timeout_s: float = 0.0, hold_s: float = 60.0) -> Message | None:
    """Takes the next message to this box, in the order of sending. Say `done` once it is handled.

    For boxes without a method for messages (`kibo.on_message`), which would handle them. The next one comes once this
    one is settled. While the branch has forks that can be committed as they are there is none.

    Args:
        timeout_s: Seconds to wait for one, at most 60.
        hold_s: Seconds that this program may have it: it is delivered again where it is not settled then, with the same
            id, and is dead after five times.

    Returns:
        The message, or an event of a pattern that was subscribed to; None where there is none in time.

    Raises:
        InvalidInput: The box handles messages itself.
    """
    for message in _answers("receive", {"timeout_s": float(timeout_s), "hold_s": float(hold_s)}):
        return Message(**message)
    return None


def done(message: Message | str) -> None:
    """Says that a received message has been handled. On the disk when it returns.

    Raises:
        MessageUnknown: It was not received here, or is settled, or was kept for too long.
    """
    ask("settle", message=_id(message))


def failed(message: Message | str, why: str) -> None:
    """Says that a received message could not be handled, and why: it is delivered again. Raises as `done`."""
    ask("settle", message=_id(message), why=why)


def subscribe(pattern: str, *, group: str = "") -> str:
    """Has events come to this box as messages do: to `receive`, or to its method for messages.

    Args:
        pattern: Of their names: words joined by dots, ``*`` for any word, ``>`` at the end for all that follows.
        group: Of all that have one, each event goes to one; empty for those that get all.

    Returns:
        What `unsubscribe` takes.

    Raises:
        Exhausted: The box has 32 subscriptions.
    """
    made: str = ask("subscribe", pattern=pattern, group=group)
    return made


def unsubscribe(subscription: str) -> None:
    """Ends what `subscribe` began, by what that returned."""
    ask("unsubscribe", subscription=subscription)


def receipt(message: str) -> list[Delivery]:
    """Tells what has become of a message that this box has sent, by recipient.

    Raises:
        MessageUnknown: It has sent none such, or that was consumed long ago.
    """
    return [Delivery(**each) for each in ask("receipt", message=message)]


def wait(message: str, stage: str = "consumed", *, timeout_s: float = 60.0) -> list[Delivery]:
    """Waits until a message that this box has sent has come so far at each recipient, or is dead there.

    Args:
        message: Its id.
        stage: ``"delivered"``: a handler has it; ``"consumed"``: the handler has returned.
        timeout_s: Seconds to wait, at most 60.

    Raises:
        ReplyTimedOut: It has not in time.
        MessageUnknown: As `receipt`.
    """
    return [
        Delivery(**each) for each in ask("wait", message=message, stage=stage, timeout_s=float(timeout_s))
    ]


def dead(*, after: int = 0) -> list[DeadLetter]:
    """Lists what could not be delivered to this box, oldest first: 100 at most, or 2 MiB.

    Args:
        after: The ``message.seq`` of the last one that is known; 0 for the beginning.
    """
    return [
        DeadLetter(Message(**each["message"]), each["handler"], each["why"])
        for each in ask("dead", after=after)
    ]


def redeliver(message: str) -> int:
    """Has a dead letter to this box delivered after all. Returns how many of its handlers get it.

    Raises:
        MessageUnknown: There is none such.
    """
    count: int = ask("redeliver", message=message)
    return count


def sent(*, after: int = 0) -> Iterator[Message]:
    """Yields the events of this box's branch, and the messages from it and to it, handled or not, in order.

    Args:
        after: The ``seq`` of the last one that is known; 0 for the beginning.
    """
    more = True
    while more:
        page = ask("sent", after=after)
        yield from (Message(**each) for each in page["messages"])
        after, more = page["after"], page["more"]


def presence() -> dict[str, str]:
    """Tells of each instance of this box's branch whether it is ``idle``, ``busy``, ``asleep`` or ``ended``."""
    found: dict[str, str] = ask("presence")
    return found


class _Board:
    """The board of the tree that this box's branch is in: all branches see it, and it keeps what aborted ones wrote."""

    def post(self, body: Any) -> None:
        """Writes an entry, in this box's name. Needs `kibo.MayPost`.

        Args:
            body: Builtins, of up to 1 MiB.

        Raises:
            Exhausted: The board is full, or this box has 10,000 entries there.
            BranchClosed: The branch has ended.
        """
        ask("post", body=_plain(body))

    def read(self, *, after: int = 0) -> list[Posting]:
        """Returns entries of all branches of the tree, in order: 100 at most, or 2 MiB.

        Args:
            after: The ``position`` of the last one that is known; 0 for the beginning.
        """
        return [Posting(**each) for each in ask("read", after=after)]


board: Final = _Board()


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


def _names(shared: Sequence[str]) -> list[str]:
    return [shared] if isinstance(shared, str) else list(shared)


def _id(message: Message | str) -> str:
    return message if isinstance(message, str) else message.id


def _plain(value: Any) -> Any:
    from kibo.box.results import to_builtins

    return to_builtins(value)
