"""The gateway's process, the only way out of a box: a proxy that knows what each box may reach.

One process a session, `python -m kibo.effects.forwarder`, which `Forwarder` starts and orders about. It receives
listening sockets that were made inside boxes' network namespaces, serves a proxy on each, and connects from the
host's network. It ends when its control socket does, and every connection with it.

It opens TLS with the authority's certificates, which only boxes trust, so that it sees each request. It puts the
values of secrets into requests to their hosts, and takes them out of the answers; see `redacting`. Requests that
change something go through the ledger, and wait there for their branch; see `boundary`.
"""

import array
import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from kibo.box.policy import Allow, Rule, Secret
from kibo.effects.authority import Authority
from kibo.effects.door import Door, Services
from kibo.effects.http_head import SecretValue
from kibo.effects.notices import Notices
from kibo.effects.outbox import Outbox, Place
from kibo.effects.packed import PackedRule
from kibo.effects.redacting import Redacting
from kibo.effects.tapes import Missed, Tapes
from kibo.effects.upstream import Upstream, trusting
from kibo.effects.values.finding import Values
from kibo.effects.window import Window
from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import KiboError, RuntimeLost
from kibo.model.ids import GatewayId
from kibo.model.limits import MAX_DESCRIPTORS

MAX_ORDER_BYTES: Final = 128 * 1024  # Some two thousand rules.
ORDER_S: Final = 10.0  # For an answer to an order, which is the work of a moment.


class Setup(msgspec.Struct, array_like=True):
    """What the process is told first. Not on its command line, which others can read: a store's URL has a password."""

    authority: str
    extra_trust: str | None
    place: Place | None
    sources: dict[str, str] = {}


class Order(msgspec.Struct, array_like=True):
    """One packet of the control socket.

    `settle` comes with a socket beside it that is closed once what it releases has an outcome. `serve` comes with what
    `beside` lists: the listening socket, those of forwards in their order, the first process and the log, where given.
    `within` comes with a socket whose other end is closed once the call is over. `record` and `replay` come with a
    file, and `seal` with a socket that is told the end. Its number is that of its answer.
    """

    verb: str
    name: str
    asker: Asker = NOBODY
    rules: list[PackedRule] = []
    secrets: list[SecretValue] = []
    beside: list[str] = []
    number: int = 0
    effect: str = ""
    lets_out: bool = False
    path: str = ""
    label: str = ""


class Reply(msgspec.Struct, array_like=True):
    """The answer to an order: what went wrong, the certificate that boxes trust, what a replay did not have."""

    problem: str = ""
    certificate: bytes = b""
    number: int = 0
    missed: Missed = Missed()


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


