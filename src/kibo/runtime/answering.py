"""Calls out of boxes, from the user's side: who calls, what is asked, and what is answered.

The warden hands each connection over with the name of the instance that it comes from. One connection is one call: a
frame with a verb and its arguments, and the answer. What comes in is untrusted: its size, its time and how many there
are at once are bounded before anything is understood of it, and a verb is given arguments of the types that it names,
and no others.

One thread listens for all boxes of a session, and each call has one of its own, so that a call which takes long, or
which nobody reads the answer of, keeps nobody else waiting.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from kibo.box.plan import Plan
from kibo.box.results import to_builtins
from kibo.box.rights import Right
from kibo.model.errors import (
    Bug,
    Denied,
    Exhausted,
    FrameTooLarge,
    InvalidInput,
    KiboError,
    WrongState,
)
from kibo.model.limits import (
    CALL_TRANSFER_S,
    CALLS_FOR_SURE,
    MAX_CALL_BYTES,
    MAX_CALLS_AT_ONCE,
    MAX_CALLS_OF_ALL,
    MAX_ERROR_TEXT_BYTES,
)
from kibo.runtime import wire
from kibo.runtime.callers import Caller
from kibo.runtime.orders import UNWIND_S, Orders

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verb:
    """One thing that boxes may ask for.

    Attributes:
        arguments: The arguments that it takes: a struct, which says their types.
        right: What a box must have been given; None where any right does.
        answer: Called with the caller and the arguments, in a thread of the call. What it returns goes back as
            builtins; where it is a generator, each item does, and what it returns at last.
    """

    arguments: type[msgspec.Struct]
    right: type[Right] | None
    answer: Callable[[Caller, Any], Any]


Verbs = Mapping[str, Verb]


class _GoneError(Exception):
    """Whoever called has gone, or does not read."""


class _Call:
    """A connection on which a call is on its way in."""

    __slots__ = ("buffer", "caller", "deadline", "sock")

    def __init__(self, sock: socket.socket, caller: str) -> None:
        self.sock = sock
        self.caller = caller
        self.buffer = bytearray()
        self.deadline = time.monotonic() + CALL_TRANSFER_S


class Answering:
    """Answers the calls out of the boxes of one session. Thread-safe. Ends with the session.

    Args:
        session: Whose warden hands the calls over.
        verbs: What may be asked for, by name.
    """

    def __init__(self, session: Orders, verbs: Verbs) -> None:
        self._verbs = verbs
        self._callers: dict[str, Caller] = {}
        self._guard = threading.Lock()
        #: Connections of each instance, on their way in and under way.
        self._open: dict[str, int] = {}
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                session.order("doorways", {}, [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        threading.Thread(target=self._listen, args=(ours,), name="kibo-answering", daemon=True).start()

    # Who may call

    def admit(self, face: Any, instance: str, plan: Plan, asks: Callable[[Any], Any]) -> Caller:
        """Notes what an instance is that may call, or what it has become.

        Args:
            face: The instance, as its user holds it. Not kept alive.
            instance: Its id.
            plan: Its definition, with its rights.
            asks: Runs a coroutine of the instance's own branch, from any thread.
        """
        with self._guard:
            known = self._callers.get(instance)
            if known is None:
                known = self._callers[instance] = Caller(instance, plan)
            known.face, known.asks = weakref.ref(face), asks
            return known

    def caller(self, instance: str) -> Caller | None:
        """Returns what is known of an instance that may call."""
        return self._callers.get(instance)

    # Listening

    def _listen(self, outside: socket.socket) -> None:
        coming: dict[int, _Call] = {}
        poll = select.poll()
        poll.register(outside, select.POLLIN)
        with outside:
            try:
                while True:
                    for fd, _ in poll.poll(_time_left(coming)):
                        if fd == outside.fileno():
                            self._hear(outside, coming, poll)
                        elif fd in coming:
                            self._receive(coming[fd], coming, poll)
                    for call in [call for call in coming.values() if call.deadline <= time.monotonic()]:
                        self._leave(call, coming, poll)
            except (wire.Closed, ConnectionError):
                pass  # the warden has ended, and every box with it
            finally:
                for call in coming.values():
                    call.sock.close()
                self._end_all()

    def close(self) -> None:
        """Ends all that boxes have made, before the session ends. What takes long ends with that."""
        ending = threading.Thread(target=self._end_all, name="kibo-answering-end", daemon=True)
        ending.start()
        ending.join(UNWIND_S)

    def _end_all(self) -> None:
        with self._guard:
            left, self._callers = list(self._callers.values()), {}
        for caller in left:
            caller.end()

    def _hear(self, outside: socket.socket, coming: dict[int, _Call], poll: select.poll) -> None:
        try:
            (what, instance), descriptors, _ = wire.receive_command(outside)
        except wire.FrameError:
            return  # a call for which this process has no descriptor left: the kernel has closed it
        if what == "ended":
            with self._guard:
                caller = self._callers.pop(instance, None)
            if caller is not None and caller.owns_something:
                # What it owned may take its time to end.
                threading.Thread(target=caller.end, name="kibo-answering-end", daemon=True).start()
            elif caller is not None:
                caller.end()
            return
        sock = socket.socket(fileno=descriptors[0])
        sock.setblocking(False)
        with self._guard:
            own = self._open.get(instance, 0)
            if own < CALLS_FOR_SURE or (
                own < MAX_CALLS_AT_ONCE and sum(self._open.values()) < MAX_CALLS_OF_ALL
            ):
                self._open[instance] = own + 1
                coming[sock.fileno()] = _Call(sock, instance)
                poll.register(sock, select.POLLIN)
                return
        # Into a socket that nobody has written to: there is room.
        with sock, contextlib.suppress(OSError):
            sock.send(wire.pack(["error", _told(_busy())]))

    def _receive(self, call: _Call, coming: dict[int, _Call], poll: select.poll) -> None:
        try:
            chunk = call.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        call.buffer += chunk
        buffer = call.buffer
        need = 4 + int.from_bytes(buffer[:4], "little") if len(buffer) >= 4 else 4 + MAX_CALL_BYTES
        refused: KiboError | None = None
        if need > 4 + MAX_CALL_BYTES:
            refused = _too_large(need - 4)
        elif len(buffer) > need:
            refused = InvalidInput(
                "more came than one call", hint="Make a connection for each call, and read its answer."
            )
        elif chunk and len(buffer) < need:
            return
        elif not chunk:
            self._leave(call, coming, poll)
            return
        poll.unregister(call.sock)
        del coming[call.sock.fileno()]
        answering = threading.Thread(
            target=self._answer, args=(call, bytes(buffer[4:need]), refused), name="kibo-call", daemon=True
        )
        try:
            answering.start()
        except RuntimeError:
            self._close(call)  # no more threads are to be had; the caller reads the end, and may try again

    def _leave(self, call: _Call, coming: dict[int, _Call], poll: select.poll) -> None:
        """Gives up a call that did not come whole."""
        poll.unregister(call.sock)
        del coming[call.sock.fileno()]
        self._close(call)

    def _close(self, call: _Call) -> None:
        call.sock.close()
        with self._guard:
            self._open[call.caller] -= 1
            if not self._open[call.caller]:
                del self._open[call.caller]

    # Answering

    def _answer(self, call: _Call, body: bytes, refused: KiboError | None) -> None:
        call.sock.settimeout(CALL_TRANSFER_S)
        try:
            try:
                if refused is not None:
                    raise refused
                answer = ["ok", self._result(call, body)]
            except KiboError as error:
                answer = ["error", _told(error)]
            except _GoneError:
                raise
            except Exception as error:  # noqa: BLE001 - one call gone wrong ends nobody else's
                _log.exception("a call out of box %s", call.caller)
                answer = ["error", _told(Bug(f"Kibo is wrong: {type(error).__name__}"))]
            self._say(call, answer)
        except _GoneError:
            pass  # what it asked for has happened all the same
        finally:
            self._close(call)

    def _result(self, call: _Call, body: bytes) -> Any:
        caller = self._callers.get(call.caller)
        if caller is None:
            raise WrongState(
                "there is no instance yet that could ask for anything",
                hint="Call out in an action, or in a program that it starts: not in launch() or resume().",
            )
        caller.count_call()
        name, arguments = _understood(body)
        verb = self._verbs.get(name)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            raise InvalidInput(f"there is no {name[:40]!r} to ask for", hint=f"One of {known}.")
        if verb.right is not None and not any(isinstance(each, verb.right) for each in caller.plan.rights):
            raise Denied(
                f"this box may not ask for {name!r}",
                hint=f"Add {verb.right.__name__}(...) to `rights` in the Box class.",
                details={"verb": name, "right": verb.right.__name__},
            )
        try:
            asked = msgspec.convert(arguments, verb.arguments)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"{name}: {error}", hint=_usage(name, verb)) from None
        result = verb.answer(caller, asked)
        if isinstance(result, Generator):
            return self._stream(call, result)
        return to_builtins(result)

    def _stream(self, call: _Call, items: Generator[Any, None, Any]) -> Any:
        with contextlib.closing(items):
            while True:
                try:
                    item = next(items)
                except StopIteration as end:
                    return to_builtins(end.value)
                self._say(call, ["item", to_builtins(item)])

    def _say(self, call: _Call, message: list[Any]) -> None:
        try:
            data = wire.pack(message)
        except wire.FrameError as error:
            data = wire.pack(["error", _told(FrameTooLarge(str(error), hint="Have it written to a file."))])
        try:
            call.sock.sendall(data)
        except OSError:
            raise _GoneError from None


#: What a call looks like.
_FORM: Final = 'As MessagePack: ["who", {}], behind its length as four bytes, the lowest first.'


def _time_left(coming: Mapping[int, _Call]) -> float | None:
    """How long to wait, in ms, until the first of some calls is late; None where there is none."""
    if not coming:
        return None
    return max(0.0, min(call.deadline for call in coming.values()) - time.monotonic()) * 1000


def _understood(body: bytes) -> tuple[str, dict[str, Any]]:
    try:
        call = wire.unpack(body)
    except wire.FrameError as error:
        raise InvalidInput(f"the call cannot be read: {error}", hint=_FORM) from None
    if not (
        isinstance(call, list) and len(call) == 2 and isinstance(call[0], str) and isinstance(call[1], dict)
    ):
        raise InvalidInput("a call is a verb and its arguments", hint=_FORM)
    return call[0], call[1]


def _usage(name: str, verb: Verb) -> str:
    fields = msgspec.structs.fields(verb.arguments)
    taken = ", ".join(field.name + ("" if field.required else "?") for field in fields) or "nothing"
    return f"{name} takes {taken}."


def _told(error: KiboError) -> dict[str, Any]:
    """Tells an error as data, with what code in a box may know of it."""
    told = error.to_dict()
    try:
        details = to_builtins(told["details"])
    except KiboError:
        details = {}
    trace = told.get("remote", {}).get("traceback", "")
    return {
        "code": told["code"],
        "message": told["message"][:MAX_ERROR_TEXT_BYTES],
        "hint": told["hint"][:MAX_ERROR_TEXT_BYTES],
        "details": details,
        "traceback": trace[-MAX_ERROR_TEXT_BYTES:],
    }


def _too_large(size: int) -> KiboError:
    return InvalidInput(
        f"a call of {size} bytes is over the bound of {MAX_CALL_BYTES}",
        hint="Write large data to a file, and say where it is.",
    )


def _busy() -> KiboError:
    return Exhausted(
        f"this box makes more than {MAX_CALLS_AT_ONCE} calls at once, or too many boxes do",
        hint="Wait for one to be answered, and call again: nothing has happened.",
    )
