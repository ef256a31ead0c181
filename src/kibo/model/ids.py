"""Identifiers, each its own type with a visible prefix.

A new id is 96 random bits from the kernel behind its prefix, in lower-case hex: safe in file names, host names and
URLs, and never reused. The random bits are fetched from the kernel in blocks, which makes an id cost about a
microsecond; a fork must not hand both sides the same block, so the pool is dropped in the child.
"""

from __future__ import annotations

import os
from typing import ClassVar, Self

#: Hex digits after the prefix: 96 bits, so that 10^9 ids of a kind collide with a chance below 10^-11.
ID_HEX_DIGITS = 24
_BLOCK_BYTES = 12 * 64

_pool = ""


def _refill() -> str:
    global _pool
    _pool += os.urandom(_BLOCK_BYTES).hex()
    return _pool


def _forget_pool() -> None:
    global _pool
    _pool = ""


os.register_at_fork(after_in_child=_forget_pool)


def _random_hex() -> str:
    global _pool
    pool = _pool or _refill()
    _pool = pool[ID_HEX_DIGITS:]
    return pool[:ID_HEX_DIGITS]


class Id(str):
    """A string with a prefix that says what it identifies. Compares, hashes and serialises as a string."""

    __slots__ = ()
    prefix: ClassVar[str] = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads an id that came from outside.

        Raises:
            ValueError: It has another prefix, or something other than lower-case hex after it. Never retry.
        """
        digits = text.removeprefix(cls.prefix)
        if digits == text or not digits or any(c not in "0123456789abcdef" for c in digits):
            raise ValueError(f"not an id of the form {cls.prefix}<hex>: {text!r}")
        return cls(text)


class RandomId(Id):
    """An id that is made at random."""

    __slots__ = ()

    @classmethod
    def new(cls) -> Self:
        """Makes an id that no other call has made."""
        return cls(cls.prefix + _random_hex())


class InstanceId(RandomId):
    """One running box, from spawn to destroy."""

    __slots__ = ()
    prefix = "inst_"


class BranchId(RandomId):
    """One line of execution."""

    __slots__ = ()
    prefix = "br_"


class HomeId(RandomId):
    """One state directory whose history is in a database elsewhere."""

    __slots__ = ()
    prefix = "home_"


class StateId(RandomId):
    """One cached state on this machine: a prefix of a sum, launched."""

    __slots__ = ()
    prefix = "state_"


class SnapshotId(RandomId):
    """One sealed point of a branch."""

    __slots__ = ()
    prefix = "snap_"


class DeltaId(RandomId):
    """One sealed writable layer on this machine, before or without being named by its content."""

    __slots__ = ()
    prefix = "delta_"
    #: Hex digits that all layers of one owner begin with.
    owner_digits: ClassVar[int] = 8

    def beside(self) -> DeltaId:
        """Makes another of the same owner."""
        kept = len(self.prefix) + self.owner_digits
        return DeltaId(self[:kept] + _random_hex()[self.owner_digits :])


class EffectId(RandomId):
    """One interaction of a box with the outside world."""

    __slots__ = ()
    prefix = "eff_"


class EntryId(RandomId):
    """One entry of a context, in every branch that sees it."""

    __slots__ = ()
    prefix = "ctx_"


class GatewayId(RandomId):
    """One gateway, from its start to its end."""

    __slots__ = ()
    prefix = "gw_"


class CallerId(RandomId):
    """One process that calls actions which the ledger records, from its first such call to its end."""

    __slots__ = ()
    prefix = "call_"


class ProfileId(RandomId):
    """One session's profile: the files by which somebody is signed in."""

    __slots__ = ()
    prefix = "prof_"


class LeaseId(RandomId):
    """One holder's claim on a profile, from when it is asked for."""

    __slots__ = ()
    prefix = "lease_"


class CopyId(RandomId):
    """A profile in a directory of a person's."""

    __slots__ = ()
    prefix = "copy_"


class MessageId(RandomId):
    """One message between instances, or one event."""

    __slots__ = ()
    prefix = "msg_"


class DelegationId(RandomId):
    """One action that an instance has another do for it."""

    __slots__ = ()
    prefix = "dlg_"


class RecordingId(RandomId):
    """One recording while it is made, and what it is called where nobody gave it a name."""

    __slots__ = ()
    prefix = "rec_"


class ReplayId(RandomId):
    """One replay of a recording."""

    __slots__ = ()
    prefix = "play_"


class RunId(RandomId):
    """One scheduled execution, with all of its attempts."""

    __slots__ = ()
    prefix = "run_"


class NodeId(RandomId):
    """One process that carries runs out, from when it begins to its end."""

    __slots__ = ()
    prefix = "node_"


class BudgetId(RandomId):
    """One budget that a tree of runs shares."""

    __slots__ = ()
    prefix = "bud_"


class LayerDigest(Id):
    """An immutable file delta, named by the BLAKE2b-256 of its content; made by hashing."""

    __slots__ = ()
    prefix = "b2:"
