"""The gateway's process, the only way out of a box: a proxy that knows what each box may reach.

One process a session, `python -m kibo.effects.gateway`, which `Forwarder` starts and orders about. It receives
listening sockets that were made inside boxes' network namespaces, serves a proxy on each, and connects from the
host's network. It ends when its control socket does, and every connection with it.

It opens TLS with the authority's certificates, which only boxes trust, so that it sees each request. It puts the
values of secrets into requests to their hosts, and takes them out of the answers; see `redacting`. Requests that
change something go through the ledger, and wait there for their branch; see `boundary`.
"""

import asyncio
import contextlib
import os
import resource
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kibo.box.policy import Allow
from kibo.effects.authority import Authority
from kibo.effects.door import Door, Services
from kibo.effects.notices import Notices
from kibo.effects.orders import MAX_ORDER_BYTES, Order, Reply, Setup
from kibo.effects.outbox import Outbox
from kibo.effects.redacting import Redacting
from kibo.effects.tapes import Tapes
from kibo.effects.upstream import Upstream, trusting
from kibo.effects.values.finding import Values
from kibo.effects.window import Window
from kibo.model.asker import Asker
from kibo.model.errors import KiboError
from kibo.model.limits import MAX_DESCRIPTORS


class Desk:
    """Takes the orders of the session's process and keeps the doors."""

    def __init__(self, control: socket.socket, services: Services) -> None:
        self._control = control
        self._services = services
        self._doors: dict[str, Door] = {}
        self._tapes = Tapes()

    async def run(self) -> None:
        """Serves until the control socket ends, and then closes every door."""
        if self._services.outbox is not None:
            self._services.outbox.start()
        while packet := await self._receive():
            data, descriptors = packet
            number = 0
            try:
                order = msgspec.msgpack.decode(data, type=Order)
                number = order.number
                await self._obey(order, descriptors)
                answer = Reply(certificate=self._services.authority.certificate_pem)
                if order.verb == "missed":
                    answer.missed = self._tapes.missed(order.name)
            except (OSError, msgspec.MsgspecError, ValueError, KiboError) as error:
                answer = Reply(problem=f"{type(error).__name__}: {error}")
            answer.number = number
            with contextlib.suppress(BrokenPipeError):  # who ordered has ended, as the next packet says
                self._control.send(msgspec.msgpack.encode(answer))
        await asyncio.gather(*(door.close() for door in self._doors.values()))
        await self._tapes.close()
        if self._services.outbox is not None:
            await self._services.outbox.close()

    async def _obey(self, order: Order, descriptors: Sequence[int]) -> None:
        if order.verb in ("ask", "missed"):
            return
        if order.verb == "record":
            self._tapes.record(order.name, descriptors[0], order.path, order.label)
            return
        if order.verb == "replay":
            self._tapes.replay(order.name, descriptors[0], order.label)
            return
        if order.verb == "seal":
            self._tapes.seal(order.name, socket.socket(fileno=descriptors[0]))
            return
        if order.verb == "end":
            self._tapes.end(order.name)
            return
        if order.verb == "stop":
            await self._stop(order.name)
            return
        if order.verb == "settle":
            self._settle(order.name, order.asker, socket.socket(fileno=descriptors[0]))
            return
        if order.verb == "within":
            lasts = socket.socket(fileno=descriptors[0])
            self._enter(order.name, Window(lasts, order.effect, lets_out=order.lets_out))
            return
        rules = [packed.unpack() for packed in order.rules]
        asks = any(isinstance(rule, Allow) and rule.approve for rule in rules)
        if (order.asker.holds or asks) and self._services.outbox is None:
            raise ValueError("a gateway without a ledger can hold nothing")
        given: dict[str, list[int]] = {"listener": [], "forward": [], "process": [], "log": []}
        for kind, descriptor in zip(order.beside, descriptors, strict=True):
            given[kind].append(descriptor)
        listener, *others = (socket.socket(fileno=fd) for fd in (*given["listener"], *given["forward"]))
        for opened in (listener, *others):
            opened.setblocking(False)
        notices = Notices(given["log"][0] if given["log"] else None)
        await self._stop(order.name)
        try:
            upstream = self._tapes.sender(order.asker.tape, Upstream(self._services.trust), order.secrets)
        except ValueError:
            for opened in (listener, *others):
                opened.close()
            raise
        if not order.asker.replays:  # what was recorded has no values
            upstream = Redacting(upstream)
        door = Door(
            listener, rules, order.secrets, self._services, order.name, order.asker, upstream, notices, others
        )
        self._doors[order.name] = door
        await door.open()
        for pidfd in given["process"]:
            asyncio.get_running_loop().add_reader(pidfd, self._ended, pidfd, order.name, door)

    def _settle(self, branch: str, asker: Asker, told: socket.socket) -> None:
        """Has the boxes of a branch that was committed ask for its parent, and sends what that has released."""
        for door in self._doors.values():
            if door.asker.branch == branch:
                door.asker = asker
        if self._services.outbox is None:
            told.close()
        else:
            self._services.outbox.settle(asker.branch, told)

    def _enter(self, box: str, window: Window) -> None:
        door = self._doors.get(box)
        if door is None:
            window.close()
        else:
            door.enter(window)

    def _ended(self, pidfd: int, box: str, door: Door) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        if self._doors.get(box) is door:
            closing = asyncio.ensure_future(self._stop(box))
            closing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _stop(self, box: str) -> None:
        if (door := self._doors.pop(box, None)) is not None:
            await door.close()

    async def _receive(self) -> tuple[bytes, Sequence[int]] | None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._control, ready.set_result, None)
        try:
            await ready
        finally:
            loop.remove_reader(self._control)
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_ORDER_BYTES, MAX_DESCRIPTORS)
        except ConnectionError:
            return None
        return (data, descriptors) if data else None


def main() -> None:
    """Runs the process: its control socket is its argument, and what it is to do comes there."""
    # A thousand boxes have a thousand listening sockets, and two for each connection.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    control = socket.socket(fileno=int(sys.argv[1]))
    if data := control.recv(MAX_ORDER_BYTES):
        asyncio.run(_serve(control, msgspec.msgpack.decode(data, type=Setup)))


async def _serve(control: socket.socket, setup: Setup) -> None:
    trust = trusting(None if setup.extra_trust is None else Path(setup.extra_trust))
    values = Values(os.environ, setup.sources)
    outbox = None if setup.place is None else Outbox(setup.place, trust, values)
    await Desk(control, Services(Authority.open(Path(setup.authority)), trust, outbox)).run()


if __name__ == "__main__":
    main()
