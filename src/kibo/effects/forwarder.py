"""The gateway's process as the session's process has it: started, ordered about, ended."""

import array
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from kibo.box.policy import Rule, Secret
from kibo.effects.http_head import SecretValue
from kibo.effects.orders import MAX_ORDER_BYTES, Order, Place, Reply, Setup
from kibo.effects.packed import PackedRule
from kibo.effects.values.finding import Values
from kibo.model.asker import NOBODY, Asker
from kibo.model.errors import RuntimeLost
from kibo.model.ids import GatewayId

#: Has pieces of bodies that were passed on used again for the next (mallopt(3)). Given back to the kernel each time,
#: they would be found and cleared by it each time, which costs more than all that is done with them.
KEPT_FREE: Final = {"MALLOC_TRIM_THRESHOLD_": "4194304", "MALLOC_MMAP_THRESHOLD_": "1048576"}
ORDER_S: Final = 10.0  # For an answer to an order, which is the work of a moment.


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
            command = [sys.executable, "-m", "kibo.effects.gateway", str(theirs.fileno())]
            # A session of its own: Ctrl-C in the terminal is for the user's process, which then closes this one.
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=KEPT_FREE | os.environ,
                start_new_session=True,
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
