"""The gateway's process, the only way out of a box: a proxy that knows what each box may reach.

One process a session, `python -m kibo.effects.forwarder`, which `Forwarder` starts and orders about. It receives
listening sockets that were made inside boxes' network namespaces, serves a proxy on each, and connects from the
host's network. It ends when its control socket does, and every connection with it.

It opens TLS with the authority's certificates, which only boxes trust, so that it sees each request. It puts the
values of secrets into requests to their hosts. It does not take them out of answers yet.
"""

import array
import asyncio
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

from kibo.box.policy import Allow, Deny, Rule, Secret
from kibo.effects.authority import Authority
from kibo.effects.door import Door, Services
from kibo.effects.http_head import SecretValue
from kibo.effects.upstream import trusting
from kibo.model.errors import InvalidInput, RuntimeLost

MAX_ORDER_BYTES: Final = 128 * 1024  # Some two thousand rules.
ORDER_S: Final = 10.0  # For an answer to an order, which is the work of a moment.


class PackedRule(msgspec.Struct, array_like=True):
    """A rule on its way to the process."""

    deny: bool
    target: str
    methods: tuple[str, ...]
    paths: tuple[str, ...]
    to: str | None = None
    passthrough: bool = False
    effect: str | None = None

    @classmethod
    def pack(cls, rule: Rule) -> Self:
        """Packs a rule."""
        methods, paths = tuple(rule.methods), tuple(rule.paths)
        if isinstance(rule, Deny):
            return cls(True, rule.target, methods, paths)
        return cls(False, rule.target, methods, paths, rule.to, rule.passthrough, rule.effect)

    def unpack(self) -> Rule:
        """Makes the rule again."""
        if self.deny:
            return Deny(self.target, self.methods, self.paths)
        return Allow(self.target, self.to, self.passthrough, self.methods, self.paths, self.effect)


class Order(msgspec.Struct, array_like=True):
    """One packet of the control socket. `serve` comes with a listening socket, and perhaps a pidfd, beside it."""

    verb: str
    box: str
    rules: list[PackedRule] = []
    secrets: list[SecretValue] = []


class Reply(msgspec.Struct, array_like=True):
    """The answer to an order: what went wrong, or the certificate that boxes trust."""

    problem: str = ""
    certificate: bytes = b""


class Desk:
    """Takes the orders of the session's process and keeps the doors."""

    def __init__(self, control: socket.socket, services: Services) -> None:
        self._control = control
        self._services = services
        self._doors: dict[str, Door] = {}

    async def run(self) -> None:
        """Serves until the control socket ends, and then closes every door."""
        while packet := await self._receive():
            data, descriptors = packet
            try:
                order = msgspec.msgpack.decode(data, type=Order)
                await self._obey(order, descriptors)
                answer = Reply(certificate=self._services.authority.certificate_pem)
            except (OSError, msgspec.MsgspecError, ValueError) as error:
                answer = Reply(problem=f"{type(error).__name__}: {error}")
            self._control.send(msgspec.msgpack.encode(answer))
        await asyncio.gather(*(door.close() for door in self._doors.values()))

    async def _obey(self, order: Order, descriptors: Sequence[int]) -> None:
        if order.verb == "ask":
            return
        if order.verb == "stop":
            await self._stop(order.box)
            return
        listener = socket.socket(fileno=descriptors[0])
        listener.setblocking(False)
        rules = [packed.unpack() for packed in order.rules]
        await self._stop(order.box)
        door = self._doors[order.box] = Door(listener, rules, order.secrets, self._services)
        await door.open()
        for pidfd in descriptors[1:]:
            asyncio.get_running_loop().add_reader(pidfd, self._ended, pidfd, order.box, door)

    def _ended(self, pidfd: int, box: str, door: Door) -> None:
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        if self._doors.get(box) is door:
            closing = asyncio.ensure_future(self._stop(box))
            closing.add_done_callback(lambda done: done.exception())

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
            data, descriptors, _, _ = socket.recv_fds(self._control, MAX_ORDER_BYTES, 2)
        except ConnectionError:
            return None
        return (data, descriptors) if data else None