class Forwarder:
    """The session's side: starts the process, hands it sockets, and ends it. Safe to use from several threads."""

    def __init__(
        self,
        control: socket.socket,
        process: subprocess.Popen[bytes],
        values: Values,
        gateway: GatewayId,
    ) -> None:
        self.gateway = gateway
        self._lock = threading.Lock()
        self._orders = 0
        self._values = values
        self._control = control
        self._process = process
        self._ended = False

    @classmethod
    def start(
        cls,
        authority: Path,
        variables: Mapping[str, str] | None = None,
        *,
        sources: Mapping[str, str] | None = None,
        extra_trust: Path | None = None,
        store: str | None = None,
    ) -> Self:
        """Starts the process. It takes 0.3 s, which the first order waits for and this does not.

        Args:
            authority: The directory of the authority that boxes trust; made where it is missing.
            variables: The environment, where the values of secrets are by their names.
            sources: Where the other values are; see `kibo.effects.values.references`.
            extra_trust: A file of certificates in PEM that servers' are checked with, besides the host's trust store.
            store: The URL of the store that holds the ledger; without it nothing is recorded, and nothing can be held.

        Raises:
            InvalidInput: One of `sources` is malformed.
        """
        values = Values({} if variables is None else variables, sources)
        gateway = GatewayId.new()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ORDER_S)
        with theirs:
            command = [sys.executable, "-m", "kibo.effects.forwarder", str(theirs.fileno())]
            # A session of its own: Ctrl-C in the terminal is for the user's process, which then closes this one.
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        place = None if store is None else Place(store, str(authority.parent / "gateways"), str(gateway))
        trust = None if extra_trust is None else str(extra_trust)
        ours.send(msgspec.msgpack.encode(Setup(str(authority), trust, place, values.sources)))
        return cls(ours, process, values, gateway)

    @property
    def alive(self) -> bool:
        """Whether the process runs, and has not been found to be ending."""
        return not self._ended and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def check(self, secrets: Sequence[Secret]) -> None:
        """Sees that every secret has a value.

        Raises:
            InvalidInput: One has none.
            SecretUnavailable: Where one's is, nobody answers.
        """
        for secret in secrets:
            self._values.find(secret.name)

    def serve(
        self,
        listening_fd: int,
        rules: Sequence[Rule],
        box_id: str,
        secrets: Sequence[Secret] = (),
        *,
        asker: Asker = NOBODY,
        pidfd: int | None = None,
        log: int | None = None,
        forwards: Sequence[int] = (),
    ) -> None:
        """Serves a box. What it is given is duplicated; the caller closes its own.

        Args:
            listening_fd: A TCP socket that listens inside the box.
            rules: What the box may reach.
            box_id: Names the door, for `stop`. One that is open under this name is closed first.
            secrets: What to put in for their placeholders, for their hosts.
            asker: On whose behalf it asks.
            pidfd: Of the box's first process: the door closes by itself when that ends.
            log: A file to which a line is added for each refusal, open to append to.
            forwards: Sockets that listen where `kibo.box.forwards.forwards(rules)` says, in its order.

        Raises:
            InvalidInput: A secret has no value.
            RuntimeLost: The process is gone.
            SecretUnavailable: Where a secret's value is, nobody answers.
        """
        if asker.replays:
            # Nothing is sent, so that no value is needed: the placeholders stay.
            filled = [SecretValue(s.placeholder, s.placeholder, tuple(s.hosts)) for s in secrets]
        else:
            find = self._values.find
            filled = [SecretValue(s.placeholder, find(s.name), tuple(s.hosts)) for s in secrets]
        packed = [PackedRule.pack(rule) for rule in rules]
        beside = [("listener", listening_fd), *(("forward", fd) for fd in forwards)]
        beside += [(kind, fd) for kind, fd in (("process", pidfd), ("log", log)) if fd is not None]
        kinds, descriptors = zip(*beside, strict=True)
        self.order(Order("serve", str(box_id), _plain(asker), packed, filled, list(kinds)), descriptors)

    def settle(self, branch: str, asker: Asker) -> socket.socket:
        """Tells of a commit, which the ledger has.

        Args:
            branch: What was committed.
            asker: What its boxes ask for from now on: its parent.

        Returns:
            A socket that ends once everything that the commit has released has an outcome.

        Raises:
            RuntimeLost: The process is gone. What was released is sent by the next one.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.order(Order("settle", str(branch), _plain(asker)), [theirs.fileno()])
        except BaseException:
            ours.close()
            raise
        return ours

    def within(self, box_id: str, effect: str, lasts: socket.socket, *, lets_out: bool) -> None:
        """Has a box's requests recorded as part of a call, for as long as that lasts.

        Args:
            box_id: The box.
            effect: The call in the ledger.
            lasts: The call is over once the other end of this is closed. It is duplicated; the caller closes its own.
            lets_out: Whether they are sent at once, also where the box is in a fork: the call can be undone.

        Raises:
            RuntimeLost: The process is gone.
        """
        self.order(Order("within", str(box_id), effect=str(effect), lets_out=lets_out), [lasts.fileno()])

    def stop(self, box_id: str) -> None:
        """Closes a box's door and its connections; one that is not open is fine.

        Raises:
            RuntimeLost: The process is gone.
        """
        self.order(Order("stop", str(box_id)))

    def certificate(self) -> bytes:
        """Returns what boxes are to trust, in PEM.

        Raises:
            RuntimeLost: The process is gone, or could not make one.
        """
        return self.order(Order("ask", "")).certificate

    def close(self) -> None:
        """Ends the process, and waits for it. Safe to repeat."""
        with self._lock:
            self._control.close()
            try:
                self._process.wait(ORDER_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def order(self, order: Order, descriptors: Sequence[int] = ()) -> Reply:
        """Gives an order, and returns the answer to it.

        Raises:
            RuntimeLost: The process is gone, or could not do as it was told.
        """
        with self._lock:
            self._orders += 1
            order.number = self._orders
            try:
                rights = (
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                    if descriptors
                    else []
                )
                self._control.sendmsg([msgspec.msgpack.encode(order)], rights)
                reply = self._reply(order.number)
            except TimeoutError as error:
                raise RuntimeLost("the forwarder does not answer", details={"cause": str(error)}) from error
            except OSError as error:
                self._ended = True
                raise RuntimeLost("the forwarder has ended", details={"cause": str(error)}) from error
        if reply.problem:
            raise RuntimeLost(f"the forwarder could not {order.verb} {order.name}: {reply.problem}")
        return reply

    def _reply(self, number: int) -> Reply:
        """Waits for the answer to an order. Answers to those that were given up come before it, and are passed over."""
        while answer := self._control.recv(MAX_ORDER_BYTES):
            reply = msgspec.msgpack.decode(answer, type=Reply)
            if reply.number == number:
                return reply
        self._ended = True
        raise RuntimeLost("the forwarder has ended")


def _plain(asker: Asker) -> Asker:
    """Ids are strings of types of their own, which are not packed."""
    return Asker(str(asker.branch), str(asker.tree), asker.holds, str(asker.tape))


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
