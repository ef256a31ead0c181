"""What a message may hold: a value of JSON, exactly as it will arrive, or bytes."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from kibo.model.errors import MessageInvalid
from kibo.model.limits import MAX_MESSAGE_BYTES, MAX_NAME, MAX_VALUE_DEPTH

#: The integers that every reader of JSON here takes.
_INTEGERS: Final = range(-(1 << 63), 1 << 64)


def checked_body(body: Any) -> tuple[Any, bytes | None]:
    """Returns a message's body as an entry has it: a value, or bytes.

    Raises:
        MessageInvalid: It is neither, is too large, or would arrive as something else: says where in it.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        raw = bytes(body)
        _check_size(len(raw))
        return None, raw
    _check(body, "body", MAX_VALUE_DEPTH)
    _check_size(len(msgspec.json.encode(body)))
    return body, None


def checked_key(key: str | None) -> str | None:
    """Returns the key of a message.

    Raises:
        MessageInvalid: It is none.
    """
    if key is None:
        return None
    if not isinstance(key, str) or not 0 < len(key) <= MAX_NAME:
        raise MessageInvalid(
            "the key of a message has no form", hint=f"Text of 1 to {MAX_NAME} characters, or None."
        )
    _check(key, "key", 1)
    return key


def _check_size(size: int) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise MessageInvalid(
            f"a message of {size} bytes is larger than one may be",
            hint="Put it into a file that both can read, and send its name.",
            details={"bytes": size, "limit_bytes": MAX_MESSAGE_BYTES},
        )


def _check(value: Any, where: str, depth: int) -> None:
    kind = type(value)
    if value is None or kind is bool:
        return
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise _refused(where, "is text that no encoding can hold: half a surrogate pair") from None
    elif kind is int:
        if value not in _INTEGERS:
            raise _refused(where, "is an integer of more than 64 bits")
    elif kind is float:
        if not math.isfinite(value):
            raise _refused(where, f"is {value}, which JSON does not have")
    elif depth <= 0:
        raise _refused(where, f"is nested more than {MAX_VALUE_DEPTH} deep")
    elif kind is list or kind is tuple:
        for index, each in enumerate(value):
            _check(each, f"{where}[{index}]", depth - 1)
    elif kind is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise _refused(where, f"has a key of type {type(key).__name__}, where JSON has text alone")
            _check(key, f"{where}: a key", depth)
            _check(each, f"{where}[{key[:40]!r}]", depth - 1)
    else:
        raise _refused(where, f"is of type {kind.__name__}")


def _refused(where: str, problem: str) -> MessageInvalid:
    return MessageInvalid(
        f"a message cannot be sent: its {where[:200]} {problem}", details={"where": where[:200]}
    )