class Forwarder:
    """The session's side: starts the process, hands it sockets, and ends it. Safe to use from several threads."""

    def __init__(
        self, control: socket.socket, process: subprocess.Popen[bytes], values: Mapping[str, str]
    ) -> None:
        self._lock = threading.Lock()
        self._values = values
        self._control = control
        self._process = process

    @classmethod
    def start(
        cls, authority: Path, values: Mapping[str, str] | None = None, *, extra_trust: Path | None = None
    ) -> Self:
        """Starts the process. It takes 0.3 s, which the first order waits for and this does not.

        Args:
            authority: The directory of the authority that boxes trust; made where it is missing.
            values: Where the values of secrets are, by name.
            extra_trust: A file of certificates in PEM that servers' are checked with, besides the host's trust store.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(ORDER_S)
        with theirs:
            command = [sys.executable, "-m", "kibo.effects.forwarder", str(theirs.fileno()), str(authority)]
            command += [] if extra_trust is None else [str(extra_trust)]
            # A session of its own: Ctrl-C in the terminal is for the user's process, which then closes this one.
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
            )
        return cls(ours, process, {} if values is None else values)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def check(self, secrets: Sequence[Secret]) -> None:
        """Sees that every secret has a value.

        Raises:
            InvalidInput: One has none.
        """
        for secret in secrets:
            if not self._values.get(secret.name):
                raise InvalidInput(
                    f"the secret {secret.name} has no value",
                    hint=f"Set {secret.name} in the environment of the program that spawns the box.",
                    details={"secret": secret.name},
                )

    def serve(
        self,
        listening_fd: int,
        rules: Sequence[Rule],
        box_id: str,
        secrets: Sequence[Secret] = (),
        *,
        pidfd: int | None = None,
    ) -> None:
        """Serves a box.

        Args:
            listening_fd: A TCP socket that listens inside the box. It is duplicated; the caller closes its own.
            rules: What the box may reach.
            box_id: Names the door, for `stop`. One that is open under this name is closed first.
            secrets: What to put in for their placeholders, for their hosts.
            pidfd: Of the box's first process: the door closes by itself when that ends.

        Raises:
            InvalidInput: A secret has no value.
            RuntimeLost: The process is gone.
        """
        self.check(secrets)
        filled = [SecretValue(s.placeholder, self._values[s.name], tuple(s.hosts)) for s in secrets]
        packed = [PackedRule.pack(rule) for rule in rules]
        descriptors = [listening_fd] if pidfd is None else [listening_fd, pidfd]
        self._order(Order("serve", str(box_id), packed, filled), descriptors)

    def stop(self, box_id: str) -> None:
        """Closes a box's door and its connections; one that is not open is fine.

        Raises:
            RuntimeLost: The process is gone.
        """
        self._order(Order("stop", str(box_id)))

    def certificate(self) -> bytes:
        """Returns what boxes are to trust, in PEM.

        Raises:
            RuntimeLost: The process is gone, or could not make one.
        """
        return self._order(Order("ask", "")).certificate

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

    def _order(self, order: Order, descriptors: Sequence[int] = ()) -> Reply:
        with self._lock:
            try:
                rights = (
                    [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
                    if descriptors
                    else []
                )
                self._control.sendmsg([msgspec.msgpack.encode(order)], rights)
                answer = self._control.recv(MAX_ORDER_BYTES)
            except OSError as error:
                raise RuntimeLost("the forwarder does not answer", details={"cause": str(error)}) from error
        if not answer:
            raise RuntimeLost("the forwarder has ended")
        reply = msgspec.msgpack.decode(answer, type=Reply)
        if reply.problem:
            raise RuntimeLost(f"the forwarder could not {order.verb} {order.box}: {reply.problem}")
        return reply


def main() -> None:
    """Runs the process: control socket, the authority's directory, and perhaps a file of trust are its arguments."""
    # A thousand boxes have a thousand listening sockets, and two for each connection.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    control, directory, *extra = sys.argv[1:]
    services = Services(Authority.open(Path(directory)), trusting(*map(Path, extra)))
    asyncio.run(Desk(socket.socket(fileno=int(control)), services).run())


if __name__ == "__main__":
    main()
