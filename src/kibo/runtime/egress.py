"""The runtime's only way to the network: a port that is handed listening sockets from inside boxes.

The warden opens sockets in a box's own network, and whatever implements `Forwarding` accepts from it on the host's
side. Nothing else of the runtime touches the network.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from kibo.box.policy import Rule, Secret
from kibo.model.asker import Asker
from kibo.model.errors import RuntimeLost
from kibo.runtime import wire
from kibo.runtime.waiting import Waiting


class Forwarding(Protocol):
    """Carries what boxes send to where their rules allow."""

    def check(self, secrets: Sequence[Secret]) -> None:
        """Raises InvalidInput when the value of a secret is nowhere to be found, and SecretUnavailable when whoever has
        it does not give it.
        """

    def certificate(self) -> bytes:
        """Returns the certificate that programs in boxes must trust to use it, in PEM."""

    def serve(
        self,
        listening_fd: int,
        rules: Sequence[Rule],
        box_id: str,
        secrets: Sequence[Secret],
        *,
        asker: Asker,
        pidfd: int,
        log: int,
        forwards: Sequence[int],
    ) -> None:
        """Accepts from a box's sockets until its first process, `pidfd`, ends; says in its log what was refused.

        The sockets of `forwards` are those of `kibo.box.forwards.forwards(rules)`. It takes copies of all.
        """

    def settle(self, branch: str, asker: Asker) -> socket.socket:
        """Tells that a branch was committed, and what its boxes ask for now. Returns a socket that ends once all that
        this has released has an outcome.
        """

    def within(self, box_id: str, effect: str, lasts: socket.socket, *, lets_out: bool) -> None:
        """Tells that a box is within a recorded call until the other end of a socket, of which it takes a copy, is
        closed; and whether what it asks for meanwhile can be undone, and so is not held.
        """

    @property
    def gateway(self) -> str:
        """What it is called in the ledger."""

    @property
    def alive(self) -> bool:
        """Whether it runs."""

    def close(self) -> None:
        """Ends all of it."""


class Tape(Protocol):
    """What the traffic of boxes is recorded into, or answered from.

    Attributes:
        id: As `Asker.tape` has it.
    """

    id: str

    def close(self) -> None:
        """Ends it. Raises where nothing was recorded, or where something was asked for that was not."""

    def drop(self) -> None:
        """Ends it, and keeps nothing."""

    def unrecorded(self) -> list[Any]:
        """Lists what was asked for that the recording does not have."""


class Door:
    """One box's way out while it is being made."""

    def __init__(
        self,
        forwarding: Forwarding,
        box_id: str,
        rules: Sequence[Rule],
        secrets: Sequence[Secret],
        asker: Asker,
    ) -> None:
        self._asker = asker
        self._forwarding = forwarding
        self._box_id = box_id
        self._rules = rules
        self._secrets = secrets
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @property
    def theirs(self) -> int:
        """The descriptor to hand to the warden, which sends the listening sockets there."""
        return self._theirs.fileno()

    async def open(self, waiting: Waiting) -> None:
        """Receives the listening sockets and has them served. The warden sends them before it lets the guest in.

        Raises:
            wire.Closed: The cell could not be made.
        """
        self._theirs.close()
        await waiting.ready((self._ours.fileno(),))
        _, descriptors, _ = wire.receive_command(self._ours)
        if not descriptors:
            raise wire.Closed  # it says why there is none, as whoever waits for the cell is about to be told
        try:
            pidfd, log, listening_fd, *forwards = descriptors
            self._forwarding.serve(
                listening_fd,
                self._rules,
                self._box_id,
                self._secrets,
                asker=self._asker,
                pidfd=pidfd,
                log=log,
                forwards=forwards,
            )
        finally:
            for fd in descriptors:
                os.close(fd)

    def close(self) -> None:
        """Closes both ends."""
        self._ours.close()
        self._theirs.close()


class Egress:
    """Opens doors; makes its forwarding on first use, because most boxes have no way out."""

    def __init__(self, make: Callable[[], Forwarding]) -> None:
        self._make = make
        self._forwarding: Forwarding | None = None
        self._certificate = b""
        #: Of threads that find it dead, one starts the next: boxes of another would be without a way out.
        self._guard = threading.Lock()
        #: What those that have died and were replaced were called in the ledger.
        self._lost: list[str] = []

    def door(self, box_id: str, rules: Sequence[Rule], secrets: Sequence[Secret], asker: Asker) -> Door:
        """Makes a way out for a box with these rules, which asks on somebody's behalf.

        Raises:
            InvalidInput: A secret has no value.
            SecretUnavailable: Where one's is, nobody answers.
        """
        self.check(secrets, asker)
        return Door(self.forwarding(), box_id, rules, secrets, asker)

    def check(self, secrets: Sequence[Secret], asker: Asker) -> None:
        """Sees that what a box needs has values. What is not in the environment may take seconds.

        Raises:
            InvalidInput: A secret has no value.
            SecretUnavailable: Where one's is, nobody answers.
        """
        if secrets and not asker.replays:
            self.forwarding().check(secrets)

    @property
    def used(self) -> bool:
        """Whether any box has had a way out."""
        return self._forwarding is not None

    def settle(self, branch: str, asker: Asker, *, released: bool) -> socket.socket | None:
        """See `Forwarding.settle`. Where something was released and the gateway is gone, or none was needed so far, the
        next one is started and sends it; None where nothing was.

        Raises:
            RuntimeLost: That one is gone, too. What was released is sent by whichever comes next.
        """
        if (running := self._forwarding) is not None:
            with suppress(RuntimeLost):
                return running.settle(branch, asker)
        return self.forwarding().settle(branch, asker) if released else None

    def within(self, box_id: str, effect: str, lasts: socket.socket, *, lets_out: bool) -> None:
        """See `Forwarding.within`. Nothing where the gateway is gone: nobody gets out of its boxes."""
        if self._forwarding is not None:
            with suppress(RuntimeLost):
                self._forwarding.within(box_id, effect, lasts, lets_out=lets_out)

    def lost(self) -> list[str]:
        """Lists what the gateways that have died were called in the ledger, those that were replaced included."""
        forwarding = self._forwarding
        if forwarding is None:
            return list(self._lost)
        try:
            # One that is ending has cut its boxes off already and does not look ended yet: so it has to say something.
            forwarding.certificate()
        except RuntimeLost:
            return [*self._lost, forwarding.gateway]
        return list(self._lost)

    def certificate(self) -> bytes:
        """Returns the certificate that boxes with a way out must trust, in PEM."""
        if not self._certificate:
            self._certificate = self.forwarding().certificate()
        return self._certificate

    def forwarding(self) -> Forwarding:
        """Returns what carries, starting it where it does not run."""
        with self._guard:
            if self._forwarding is not None and not self._forwarding.alive:
                # Killed. Boxes that had a way out through it have none any more; those that come get one.
                self._lost.append(self._forwarding.gateway)
                self._forwarding.close()
                self._forwarding = None
            if self._forwarding is None:
                self._forwarding = self._make()
            return self._forwarding

    def close(self) -> None:
        """Ends the forwarding."""
        with self._guard:
            if self._forwarding is not None:
                self._forwarding.close()
                self._forwarding = None
