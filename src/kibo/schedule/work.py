"""What a run is to do, as the store holds it: which action of which box, with what, and where the box is defined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kibo.model.errors import StoreDamaged

_FORMAT: Final = 1


class DefinedPart(msgspec.Struct, frozen=True, array_like=True):
    """One class of a box, and where a process finds it again.

    Attributes:
        module: Its module's name; `__main__` for a script's.
        file: That module's file; empty for none.
        name: The class's qualified name.
        parameters: Those of the part, by name, as builtins.
    """

    module: str
    file: str
    name: str
    parameters: dict[str, Any]


class Work(msgspec.Struct, frozen=True, array_like=True):
    """One call of an action.

    Attributes:
        box: The definition's digest: whatever is found elsewhere must have it.
        parts: Where it is found; empty where no other process can find it.
        yields: The conflicts that it settles.
        action: The action's name.
        positional: Its checked arguments by position, as builtins.
        named: And by name.
        form: Of these bytes.
    """

    box: str
    parts: tuple[DefinedPart, ...]
    yields: tuple[tuple[str, str, str, str], ...]
    action: str
    positional: Sequence[Any]
    named: dict[str, Any]
    form: int = _FORMAT

    def packed(self) -> bytes:
        """Writes it."""
        return _ENCODER.encode(self)


_ENCODER: Final = msgspec.msgpack.Encoder()
_WORK: Final = msgspec.msgpack.Decoder(Work)
_VALUE: Final = msgspec.msgpack.Decoder()


def read_work(run: str, content: bytes) -> Work:
    """Reads what a run is to do.

    Raises:
        StoreDamaged: That is none.
    """
    try:
        found = _WORK.decode(content)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _damaged(run, "work") from error
    if found.form != _FORMAT:
        raise _damaged(run, "work")
    return found


def pack_result(value: Any) -> bytes:
    """Writes what a run came to, given as builtins."""
    return _ENCODER.encode(value)


def read_result(run: str, content: bytes) -> Any:
    """Reads what a run came to, as builtins.

    Raises:
        StoreDamaged: That is none.
    """
    try:
        return _VALUE.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _damaged(run, "result") from error


def _damaged(run: str, what: str) -> StoreDamaged:
    return StoreDamaged(f"the store is damaged: the {what} of {run} is none", details={"run": run})
