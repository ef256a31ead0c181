"""Orders to a warden: what the session that owns it and a process that attached to it have in common."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any, Final, Self

from kibo.model.errors import ActionTimedOut, InstanceEnded, KiboError, RuntimeLost
from kibo.runtime import wire
from kibo.runtime.channel import Channel, Reply
from kibo.runtime.refusals import refusal_error, violation
from kibo.runtime.waiting import Waiting

#: A fork is a millisecond's work; thousands at once on a slow machine wait for each other.
FORK_S: Final = 10.0
#: How long what was interrupted has to unwind before it is killed.
UNWIND_S: Final = 2.0
#: How long the processes of a box that was killed may take to be gone, one after another.
ENDING_S: Final = 0.5


class Orders:
    """Gives a warden orders. Thread-safe: an order is one datagram.

    Attributes:
        name: The session's.
        owner_pid: The process that gives these orders; its forks must not.
        facts: What the host gives the session: ``ids`` and ``cgroups``; ``lacks`` names features of newer kernels.
    """

    name: str
    owner_pid: int
    facts: dict[str, Any]
    _socket: socket.socket

    @property
    def alive(self) -> bool:
        """Whether orders can be given, as far as can be told without giving one."""
        raise NotImplementedError

    def order(
        self, name: str, arguments: dict[str, Any], descriptors: list[int] | tuple[int, ...] = ()
    ) -> None:
        """Gives an order. The answer, if there is one, comes on the first descriptor.

        Raises:
            RuntimeLost: The warden is gone, and every instance with it. Spawning starts a new one.
        """
        try:
            wire.send_command(self._socket, [name, arguments], descriptors)
        except (ConnectionError, OSError) as error:
            raise lost() from error

    async def ask(
        self,
        waiting: Waiting,
        name: str,
        arguments: dict[str, Any],
        descriptors: list[int] | tuple[int, ...] = (),
        timeout_s: float | None = None,
    ) -> tuple[dict[str, Any], list[int]]:
        """Gives an order and waits for its answer.

        Raises:
            KiboError: The warden refused; the error's class follows its code.
            RuntimeLost: The warden is gone.
        """
        reply = Reply()
        try:
            self.order(name, arguments, [reply.theirs.fileno(), *descriptors])
            reply.theirs.close()
            answer, received = await reply.receive(waiting, timeout_s)
        except wire.Closed:
            raise lost() from None
        finally:
            reply.close()
        if answer["kind"] == "refused":
            raise refusal_error(answer)
        return answer, received

    def begin(self, name: str, arguments: dict[str, Any], egress: int = -1) -> Channel:
        """Has a cell made by the order ``new`` or ``fork``. `finish` waits for it.

        Args:
            name: The order.
            arguments: Its arguments; ``id`` names the cell.
            egress: Where the warden is to send the cell's listening socket, or -1 for a cell without a way out.

        Returns:
            The channel to its guest.
        """
        channel, theirs = Channel.pair()
        try:
            self.order(name, arguments, [theirs.fileno()] if egress < 0 else [theirs.fileno(), egress])
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()
        return channel

    async def finish(self, waiting: Waiting, channel: Channel, cell: str, resume_s: float) -> None:
        """Waits until a cell's guest is ready, for ``resume_s`` seconds once it is on its way.

        Raises:
            KiboError: It could not be made; nothing is left of it.
        """
        try:
            message = await self._first_word(waiting, channel, cell, resume_s)
            if not (isinstance(message, list) and len(message) == 3 and message[0] in ("ready", "failed")):
                raise violation("it did not say that it is ready")
            if message[0] == "failed":
                raise refusal_error(message[2])
        except wire.Closed:
            channel.close()
            answer, _ = await self.ask(waiting, "destroy", {"id": cell})
            raise InstanceEnded(
                f"the instance ended before it was ready: {answer['reason']}",
                hint="Look at what its resume() does.",
            ) from None
        except BaseException:
            channel.close()
            self.forget(cell)
            raise

    async def _first_word(self, waiting: Waiting, channel: Channel, cell: str, resume_s: float) -> Any:
        """Waits for a guest for as long as it is on its way: its ``resume()`` may take long, its start may not.

        Raises:
            ActionTimedOut: Its ``resume()`` did not end in time.
            GuestViolation: It has not started, so the state that it is forked from no longer does as it is told.
        """
        deadline = time.monotonic() + resume_s
        while True:
            try:
                return await channel.receive(waiting, min(FORK_S, max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                answer, _ = await self.ask(waiting, "list", {"id": cell})
                if time.monotonic() >= deadline:
                    raise ActionTimedOut(
                        f"resume() did not end within {resume_s:g} s, and the instance was destroyed",
                        hint="Raise Limits.launch_s if it needs longer.",
                        details={"action": "resume", "timeout_s": resume_s, "ended": True},
                    ) from None
                if any(found["state"] == "starting" for found in answer["cells"]):
                    raise violation(f"its state did not fork within {FORK_S:g} s") from None

    async def lives_on(self, waiting: Waiting, cell: str) -> bool:
        """Tells whether a cell lives on in which something was killed: one that ends loses its programs first.

        A yes takes ``ENDING_S`` seconds.
        """
        deadline = time.monotonic() + ENDING_S
        with _Nothing() as nothing:
            while True:
                answer, _ = await self.ask(waiting, "list", {"id": cell})
                if not answer["cells"] or time.monotonic() > deadline:
                    return bool(answer["cells"])
                with contextlib.suppress(TimeoutError):
                    await waiting.ready((nothing.sock.fileno(),), (), ENDING_S / 10)

    def forget(self, instance: str) -> None:
        """Has a cell destroyed without waiting for it; quiet when the runtime is gone, as at the process's end."""
        with contextlib.suppress(KiboError):
            self.order("destroy", {"id": instance})

    async def carried_out(self, waiting: Waiting) -> None:
        """Waits until the warden has carried out the orders that this thread gave so far; not for what comes of them.

        Quiet when the runtime is gone, and with it all that it ran.
        """
        with contextlib.suppress(KiboError):
            await self.ask(waiting, "list", {"id": ""})


class _Nothing(Reply):
    """What nobody answers on: waiting for it is a pause that both ways of waiting know."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lost() -> RuntimeLost:
    """The error for a warden that is gone."""
    return RuntimeLost(
        "the runtime's processes ended, and every instance with them",
        hint="Spawn again: a new runtime starts by itself. If it recurs, look at the system log for kills.",
    )
