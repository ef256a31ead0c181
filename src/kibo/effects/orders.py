"""What the session's process says to the gateway's, and what that answers."""

from typing import Final

import msgspec

from kibo.effects.http_head import SecretValue
from kibo.effects.packed import PackedRule
from kibo.effects.unrecorded import Missed
from kibo.model.asker import NOBODY, Asker

MAX_ORDER_BYTES: Final = 128 * 1024  # Some two thousand rules.


class Place(msgspec.Struct, array_like=True):
    """Where a gateway keeps its ledger.

    Attributes:
        store: The store's URL.
        gateways: The directory by which those of this state directory know each other.
        gateway: What this one is called.
    """

    store: str
    gateways: str
    gateway: str


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
